//! Pictures as models take them: a batch of one, colours before rows and columns.
//!
//! | query            | default                   |                                                                             |
//! |------------------|---------------------------|-----------------------------------------------------------------------------|
//! | `size=192x48`    | what the model declares   | width and height that the picture is brought to                             |
//! | `fit=left`       | `stretch`                 | keep the proportions; what is free on the right, or below, is 0               |
//! | `order=bgr`      | `rgb`                     | of the colours                                                              |
//! | `mean=0&scale=255` | 127.5 and 127.5         | a value of the picture less the mean, divided by the scale, is the model's   |

use std::collections::BTreeMap;
use std::io::Cursor;

use image::imageops::{FilterType, resize};
use image::{ImageReader, RgbImage};
use onnx_engine::{Tensor, model::Declared};

/// Pixels along a side of what is sent, and of what a model gets.
const SIDE_MAX: u32 = 8_192;
/// Bytes of a picture that is decoded.
const DECODED_BYTES_MAX: u64 = 256 << 20;

pub fn tensor(bytes: &[u8], query: &BTreeMap<&str, &str>, declared: Option<&Declared>) -> Result<Tensor, String> {
    let (width, height) = size(query.get("size").copied(), declared)?;
    let number = |name: &str| match query.get(name) {
        None => Ok(127.5),
        Some(text) => text.parse::<f32>().map_err(|_| format!("{name}={text}: not a number")),
    };
    let (mean, scale) = (number("mean")?, number("scale")?);
    let picture = decode(bytes)?;
    let (fitted_width, fitted_height) = match query.get("fit").copied() {
        None | Some("stretch") => (width, height),
        Some("left") => {
            let factor = (f64::from(width) / f64::from(picture.width())).min(f64::from(height) / f64::from(picture.height()));
            let side = |length: u32, most: u32| ((f64::from(length) * factor).round() as u32).clamp(1, most);
            (side(picture.width(), width), side(picture.height(), height))
        }
        Some(other) => return Err(format!("fit={other}: it is stretch or left")),
    };
    let is_reversed = match query.get("order").copied() {
        None | Some("rgb") => false,
        Some("bgr") => true,
        Some(other) => return Err(format!("order={other}: it is rgb or bgr")),
    };
    let fitted = resize(&picture, fitted_width, fitted_height, FilterType::Triangle);
    let (columns, rows) = (width as usize, height as usize);
    let mut values = vec![0.0; 3 * rows * columns];
    for (x, y, pixel) in fitted.enumerate_pixels() {
        for (colour, value) in pixel.0.into_iter().enumerate() {
            let colour = if is_reversed { 2 - colour } else { colour };
            let at = (colour * rows + y as usize) * columns + x as usize;
            values.iter_mut().skip(at).take(1).for_each(|place| *place = (f32::from(value) - mean) / scale);
        }
    }
    Tensor::floats(vec![1, 3, rows, columns], values).map_err(|fault| fault.to_string())
}

pub fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    let failed = |error: image::ImageError| format!("the picture can't be read: {error}");
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let mut reader = reader.map_err(|error| format!("the picture can't be read: {error}"))?;
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(DECODED_BYTES_MAX);
    reader.limits(limits);
    Ok(reader.decode().map_err(failed)?.into_rgb8())
}

fn size(asked: Option<&str>, declared: Option<&Declared>) -> Result<(u32, u32), String> {
    let asked = match asked {
        Some(text) => {
            let sides = text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
            Some(sides.ok_or_else(|| format!("size={text}: write size=192x48"))?)
        }
        None => declared.and_then(|declared| match declared.shape.as_slice() {
            [_, _, Some(height), Some(width)] => Some((u32::try_from(*width).ok()?, u32::try_from(*height).ok()?)),
            _ => None,
        }),
    };
    let (width, height) = asked.ok_or("the model does not say the size of its pictures: add ?size=WIDTHxHEIGHT")?;
    let is_side = |side: u32| (1..=SIDE_MAX).contains(&side);
    if is_side(width) && is_side(height) { Ok((width, height)) } else { Err(format!("a side has 1 to {SIDE_MAX} pixels")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageFormat, Rgb};

    fn png(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::from_pixel(width, height, Rgb(colour)).write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn a_picture_is_fitted_and_its_colours_are_planes() {
        let query = BTreeMap::from([("size", "4x2"), ("fit", "left"), ("mean", "0"), ("scale", "255"), ("order", "bgr")]);
        let tensor = tensor(&png(10, 10, [255, 0, 51]), &query, None).unwrap();
        assert_eq!(tensor.shape(), [1, 3, 2, 4]);
        let plane = |value| [value, value, 0.0, 0.0, value, value, 0.0, 0.0];
        assert_eq!(tensor.as_floats().unwrap(), [plane(0.2), plane(0.0), plane(1.0)].concat());
    }

    #[test]
    fn what_is_no_picture_or_no_size_is_refused() {
        let declared = Declared { name: "x".into(), kind: 1, shape: vec![None, Some(3), Some(2), Some(2)] };
        let ask = |bytes: &[u8], query: &[(&'static str, &'static str)], declared| {
            tensor(bytes, &query.iter().copied().collect(), declared)
        };
        assert!(ask(&png(3, 3, [0; 3]), &[], Some(&declared)).is_ok());
        assert!(ask(&png(3, 3, [0; 3]), &[], None).unwrap_err().contains("?size="));
        assert!(ask(&png(3, 3, [0; 3]), &[("size", "0x5")], None).is_err());
        assert!(ask(&png(3, 3, [0; 3]), &[("size", "99999x5")], None).is_err());
        assert!(ask(b"GIF89a", &[], Some(&declared)).is_err());
        assert!(ask(&png(9_000, 1, [0; 3]), &[], Some(&declared)).is_err());
    }
}
