//! Features: WebGPU's names, and what of wgpu stands behind them.

use crate::bindings::webgpu::GpuFeatureName;
use wgpu::Features;

/// What every device has.
pub(crate) const CORE: &str = "core-features-and-limits";
/// Of which wgpu has the thing under a name of its own.
const SUBGROUPS: &str = "subgroups";

/// What must be asked of wgpu for a feature, and the feature's name. `Err`: wgpu has nothing that is all of it.
pub(crate) fn required(name: GpuFeatureName) -> Result<(Features, &'static str), &'static str> {
    use GpuFeatureName as N;
    Ok(match name {
        N::CoreFeaturesAndLimits => (Features::empty(), CORE),
        N::DepthClipControl => (Features::DEPTH_CLIP_CONTROL, "depth-clip-control"),
        N::Depth32floatStencil8 => (Features::DEPTH32FLOAT_STENCIL8, "depth32float-stencil8"),
        N::TextureCompressionBc => (Features::TEXTURE_COMPRESSION_BC, "texture-compression-bc"),
        N::TextureCompressionBcSliced3d => {
            (Features::TEXTURE_COMPRESSION_BC_SLICED_3D, "texture-compression-bc-sliced-3d")
        }
        N::TextureCompressionEtc2 => (Features::TEXTURE_COMPRESSION_ETC2, "texture-compression-etc2"),
        N::TextureCompressionAstc => (Features::TEXTURE_COMPRESSION_ASTC, "texture-compression-astc"),
        N::TextureCompressionAstcSliced3d => {
            (Features::TEXTURE_COMPRESSION_ASTC_SLICED_3D, "texture-compression-astc-sliced-3d")
        }
        N::TimestampQuery => (Features::TIMESTAMP_QUERY, "timestamp-query"),
        N::IndirectFirstInstance => (Features::INDIRECT_FIRST_INSTANCE, "indirect-first-instance"),
        N::ShaderF16 => (Features::SHADER_F16, "shader-f16"),
        N::Rg11b10ufloatRenderable => (Features::RG11B10UFLOAT_RENDERABLE, "rg11b10ufloat-renderable"),
        N::Bgra8unormStorage => (Features::BGRA8UNORM_STORAGE, "bgra8unorm-storage"),
        N::Float32Filterable => (Features::FLOAT32_FILTERABLE, "float32-filterable"),
        N::Float32Blendable => (Features::FLOAT32_BLENDABLE, "float32-blendable"),
        N::ClipDistances => (Features::CLIP_DISTANCES, "clip-distances"),
        N::DualSourceBlending => (Features::DUAL_SOURCE_BLENDING, "dual-source-blending"),
        N::Subgroups => (Features::SUBGROUP, SUBGROUPS),
        N::PrimitiveIndex => (Features::PRIMITIVE_INDEX, "primitive-index"),
        N::TextureFormatsTier1 => return Err("texture-formats-tier1"),
        N::TextureFormatsTier2 => return Err("texture-formats-tier2"),
        N::TextureComponentSwizzle => return Err("texture-component-swizzle"),
    })
}

const ALL: &[GpuFeatureName] = {
    use GpuFeatureName as N;
    &[
        N::CoreFeaturesAndLimits,
        N::DepthClipControl,
        N::Depth32floatStencil8,
        N::TextureCompressionBc,
        N::TextureCompressionBcSliced3d,
        N::TextureCompressionEtc2,
        N::TextureCompressionAstc,
        N::TextureCompressionAstcSliced3d,
        N::TimestampQuery,
        N::IndirectFirstInstance,
        N::ShaderF16,
        N::Rg11b10ufloatRenderable,
        N::Bgra8unormStorage,
        N::Float32Filterable,
        N::Float32Blendable,
        N::ClipDistances,
        N::DualSourceBlending,
        N::Subgroups,
        N::PrimitiveIndex,
    ]
};

/// Names of what there is, in the standard's words.
pub(crate) fn names(features: Features) -> Vec<&'static str> {
    let known = ALL.iter().filter_map(|name| required(*name).ok());
    known.filter(|(needed, _)| features.contains(*needed)).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_wgpu_knows_from_the_standard() {
        for name in ALL {
            let (feature, text) = required(*name).unwrap();
            if text != CORE && text != SUBGROUPS {
                assert_eq!(feature.as_str(), Some(text));
            }
        }
        assert_eq!(names(Features::SHADER_F16), [CORE, "shader-f16"]);
    }
}
