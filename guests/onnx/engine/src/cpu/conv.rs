//! Convolutions and pooling. Most convolutions are products of matrices, of the weights and of what each window sees; those with
//! one channel in a group are not, since nothing of what a window sees is used twice.
#![allow(clippy::indexing_slicing, reason = "the planner has checked that sizes fit")]

use super::matrix::{COLUMNS, Line, PANELS, multiply};
use super::simple;
use crate::kernel::{Conv, Pool, PoolFunction, Window};

/// Groups of fewer outputs than this are not worth a product of matrices.
const OUTPUTS_OF_PRODUCT: usize = 4;

pub fn conv(conv: &Conv, x: &[f32], weights: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let (each, outputs) = (conv.channels / conv.groups, conv.out_channels / conv.groups);
    let (area, out_area) = (conv.size[0] * conv.size[1], conv.out_size[0] * conv.out_size[1]);
    let depth = each * conv.window.size[0] * conv.window.size[1];
    let is_product = depth > 0 && outputs >= OUTPUTS_OF_PRODUCT;
    let mut panels = vec![[0.0; COLUMNS]; if is_product { PANELS * depth } else { 0 }];
    for (group, out) in out.chunks_exact_mut(outputs * out_area).enumerate() {
        let channels = group % conv.groups;
        let x = &x[group * each * area..][..each * area];
        let weights = &weights[channels * outputs * depth..][..outputs * depth];
        let bias = bias.map(|bias| &bias[channels * outputs..][..outputs]);
        if is_product {
            product(conv, x, weights, bias, &mut panels, out);
        } else {
            direct(conv, x, weights, bias, out);
        }
    }
    if let Some(function) = conv.then {
        simple::unary(function, out);
    }
}

fn product(conv: &Conv, x: &[f32], weights: &[f32], bias: Option<&[f32]>, panels: &mut [Line], out: &mut [f32]) {
    let out_area = conv.out_size[0] * conv.out_size[1];
    let depth = panels.len() / PANELS;
    for begin in (0..out_area).step_by(COLUMNS * PANELS) {
        let used = (out_area - begin).div_ceil(COLUMNS).min(PANELS);
        for (panel, lines) in panels.chunks_exact_mut(depth).take(used).enumerate() {
            gather(conv, x, begin + panel * COLUMNS, out_area, lines);
        }
        multiply(weights, depth, &panels[..used * depth], |row, panel, sums| {
            let first = begin + panel * COLUMNS;
            let width = (out_area - first).min(COLUMNS);
            let added = bias.map_or(0.0, |bias| bias[row]);
            let out = &mut out[row * out_area + first..][..width];
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum + added);
        });
    }
}

/// What the windows of a tile's width of pixels see, from `first` on: one line for each weight.
fn gather(conv: &Conv, x: &[f32], first: usize, out_area: usize, lines: &mut [Line]) {
    let Window { size, stride, dilation, before, .. } = conv.window;
    let [height, width] = conv.size;
    let area = height * width;
    if size == [1, 1] && stride == [1, 1] && area == out_area {
        let count = (area - first).min(COLUMNS);
        for (line, plane) in lines.iter_mut().zip(x.chunks_exact(area)) {
            line[..count].copy_from_slice(&plane[first..first + count]);
        }
        return;
    }
    let corner = |column: usize| {
        let pixel = (first + column).min(out_area - 1);
        let (row, column) = (pixel / conv.out_size[1], pixel % conv.out_size[1]);
        [(row * stride[0]) as isize - before[0] as isize, (column * stride[1]) as isize - before[1] as isize]
    };
    let corners: [[isize; 2]; COLUMNS] = std::array::from_fn(corner);
    let mut lines = lines.iter_mut();
    for plane in x.chunks_exact(area) {
        for row in 0..size[0] {
            for column in 0..size[1] {
                let Some(line) = lines.next() else { return };
                let offset = [(row * dilation[0]) as isize, (column * dilation[1]) as isize];
                for (place, corner) in line.iter_mut().zip(&corners) {
                    // Negative places become large ones, which are beyond the picture as well.
                    let (row, column) =
                        ((corner[0] + offset[0]).cast_unsigned(), (corner[1] + offset[1]).cast_unsigned());
                    *place = if row < height && column < width { plane[row * width + column] } else { 0.0 };
                }
            }
        }
    }
}

