//! Pictures of three colours, from PNG and JPEG and to them, and in other sizes.
//!
//! What is read may come from anyone: sizes are checked before memory is taken, and no bytes make it panic. Transparency, colour
//! profiles and orientations that a file asks for are not looked at.

mod resample;

use std::fmt;
use std::io::Cursor;

use jpeg_encoder::Encoder as JpegEncoder;
use png::{ColorType, Compression, Transformations};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};

pub use resample::Resampling;

/// Pixels along a side.
pub const SIDE_MAX: usize = 8_192;
/// Pixels of a picture.
pub const PIXELS_MAX: usize = 32 << 20;
/// Bytes that reading a PNG may take beside its pixels.
const PNG_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(SIDE_MAX <= u16::MAX as usize, "a side fits the 16 bits that JPEG has for it");

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Neither of the formats.
    Unknown,
    /// More pixels along a side than [`SIDE_MAX`], or more in all than [`PIXELS_MAX`].
    TooLarge { width: usize, height: usize },
    /// One of the formats, and broken or of a kind that can't be read.
    Malformed(String),
    /// A picture that can't be written.
    Unwritable(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(f, "the picture is neither a PNG nor a JPEG"),
            Self::TooLarge { width, height } => {
                write!(f, "the picture has {width} by {height} pixels, of at most {SIDE_MAX}, {PIXELS_MAX} in all")
            }
            Self::Malformed(what) => write!(f, "the picture can't be read: {what}"),
            Self::Unwritable(what) => write!(f, "the picture can't be written: {what}"),
        }
    }
}

impl std::error::Error for Error {}

/// A picture with at least one pixel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    /// Of rows from the top, each from the left; a pixel is red, green, blue. `None` if there are not as many as the sides say, or none,
    /// or more than are allowed.
    pub fn new(width: usize, height: usize, pixels: Vec<[u8; 3]>) -> Option<Self> {
        let fits = !pixels.is_empty() && check(width, height).is_ok() && pixels.len() == width * height;
        fits.then_some(Self { width, height, pixels })
    }

    /// Read a PNG or a JPEG.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (width, height, pixels) = if bytes.starts_with(b"\x89PNG") {
            decode_png(bytes)?
        } else if bytes.starts_with(&[0xff, 0xd8]) {
            decode_jpeg(bytes)?
        } else {
            return Err(Error::Unknown);
        };
        Self::new(width, height, pixels).ok_or_else(|| Error::Malformed("it is not whole".into()))
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn height(&self) -> usize {
        self.height
    }

    pub fn pixels(&self) -> &[[u8; 3]] {
        &self.pixels
    }

    /// From the top.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut [[u8; 3]]> {
        self.pixels.chunks_exact_mut(self.width)
    }

    /// The values of one colour, 0 to 2, of this picture brought to another size. Neither side may be 0.
    pub fn plane(&self, colour: usize, width: usize, height: usize) -> Vec<f32> {
        let plane = self.pixels.iter().map(|pixel| f32::from(pixel.get(colour).copied().unwrap_or(0))).collect();
        let lines = Resampling::new(self.width, width).lines(plane);
        // Columns become lines, so that both directions are done by one.
        let columns = Resampling::new(self.height, height).lines(turned(&lines, width));
        turned(&columns, height)
    }

    pub fn to_png(&self) -> Result<Vec<u8>, Error> {
        let failed = |error: png::EncodingError| Error::Unwritable(error.to_string());
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, side(self.width), side(self.height));
        encoder.set_color(ColorType::Rgb);
        encoder.set_compression(Compression::Fast);
        let mut writer = encoder.write_header().map_err(failed)?;
        writer.write_image_data(self.pixels.as_flattened()).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(bytes)
    }

    /// Baseline JPEG; `quality` is from 1 to 100. Below 90 colours are kept at half the width and height.
    pub fn to_jpeg(&self, quality: u8) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let encoder = JpegEncoder::new(&mut bytes, quality.clamp(1, 100));
        let (width, height) = (side(self.width), side(self.height));
        let written = encoder.encode(self.pixels.as_flattened(), width, height, jpeg_encoder::ColorType::Rgb);
        written.map_err(|error| Error::Unwritable(error.to_string()))?;
        Ok(bytes)
    }
}

/// A side fits, whatever type a format has for it: it is at most [`SIDE_MAX`].
fn side<T: TryFrom<usize> + Default>(side: usize) -> T {
    T::try_from(side).unwrap_or_default()
}

/// Columns as lines.
fn turned(values: &[f32], width: usize) -> Vec<f32> {
    (0..width).flat_map(|column| values.iter().skip(column).step_by(width).copied()).collect()
}

