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

use onnx_engine::{Tensor, model::Declared};
use png::{ColorType, Transformations};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};

/// Pixels along a side of what is sent, and of what a model gets.
const SIDE_MAX: usize = 8_192;
/// Bytes that reading a PNG may take beside its pixels.
const PNG_BYTES_MAX: usize = 64 << 20;
/// Pixels of a picture.
const PIXELS_MAX: usize = 32 << 20;

/// Three bytes a pixel: red, green, blue.
struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<[u8; 3]>,
}

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
            let factor = (width as f64 / picture.width as f64).min(height as f64 / picture.height as f64);
            let side = |length: usize, most: usize| ((length as f64 * factor).round() as usize).clamp(1, most);
            (side(picture.width, width), side(picture.height, height))
        }
        Some(other) => return Err(format!("fit={other}: it is stretch or left")),
    };
    let order = match query.get("order").copied() {
        None | Some("rgb") => [0, 1, 2],
        Some("bgr") => [2, 1, 0],
        Some(other) => return Err(format!("order={other}: it is rgb or bgr")),
    };
    let mut values = Vec::with_capacity(3 * width * height);
    for colour in order {
        let plane = picture.pixels.iter().map(|pixel| f32::from(pixel.get(colour).copied().unwrap_or(0))).collect();
        let lines = resampled(plane, picture.width, fitted_width);
        // Columns become lines, so that both directions are done by one.
        let columns = resampled(turned(&lines, fitted_width), picture.height, fitted_height);
        let fitted = turned(&columns, fitted_height);
        for line in fitted.chunks_exact(fitted_width) {
            values.extend(line.iter().map(|value| (value - mean) / scale));
            values.extend(std::iter::repeat_n(0.0, width - fitted_width));
        }
        values.extend(std::iter::repeat_n(0.0, width * (height - fitted_height)));
    }
    Tensor::floats(vec![1, 3, height, width], values).map_err(|fault| fault.to_string())
}

/// Lines of another length: each value is a mean of those around its place, with weights that fall off linearly.
fn resampled(values: Vec<f32>, from: usize, to: usize) -> Vec<f32> {
    if from == to {
        return values;
    }
    let step = from as f32 / to as f32;
    let reach = step.max(1.0);
    let weights = |at: usize| {
        let center = (at as f32 + 0.5) * step;
        let (first, end) = ((center - reach).max(0.0) as usize, ((center + reach).ceil() as usize).min(from));
        let weights = (first..end).map(|place| (1.0 - (place as f32 + 0.5 - center).abs() / reach).max(0.0));
        let weights: Vec<f32> = weights.collect();
        let sum: f32 = weights.iter().sum();
        (first, weights.into_iter().map(|weight| weight / sum).collect::<Vec<f32>>())
    };
    let weights: Vec<_> = (0..to).map(weights).collect();
    let value = |line: &[f32], (first, weights): &(usize, Vec<f32>)| -> f32 {
        line.iter().skip(*first).zip(weights).map(|(value, weight)| value * weight).sum()
    };
    values.chunks_exact(from).flat_map(|line| weights.iter().map(move |weights| value(line, weights))).collect()
}

/// Columns as lines.
fn turned(values: &[f32], width: usize) -> Vec<f32> {
    (0..width).flat_map(|column| values.iter().skip(column).step_by(width).copied()).collect()
}

fn decode(bytes: &[u8]) -> Result<Picture, String> {
    let picture = if bytes.starts_with(b"\x89PNG") {
        decode_png(bytes)
    } else if bytes.starts_with(&[0xff, 0xd8]) {
        decode_jpeg(bytes)
    } else {
        return Err("the picture is neither a PNG nor a JPEG".into());
    };
    let picture = picture.map_err(|error| format!("the picture can't be read: {error}"))?;
    let is_whole = picture.width > 0 && picture.pixels.len() == picture.width * picture.height;
    if is_whole { Ok(picture) } else { Err("the picture is not whole".into()) }
}

