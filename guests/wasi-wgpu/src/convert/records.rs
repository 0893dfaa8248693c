//! Descriptors.

use super::{
    Inexpressible,
    enums::{self, aspect},
    formats,
};
use crate::{
    bindings::*,
    buffer::Buffer,
    held::{BindGroupLayout, PipelineLayout, QuerySet, Sampler, TextureView, held},
    shader::ShaderModule,
    texture::Texture,
};
use wgpu::custom::DispatchBuffer;

type Fallible<T> = Result<T, Inexpressible>;

pub(crate) fn label(label: wgpu::Label<'_>) -> Option<String> {
    label.map(str::to_owned)
}

/// What WebGPU has no word for, if it is wanted.
fn without<T>(wanted: Option<T>, what: &str) -> Fallible<()> {
    wanted.map_or(Ok(()), |_| Err(format!("WebGPU has no {what}")))
}

pub(crate) fn extent(size: wgpu::Extent3d) -> GpuExtent3D {
    GpuExtent3D {
        width: size.width,
        height: Some(size.height),
        depth_or_array_layers: Some(size.depth_or_array_layers),
    }
}

pub(crate) fn color(color: wgpu::Color) -> GpuColor {
    GpuColor { r: color.r, g: color.g, b: color.b, a: color.a }
}

pub(crate) fn buffer(it: &DispatchBuffer) -> Fallible<&GpuBuffer> {
    held(it.as_custom::<Buffer>()).map(|buffer| &**buffer)
}

pub(crate) fn texel_buffer<'a>(from: &wgpu::TexelCopyBufferInfo<'a>) -> Fallible<GpuTexelCopyBufferInfo<'a>> {
    Ok(GpuTexelCopyBufferInfo {
        buffer: held(from.buffer.as_custom::<Buffer>())?,
        offset: Some(from.layout.offset),
        bytes_per_row: from.layout.bytes_per_row,
        rows_per_image: from.layout.rows_per_image,
    })
}

pub(crate) fn texel_layout(from: wgpu::TexelCopyBufferLayout) -> GpuTexelCopyBufferLayout {
    GpuTexelCopyBufferLayout {
        offset: Some(from.offset),
        bytes_per_row: from.bytes_per_row,
        rows_per_image: from.rows_per_image,
    }
}

pub(crate) fn texel_texture<'a>(from: &wgpu::TexelCopyTextureInfo<'a>) -> Fallible<GpuTexelCopyTextureInfo<'a>> {
    let origin = GpuOrigin3D { x: Some(from.origin.x), y: Some(from.origin.y), z: Some(from.origin.z) };
    Ok(GpuTexelCopyTextureInfo {
        texture: held(from.texture.as_custom::<Texture>())?,
        mip_level: Some(from.mip_level),
        origin: Some(origin),
        aspect: Some(aspect(from.aspect)?),
    })
}

pub(crate) fn texture(from: &wgpu::TextureDescriptor<'_>) -> Fallible<GpuTextureDescriptor> {
    let views = from.view_formats.iter().map(|format| formats::texture(*format));
    Ok(GpuTextureDescriptor {
        size: extent(from.size),
        mip_level_count: Some(from.mip_level_count),
        sample_count: Some(from.sample_count),
        dimension: Some(enums::dimension(from.dimension)),
        format: formats::texture(from.format)?,
        usage: enums::texture_usage(from.usage)?,
        view_formats: Some(views.collect::<Fallible<_>>()?),
        texture_binding_view_dimension: None,
        label: label(from.label),
    })
}

pub(crate) fn view(from: &wgpu::TextureViewDescriptor<'_>) -> Fallible<GpuTextureViewDescriptor> {
    Ok(GpuTextureViewDescriptor {
        format: from.format.map(formats::texture).transpose()?,
        dimension: from.dimension.map(enums::view_dimension),
        usage: from.usage.map(enums::texture_usage).transpose()?,
        aspect: Some(aspect(from.aspect)?),
        base_mip_level: Some(from.base_mip_level),
        mip_level_count: from.mip_level_count,
        base_array_layer: Some(from.base_array_layer),
        array_layer_count: from.array_layer_count,
        swizzle: None,
        label: label(from.label),
    })
}

