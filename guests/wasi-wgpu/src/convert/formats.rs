//! Formats of textures and vertices.

use super::Inexpressible;
use crate::bindings::{GpuTextureFormat as To, GpuVertexFormat};
use wgpu::{AstcBlock, AstcChannel, TextureFormat as From, VertexFormat};

macro_rules! formats {
    ($value:expr; $($from:ident $to:ident),* $(,)?) => {
        match $value {
            $(From::$from => To::$to,)*
            From::Astc { block, channel } => return astc(block, channel),
            other => return Err(format!("the texture format {other:?} is not one of WebGPU")),
        }
    };
}

pub(crate) fn texture(format: From) -> Result<To, Inexpressible> {
    Ok(formats! { format;
        R8Unorm R8unorm, R8Snorm R8snorm, R8Uint R8uint, R8Sint R8sint,
        R16Unorm R16unorm, R16Snorm R16snorm, R16Uint R16uint, R16Sint R16sint, R16Float R16float,
        Rg8Unorm Rg8unorm, Rg8Snorm Rg8snorm, Rg8Uint Rg8uint, Rg8Sint Rg8sint,
        R32Uint R32uint, R32Sint R32sint, R32Float R32float,
        Rg16Unorm Rg16unorm, Rg16Snorm Rg16snorm, Rg16Uint Rg16uint, Rg16Sint Rg16sint, Rg16Float Rg16float,
        Rgba8Unorm Rgba8unorm, Rgba8UnormSrgb Rgba8unormSrgb, Rgba8Snorm Rgba8snorm, Rgba8Uint Rgba8uint,
        Rgba8Sint Rgba8sint, Bgra8Unorm Bgra8unorm, Bgra8UnormSrgb Bgra8unormSrgb,
        Rgb9e5Ufloat Rgb9e5ufloat, Rgb10a2Uint Rgb10a2uint, Rgb10a2Unorm Rgb10a2unorm, Rg11b10Ufloat Rg11b10ufloat,
        Rg32Uint Rg32uint, Rg32Sint Rg32sint, Rg32Float Rg32float,
        Rgba16Unorm Rgba16unorm, Rgba16Snorm Rgba16snorm, Rgba16Uint Rgba16uint, Rgba16Sint Rgba16sint,
        Rgba16Float Rgba16float, Rgba32Uint Rgba32uint, Rgba32Sint Rgba32sint, Rgba32Float Rgba32float,
        Stencil8 Stencil8, Depth16Unorm Depth16unorm, Depth24Plus Depth24plus,
        Depth24PlusStencil8 Depth24plusStencil8, Depth32Float Depth32float, Depth32FloatStencil8 Depth32floatStencil8,
        Bc1RgbaUnorm Bc1RgbaUnorm, Bc1RgbaUnormSrgb Bc1RgbaUnormSrgb, Bc2RgbaUnorm Bc2RgbaUnorm,
        Bc2RgbaUnormSrgb Bc2RgbaUnormSrgb, Bc3RgbaUnorm Bc3RgbaUnorm, Bc3RgbaUnormSrgb Bc3RgbaUnormSrgb,
        Bc4RUnorm Bc4RUnorm, Bc4RSnorm Bc4RSnorm, Bc5RgUnorm Bc5RgUnorm, Bc5RgSnorm Bc5RgSnorm,
        Bc6hRgbUfloat Bc6hRgbUfloat, Bc6hRgbFloat Bc6hRgbFloat, Bc7RgbaUnorm Bc7RgbaUnorm,
        Bc7RgbaUnormSrgb Bc7RgbaUnormSrgb,
        Etc2Rgb8Unorm Etc2Rgb8unorm, Etc2Rgb8UnormSrgb Etc2Rgb8unormSrgb, Etc2Rgb8A1Unorm Etc2Rgb8a1unorm,
        Etc2Rgb8A1UnormSrgb Etc2Rgb8a1unormSrgb, Etc2Rgba8Unorm Etc2Rgba8unorm, Etc2Rgba8UnormSrgb Etc2Rgba8unormSrgb,
        EacR11Unorm EacR11unorm, EacR11Snorm EacR11snorm, EacRg11Unorm EacRg11unorm, EacRg11Snorm EacRg11snorm,
    })
}

fn astc(block: AstcBlock, channel: AstcChannel) -> Result<To, Inexpressible> {
    macro_rules! blocks {
        ($($block:ident $plain:ident $srgb:ident),* $(,)?) => {
            match (block, channel) {
                $((AstcBlock::$block, AstcChannel::Unorm) => Ok(To::$plain),
                (AstcBlock::$block, AstcChannel::UnormSrgb) => Ok(To::$srgb),)*
                (_, AstcChannel::Hdr) => Err("the texture format ASTC with HDR is not one of WebGPU".into()),
            }
        };
    }
    blocks! {
        B4x4 Astc4x4Unorm Astc4x4UnormSrgb, B5x4 Astc5x4Unorm Astc5x4UnormSrgb, B5x5 Astc5x5Unorm Astc5x5UnormSrgb,
        B6x5 Astc6x5Unorm Astc6x5UnormSrgb, B6x6 Astc6x6Unorm Astc6x6UnormSrgb, B8x5 Astc8x5Unorm Astc8x5UnormSrgb,
        B8x6 Astc8x6Unorm Astc8x6UnormSrgb, B8x8 Astc8x8Unorm Astc8x8UnormSrgb,
        B10x5 Astc10x5Unorm Astc10x5UnormSrgb, B10x6 Astc10x6Unorm Astc10x6UnormSrgb,
        B10x8 Astc10x8Unorm Astc10x8UnormSrgb, B10x10 Astc10x10Unorm Astc10x10UnormSrgb,
        B12x10 Astc12x10Unorm Astc12x10UnormSrgb, B12x12 Astc12x12Unorm Astc12x12UnormSrgb,
    }
}

pub(crate) fn vertex(format: VertexFormat) -> Result<GpuVertexFormat, Inexpressible> {
    macro_rules! same {
        ($($name:ident),* $(,)?) => {
            match format {
                $(VertexFormat::$name => GpuVertexFormat::$name,)*
                VertexFormat::Unorm10_10_10_2 => GpuVertexFormat::Unorm1010102,
                other => return Err(format!("the vertex format {other:?} is not one of WebGPU")),
            }
        };
    }
    Ok(same! {
        Uint8, Uint8x2, Uint8x4, Sint8, Sint8x2, Sint8x4, Unorm8, Unorm8x2, Unorm8x4, Snorm8, Snorm8x2, Snorm8x4,
        Uint16, Uint16x2, Uint16x4, Sint16, Sint16x2, Sint16x4, Unorm16, Unorm16x2, Unorm16x4,
        Snorm16, Snorm16x2, Snorm16x4, Float16, Float16x2, Float16x4, Float32, Float32x2, Float32x3, Float32x4,
        Uint32, Uint32x2, Uint32x3, Uint32x4, Sint32, Sint32x2, Sint32x3, Sint32x4, Unorm8x4Bgra,
    })
}
