//! Records without handles in them, with the standard's defaults for what is left out.

use super::{enums, formats};
use crate::{bindings::webgpu as w, host::resources::label};

pub(crate) fn extent(size: w::GpuExtent3D) -> wgpu::Extent3d {
    wgpu::Extent3d {
        width: size.width,
        height: size.height.unwrap_or(1),
        depth_or_array_layers: size.depth_or_array_layers.unwrap_or(1),
    }
}

pub(crate) fn origin(origin: Option<w::GpuOrigin3D>) -> wgpu::Origin3d {
    let Some(w::GpuOrigin3D { x, y, z }) = origin else { return wgpu::Origin3d::ZERO };
    wgpu::Origin3d { x: x.unwrap_or(0), y: y.unwrap_or(0), z: z.unwrap_or(0) }
}

pub(crate) fn copy_layout(
    offset: Option<u64>,
    bytes_per_row: Option<u32>,
    rows_per_image: Option<u32>,
) -> wgpu::TexelCopyBufferLayout {
    wgpu::TexelCopyBufferLayout { offset: offset.unwrap_or(0), bytes_per_row, rows_per_image }
}

pub(crate) fn color(color: w::GpuColor) -> wgpu::Color {
    wgpu::Color { r: color.r, g: color.g, b: color.b, a: color.a }
}

pub(crate) struct Sampler {
    pub(crate) label: String,
    pub(crate) descriptor: wgpu::SamplerDescriptor<'static>,
}

pub(crate) fn sampler(descriptor: Option<w::GpuSamplerDescriptor>) -> Sampler {
    let Some(from) = descriptor else {
        let descriptor = wgpu::SamplerDescriptor { lod_max_clamp: 32.0, ..Default::default() };
        return Sampler { label: String::new(), descriptor };
    };
    let address = |mode: Option<_>| mode.map_or(wgpu::AddressMode::ClampToEdge, enums::address_mode);
    let filter = |mode: Option<_>| mode.map_or(wgpu::FilterMode::Nearest, enums::filter_mode);
    let descriptor = wgpu::SamplerDescriptor {
        label: None,
        address_mode_u: address(from.address_mode_u),
        address_mode_v: address(from.address_mode_v),
        address_mode_w: address(from.address_mode_w),
        mag_filter: filter(from.mag_filter),
        min_filter: filter(from.min_filter),
        mipmap_filter: from.mipmap_filter.map_or(wgpu::MipmapFilterMode::Nearest, enums::mipmap_filter_mode),
        lod_min_clamp: from.lod_min_clamp.unwrap_or(0.0),
        lod_max_clamp: from.lod_max_clamp.unwrap_or(32.0),
        compare: from.compare.map(enums::compare),
        anisotropy_clamp: from.max_anisotropy.unwrap_or(1),
        border_color: None,
    };
    Sampler { label: label(from.label), descriptor }
}

pub(crate) struct View {
    pub(crate) label: String,
    pub(crate) descriptor: wgpu::TextureViewDescriptor<'static>,
}

/// Fails for swizzles other than the one that changes nothing: wgpu has none.
pub(crate) fn view(descriptor: Option<w::GpuTextureViewDescriptor>) -> Result<View, String> {
    let Some(from) = descriptor else {
        return Ok(View { label: String::new(), descriptor: wgpu::TextureViewDescriptor::default() });
    };
    if let Some(swizzle) = from.swizzle.filter(|swizzle| swizzle != "rgba") {
        let swizzle: String = swizzle.chars().take(8).collect();
        return Err(format!("the swizzle {swizzle:?} needs the feature texture-component-swizzle"));
    }
    let descriptor = wgpu::TextureViewDescriptor {
        label: None,
        format: from.format.map(formats::texture),
        dimension: from.dimension.map(enums::view_dimension),
        usage: from.usage.map(enums::texture_usage).filter(|usage| !usage.is_empty()),
        aspect: from.aspect.map_or(wgpu::TextureAspect::All, enums::aspect),
        base_mip_level: from.base_mip_level.unwrap_or(0),
        mip_level_count: from.mip_level_count,
        base_array_layer: from.base_array_layer.unwrap_or(0),
        array_layer_count: from.array_layer_count,
    };
    Ok(View { label: label(from.label), descriptor })
}

/// Fails where an entry is not exactly one thing.
pub(crate) fn layout_entry(from: w::GpuBindGroupLayoutEntry) -> Result<wgpu::BindGroupLayoutEntry, String> {
    let buffer = from.buffer.map(|buffer| wgpu::BindingType::Buffer {
        ty: buffer.type_.map_or(wgpu::BufferBindingType::Uniform, enums::buffer_binding),
        has_dynamic_offset: buffer.has_dynamic_offset.unwrap_or(false),
        min_binding_size: buffer.min_binding_size.and_then(wgpu::BufferSize::new),
    });
    let sampler = from.sampler.map(|sampler| {
        wgpu::BindingType::Sampler(sampler.type_.map_or(wgpu::SamplerBindingType::Filtering, enums::sampler_binding))
    });
    let dimension = |dimension: Option<_>| dimension.map_or(wgpu::TextureViewDimension::D2, enums::view_dimension);
    let texture = from.texture.map(|texture| wgpu::BindingType::Texture {
        sample_type: texture
            .sample_type
            .map_or(wgpu::TextureSampleType::Float { filterable: true }, enums::sample_type),
        view_dimension: dimension(texture.view_dimension),
        multisampled: texture.multisampled.unwrap_or(false),
    });
    let storage = from.storage_texture.map(|texture| wgpu::BindingType::StorageTexture {
        access: texture.access.map_or(wgpu::StorageTextureAccess::WriteOnly, enums::storage_access),
        format: formats::texture(texture.format),
        view_dimension: dimension(texture.view_dimension),
    });
    let mut types = [buffer, sampler, texture, storage].into_iter().flatten();
    match (types.next(), types.next()) {
        (Some(ty), None) => Ok(wgpu::BindGroupLayoutEntry {
            binding: from.binding,
            visibility: enums::shader_stage(from.visibility),
            ty,
            count: None,
        }),
        (None, _) => Err(format!("the entry of binding {} says not what is bound", from.binding)),
        _ => Err(format!("the entry of binding {} says more than one thing that is bound", from.binding)),
    }
}

