//! Enumerations and flags.

use super::Inexpressible;
use crate::bindings as to;

macro_rules! table {
    ($($name:ident: $from:path => $to:ident { $($a:ident => $b:ident),* $(,)? })*) => {
        $(pub(crate) fn $name(value: $from) -> to::$to {
            use $from as From;
            match value {
                $(From::$a => to::$to::$b,)*
            }
        })*
    };
}

table! {
    blend_factor: wgpu::BlendFactor => GpuBlendFactor {
        Zero => Zero, One => One, Src => Src, OneMinusSrc => OneMinusSrc, SrcAlpha => SrcAlpha,
        OneMinusSrcAlpha => OneMinusSrcAlpha, Dst => Dst, OneMinusDst => OneMinusDst, DstAlpha => DstAlpha,
        OneMinusDstAlpha => OneMinusDstAlpha, SrcAlphaSaturated => SrcAlphaSaturated, Constant => Constant,
        OneMinusConstant => OneMinusConstant, Src1 => Src1, OneMinusSrc1 => OneMinusSrc1, Src1Alpha => Src1Alpha,
        OneMinusSrc1Alpha => OneMinusSrc1Alpha,
    }
    blend_operation: wgpu::BlendOperation => GpuBlendOperation {
        Add => Add, Subtract => Subtract, ReverseSubtract => ReverseSubtract, Min => Min, Max => Max,
    }
    compare: wgpu::CompareFunction => GpuCompareFunction {
        Never => Never, Less => Less, Equal => Equal, LessEqual => LessEqual, Greater => Greater, NotEqual => NotEqual,
        GreaterEqual => GreaterEqual, Always => Always,
    }
    error_filter: wgpu::ErrorFilter => GpuErrorFilter {
        OutOfMemory => OutOfMemory, Validation => Validation, Internal => Internal,
    }
    filter_mode: wgpu::FilterMode => GpuFilterMode { Nearest => Nearest, Linear => Linear }
    mipmap_filter_mode: wgpu::MipmapFilterMode => GpuMipmapFilterMode { Nearest => Nearest, Linear => Linear }
    front_face: wgpu::FrontFace => GpuFrontFace { Ccw => Ccw, Cw => Cw }
    face: wgpu::Face => GpuCullMode { Front => Front, Back => Back }
    index_format: wgpu::IndexFormat => GpuIndexFormat { Uint16 => Uint16, Uint32 => Uint32 }
    topology: wgpu::PrimitiveTopology => GpuPrimitiveTopology {
        PointList => PointList, LineList => LineList, LineStrip => LineStrip, TriangleList => TriangleList,
        TriangleStrip => TriangleStrip,
    }
    sampler_binding: wgpu::SamplerBindingType => GpuSamplerBindingType {
        Filtering => Filtering, NonFiltering => NonFiltering, Comparison => Comparison,
    }
    stencil_operation: wgpu::StencilOperation => GpuStencilOperation {
        Keep => Keep, Zero => Zero, Replace => Replace, Invert => Invert, IncrementClamp => IncrementClamp,
        DecrementClamp => DecrementClamp, IncrementWrap => IncrementWrap, DecrementWrap => DecrementWrap,
    }
    store_op: wgpu::StoreOp => GpuStoreOp { Store => Store, Discard => Discard }
    dimension: wgpu::TextureDimension => GpuTextureDimension { D1 => D1, D2 => D2, D3 => D3 }
    view_dimension: wgpu::TextureViewDimension => GpuTextureViewDimension {
        D1 => D1, D2 => D2, D2Array => D2Array, Cube => Cube, CubeArray => CubeArray, D3 => D3,
    }
    step_mode: wgpu::VertexStepMode => GpuVertexStepMode { Vertex => Vertex, Instance => Instance }
}

pub(crate) fn address_mode(mode: wgpu::AddressMode) -> Result<to::GpuAddressMode, Inexpressible> {
    Ok(match mode {
        wgpu::AddressMode::ClampToEdge => to::GpuAddressMode::ClampToEdge,
        wgpu::AddressMode::Repeat => to::GpuAddressMode::Repeat,
        wgpu::AddressMode::MirrorRepeat => to::GpuAddressMode::MirrorRepeat,
        wgpu::AddressMode::ClampToBorder => return Err("WebGPU has no address mode that clamps to a border".into()),
    })
}