pub(crate) fn sampler(from: &wgpu::SamplerDescriptor<'_>) -> Fallible<GpuSamplerDescriptor> {
    without(from.border_color, "colour of a border")?;
    Ok(GpuSamplerDescriptor {
        address_mode_u: Some(enums::address_mode(from.address_mode_u)?),
        address_mode_v: Some(enums::address_mode(from.address_mode_v)?),
        address_mode_w: Some(enums::address_mode(from.address_mode_w)?),
        mag_filter: Some(enums::filter_mode(from.mag_filter)),
        min_filter: Some(enums::filter_mode(from.min_filter)),
        mipmap_filter: Some(enums::mipmap_filter_mode(from.mipmap_filter)),
        lod_min_clamp: Some(from.lod_min_clamp),
        lod_max_clamp: Some(from.lod_max_clamp),
        compare: from.compare.map(enums::compare),
        max_anisotropy: Some(from.anisotropy_clamp),
        label: label(from.label),
    })
}

fn layout_entry(from: &wgpu::BindGroupLayoutEntry) -> Fallible<GpuBindGroupLayoutEntry> {
    without(from.count, "arrays of bindings")?;
    let mut entry = GpuBindGroupLayoutEntry {
        binding: from.binding,
        visibility: enums::shader_stage(from.visibility)?,
        buffer: None,
        sampler: None,
        texture: None,
        storage_texture: None,
    };
    match from.ty {
        wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size } => {
            entry.buffer = Some(GpuBufferBindingLayout {
                type_: Some(enums::buffer_binding(ty)),
                has_dynamic_offset: Some(has_dynamic_offset),
                min_binding_size: min_binding_size.map(u64::from),
            });
        }
        wgpu::BindingType::Sampler(kind) => {
            entry.sampler = Some(GpuSamplerBindingLayout { type_: Some(enums::sampler_binding(kind)) });
        }
        wgpu::BindingType::Texture { sample_type, view_dimension, multisampled } => {
            entry.texture = Some(GpuTextureBindingLayout {
                sample_type: Some(enums::sample_type(sample_type)),
                view_dimension: Some(enums::view_dimension(view_dimension)),
                multisampled: Some(multisampled),
            });
        }
        wgpu::BindingType::StorageTexture { access, format, view_dimension } => {
            entry.storage_texture = Some(GpuStorageTextureBindingLayout {
                access: Some(enums::storage_access(access)?),
                format: formats::texture(format)?,
                view_dimension: Some(enums::view_dimension(view_dimension)),
            });
        }
        wgpu::BindingType::AccelerationStructure { .. } => return Err("WebGPU has no ray tracing".into()),
        wgpu::BindingType::ExternalTexture => return Err("there are no external textures here".into()),
    }
    Ok(entry)
}

pub(crate) fn bind_group_layout(from: &wgpu::BindGroupLayoutDescriptor<'_>) -> Fallible<GpuBindGroupLayoutDescriptor> {
    let entries = from.entries.iter().map(layout_entry).collect::<Fallible<_>>()?;
    Ok(GpuBindGroupLayoutDescriptor { entries, label: label(from.label) })
}

fn entry<'a>(from: &wgpu::BindGroupEntry<'a>) -> Fallible<GpuBindGroupEntry<'a>> {
    use wgpu::BindingResource as From;
    let resource = match from.resource {
        From::Buffer(wgpu::BufferBinding { buffer, offset, size }) => {
            GpuBindingResource::GpuBufferBinding(GpuBufferBinding {
                buffer: held(buffer.as_custom::<Buffer>())?,
                offset: Some(offset),
                size: size.map(u64::from),
            })
        }
        From::Sampler(sampler) => GpuBindingResource::GpuSampler(held(sampler.as_custom::<Sampler>())?),
        From::TextureView(view) => GpuBindingResource::GpuTextureView(held(view.as_custom::<TextureView>())?),
        From::BufferArray(_) | From::SamplerArray(_) | From::TextureViewArray(_) => {
            return Err("WebGPU has no arrays of bindings".into());
        }
        _ => return Err("WebGPU has no ray tracing, and there are no external textures here".into()),
    };
    Ok(GpuBindGroupEntry { binding: from.binding, resource })
}

