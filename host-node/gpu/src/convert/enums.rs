//! Enumerations and flags, one to one.

use crate::{bindings::webgpu, device::FaultKind};

macro_rules! table {
    ($($name:ident: $from:ident => $to:ty { $($a:ident => $b:expr),* $(,)? })*) => {
        $(pub(crate) fn $name(value: webgpu::$from) -> $to {
            match value {
                $(webgpu::$from::$a => $b,)*
            }
        })*
    };
}

table! {
    address_mode: GpuAddressMode => wgpu::AddressMode {
        ClampToEdge => wgpu::AddressMode::ClampToEdge,
        Repeat => wgpu::AddressMode::Repeat,
        MirrorRepeat => wgpu::AddressMode::MirrorRepeat,
    }
    blend_factor: GpuBlendFactor => wgpu::BlendFactor {
        Zero => wgpu::BlendFactor::Zero,
        One => wgpu::BlendFactor::One,
        Src => wgpu::BlendFactor::Src,
        OneMinusSrc => wgpu::BlendFactor::OneMinusSrc,
        SrcAlpha => wgpu::BlendFactor::SrcAlpha,
        OneMinusSrcAlpha => wgpu::BlendFactor::OneMinusSrcAlpha,
        Dst => wgpu::BlendFactor::Dst,
        OneMinusDst => wgpu::BlendFactor::OneMinusDst,
        DstAlpha => wgpu::BlendFactor::DstAlpha,
        OneMinusDstAlpha => wgpu::BlendFactor::OneMinusDstAlpha,
        SrcAlphaSaturated => wgpu::BlendFactor::SrcAlphaSaturated,
        Constant => wgpu::BlendFactor::Constant,
        OneMinusConstant => wgpu::BlendFactor::OneMinusConstant,
        Src1 => wgpu::BlendFactor::Src1,
        OneMinusSrc1 => wgpu::BlendFactor::OneMinusSrc1,
        Src1Alpha => wgpu::BlendFactor::Src1Alpha,
        OneMinusSrc1Alpha => wgpu::BlendFactor::OneMinusSrc1Alpha,
    }
    blend_operation: GpuBlendOperation => wgpu::BlendOperation {
        Add => wgpu::BlendOperation::Add,
        Subtract => wgpu::BlendOperation::Subtract,
        ReverseSubtract => wgpu::BlendOperation::ReverseSubtract,
        Min => wgpu::BlendOperation::Min,
        Max => wgpu::BlendOperation::Max,
    }
    compare: GpuCompareFunction => wgpu::CompareFunction {
        Never => wgpu::CompareFunction::Never,
        Less => wgpu::CompareFunction::Less,
        Equal => wgpu::CompareFunction::Equal,
        LessEqual => wgpu::CompareFunction::LessEqual,
        Greater => wgpu::CompareFunction::Greater,
        NotEqual => wgpu::CompareFunction::NotEqual,
        GreaterEqual => wgpu::CompareFunction::GreaterEqual,
        Always => wgpu::CompareFunction::Always,
    }
    cull_mode: GpuCullMode => Option<wgpu::Face> {
        None => None,
        Front => Some(wgpu::Face::Front),
        Back => Some(wgpu::Face::Back),
    }
    error_filter: GpuErrorFilter => FaultKind {
        Validation => FaultKind::Validation,
        OutOfMemory => FaultKind::OutOfMemory,
        Internal => FaultKind::Internal,
    }
    filter_mode: GpuFilterMode => wgpu::FilterMode {
        Nearest => wgpu::FilterMode::Nearest,
        Linear => wgpu::FilterMode::Linear,
    }
    mipmap_filter_mode: GpuMipmapFilterMode => wgpu::MipmapFilterMode {
        Nearest => wgpu::MipmapFilterMode::Nearest,
        Linear => wgpu::MipmapFilterMode::Linear,
    }
    front_face: GpuFrontFace => wgpu::FrontFace {
        Ccw => wgpu::FrontFace::Ccw,
        Cw => wgpu::FrontFace::Cw,
    }
    index_format: GpuIndexFormat => wgpu::IndexFormat {
        Uint16 => wgpu::IndexFormat::Uint16,
        Uint32 => wgpu::IndexFormat::Uint32,
    }
    topology: GpuPrimitiveTopology => wgpu::PrimitiveTopology {
        PointList => wgpu::PrimitiveTopology::PointList,
        LineList => wgpu::PrimitiveTopology::LineList,
        LineStrip => wgpu::PrimitiveTopology::LineStrip,
        TriangleList => wgpu::PrimitiveTopology::TriangleList,
        TriangleStrip => wgpu::PrimitiveTopology::TriangleStrip,
    }
    query_type: GpuQueryType => wgpu::QueryType {
        Occlusion => wgpu::QueryType::Occlusion,
        Timestamp => wgpu::QueryType::Timestamp,
    }
    sampler_binding: GpuSamplerBindingType => wgpu::SamplerBindingType {
        Filtering => wgpu::SamplerBindingType::Filtering,
        NonFiltering => wgpu::SamplerBindingType::NonFiltering,
        Comparison => wgpu::SamplerBindingType::Comparison,
    }
    stencil_operation: GpuStencilOperation => wgpu::StencilOperation {
        Keep => wgpu::StencilOperation::Keep,
        Zero => wgpu::StencilOperation::Zero,
        Replace => wgpu::StencilOperation::Replace,
        Invert => wgpu::StencilOperation::Invert,
        IncrementClamp => wgpu::StencilOperation::IncrementClamp,
        DecrementClamp => wgpu::StencilOperation::DecrementClamp,
        IncrementWrap => wgpu::StencilOperation::IncrementWrap,
        DecrementWrap => wgpu::StencilOperation::DecrementWrap,
    }
    storage_access: GpuStorageTextureAccess => wgpu::StorageTextureAccess {
        WriteOnly => wgpu::StorageTextureAccess::WriteOnly,
        ReadOnly => wgpu::StorageTextureAccess::ReadOnly,
        ReadWrite => wgpu::StorageTextureAccess::ReadWrite,
    }
    store_op: GpuStoreOp => wgpu::StoreOp {
        Store => wgpu::StoreOp::Store,
        Discard => wgpu::StoreOp::Discard,
    }
    aspect: GpuTextureAspect => wgpu::TextureAspect {
        All => wgpu::TextureAspect::All,
        StencilOnly => wgpu::TextureAspect::StencilOnly,
        DepthOnly => wgpu::TextureAspect::DepthOnly,
    }
    dimension: GpuTextureDimension => wgpu::TextureDimension {
        D1 => wgpu::TextureDimension::D1,
        D2 => wgpu::TextureDimension::D2,
        D3 => wgpu::TextureDimension::D3,
    }
    view_dimension: GpuTextureViewDimension => wgpu::TextureViewDimension {
        D1 => wgpu::TextureViewDimension::D1,
        D2 => wgpu::TextureViewDimension::D2,
        D2Array => wgpu::TextureViewDimension::D2Array,
        Cube => wgpu::TextureViewDimension::Cube,
        CubeArray => wgpu::TextureViewDimension::CubeArray,
        D3 => wgpu::TextureViewDimension::D3,
    }
    sample_type: GpuTextureSampleType => wgpu::TextureSampleType {
        Float => wgpu::TextureSampleType::Float { filterable: true },
        UnfilterableFloat => wgpu::TextureSampleType::Float { filterable: false },
        Depth => wgpu::TextureSampleType::Depth,
        Sint => wgpu::TextureSampleType::Sint,
        Uint => wgpu::TextureSampleType::Uint,
    }
    step_mode: GpuVertexStepMode => wgpu::VertexStepMode {
        Vertex => wgpu::VertexStepMode::Vertex,
        Instance => wgpu::VertexStepMode::Instance,
    }
    buffer_binding: GpuBufferBindingType => wgpu::BufferBindingType {
        Uniform => wgpu::BufferBindingType::Uniform,
        Storage => wgpu::BufferBindingType::Storage { read_only: false },
        ReadOnlyStorage => wgpu::BufferBindingType::Storage { read_only: true },
    }
}

