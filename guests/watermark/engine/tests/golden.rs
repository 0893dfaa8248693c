//! Bits go into pictures and come back, with the models that are built in. On photographs: `../training/measure.py`.

use picture::{Error as PictureError, Picture};
use watermark_engine::{Error, Found, SIDE, Watermark, sample};

const PAYLOADS: [u32; 3] = [0x4c41_5454, 0, u32::MAX];

fn read(watermark: &Watermark, picture: &Picture) -> Option<u32> {
    watermark.read(picture).unwrap().map(|Found { payload, .. }| payload)
}

fn through_jpeg(picture: &Picture, quality: u8) -> Picture {
    Picture::decode(&picture.to_jpeg(quality).unwrap()).unwrap()
}

/// In another size.
fn resized(picture: &Picture, width: usize, height: usize) -> Picture {
    let [red, green, blue] = [0, 1, 2].map(|colour| picture.plane(colour, width, height));
    let values = red.iter().zip(&green).zip(&blue);
    let pixels = values.map(|((red, green), blue)| [red, green, blue].map(|value| value.round() as u8));
    Picture::new(width, height, pixels.collect()).unwrap()
}

#[test]
fn bits_come_back_after_jpeg() {
    let watermark = Watermark::load().unwrap();
    let original = sample::sample().unwrap();
    for payload in PAYLOADS {
        let mut marked = original.clone();
        let decibels = watermark.mark(&mut marked, payload, 1.0).unwrap();
        assert!((36.0..60.0).contains(&decibels), "{decibels} dB");
        for (what, picture) in [
            ("as it is", marked.clone()),
            ("JPEG 90", through_jpeg(&marked, 90)),
            ("JPEG 75", through_jpeg(&marked, 75)),
            ("JPEG 50", through_jpeg(&marked, 50)),
            ("half the size, JPEG 75", through_jpeg(&resized(&marked, sample::WIDTH / 2, sample::HEIGHT / 2), 75)),
            ("of other proportions", resized(&marked, 400, 400)),
        ] {
            assert_eq!(read(&watermark, &picture), Some(payload), "{payload:08x}, {what}");
        }
    }
}

#[test]
fn pictures_of_any_size_carry_bits() {
    let watermark = Watermark::load().unwrap();
    let original = sample::sample().unwrap();
    for (width, height) in [(SIDE, SIDE), (SIDE, 300), (129, 131), (200, 150), (1_920, 1_280)] {
        let mut marked = resized(&original, width, height);
        watermark.mark(&mut marked, 0xcafe_f00d, 1.0).unwrap();
        assert_eq!(read(&watermark, &through_jpeg(&marked, 75)), Some(0xcafe_f00d), "{width} by {height}");
    }
}

#[test]
fn no_bits_are_found_where_none_were_put() {
    let watermark = Watermark::load().unwrap();
    let original = sample::sample().unwrap();
    let plain = |colour: [u8; 3]| Picture::new(200, 200, vec![colour; 40_000]).unwrap();
    for picture in [original.clone(), through_jpeg(&original, 75), plain([0; 3]), plain([255; 3]), plain([9, 99, 199])]
    {
        assert_eq!(read(&watermark, &picture), None);
    }
}

#[test]
fn a_second_mark_takes_the_place_of_the_first_where_it_is_stronger() {
    let watermark = Watermark::load().unwrap();
    let mut picture = sample::sample().unwrap();
    let weak = watermark.mark(&mut picture, 1, 0.75).unwrap();
    let strong = watermark.mark(&mut picture, 2, 2.0).unwrap();
    assert!(weak > strong + 6.0, "{weak} and {strong} dB");
    assert_eq!(read(&watermark, &picture), Some(2));
}

#[test]
fn what_can_not_carry_bits_is_refused() {
    let watermark = Watermark::load().unwrap();
    let mut small = Picture::new(SIDE, SIDE - 1, vec![[0; 3]; SIDE * (SIDE - 1)]).unwrap();
    assert!(matches!(watermark.mark(&mut small, 0, 1.0), Err(Error::TooSmall { width: 128, height: 127 })));
    assert_eq!(watermark.read(&small).unwrap(), None, "it may have been made smaller");
    assert_eq!(Picture::decode(b"BM"), Err(PictureError::Unknown));
}

#[test]
fn both_models_are_small() {
    let size = |name| std::fs::metadata(format!("{}/models/{name}.onnx", env!("CARGO_MANIFEST_DIR"))).unwrap().len();
    let bytes = size("encoder") + size("decoder");
    assert!(bytes < 400_000, "{bytes} bytes");
}