pub(crate) fn bind_group<'a>(from: &wgpu::BindGroupDescriptor<'a>) -> Fallible<GpuBindGroupDescriptor<'a>> {
    Ok(GpuBindGroupDescriptor {
        layout: held(from.layout.as_custom::<BindGroupLayout>())?,
        entries: from.entries.iter().map(entry).collect::<Fallible<_>>()?,
        label: label(from.label),
    })
}

pub(crate) fn pipeline_layout<'a>(
    from: &wgpu::PipelineLayoutDescriptor<'a>,
) -> Fallible<GpuPipelineLayoutDescriptor<'a>> {
    let of = |layout: &Option<&'a wgpu::BindGroupLayout>| {
        layout.map(|layout| held(layout.as_custom::<BindGroupLayout>())).transpose()
    };
    Ok(GpuPipelineLayoutDescriptor {
        bind_group_layouts: from.bind_group_layouts.iter().map(of).collect::<Fallible<_>>()?,
        immediate_size: Some(from.immediate_size),
        label: label(from.label),
    })
}

fn layout(from: Option<&wgpu::PipelineLayout>) -> Fallible<GpuLayoutMode<'_>> {
    Ok(match from {
        Some(layout) => GpuLayoutMode::Specific(held(layout.as_custom::<PipelineLayout>())?),
        None => GpuLayoutMode::Auto,
    })
}

fn constants(from: &wgpu::PipelineCompilationOptions<'_>) -> Option<RecordGpuPipelineConstantValue> {
    if from.constants.is_empty() {
        return None;
    }
    let record = RecordGpuPipelineConstantValue::new();
    from.constants.iter().for_each(|(key, value)| record.add(key, *value));
    Some(record)
}

fn module(from: &wgpu::ShaderModule) -> Fallible<&GpuShaderModule> {
    held(from.as_custom::<ShaderModule>()).map(|module| &**module)
}

pub(crate) fn compute_pipeline<'a>(
    from: &wgpu::ComputePipelineDescriptor<'a>,
) -> Fallible<GpuComputePipelineDescriptor<'a>> {
    Ok(GpuComputePipelineDescriptor {
        compute: GpuProgrammableStage {
            module: module(from.module)?,
            entry_point: label(from.entry_point),
            constants: constants(&from.compilation_options),
        },
        layout: layout(from.layout)?,
        label: label(from.label),
    })
}

fn vertex_buffer(from: &wgpu::VertexBufferLayout<'_>) -> Fallible<GpuVertexBufferLayout> {
    let attribute = |from: &wgpu::VertexAttribute| -> Fallible<_> {
        let format = formats::vertex(from.format)?;
        Ok(GpuVertexAttribute { format, offset: from.offset, shader_location: from.shader_location })
    };
    Ok(GpuVertexBufferLayout {
        array_stride: from.array_stride,
        step_mode: Some(enums::step_mode(from.step_mode)),
        attributes: from.attributes.iter().map(attribute).collect::<Fallible<_>>()?,
    })
}

fn blend(from: &wgpu::BlendComponent) -> GpuBlendComponent {
    GpuBlendComponent {
        operation: Some(enums::blend_operation(from.operation)),
        src_factor: Some(enums::blend_factor(from.src_factor)),
        dst_factor: Some(enums::blend_factor(from.dst_factor)),
    }
}

fn target(from: &wgpu::ColorTargetState) -> Fallible<GpuColorTargetState> {
    Ok(GpuColorTargetState {
        format: formats::texture(from.format)?,
        blend: from.blend.map(|from| GpuBlendState { color: blend(&from.color), alpha: blend(&from.alpha) }),
        write_mask: Some(enums::color_write(from.write_mask)?),
    })
}

fn stencil(from: &wgpu::StencilFaceState) -> GpuStencilFaceState {
    GpuStencilFaceState {
        compare: Some(enums::compare(from.compare)),
        fail_op: Some(enums::stencil_operation(from.fail_op)),
        depth_fail_op: Some(enums::stencil_operation(from.depth_fail_op)),
        pass_op: Some(enums::stencil_operation(from.pass_op)),
    }
}