/// Each weight times a row of the picture, added to a row of the output.
#[cfg_attr(target_family = "wasm", target_feature(enable = "simd128"))]
fn direct(conv: &Conv, x: &[f32], weights: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let Window { size, stride, dilation, before, .. } = conv.window;
    let ([height, width], [out_height, out_width]) = (conv.size, conv.out_size);
    let window = size[0] * size[1];
    let each = conv.channels / conv.groups;
    for (channel, plane) in out.chunks_exact_mut(out_height * out_width).enumerate() {
        plane.fill(bias.map_or(0.0, |bias| bias[channel]));
        for (input, x) in x.chunks_exact(height * width).enumerate() {
            let weights = &weights[(channel * each + input) * window..][..window];
            for (row, out) in plane.chunks_exact_mut(out_width).enumerate() {
                for (at, weight) in weights.iter().enumerate() {
                    let above = row * stride[0] + at / size[1] * dilation[0];
                    let Some(from) = above.checked_sub(before[0]).filter(|from| *from < height) else { continue };
                    let left = at % size[1] * dilation[1];
                    let line = &x[from * width..][..width];
                    // Of the output, where the window is within the picture: from the first column to before the last.
                    let first = before[1].saturating_sub(left).div_ceil(stride[1]);
                    let end = (width + before[1]).saturating_sub(left).div_ceil(stride[1]).min(out_width);
                    if first >= end {
                        continue;
                    }
                    let line = &line[first * stride[1] + left - before[1]..];
                    if stride[1] == 1 {
                        out[first..end].iter_mut().zip(line).for_each(|(out, x)| *out += weight * x);
                    } else {
                        let line = line.iter().step_by(stride[1]);
                        out[first..end].iter_mut().zip(line).for_each(|(out, x)| *out += weight * x);
                    }
                }
            }
        }
    }
}

/// Each element of the input times each weight of its channel, added to where it belongs.
pub fn conv_transpose(conv: &Conv, x: &[f32], weights: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let Window { size, stride, dilation, before, .. } = conv.window;
    let ([height, width], [out_height, out_width]) = (conv.size, conv.out_size);
    let (each, outputs) = (conv.channels / conv.groups, conv.out_channels / conv.groups);
    let window = size[0] * size[1];
    for (index, plane) in out.chunks_exact_mut(out_height * out_width).enumerate() {
        let (batch, channel) = (index / conv.out_channels, index % conv.out_channels);
        let (group, output) = (channel / outputs, channel % outputs);
        plane.fill(bias.map_or(0.0, |bias| bias[channel]));
        for input in group * each..(group + 1) * each {
            let x = &x[(batch * conv.channels + input) * height * width..][..height * width];
            let weights = &weights[(input * outputs + output) * window..][..window];
            for (at, weight) in weights.iter().enumerate() {
                let offset = [at / size[1] * dilation[0], at % size[1] * dilation[1]];
                for (row, line) in x.chunks_exact(width).enumerate() {
                    let below = row * stride[0] + offset[0];
                    let Some(to) = below.checked_sub(before[0]).filter(|to| *to < out_height) else { continue };
                    let out = &mut plane[to * out_width..][..out_width];
                    for (column, x) in line.iter().enumerate() {
                        let right = (column * stride[1] + offset[1]).wrapping_sub(before[1]);
                        if let Some(out) = out.get_mut(right) {
                            *out += weight * x;
                        }
                    }
                }
            }
        }
    }
    if let Some(function) = conv.then {
        simple::unary(function, out);
    }
}

pub fn pool(pool: &Pool, x: &[f32], out: &mut [f32]) {
    let Window { size, stride, dilation, before, after } = pool.window;
    let ([height, width], [out_height, out_width]) = (pool.size, pool.out_size);
    // Places along one side that a window covers, and how many there are with padding.
    let along = |side: usize, length: usize, at: usize| {
        let begin = at * stride[side];
        let padded = length + before[side] + after[side];
        let places = (0..size[side]).map(move |tap| begin + tap * dilation[side]);
        let with_padding = places.clone().filter(|place| *place < padded).count();
        (places.filter_map(move |place| place.checked_sub(before[side]).filter(|place| *place < length)), with_padding)
    };
    for (x, out) in x.chunks_exact(height * width).zip(out.chunks_exact_mut(out_height * out_width)) {
        for (row, out) in out.chunks_exact_mut(out_width).enumerate() {
            for (column, out) in out.iter_mut().enumerate() {
                let (rows, padded_rows) = along(0, height, row);
                let (mut max, mut sum, mut count, mut padded) = (f32::NEG_INFINITY, 0.0, 0_usize, 0);
                for row in rows {
                    let (columns, padded_columns) = along(1, width, column);
                    padded = padded_rows * padded_columns;
                    for column in columns {
                        let x = x[row * width + column];
                        max = if x > max { x } else { max };
                        sum += x;
                        count += 1;
                    }
                }
                *out = match pool.function {
                    PoolFunction::Max => max,
                    PoolFunction::Average => sum / count as f32,
                    PoolFunction::AveragePadded => sum / padded.max(1) as f32,
                };
            }
        }
    }
}
