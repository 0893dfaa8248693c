//! Products of matrices, and what convolutions share with them: tiles of four rows by eight columns, which stay in registers.
#![allow(clippy::indexing_slicing, reason = "the planner has checked that sizes fit")]

use crate::kernel::MatMul;

/// Columns of a tile: two vectors of 128 bits.
pub const COLUMNS: usize = 8;
/// Rows of a tile: with so many, the tile and what is multiplied fit the sixteen registers of x86-64.
const ROWS: usize = 4;
/// How many panels are multiplied by the same rows, so that these are read from memory once for all.
pub const PANELS: usize = 8;

/// One row of a panel: the right factor, in columns of a tile's width, each of which lies together.
pub type Line = [f32; COLUMNS];

/// Multiply rows by panels, each of `depth` lines. `put` is told the row, the panel, and the product there.
#[cfg_attr(target_family = "wasm", target_feature(enable = "simd128"))]
pub fn multiply(left: &[f32], depth: usize, panels: &[Line], mut put: impl FnMut(usize, usize, &Line)) {
    let rows = left.len() / depth;
    let row = |at: usize| &left[at.min(rows - 1) * depth..][..depth];
    for begin in (0..rows).step_by(ROWS) {
        let factors = [row(begin), row(begin + 1), row(begin + 2), row(begin + 3)];
        for (at, panel) in panels.chunks_exact(depth).enumerate() {
            let sums = tile(factors, panel);
            for (row, sums) in (begin..rows).zip(&sums) {
                put(row, at, sums);
            }
        }
    }
}

#[inline]
#[cfg_attr(target_family = "wasm", target_feature(enable = "simd128"))]
fn tile([a, b, c, d]: [&[f32]; ROWS], panel: &[Line]) -> [Line; ROWS] {
    let mut sums = [[0.0; COLUMNS]; ROWS];
    for ((((line, a), b), c), d) in panel.iter().zip(a).zip(b).zip(c).zip(d) {
        for (sums, factor) in sums.iter_mut().zip([a, b, c, d]) {
            for (sum, x) in sums.iter_mut().zip(line) {
                *sum += factor * x;
            }
        }
    }
    sums
}

pub fn matmul(matmul: &MatMul, a: &[f32], b: &[f32], out: &mut [f32]) {
    let MatMul { rows, depth, columns, .. } = *matmul;
    let size = rows * columns;
    let mut left = Vec::new();
    let mut panels = vec![[0.0; COLUMNS]; PANELS * depth];
    let (count, step, lines) = matmul.batch.lines();
    let matrices =
        lines.flat_map(|at| (0..count).map(move |index| [0, 1].map(|side| at[side] + index as isize * step[side])));
    for (out, [at_a, at_b]) in out.chunks_exact_mut(size).zip(matrices) {
        let (at_a, at_b) = (at_a.cast_unsigned(), at_b.cast_unsigned());
        // Rows lie together, or are brought together.
        let rows_of_a = if matmul.a == [depth, 1] {
            &a[at_a..at_a + rows * depth]
        } else {
            left.clear();
            let places =
                (0..rows).flat_map(|row| (0..depth).map(move |at| at_a + row * matmul.a[0] + at * matmul.a[1]));
            left.extend(places.map(|place| a[place]));
            &left
        };
        for begin in (0..columns).step_by(COLUMNS * PANELS) {
            let used = (columns - begin).div_ceil(COLUMNS).min(PANELS);
            for (panel, lines) in panels.chunks_exact_mut(depth).take(used).enumerate() {
                let first = begin + panel * COLUMNS;
                let width = (columns - first).min(COLUMNS);
                for (at, line) in lines.iter_mut().enumerate() {
                    let from = at_b + at * matmul.b[0] + first * matmul.b[1];
                    for (column, place) in line.iter_mut().take(width).enumerate() {
                        *place = b[from + column * matmul.b[1]];
                    }
                }
            }
            multiply(rows_of_a, depth, &panels[..used * depth], |row, panel, sums| {
                let first = begin + panel * COLUMNS;
                let width = (columns - first).min(COLUMNS);
                let out = &mut out[row * columns + first..][..width];
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = matmul.scale * sum);
            });
        }
    }
}