fn depth_stencil(from: &wgpu::DepthStencilState) -> Fallible<GpuDepthStencilState> {
    Ok(GpuDepthStencilState {
        format: formats::texture(from.format)?,
        depth_write_enabled: from.depth_write_enabled,
        depth_compare: from.depth_compare.map(enums::compare),
        stencil_front: Some(stencil(&from.stencil.front)),
        stencil_back: Some(stencil(&from.stencil.back)),
        stencil_read_mask: Some(from.stencil.read_mask),
        stencil_write_mask: Some(from.stencil.write_mask),
        depth_bias: Some(from.bias.constant),
        depth_bias_slope_scale: Some(from.bias.slope_scale),
        depth_bias_clamp: Some(from.bias.clamp),
    })
}

fn primitive(from: &wgpu::PrimitiveState) -> Fallible<GpuPrimitiveState> {
    without((from.polygon_mode != wgpu::PolygonMode::Fill).then_some(()), "polygons of lines or points")?;
    without(from.conservative.then_some(()), "conservative rasterization")?;
    Ok(GpuPrimitiveState {
        topology: Some(enums::topology(from.topology)),
        strip_index_format: from.strip_index_format.map(enums::index_format),
        front_face: Some(enums::front_face(from.front_face)),
        cull_mode: Some(from.cull_mode.map_or(GpuCullMode::None, enums::face)),
        unclipped_depth: Some(from.unclipped_depth),
    })
}

fn fragment<'a>(from: &wgpu::FragmentState<'a>) -> Fallible<GpuFragmentState<'a>> {
    let targets = from.targets.iter().map(|from| from.as_ref().map(target).transpose());
    Ok(GpuFragmentState {
        targets: targets.collect::<Fallible<_>>()?,
        module: module(from.module)?,
        entry_point: label(from.entry_point),
        constants: constants(&from.compilation_options),
    })
}

pub(crate) fn render_pipeline<'a>(
    from: &wgpu::RenderPipelineDescriptor<'a>,
) -> Fallible<GpuRenderPipelineDescriptor<'a>> {
    without(from.multiview_mask, "multiview")?;
    let buffers = from.vertex.buffers.iter().map(|from| from.as_ref().map(vertex_buffer).transpose());
    Ok(GpuRenderPipelineDescriptor {
        vertex: GpuVertexState {
            buffers: Some(buffers.collect::<Fallible<_>>()?),
            module: module(from.vertex.module)?,
            entry_point: label(from.vertex.entry_point),
            constants: constants(&from.vertex.compilation_options),
        },
        primitive: Some(primitive(&from.primitive)?),
        depth_stencil: from.depth_stencil.as_ref().map(depth_stencil).transpose()?,
        multisample: Some(GpuMultisampleState {
            count: Some(from.multisample.count),
            // wgpu has room for more samples than there are.
            mask: Some((from.multisample.mask & u64::from(u32::MAX)) as u32),
            alpha_to_coverage_enabled: Some(from.multisample.alpha_to_coverage_enabled),
        }),
        fragment: from.fragment.as_ref().map(fragment).transpose()?,
        layout: layout(from.layout)?,
        label: label(from.label),
    })
}

pub(crate) fn query_set(from: &wgpu::QuerySetDescriptor<'_>) -> Fallible<GpuQuerySetDescriptor> {
    Ok(GpuQuerySetDescriptor { type_: enums::query_type(from.ty)?, count: from.count, label: label(from.label) })
}

pub(crate) fn compute_pass<'a>(from: &wgpu::ComputePassDescriptor<'a>) -> Fallible<GpuComputePassDescriptor<'a>> {
    let writes = |from: &wgpu::ComputePassTimestampWrites<'a>| -> Fallible<_> {
        Ok(GpuComputePassTimestampWrites {
            query_set: held(from.query_set.as_custom::<QuerySet>())?,
            beginning_of_pass_write_index: from.beginning_of_pass_write_index,
            end_of_pass_write_index: from.end_of_pass_write_index,
        })
    };
    let timestamp_writes = from.timestamp_writes.as_ref().map(writes).transpose()?;
    Ok(GpuComputePassDescriptor { timestamp_writes, label: label(from.label) })
}

