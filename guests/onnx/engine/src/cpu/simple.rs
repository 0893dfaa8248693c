//! Kernels that look at each element once.
#![allow(clippy::indexing_slicing, reason = "the planner has checked that sizes fit")]

use crate::kernel::{Binary, Reduce, Taps, Unary, Walk};

/// In place.
#[cfg_attr(target_family = "wasm", target_feature(enable = "simd128"))]
pub fn unary(function: Unary, values: &mut [f32]) {
    // The function is chosen once, so that each loop is of one kind and can be done several elements at a time.
    fn each(values: &mut [f32], f: impl Fn(f32) -> f32) {
        values.iter_mut().for_each(|value| *value = f(*value));
    }
    match function {
        Unary::Affine { scale, shift } => each(values, |x| scale * x + shift),
        Unary::Relu => each(values, |x| if x > 0.0 { x } else { 0.0 }),
        Unary::LeakyRelu { alpha } => each(values, |x| if x < 0.0 { alpha * x } else { x }),
        Unary::Elu { alpha } => each(values, |x| if x < 0.0 { alpha * (x.exp() - 1.0) } else { x }),
        Unary::Sigmoid => each(values, |x| 1.0 / (1.0 + (-x).exp())),
        Unary::HardSigmoid { alpha, beta } => each(values, |x| clip(alpha * x + beta, 0.0, 1.0)),
        Unary::HardSwish => each(values, |x| x * clip(x / 6.0 + 0.5, 0.0, 1.0)),
        Unary::Tanh => each(values, f32::tanh),
        Unary::Sqrt => each(values, f32::sqrt),
        Unary::Exp => each(values, f32::exp),
        Unary::Log => each(values, f32::ln),
        Unary::Abs => each(values, f32::abs),
        Unary::Clip { min, max } => each(values, |x| clip(x, min, max)),
        Unary::Erf => each(values, erf),
        Unary::Floor => each(values, f32::floor),
        Unary::Ceil => each(values, f32::ceil),
        Unary::Reciprocal => each(values, |x| 1.0 / x),
        Unary::Softplus => each(values, |x| (1.0 + (-x.abs()).exp()).ln() + x.max(0.0)),
    }
}

/// `f32::clamp` panics where the bounds are in the wrong order; ONNX has the upper one win.
fn clip(x: f32, min: f32, max: f32) -> f32 {
    let x = if x < min { min } else { x };
    if x > max { max } else { x }
}

/// Abramowitz and Stegun, 7.1.26: off by 1.5e-7 at most.
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let polynomial = ((((1.061_405_4 * t - 1.453_152) * t + 1.421_413_7) * t - 0.284_496_74) * t + 0.254_829_6) * t;
    (1.0 - polynomial * (-x * x).exp()).copysign(x)
}

#[cfg_attr(target_family = "wasm", target_feature(enable = "simd128"))]
pub fn binary(function: Binary, walk: &Walk<2>, a: &[f32], b: &[f32], out: &mut [f32]) {
    match function {
        Binary::Add => pairs(walk, a, b, out, |a, b| a + b),
        Binary::Sub => pairs(walk, a, b, out, |a, b| a - b),
        Binary::Mul => pairs(walk, a, b, out, |a, b| a * b),
        Binary::Div => pairs(walk, a, b, out, |a, b| a / b),
        Binary::Pow => pairs(walk, a, b, out, f32::powf),
        Binary::Min => pairs(walk, a, b, out, |a, b| if a < b { a } else { b }),
        Binary::Max => pairs(walk, a, b, out, |a, b| if a > b { a } else { b }),
        Binary::PRelu => pairs(walk, a, b, out, |a, b| if a < 0.0 { a * b } else { a }),
    }
}

#[inline(always)]
fn pairs(walk: &Walk<2>, a: &[f32], b: &[f32], out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    let (count, [step_a, step_b], lines) = walk.lines();
    for (out, [at_a, at_b]) in out.chunks_exact_mut(count.max(1)).zip(lines) {
        let (at_a, at_b) = (at_a.cast_unsigned(), at_b.cast_unsigned());
        match (step_a, step_b) {
            (1, 1) => {
                let pairs = a[at_a..at_a + count].iter().zip(&b[at_b..at_b + count]);
                out.iter_mut().zip(pairs).for_each(|(out, (a, b))| *out = f(*a, *b));
            }
            (1, 0) => {
                let b = b[at_b];
                out.iter_mut().zip(&a[at_a..at_a + count]).for_each(|(out, a)| *out = f(*a, b));
            }
            (0, 1) => {
                let a = a[at_a];
                out.iter_mut().zip(&b[at_b..at_b + count]).for_each(|(out, b)| *out = f(a, *b));
            }
            _ => {
                let (step_a, step_b) = (step_a.cast_unsigned(), step_b.cast_unsigned());
                out.iter_mut().enumerate().for_each(|(at, out)| *out = f(a[at_a + at * step_a], b[at_b + at * step_b]));
            }
        }
    }
}