pub(crate) fn aspect(aspect: wgpu::TextureAspect) -> Result<to::GpuTextureAspect, Inexpressible> {
    Ok(match aspect {
        wgpu::TextureAspect::All => to::GpuTextureAspect::All,
        wgpu::TextureAspect::StencilOnly => to::GpuTextureAspect::StencilOnly,
        wgpu::TextureAspect::DepthOnly => to::GpuTextureAspect::DepthOnly,
        other => return Err(format!("WebGPU has no textures with planes: {other:?}")),
    })
}

pub(crate) fn power(preference: wgpu::PowerPreference) -> Option<to::GpuPowerPreference> {
    match preference {
        wgpu::PowerPreference::None => None,
        wgpu::PowerPreference::LowPower => Some(to::GpuPowerPreference::LowPower),
        wgpu::PowerPreference::HighPerformance => Some(to::GpuPowerPreference::HighPerformance),
    }
}

pub(crate) fn query_type(kind: wgpu::QueryType) -> Result<to::GpuQueryType, Inexpressible> {
    match kind {
        wgpu::QueryType::Occlusion => Ok(to::GpuQueryType::Occlusion),
        wgpu::QueryType::Timestamp => Ok(to::GpuQueryType::Timestamp),
        wgpu::QueryType::PipelineStatistics(_) => Err("WebGPU has no queries of pipeline statistics".into()),
    }
}

pub(crate) fn sample_type(kind: wgpu::TextureSampleType) -> to::GpuTextureSampleType {
    match kind {
        wgpu::TextureSampleType::Float { filterable: true } => to::GpuTextureSampleType::Float,
        wgpu::TextureSampleType::Float { filterable: false } => to::GpuTextureSampleType::UnfilterableFloat,
        wgpu::TextureSampleType::Depth => to::GpuTextureSampleType::Depth,
        wgpu::TextureSampleType::Sint => to::GpuTextureSampleType::Sint,
        wgpu::TextureSampleType::Uint => to::GpuTextureSampleType::Uint,
    }
}

pub(crate) fn storage_access(access: wgpu::StorageTextureAccess) -> Result<to::GpuStorageTextureAccess, Inexpressible> {
    Ok(match access {
        wgpu::StorageTextureAccess::WriteOnly => to::GpuStorageTextureAccess::WriteOnly,
        wgpu::StorageTextureAccess::ReadOnly => to::GpuStorageTextureAccess::ReadOnly,
        wgpu::StorageTextureAccess::ReadWrite => to::GpuStorageTextureAccess::ReadWrite,
        wgpu::StorageTextureAccess::Atomic => return Err("WebGPU has no atomic storage textures".into()),
    })
}

pub(crate) fn buffer_binding(kind: wgpu::BufferBindingType) -> to::GpuBufferBindingType {
    match kind {
        wgpu::BufferBindingType::Uniform => to::GpuBufferBindingType::Uniform,
        wgpu::BufferBindingType::Storage { read_only: false } => to::GpuBufferBindingType::Storage,
        wgpu::BufferBindingType::Storage { read_only: true } => to::GpuBufferBindingType::ReadOnlyStorage,
    }
}

macro_rules! flags {
    ($($name:ident: $from:ident => $to:ident { $($a:ident),* $(,)? })*) => {
        $(pub(crate) fn $name(value: wgpu::$from) -> Result<to::$to, Inexpressible> {
            let known = wgpu::$from::empty() $(| wgpu::$from::$a)*;
            let unknown = value - known;
            if !unknown.is_empty() {
                return Err(format!("WebGPU has no {unknown:?}"));
            }
            let mut flags = to::$to::empty();
            $(if value.contains(wgpu::$from::$a) {
                flags |= to::$to::$a;
            })*
            Ok(flags)
        })*
    };
}

flags! {
    buffer_usage: BufferUsages => GpuBufferUsage {
        MAP_READ, MAP_WRITE, COPY_SRC, COPY_DST, INDEX, VERTEX, UNIFORM, STORAGE, INDIRECT, QUERY_RESOLVE,
    }
    texture_usage: TextureUsages => GpuTextureUsage {
        COPY_SRC, COPY_DST, TEXTURE_BINDING, STORAGE_BINDING, RENDER_ATTACHMENT, TRANSIENT_ATTACHMENT,
    }
    shader_stage: ShaderStages => GpuShaderStage { VERTEX, FRAGMENT, COMPUTE }
    color_write: ColorWrites => GpuColorWrite { RED, GREEN, BLUE, ALPHA }
}