fn check(width: usize, height: usize) -> Result<(), String> {
    let fits = width <= SIDE_MAX && height <= SIDE_MAX && width * height <= PIXELS_MAX;
    if fits {
        Ok(())
    } else {
        Err(format!("it has {width} by {height} pixels, of at most {SIDE_MAX}, {PIXELS_MAX} in all"))
    }
}

fn decode_png(bytes: &[u8]) -> Result<Picture, String> {
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: PNG_BYTES_MAX });
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|error| error.to_string())?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    check(width, height)?;
    let mut content = vec![0; reader.output_buffer_size().ok_or("it is too large")?];
    let frame = reader.next_frame(&mut content).map_err(|error| error.to_string())?;
    let channels = frame.color_type.samples();
    let pixel = |samples: &[u8]| match (frame.color_type, samples) {
        (ColorType::Rgb | ColorType::Rgba, [red, green, blue, ..]) => [*red, *green, *blue],
        (_, [grey, ..]) => [*grey; 3],
        _ => [0; 3],
    };
    Ok(Picture { width, height, pixels: content.chunks_exact(channels).map(pixel).collect() })
}

fn decode_jpeg(bytes: &[u8]) -> Result<Picture, String> {
    let options = DecoderOptions::default().set_max_width(SIDE_MAX).set_max_height(SIDE_MAX);
    let options = options.jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions().ok_or("it has no size")?;
    check(width, height)?;
    let content = decoder.decode().map_err(|error| error.to_string())?;
    let (pixels, _) = content.as_chunks::<3>();
    Ok(Picture { width, height, pixels: pixels.to_vec() })
}

fn size(asked: Option<&str>, declared: Option<&Declared>) -> Result<(usize, usize), String> {
    let asked = match asked {
        Some(text) => {
            let sides =
                text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
            Some(sides.ok_or_else(|| format!("size={text}: write size=192x48"))?)
        }
        None => declared.and_then(|declared| match declared.shape.as_slice() {
            [_, _, Some(height), Some(width)] => Some((*width, *height)),
            _ => None,
        }),
    };
    let (width, height) = asked.ok_or("the model does not say the size of its pictures: add ?size=WIDTHxHEIGHT")?;
    let fits = width > 0 && height > 0 && check(width, height).is_ok();
    if fits {
        Ok((width, height))
    } else {
        Err(format!("a picture of {width} by {height}: a side has 1 to {SIDE_MAX} pixels"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(ColorType::Rgb);
        encoder.write_header().unwrap().write_image_data(&colour.repeat((width * height) as usize)).unwrap();
        bytes
    }

    #[test]
    fn a_picture_is_fitted_and_its_colours_are_planes() {
        let query =
            BTreeMap::from([("size", "4x2"), ("fit", "left"), ("mean", "0"), ("scale", "255"), ("order", "bgr")]);
        let tensor = tensor(&png(10, 10, [255, 0, 51]), &query, None).unwrap();
        assert_eq!(tensor.shape(), [1, 3, 2, 4]);
        let plane = |value| [value, value, 0.0, 0.0, value, value, 0.0, 0.0];
        let expected = [plane(0.2), plane(0.0), plane(1.0)].concat();
        let actual = tensor.as_floats().unwrap();
        assert!(actual.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{actual:?}");
    }

    #[test]
    fn lines_become_longer_and_shorter() {
        assert_eq!(resampled(vec![0.0, 4.0], 2, 4), [0.0, 1.0, 3.0, 4.0]);
        // Weights of 3, 3 and 1, for the fourth is out of reach.
        let shorter = resampled(vec![1.0, 1.0, 3.0, 3.0, 0.0, 0.0, 0.0, 7.0], 4, 2);
        let expected = [9.0 / 7.0, 19.0 / 7.0, 0.0, 3.0];
        assert!(shorter.iter().zip(expected).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6), "{shorter:?}");
        assert_eq!(turned(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
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