/// `parameters`: scale, bias, mean, variance, one of each for each channel.
#[cfg_attr(target_family = "wasm", target_feature(enable = "simd128"))]
pub fn batch_norm([channels, inner]: [usize; 2], epsilon: f32, x: &[f32], parameters: [&[f32]; 4], out: &mut [f32]) {
    let [scale, bias, mean, variance] = parameters;
    let lines = out.chunks_exact_mut(inner.max(1)).zip(x.chunks_exact(inner.max(1)));
    for (line, (out, x)) in lines.enumerate() {
        let channel = line % channels;
        let factor = scale[channel] / (variance[channel] + epsilon).sqrt();
        let shift = bias[channel] - mean[channel] * factor;
        out.iter_mut().zip(x).for_each(|(out, x)| *out = factor * x + shift);
    }
}

pub fn softmax([outer, count, inner]: [usize; 3], log: bool, x: &[f32], out: &mut [f32]) {
    for line in 0..outer * inner {
        let begin = line / inner * count * inner + line % inner;
        let at = |index: usize| begin + index * inner;
        let max = (0..count).map(|index| x[at(index)]).fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for index in 0..count {
            let shifted = x[at(index)] - max;
            out[at(index)] = if log { shifted } else { shifted.exp() };
            sum += shifted.exp();
        }
        let log_of_sum = sum.ln();
        for index in 0..count {
            let place = &mut out[at(index)];
            *place = if log { *place - log_of_sum } else { *place / sum };
        }
    }
}

#[cfg_attr(target_family = "wasm", target_feature(enable = "simd128"))]
pub fn reduce(function: Reduce, [outer, count, inner]: [usize; 3], x: &[f32], out: &mut [f32]) {
    match function {
        Reduce::Sum => lines([outer, count, inner], x, out, 0.0, |a, b| a + b, |sum| sum),
        Reduce::Mean => lines([outer, count, inner], x, out, 0.0, |a, b| a + b, |sum| sum / count as f32),
        Reduce::Max => lines([outer, count, inner], x, out, f32::NEG_INFINITY, f32::max, |max| max),
        Reduce::Min => lines([outer, count, inner], x, out, f32::INFINITY, f32::min, |min| min),
    }
}

/// Sums of a line in eight parts: faster, and nearer to the true sum than one.
#[inline(always)]
fn lines(
    [outer, count, inner]: [usize; 3],
    x: &[f32],
    out: &mut [f32],
    start: f32,
    f: impl Fn(f32, f32) -> f32,
    end: impl Fn(f32) -> f32,
) {
    if inner == 1 {
        for (out, line) in out.iter_mut().zip(x.chunks_exact(count)).take(outer) {
            let mut parts = [start; 8];
            let (chunks, rest) = line.as_chunks::<8>();
            for chunk in chunks {
                parts.iter_mut().zip(chunk).for_each(|(part, x)| *part = f(*part, *x));
            }
            let all = parts.into_iter().chain(rest.iter().copied()).fold(start, &f);
            *out = end(all);
        }
        return;
    }
    for (out, block) in out.chunks_exact_mut(inner).zip(x.chunks_exact(count * inner)).take(outer) {
        out.fill(start);
        for line in block.chunks_exact(inner) {
            out.iter_mut().zip(line).for_each(|(out, x)| *out = f(*out, *x));
        }
        out.iter_mut().for_each(|out| *out = end(*out));
    }
}

#[cfg_attr(target_family = "wasm", target_feature(enable = "simd128"))]
pub fn taps(taps: &Taps, x: &[f32], out: &mut [f32]) {
    let Taps { outer, count_in, count_out, inner, taps: each, places, weights } = taps;
    for block in 0..*outer {
        for at in 0..*count_out {
            let begin = (block * count_out + at) * inner;
            let out = &mut out[begin..begin + inner];
            for tap in at * each..(at + 1) * each {
                let (from, weight) = ((block * count_in + places[tap] as usize) * inner, weights[tap]);
                let x = &x[from..from + inner];
                if *each == 1 && weight == 1.0 {
                    out.copy_from_slice(x);
                } else if tap == at * each {
                    out.iter_mut().zip(x).for_each(|(out, x)| *out = weight * x);
                } else {
                    out.iter_mut().zip(x).for_each(|(out, x)| *out += weight * x);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::copy;

    #[test]
    fn functions_at_known_places() {
        let check = |function, x: f32, expected: f32| {
            let mut value = [x];
            unary(function, &mut value);
            assert!((value[0] - expected).abs() < 1e-6, "{function:?} of {x} is {value:?}");
        };
        check(Unary::Erf, 0.5, 0.520_499_9);
        check(Unary::Erf, -2.0, -0.995_322_3);
        check(Unary::Softplus, 100.0, 100.0);
        check(Unary::HardSwish, -4.0, 0.0);
        check(Unary::Clip { min: 2.0, max: 1.0 }, 5.0, 1.0);
    }

    #[test]
    fn copies_go_backwards_too() {
        let mut out = [0; 3];
        copy(&Walk::new(&[3], &[[-2, 1]]), 4, 0, &[10, 11, 12, 13, 14], &mut out);
        assert_eq!(out, [14, 12, 10]);
    }
}
