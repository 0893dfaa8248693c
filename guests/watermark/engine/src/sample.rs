//! A picture to try things with, made by arithmetic: a sky, a sun and hills with grass.

use picture::Picture;

pub const WIDTH: usize = 640;
pub const HEIGHT: usize = 480;

/// The same picture every time.
pub fn sample() -> Option<Picture> {
    let pixels = (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| pixel(x as f32, y as f32)));
    Picture::new(WIDTH, HEIGHT, pixels.collect())
}

fn pixel(x: f32, y: f32) -> [u8; 3] {
    let (right, down) = (x / WIDTH as f32, y / HEIGHT as f32);
    let far = 0.52 + 0.06 * (right * 9.0).sin() + 0.03 * (right * 23.0 + 1.0).sin();
    let near = 0.72 + 0.08 * (right * 5.0 + 2.0).sin() + 0.015 * (right * 41.0).sin();
    let colour = if down > near {
        let blades = 0.6 * noise(x, y * 0.35) + 0.4 * noise(x * 0.2, y * 0.2);
        mixed([38.0, 74.0, 24.0], [142.0, 168.0, 62.0], blades * (0.6 + 0.4 * (down - near) * 4.0))
    } else if down > far {
        let trees = 0.5 * noise(x * 0.5, y * 0.5) + 0.5 * noise(x * 0.11, y * 0.11);
        mixed([48.0, 82.0, 88.0], [96.0, 128.0, 110.0], trees)
    } else {
        let clouds =
            0.6 * noise(x * 0.013, y * 0.03) + 0.3 * noise(x * 0.04, y * 0.08) + 0.1 * noise(x * 0.15, y * 0.2);
        let sky = mixed(
            [70.0, 126.0, 196.0],
            [214.0, 226.0, 232.0],
            (0.4 * down / far + (clouds - 0.45) * 1.6).clamp(0.0, 1.0),
        );
        let from_sun = ((right - 0.74) * 4.0 / 3.0).hypot(down - 0.2);
        mixed(sky, [255.0, 244.0, 208.0], ((0.09 - from_sun) * 30.0).clamp(0.0, 1.0))
    };
    colour.map(|value| value.round() as u8)
}

fn mixed(a: [f32; 3], b: [f32; 3], part: f32) -> [f32; 3] {
    let [[a0, a1, a2], [b0, b1, b2]] = [a, b];
    [a0 + (b0 - a0) * part, a1 + (b1 - a1) * part, a2 + (b2 - a2) * part]
}

/// Between 0 and 1, and of no direction: one value at each place of whole numbers, smooth between them.
fn noise(x: f32, y: f32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let ease = |part: f32| part * part * (3.0 - 2.0 * part);
    let (across, down) = (ease(x - left), ease(y - top));
    let between = |a: f32, b: f32, part: f32| a + (b - a) * part;
    let above = between(value(left, top), value(left + 1.0, top), across);
    let below = between(value(left, top + 1.0), value(left + 1.0, top + 1.0), across);
    between(above, below, down)
}

fn value(x: f32, y: f32) -> f32 {
    let place = (x as u32).wrapping_mul(0x9e37_79b1) ^ (y as u32).wrapping_mul(0x85eb_ca6b);
    let mixed = (place ^ place >> 15).wrapping_mul(0x2c1b_3c6d);
    let mixed = (mixed ^ mixed >> 12).wrapping_mul(0x297a_2d39);
    ((mixed ^ mixed >> 15) >> 8) as f32 / (1 << 24) as f32
}
