//! Pictures as models take them: a batch of one, colours before rows and columns.
//!
//! | query            | default                   |                                                                             |
//! |------------------|---------------------------|-----------------------------------------------------------------------------|
//! | `size=192x48`    | what the model declares   | width and height that the picture is brought to                             |
//! | `fit=left`       | `stretch`                 | keep the proportions; what is free on the right, or below, is 0               |
//! | `order=bgr`      | `rgb`                     | of the colours                                                              |
//! | `mean=0&scale=255` | 127.5 and 127.5         | a value of the picture less the mean, divided by the scale, is the model's   |

use std::collections::BTreeMap;

use onnx_engine::{Tensor, model::Declared};
use picture::{Picture, SIDE_MAX};

pub fn tensor(bytes: &[u8], query: &BTreeMap<&str, &str>, declared: Option<&Declared>) -> Result<Tensor, String> {
    let (width, height) = size(query.get("size").copied(), declared)?;
    let number = |name: &str| match query.get(name) {
        None => Ok(127.5),
        Some(text) => text.parse::<f32>().map_err(|_| format!("{name}={text}: not a number")),
    };
    let (mean, scale) = (number("mean")?, number("scale")?);
    let picture = Picture::decode(bytes).map_err(|error| error.to_string())?;
    let (fitted_width, fitted_height) = match query.get("fit").copied() {
        None | Some("stretch") => (width, height),
        Some("left") => {
            let factor = (width as f64 / picture.width() as f64).min(height as f64 / picture.height() as f64);
            let side = |length: usize, most: usize| ((length as f64 * factor).round() as usize).clamp(1, most);
            (side(picture.width(), width), side(picture.height(), height))
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
        let fitted = picture.plane(colour, fitted_width, fitted_height);
        for line in fitted.chunks_exact(fitted_width) {
            values.extend(line.iter().map(|value| (value - mean) / scale));
            values.extend(std::iter::repeat_n(0.0, width - fitted_width));
        }
        values.extend(std::iter::repeat_n(0.0, width * (height - fitted_height)));
    }
    Tensor::floats(vec![1, 3, height, width], values).map_err(|fault| fault.to_string())
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
    let fits = width > 0 && height > 0 && picture::check(width, height).is_ok();
    if fits {
        Ok((width, height))
    } else {
        Err(format!("a picture of {width} by {height}: a side has 1 to {SIDE_MAX} pixels"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: usize, height: usize, colour: [u8; 3]) -> Vec<u8> {
        Picture::new(width, height, vec![colour; width * height]).unwrap().to_png().unwrap()
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
    }
}
