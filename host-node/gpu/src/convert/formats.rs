//! Formats of textures and vertices.

use crate::bindings::webgpu::{GpuTextureFormat, GpuVertexFormat};
use wgpu::{AstcBlock, AstcChannel, TextureFormat as Format, VertexFormat};

pub(crate) fn texture(format: GpuTextureFormat) -> Format {
    use GpuTextureFormat::*;
    match format {
        R8unorm => Format::R8Unorm,
        R8snorm => Format::R8Snorm,
        R8uint => Format::R8Uint,
        R8sint => Format::R8Sint,
        R16unorm => Format::R16Unorm,
        R16snorm => Format::R16Snorm,
        R16uint => Format::R16Uint,
        R16sint => Format::R16Sint,
        R16float => Format::R16Float,
        Rg8unorm => Format::Rg8Unorm,
        Rg8snorm => Format::Rg8Snorm,
        Rg8uint => Format::Rg8Uint,
        Rg8sint => Format::Rg8Sint,
        R32uint => Format::R32Uint,
        R32sint => Format::R32Sint,
        R32float => Format::R32Float,
        Rg16unorm => Format::Rg16Unorm,
        Rg16snorm => Format::Rg16Snorm,
        Rg16uint => Format::Rg16Uint,
        Rg16sint => Format::Rg16Sint,
        Rg16float => Format::Rg16Float,
        Rgba8unorm => Format::Rgba8Unorm,
        Rgba8unormSrgb => Format::Rgba8UnormSrgb,
        Rgba8snorm => Format::Rgba8Snorm,
        Rgba8uint => Format::Rgba8Uint,
        Rgba8sint => Format::Rgba8Sint,
        Bgra8unorm => Format::Bgra8Unorm,
        Bgra8unormSrgb => Format::Bgra8UnormSrgb,
        Rgb9e5ufloat => Format::Rgb9e5Ufloat,
        Rgb10a2uint => Format::Rgb10a2Uint,
        Rgb10a2unorm => Format::Rgb10a2Unorm,
        Rg11b10ufloat => Format::Rg11b10Ufloat,
        Rg32uint => Format::Rg32Uint,
        Rg32sint => Format::Rg32Sint,
        Rg32float => Format::Rg32Float,
        Rgba16unorm => Format::Rgba16Unorm,
        Rgba16snorm => Format::Rgba16Snorm,
        Rgba16uint => Format::Rgba16Uint,
        Rgba16sint => Format::Rgba16Sint,
        Rgba16float => Format::Rgba16Float,
        Rgba32uint => Format::Rgba32Uint,
        Rgba32sint => Format::Rgba32Sint,
        Rgba32float => Format::Rgba32Float,
        Stencil8 => Format::Stencil8,
        Depth16unorm => Format::Depth16Unorm,
        Depth24plus => Format::Depth24Plus,
        Depth24plusStencil8 => Format::Depth24PlusStencil8,
        Depth32float => Format::Depth32Float,
        Depth32floatStencil8 => Format::Depth32FloatStencil8,
        Bc1RgbaUnorm => Format::Bc1RgbaUnorm,
        Bc1RgbaUnormSrgb => Format::Bc1RgbaUnormSrgb,
        Bc2RgbaUnorm => Format::Bc2RgbaUnorm,
        Bc2RgbaUnormSrgb => Format::Bc2RgbaUnormSrgb,
        Bc3RgbaUnorm => Format::Bc3RgbaUnorm,
        Bc3RgbaUnormSrgb => Format::Bc3RgbaUnormSrgb,
        Bc4RUnorm => Format::Bc4RUnorm,
        Bc4RSnorm => Format::Bc4RSnorm,
        Bc5RgUnorm => Format::Bc5RgUnorm,
        Bc5RgSnorm => Format::Bc5RgSnorm,
        Bc6hRgbUfloat => Format::Bc6hRgbUfloat,
        Bc6hRgbFloat => Format::Bc6hRgbFloat,
        Bc7RgbaUnorm => Format::Bc7RgbaUnorm,
        Bc7RgbaUnormSrgb => Format::Bc7RgbaUnormSrgb,
        Etc2Rgb8unorm => Format::Etc2Rgb8Unorm,
        Etc2Rgb8unormSrgb => Format::Etc2Rgb8UnormSrgb,
        Etc2Rgb8a1unorm => Format::Etc2Rgb8A1Unorm,
        Etc2Rgb8a1unormSrgb => Format::Etc2Rgb8A1UnormSrgb,
        Etc2Rgba8unorm => Format::Etc2Rgba8Unorm,
        Etc2Rgba8unormSrgb => Format::Etc2Rgba8UnormSrgb,
        EacR11unorm => Format::EacR11Unorm,
        EacR11snorm => Format::EacR11Snorm,
        EacRg11unorm => Format::EacRg11Unorm,
        EacRg11snorm => Format::EacRg11Snorm,
        Astc4x4Unorm => Format::Astc { block: AstcBlock::B4x4, channel: AstcChannel::Unorm },
        Astc4x4UnormSrgb => Format::Astc { block: AstcBlock::B4x4, channel: AstcChannel::UnormSrgb },
        Astc5x4Unorm => Format::Astc { block: AstcBlock::B5x4, channel: AstcChannel::Unorm },
        Astc5x4UnormSrgb => Format::Astc { block: AstcBlock::B5x4, channel: AstcChannel::UnormSrgb },
        Astc5x5Unorm => Format::Astc { block: AstcBlock::B5x5, channel: AstcChannel::Unorm },
        Astc5x5UnormSrgb => Format::Astc { block: AstcBlock::B5x5, channel: AstcChannel::UnormSrgb },
        Astc6x5Unorm => Format::Astc { block: AstcBlock::B6x5, channel: AstcChannel::Unorm },
        Astc6x5UnormSrgb => Format::Astc { block: AstcBlock::B6x5, channel: AstcChannel::UnormSrgb },
        Astc6x6Unorm => Format::Astc { block: AstcBlock::B6x6, channel: AstcChannel::Unorm },
        Astc6x6UnormSrgb => Format::Astc { block: AstcBlock::B6x6, channel: AstcChannel::UnormSrgb },
        Astc8x5Unorm => Format::Astc { block: AstcBlock::B8x5, channel: AstcChannel::Unorm },
        Astc8x5UnormSrgb => Format::Astc { block: AstcBlock::B8x5, channel: AstcChannel::UnormSrgb },
        Astc8x6Unorm => Format::Astc { block: AstcBlock::B8x6, channel: AstcChannel::Unorm },
        Astc8x6UnormSrgb => Format::Astc { block: AstcBlock::B8x6, channel: AstcChannel::UnormSrgb },
        Astc8x8Unorm => Format::Astc { block: AstcBlock::B8x8, channel: AstcChannel::Unorm },
        Astc8x8UnormSrgb => Format::Astc { block: AstcBlock::B8x8, channel: AstcChannel::UnormSrgb },
        Astc10x5Unorm => Format::Astc { block: AstcBlock::B10x5, channel: AstcChannel::Unorm },
        Astc10x5UnormSrgb => Format::Astc { block: AstcBlock::B10x5, channel: AstcChannel::UnormSrgb },
        Astc10x6Unorm => Format::Astc { block: AstcBlock::B10x6, channel: AstcChannel::Unorm },
        Astc10x6UnormSrgb => Format::Astc { block: AstcBlock::B10x6, channel: AstcChannel::UnormSrgb },
        Astc10x8Unorm => Format::Astc { block: AstcBlock::B10x8, channel: AstcChannel::Unorm },
        Astc10x8UnormSrgb => Format::Astc { block: AstcBlock::B10x8, channel: AstcChannel::UnormSrgb },
        Astc10x10Unorm => Format::Astc { block: AstcBlock::B10x10, channel: AstcChannel::Unorm },
        Astc10x10UnormSrgb => Format::Astc { block: AstcBlock::B10x10, channel: AstcChannel::UnormSrgb },
        Astc12x10Unorm => Format::Astc { block: AstcBlock::B12x10, channel: AstcChannel::Unorm },
        Astc12x10UnormSrgb => Format::Astc { block: AstcBlock::B12x10, channel: AstcChannel::UnormSrgb },
        Astc12x12Unorm => Format::Astc { block: AstcBlock::B12x12, channel: AstcChannel::Unorm },
        Astc12x12UnormSrgb => Format::Astc { block: AstcBlock::B12x12, channel: AstcChannel::UnormSrgb },
    }
}