/// The value to clear with, and whether to load. What may hold anything is cleared: WebGPU has no undefined contents.
fn load<V>(op: wgpu::LoadOp<V>, otherwise: V) -> (GpuLoadOp, Option<V>) {
    match op {
        wgpu::LoadOp::Clear(value) => (GpuLoadOp::Clear, Some(value)),
        wgpu::LoadOp::Load => (GpuLoadOp::Load, None),
        wgpu::LoadOp::DontCare(_) => (GpuLoadOp::Clear, Some(otherwise)),
    }
}

fn color_attachment<'a>(from: &wgpu::RenderPassColorAttachment<'a>) -> Fallible<GpuRenderPassColorAttachment<'a>> {
    let (load_op, clear) = load(from.ops.load, wgpu::Color::TRANSPARENT);
    Ok(GpuRenderPassColorAttachment {
        view: held(from.view.as_custom::<TextureView>())?,
        depth_slice: from.depth_slice,
        resolve_target: from.resolve_target.map(|view| held(view.as_custom::<TextureView>())).transpose()?,
        clear_value: clear.map(color),
        load_op,
        store_op: enums::store_op(from.ops.store),
    })
}

fn depth_attachment<'a>(
    from: &wgpu::RenderPassDepthStencilAttachment<'a>,
) -> Fallible<GpuRenderPassDepthStencilAttachment<'a>> {
    let depth = from.depth_ops.map(|ops| (load(ops.load, 1.0), ops.store));
    let stencil = from.stencil_ops.map(|ops| (load(ops.load, 0), ops.store));
    Ok(GpuRenderPassDepthStencilAttachment {
        view: held(from.view.as_custom::<TextureView>())?,
        depth_clear_value: depth.and_then(|((_, clear), _)| clear),
        depth_load_op: depth.map(|((load, _), _)| load),
        depth_store_op: depth.map(|(_, store)| enums::store_op(store)),
        depth_read_only: Some(depth.is_none()),
        stencil_clear_value: stencil.and_then(|((_, clear), _)| clear),
        stencil_load_op: stencil.map(|((load, _), _)| load),
        stencil_store_op: stencil.map(|(_, store)| enums::store_op(store)),
        stencil_read_only: Some(stencil.is_none()),
    })
}

pub(crate) fn render_pass<'a>(from: &wgpu::RenderPassDescriptor<'a>) -> Fallible<GpuRenderPassDescriptor<'a>> {
    without(from.multiview_mask, "multiview")?;
    let colors = from.color_attachments.iter().map(|from| from.as_ref().map(color_attachment).transpose());
    let writes = |from: &wgpu::RenderPassTimestampWrites<'a>| -> Fallible<_> {
        Ok(GpuRenderPassTimestampWrites {
            query_set: held(from.query_set.as_custom::<QuerySet>())?,
            beginning_of_pass_write_index: from.beginning_of_pass_write_index,
            end_of_pass_write_index: from.end_of_pass_write_index,
        })
    };
    let queries = from.occlusion_query_set.map(|set| held(set.as_custom::<QuerySet>()));
    Ok(GpuRenderPassDescriptor {
        color_attachments: colors.collect::<Fallible<_>>()?,
        depth_stencil_attachment: from.depth_stencil_attachment.as_ref().map(depth_attachment).transpose()?,
        occlusion_query_set: queries.transpose()?,
        timestamp_writes: from.timestamp_writes.as_ref().map(writes).transpose()?,
        max_draw_count: None,
        label: label(from.label),
    })
}

pub(crate) fn bundle_encoder(
    from: &wgpu::RenderBundleEncoderDescriptor<'_>,
) -> Fallible<GpuRenderBundleEncoderDescriptor> {
    without(from.multiview, "multiview")?;
    let colors = from.color_formats.iter().map(|format| format.map(formats::texture).transpose());
    let depth = from.depth_stencil;
    Ok(GpuRenderBundleEncoderDescriptor {
        depth_read_only: depth.map(|depth| depth.depth_read_only),
        stencil_read_only: depth.map(|depth| depth.stencil_read_only),
        color_formats: colors.collect::<Fallible<_>>()?,
        depth_stencil_format: depth.map(|depth| formats::texture(depth.format)).transpose()?,
        sample_count: Some(from.sample_count),
        label: label(from.label),
    })
}