/// Whether a picture may have these sides.
pub fn check(width: usize, height: usize) -> Result<(), Error> {
    let fits = width <= SIDE_MAX && height <= SIDE_MAX && width * height <= PIXELS_MAX;
    if fits { Ok(()) } else { Err(Error::TooLarge { width, height }) }
}

type Decoded = (usize, usize, Vec<[u8; 3]>);

fn decode_png(bytes: &[u8]) -> Result<Decoded, Error> {
    let failed = |error: png::DecodingError| Error::Malformed(error.to_string());
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: PNG_BYTES_MAX });
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(failed)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    check(width, height)?;
    let size = reader.output_buffer_size().ok_or(Error::TooLarge { width, height })?;
    let mut content = vec![0; size];
    let frame = reader.next_frame(&mut content).map_err(failed)?;
    let channels = frame.color_type.samples();
    let pixel = |samples: &[u8]| match (frame.color_type, samples) {
        (ColorType::Rgb | ColorType::Rgba, [red, green, blue, ..]) => [*red, *green, *blue],
        (_, [grey, ..]) => [*grey; 3],
        _ => [0; 3],
    };
    Ok((width, height, content.chunks_exact(channels).map(pixel).collect()))
}

fn decode_jpeg(bytes: &[u8]) -> Result<Decoded, Error> {
    let options = DecoderOptions::default().set_max_width(SIDE_MAX).set_max_height(SIDE_MAX);
    let options = options.jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| Error::Malformed(error.to_string()))?;
    let (width, height) = decoder.dimensions().ok_or_else(|| Error::Malformed("it has no size".into()))?;
    check(width, height)?;
    let content = decoder.decode().map_err(|error| Error::Malformed(error.to_string()))?;
    let (pixels, _) = content.as_chunks::<3>();
    Ok((width, height, pixels.to_vec()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

    use super::*;

    fn slope(width: usize, height: usize) -> Picture {
        let pixel = |at: usize| [(at % width * 5) as u8, (at / width * 5) as u8, 100];
        Picture::new(width, height, (0..width * height).map(pixel).collect()).unwrap()
    }

    #[test]
    fn a_png_is_the_same_picture_and_a_jpeg_nearly() {
        let picture = slope(40, 30);
        assert_eq!(Picture::decode(&picture.to_png().unwrap()).unwrap(), picture);
        let lossy = Picture::decode(&picture.to_jpeg(95).unwrap()).unwrap();
        assert_eq!((lossy.width(), lossy.height()), (40, 30));
        let pairs = lossy.pixels().as_flattened().iter().zip(picture.pixels().as_flattened());
        let far = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!((1..40).contains(&far), "{far}");
        let (large, small) = (picture.to_jpeg(95).unwrap().len(), picture.to_jpeg(10).unwrap().len());
        assert!(large > small, "{large} and {small} bytes");
    }

    #[test]
    fn planes_have_the_size_that_is_asked_for() {
        let plane = slope(40, 30).plane(1, 2, 3);
        // Means of rows 0 to 9, 10 to 19 and 20 to 29, and of their neighbours by a little.
        let expected = [24.0, 24.0, 72.5, 72.5, 121.0, 121.0];
        assert!(plane.iter().zip(expected).all(|(a, b): (&f32, f32)| (a - b).abs() < 6.0), "{plane:?}");
        assert_eq!(slope(40, 30).plane(2, 80, 60), [100.0; 4_800]);
        assert_eq!(turned(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        assert_eq!(Picture::decode(b"GIF89a"), Err(Error::Unknown));
        assert_eq!(Picture::decode(b""), Err(Error::Unknown));
        let png = slope(40, 30).to_png().unwrap();
        let jpeg = slope(40, 30).to_jpeg(80).unwrap();
        assert!(matches!(Picture::decode(&png[..60]), Err(Error::Malformed(_))));
        assert!(matches!(Picture::decode(&jpeg[..60]), Err(Error::Malformed(_))));
        let wide = png_of(9_000, 1);
        assert_eq!(Picture::decode(&wide), Err(Error::TooLarge { width: 9_000, height: 1 }));
        assert_eq!(Picture::new(2, 2, vec![[0; 3]; 3]), None);
        assert_eq!(Picture::new(0, 0, Vec::new()), None);
    }

    #[test]
    fn grey_pictures_have_three_equal_colours() {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 2, 1);
        encoder.set_color(ColorType::GrayscaleAlpha);
        encoder.write_header().unwrap().write_image_data(&[10, 0, 200, 255]).unwrap();
        assert_eq!(Picture::decode(&bytes).unwrap().pixels(), [[10; 3], [200; 3]]);
    }

    fn png_of(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(ColorType::Rgb);
        encoder.write_header().unwrap().write_image_data(&vec![0; (3 * width * height) as usize]).unwrap();
        bytes
    }
}