pub(crate) fn vertex(format: GpuVertexFormat) -> VertexFormat {
    use GpuVertexFormat::*;
    match format {
        Uint8 => VertexFormat::Uint8,
        Uint8x2 => VertexFormat::Uint8x2,
        Uint8x4 => VertexFormat::Uint8x4,
        Sint8 => VertexFormat::Sint8,
        Sint8x2 => VertexFormat::Sint8x2,
        Sint8x4 => VertexFormat::Sint8x4,
        Unorm8 => VertexFormat::Unorm8,
        Unorm8x2 => VertexFormat::Unorm8x2,
        Unorm8x4 => VertexFormat::Unorm8x4,
        Snorm8 => VertexFormat::Snorm8,
        Snorm8x2 => VertexFormat::Snorm8x2,
        Snorm8x4 => VertexFormat::Snorm8x4,
        Uint16 => VertexFormat::Uint16,
        Uint16x2 => VertexFormat::Uint16x2,
        Uint16x4 => VertexFormat::Uint16x4,
        Sint16 => VertexFormat::Sint16,
        Sint16x2 => VertexFormat::Sint16x2,
        Sint16x4 => VertexFormat::Sint16x4,
        Unorm16 => VertexFormat::Unorm16,
        Unorm16x2 => VertexFormat::Unorm16x2,
        Unorm16x4 => VertexFormat::Unorm16x4,
        Snorm16 => VertexFormat::Snorm16,
        Snorm16x2 => VertexFormat::Snorm16x2,
        Snorm16x4 => VertexFormat::Snorm16x4,
        Float16 => VertexFormat::Float16,
        Float16x2 => VertexFormat::Float16x2,
        Float16x4 => VertexFormat::Float16x4,
        Float32 => VertexFormat::Float32,
        Float32x2 => VertexFormat::Float32x2,
        Float32x3 => VertexFormat::Float32x3,
        Float32x4 => VertexFormat::Float32x4,
        Uint32 => VertexFormat::Uint32,
        Uint32x2 => VertexFormat::Uint32x2,
        Uint32x3 => VertexFormat::Uint32x3,
        Uint32x4 => VertexFormat::Uint32x4,
        Sint32 => VertexFormat::Sint32,
        Sint32x2 => VertexFormat::Sint32x2,
        Sint32x3 => VertexFormat::Sint32x3,
        Sint32x4 => VertexFormat::Sint32x4,
        Unorm1010102 => VertexFormat::Unorm10_10_10_2,
        Unorm8x4Bgra => VertexFormat::Unorm8x4Bgra,
    }
}

