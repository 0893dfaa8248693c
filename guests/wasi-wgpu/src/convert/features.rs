//! Features that WebGPU and wgpu share.

use crate::bindings::{GpuFeatureName as Name, GpuSupportedFeatures};
use wgpu::Features;

/// Each with its name in the standard. `IMMEDIATES` is not among them: in WebGPU it is a limit, `max-immediate-size`.
const FEATURES: &[(Features, Name, &str)] = &[
    (Features::DEPTH_CLIP_CONTROL, Name::DepthClipControl, "depth-clip-control"),
    (Features::DEPTH32FLOAT_STENCIL8, Name::Depth32floatStencil8, "depth32float-stencil8"),
    (Features::TEXTURE_COMPRESSION_BC, Name::TextureCompressionBc, "texture-compression-bc"),
    (
        Features::TEXTURE_COMPRESSION_BC_SLICED_3D,
        Name::TextureCompressionBcSliced3d,
        "texture-compression-bc-sliced-3d",
    ),
    (Features::TEXTURE_COMPRESSION_ETC2, Name::TextureCompressionEtc2, "texture-compression-etc2"),
    (Features::TEXTURE_COMPRESSION_ASTC, Name::TextureCompressionAstc, "texture-compression-astc"),
    (
        Features::TEXTURE_COMPRESSION_ASTC_SLICED_3D,
        Name::TextureCompressionAstcSliced3d,
        "texture-compression-astc-sliced-3d",
    ),
    (Features::TIMESTAMP_QUERY, Name::TimestampQuery, "timestamp-query"),
    (Features::INDIRECT_FIRST_INSTANCE, Name::IndirectFirstInstance, "indirect-first-instance"),
    (Features::SHADER_F16, Name::ShaderF16, "shader-f16"),
    (Features::RG11B10UFLOAT_RENDERABLE, Name::Rg11b10ufloatRenderable, "rg11b10ufloat-renderable"),
    (Features::BGRA8UNORM_STORAGE, Name::Bgra8unormStorage, "bgra8unorm-storage"),
    (Features::FLOAT32_FILTERABLE, Name::Float32Filterable, "float32-filterable"),
    (Features::FLOAT32_BLENDABLE, Name::Float32Blendable, "float32-blendable"),
    (Features::CLIP_DISTANCES, Name::ClipDistances, "clip-distances"),
    (Features::DUAL_SOURCE_BLENDING, Name::DualSourceBlending, "dual-source-blending"),
    (Features::SUBGROUP, Name::Subgroups, "subgroups"),
    (Features::PRIMITIVE_INDEX, Name::PrimitiveIndex, "primitive-index"),
];

pub(crate) fn supported(features: &GpuSupportedFeatures, limits: &wgpu::Limits) -> Features {
    let there = FEATURES.iter().filter(|(_, _, name)| features.has(name));
    let mut all = there.fold(Features::empty(), |all, (feature, ..)| all | *feature);
    all.set(Features::IMMEDIATES, limits.max_immediate_size > 0);
    all
}

/// What is asked of a host for these. All of them are [`supported`].
pub(crate) fn required(features: Features) -> Vec<Name> {
    FEATURES.iter().filter(|(feature, ..)| features.contains(*feature)).map(|(_, name, _)| *name).collect()
}