pub(crate) fn primitive(from: Option<w::GpuPrimitiveState>) -> wgpu::PrimitiveState {
    let Some(from) = from else { return wgpu::PrimitiveState::default() };
    wgpu::PrimitiveState {
        topology: from.topology.map_or(wgpu::PrimitiveTopology::TriangleList, enums::topology),
        strip_index_format: from.strip_index_format.map(enums::index_format),
        front_face: from.front_face.map_or(wgpu::FrontFace::Ccw, enums::front_face),
        cull_mode: from.cull_mode.and_then(enums::cull_mode),
        unclipped_depth: from.unclipped_depth.unwrap_or(false),
        ..wgpu::PrimitiveState::default()
    }
}

pub(crate) fn multisample(from: Option<w::GpuMultisampleState>) -> wgpu::MultisampleState {
    let Some(from) = from else { return wgpu::MultisampleState::default() };
    wgpu::MultisampleState {
        count: from.count.unwrap_or(1),
        mask: u64::from(from.mask.unwrap_or(u32::MAX)),
        alpha_to_coverage_enabled: from.alpha_to_coverage_enabled.unwrap_or(false),
    }
}

pub(crate) fn depth_stencil(from: w::GpuDepthStencilState) -> wgpu::DepthStencilState {
    let face = |face: Option<w::GpuStencilFaceState>| {
        let Some(face) = face else { return wgpu::StencilFaceState::IGNORE };
        let operation = |op: Option<_>| op.map_or(wgpu::StencilOperation::Keep, enums::stencil_operation);
        wgpu::StencilFaceState {
            compare: face.compare.map_or(wgpu::CompareFunction::Always, enums::compare),
            fail_op: operation(face.fail_op),
            depth_fail_op: operation(face.depth_fail_op),
            pass_op: operation(face.pass_op),
        }
    };
    wgpu::DepthStencilState {
        format: formats::texture(from.format),
        depth_write_enabled: from.depth_write_enabled,
        depth_compare: from.depth_compare.map(enums::compare),
        stencil: wgpu::StencilState {
            front: face(from.stencil_front),
            back: face(from.stencil_back),
            read_mask: from.stencil_read_mask.unwrap_or(u32::MAX),
            write_mask: from.stencil_write_mask.unwrap_or(u32::MAX),
        },
        bias: wgpu::DepthBiasState {
            constant: from.depth_bias.unwrap_or(0),
            slope_scale: from.depth_bias_slope_scale.unwrap_or(0.0),
            clamp: from.depth_bias_clamp.unwrap_or(0.0),
        },
    }
}

pub(crate) fn color_target(from: w::GpuColorTargetState) -> wgpu::ColorTargetState {
    let component = |from: w::GpuBlendComponent| wgpu::BlendComponent {
        src_factor: from.src_factor.map_or(wgpu::BlendFactor::One, enums::blend_factor),
        dst_factor: from.dst_factor.map_or(wgpu::BlendFactor::Zero, enums::blend_factor),
        operation: from.operation.map_or(wgpu::BlendOperation::Add, enums::blend_operation),
    };
    wgpu::ColorTargetState {
        format: formats::texture(from.format),
        blend: from
            .blend
            .map(|blend| wgpu::BlendState { color: component(blend.color), alpha: component(blend.alpha) }),
        write_mask: from.write_mask.map_or(wgpu::ColorWrites::ALL, enums::color_write),
    }
}

pub(crate) struct VertexBuffer {
    pub(crate) array_stride: u64,
    pub(crate) step_mode: wgpu::VertexStepMode,
    pub(crate) attributes: Vec<wgpu::VertexAttribute>,
}

pub(crate) fn vertex_buffer(from: w::GpuVertexBufferLayout) -> VertexBuffer {
    let attribute = |from: w::GpuVertexAttribute| wgpu::VertexAttribute {
        format: formats::vertex(from.format),
        offset: from.offset,
        shader_location: from.shader_location,
    };
    VertexBuffer {
        array_stride: from.array_stride,
        step_mode: from.step_mode.map_or(wgpu::VertexStepMode::Vertex, enums::step_mode),
        attributes: from.attributes.into_iter().map(attribute).collect(),
    }
}

/// Of an attachment. Without an operation there is none.
pub(crate) fn operations<V: Default>(
    load: Option<w::GpuLoadOp>,
    clear: Option<V>,
    store: Option<w::GpuStoreOp>,
) -> Option<wgpu::Operations<V>> {
    if load.is_none() && store.is_none() {
        return None;
    }
    let load = match load {
        Some(w::GpuLoadOp::Clear) => wgpu::LoadOp::Clear(clear.unwrap_or_default()),
        _ => wgpu::LoadOp::Load,
    };
    Some(wgpu::Operations { load, store: store.map_or(wgpu::StoreOp::Store, enums::store_op) })
}