/// Bytes of a texture: what its texels take, and for mip levels a third more. An estimate from above of what a driver takes,
/// but for its alignment.
pub(crate) fn texture_bytes(format: Format, size: wgpu::Extent3d, mip_levels: u32, samples: u32) -> u64 {
    let (block_width, block_height) = format.block_dimensions();
    // Formats of depth have no size that can be copied: the largest takes eight bytes.
    let block = u128::from(format.block_copy_size(None).unwrap_or(8));
    let across = u128::from(size.width.div_ceil(block_width.max(1)));
    let down = u128::from(size.height.div_ceil(block_height.max(1)));
    let level = across * down * u128::from(size.depth_or_array_layers);
    let texels = level.saturating_mul(block).saturating_mul(u128::from(samples.max(1)));
    let all = if mip_levels > 1 { texels.saturating_add(texels / 3 + 1) } else { texels };
    u64::try_from(all).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::Extent3d;

    #[test]
    fn textures_are_as_large_as_their_texels() {
        let size = |width, height, depth_or_array_layers| Extent3d { width, height, depth_or_array_layers };
        assert_eq!(texture_bytes(Format::Rgba8Unorm, size(16, 16, 1), 1, 1), 1024);
        assert_eq!(texture_bytes(Format::Rgba8Unorm, size(16, 16, 2), 1, 4), 8192);
        assert_eq!(texture_bytes(Format::Bc1RgbaUnorm, size(5, 5, 1), 1, 1), 32);
        assert!(texture_bytes(Format::R8Unorm, size(16, 16, 1), 5, 1) > 256);
        assert_eq!(texture_bytes(Format::Rgba32Float, size(u32::MAX, u32::MAX, u32::MAX), 32, u32::MAX), u64::MAX);
    }
}