macro_rules! flags {
    ($($name:ident: $from:ident => $to:ident { $($a:ident),* $(,)? })*) => {
        $(pub(crate) fn $name(value: webgpu::$from) -> wgpu::$to {
            let mut flags = wgpu::$to::empty();
            $(flags.set(wgpu::$to::$a, value.contains(webgpu::$from::$a));)*
            flags
        })*
    };
}

flags! {
    buffer_usage: GpuBufferUsage => BufferUsages {
        MAP_READ, MAP_WRITE, COPY_SRC, COPY_DST, INDEX, VERTEX, UNIFORM, STORAGE, INDIRECT, QUERY_RESOLVE,
    }
    shader_stage: GpuShaderStage => ShaderStages { VERTEX, FRAGMENT, COMPUTE }
}

/// Transient attachments are ordinary ones here: the flag only saves memory, and not on every device.
pub(crate) fn texture_usage(value: webgpu::GpuTextureUsage) -> wgpu::TextureUsages {
    use webgpu::GpuTextureUsage as From;
    use wgpu::TextureUsages as To;
    let mut flags = To::empty();
    flags.set(To::COPY_SRC, value.contains(From::COPY_SRC));
    flags.set(To::COPY_DST, value.contains(From::COPY_DST));
    flags.set(To::TEXTURE_BINDING, value.contains(From::TEXTURE_BINDING));
    flags.set(To::STORAGE_BINDING, value.contains(From::STORAGE_BINDING));
    flags.set(To::RENDER_ATTACHMENT, value.contains(From::RENDER_ATTACHMENT));
    flags
}

pub(crate) fn color_write(value: webgpu::GpuColorWrite) -> wgpu::ColorWrites {
    use webgpu::GpuColorWrite as From;
    use wgpu::ColorWrites as To;
    if value.contains(From::ALL) {
        return To::ALL;
    }
    let mut flags = To::empty();
    flags.set(To::RED, value.contains(From::RED));
    flags.set(To::GREEN, value.contains(From::GREEN));
    flags.set(To::BLUE, value.contains(From::BLUE));
    flags.set(To::ALPHA, value.contains(From::ALPHA));
    flags
}
