//! Kernels as compute shaders: which shader, over how many workgroups, with which parameters. Whoever has a GPU does the rest.
//!
//! All shaders have the same bindings in group 0: at 0 the parameters (`array<u32>`, read only), at 1 the output (`array<f32>`), and
//! from 2 on the inputs (`array<f32>`, read only), as many as [`Dispatch::inputs`].

mod shaders;

use crate::error::{Fault, ensure};
use crate::kernel::{Binary, Conv, Kernel, Pool, PoolFunction, Reduce, Unary, Walk, Window};
use crate::limits::RANK_MAX;
use crate::program::{Program, SlotId, Step};

/// What WebGPU grants in each direction without being asked.
const GROUPS_MAX: usize = 65_535;
/// Invocations of a workgroup in one dimension: the shaders say the same.
const GROUP: usize = 64;
/// Channels of a convolution that an invocation computes.
const CHANNELS: u32 = 4;
/// Rounds of all loops of an invocation. Some drivers end each after 65,535, without a word.
const ROUNDS_MAX: usize = 60_000;

/// A shader, by what it computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shader {
    Unary,
    Binary,
    Conv,
    /// A convolution with one output in a group.
    Depthwise,
    ConvTranspose,
    Pool,
    MatMul,
    BatchNorm,
    Softmax,
    Reduce,
    Copy,
    Taps,
    Fill,
}

#[derive(Debug, Clone)]
pub struct Dispatch {
    pub shader: Shader,
    /// Workgroups in x and y. Where there are none, nothing is to be done.
    pub groups: [u32; 2],
    pub parameters: Vec<u32>,
    /// For the bindings from 2 on.
    pub inputs: Vec<SlotId>,
}

impl Shader {
    pub const ALL: [Self; 13] = [
        Self::Unary,
        Self::Binary,
        Self::Conv,
        Self::Depthwise,
        Self::ConvTranspose,
        Self::Pool,
        Self::MatMul,
        Self::BatchNorm,
        Self::Softmax,
        Self::Reduce,
        Self::Copy,
        Self::Taps,
        Self::Fill,
    ];

    /// In WGSL, with the entry point `main`.
    pub fn source(self) -> String {
        shaders::source(self)
    }
}

/// How a step of a program is dispatched.
pub fn dispatch(program: &Program, step: &Step) -> Result<Dispatch, Fault> {
    let count = program.slots.get(step.output).map_or(0, |slot| slot.length);
    let plain = |shader, parameters: Vec<u32>| each(shader, count, parameters, &step.inputs);
    match &step.kernel {
        Kernel::Unary(function) => plain(Shader::Unary, unary(Some(*function)).to_vec()),
        Kernel::Binary { function, walk } => plain(Shader::Binary, [vec![binary(*function)], places(walk)?].concat()),
        Kernel::Conv(conv) => self::conv(conv, step),
        Kernel::ConvTranspose(conv) => {
            let [height, width] = conv.window.size;
            bounded(height * (1 + width * (1 + conv.channels / conv.groups)))?;
            let (parameters, inputs) = convolution(conv, step);
            each(Shader::ConvTranspose, count, parameters, &inputs)
        }
        Kernel::Pool(pool) => {
            let [height, width] = pool.window.size;
            bounded(height * (1 + width))?;
            plain(Shader::Pool, self::pool(pool))
        }
        Kernel::MatMul(matmul) => {
            bounded(matmul.depth + RANK_MAX)?;
            let sides = [matmul.rows, matmul.depth, matmul.columns, matmul.a[0], matmul.a[1], matmul.b[0], matmul.b[1]];
            let parameters = [words(&sides), vec![matmul.scale.to_bits()], places(&matmul.batch)?].concat();
            plain(Shader::MatMul, parameters)
        }
        Kernel::BatchNorm { channels, inner, epsilon } => {
            plain(Shader::BatchNorm, [words(&[*channels, *inner]), vec![epsilon.to_bits()]].concat())
        }
        Kernel::Softmax { outer, count, inner, log } => {
            bounded(count.div_ceil(GROUP) * 3)?;
            let parameters = words(&[*count, *inner, usize::from(*log)]);
            lines(Shader::Softmax, outer * inner, parameters, &step.inputs)
        }
        Kernel::Reduce { function, outer, count, inner } => {
            bounded(count.div_ceil(GROUP))?;
            let function = match function {
                Reduce::Sum => 0,
                Reduce::Mean => 1,
                Reduce::Max => 2,
                Reduce::Min => 3,
            };
            lines(Shader::Reduce, outer * inner, words(&[*count, *inner, function]), &step.inputs)
        }
        Kernel::Copy { walk, from, to } => {
            let parameters = [words(&[*from, *to]), places(walk)?].concat();
            each(Shader::Copy, walk.count(), parameters, &step.inputs)
        }
        Kernel::Taps(taps) => {
            bounded(taps.taps)?;
            let sides = words(&[taps.count_in, taps.count_out, taps.inner, taps.taps]);
            let weights = taps.weights.iter().map(|weight| weight.to_bits()).collect();
            plain(Shader::Taps, [sides, taps.places.clone(), weights].concat())
        }
        Kernel::Fill(value) => plain(Shader::Fill, vec![value.to_bits()]),
    }
}

fn bounded(rounds: usize) -> Result<(), Fault> {
    if rounds <= ROUNDS_MAX {
        return Ok(());
    }
    Err(Fault::TooLarge(format!("{rounds} rounds of one invocation of a shader, of at most {ROUNDS_MAX}")))
}

/// Numbers in kernels are below what tensors may have, which fits 32 bits.
fn words(numbers: &[usize]) -> Vec<u32> {
    numbers.iter().map(|number| u32::try_from(*number).unwrap_or(u32::MAX)).collect()
}

/// An invocation for each of `count` elements. The first parameters are the count, and invocations in a row of workgroups.
fn each(shader: Shader, count: usize, parameters: Vec<u32>, inputs: &[SlotId]) -> Result<Dispatch, Fault> {
    let groups = count.div_ceil(GROUP);
    let row = groups.clamp(1, GROUPS_MAX);
    let rows = groups.div_ceil(row);
    ensure(rows <= GROUPS_MAX, || format!("{count} elements in one dispatch"))?;
    let parameters = [words(&[count, row * GROUP]), parameters].concat();
    let groups = [u32::try_from(row).unwrap_or(1), u32::try_from(rows).unwrap_or(1)];
    Ok(Dispatch { shader, groups, parameters, inputs: inputs.to_vec() })
}

/// A workgroup for each of `count` lines. The first parameters are the count, and workgroups in a row.
fn lines(shader: Shader, count: usize, parameters: Vec<u32>, inputs: &[SlotId]) -> Result<Dispatch, Fault> {
    let row = count.clamp(1, GROUPS_MAX);
    let rows = count.div_ceil(row);
    ensure(rows <= GROUPS_MAX, || format!("{count} lines in one dispatch"))?;
    let parameters = [words(&[count, row]), parameters].concat();
    let groups = [u32::try_from(row).unwrap_or(1), u32::try_from(rows).unwrap_or(1)];
    Ok(Dispatch { shader, groups, parameters, inputs: inputs.to_vec() })
}

/// The number of dimensions, then for each, innermost first: how many, and the steps in both buffers.
fn places(walk: &Walk<2>) -> Result<Vec<u32>, Fault> {
    let mut parameters = words(&[walk.shape.len()]);
    for (count, steps) in walk.shape.iter().zip(&walk.steps).rev() {
        parameters.extend(words(&[*count]));
        for step in steps {
            let step = i32::try_from(*step).map_err(|_| Fault::TooLarge(format!("a step of {step}")))?;
            parameters.push(step.cast_unsigned());
        }
    }
    Ok(parameters)
}

/// A function and its two numbers.
fn unary(function: Option<Unary>) -> [u32; 3] {
    let (code, a, b) = match function {
        None => (0, 0.0, 0.0),
        Some(Unary::Affine { scale, shift }) => (1, scale, shift),
        Some(Unary::Relu) => (2, 0.0, 0.0),
        Some(Unary::LeakyRelu { alpha }) => (3, alpha, 0.0),
        Some(Unary::Elu { alpha }) => (4, alpha, 0.0),
        Some(Unary::Sigmoid) => (5, 0.0, 0.0),
        Some(Unary::HardSigmoid { alpha, beta }) => (6, alpha, beta),
        Some(Unary::HardSwish) => (7, 0.0, 0.0),
        Some(Unary::Tanh) => (8, 0.0, 0.0),
        Some(Unary::Sqrt) => (9, 0.0, 0.0),
        Some(Unary::Exp) => (10, 0.0, 0.0),
        Some(Unary::Log) => (11, 0.0, 0.0),
        Some(Unary::Abs) => (12, 0.0, 0.0),
        Some(Unary::Clip { min, max }) => (13, min, max),
        Some(Unary::Erf) => (14, 0.0, 0.0),
        Some(Unary::Floor) => (15, 0.0, 0.0),
        Some(Unary::Ceil) => (16, 0.0, 0.0),
        Some(Unary::Reciprocal) => (17, 0.0, 0.0),
        Some(Unary::Softplus) => (18, 0.0, 0.0),
    };
    [code, f32::to_bits(a), f32::to_bits(b)]
}

fn binary(function: Binary) -> u32 {
    match function {
        Binary::Add => 0,
        Binary::Sub => 1,
        Binary::Mul => 2,
        Binary::Div => 3,
        Binary::Pow => 4,
        Binary::Min => 5,
        Binary::Max => 6,
        Binary::PRelu => 7,
    }
}

fn window(window: &Window) -> Vec<u32> {
    let Window { size, stride, dilation, before, after } = window;
    words(&[*size, *stride, *dilation, *before, *after].concat())
}

fn pool(pool: &Pool) -> Vec<u32> {
    let function = match pool.function {
        PoolFunction::Max => 0,
        PoolFunction::Average => 1,
        PoolFunction::AveragePadded => 2,
    };
    [words(&pool.size), words(&pool.out_size), window(&pool.window), words(&[function])].concat()
}

/// Parameters that both kinds of convolutions have, and the inputs: where there is no bias, the weights stand in for it unread.
fn convolution(conv: &Conv, step: &Step) -> (Vec<u32>, Vec<SlotId>) {
    let mut inputs = step.inputs.clone();
    let has_bias = inputs.len() > 2;
    if let ([_, weights], false) = (inputs.as_slice(), has_bias) {
        inputs.push(*weights);
    }
    let sides = [conv.channels, conv.out_channels, conv.groups, usize::from(has_bias)];
    let parameters =
        [words(&sides), words(&conv.size), words(&conv.out_size), window(&conv.window), unary(conv.then).to_vec()];
    (parameters.concat(), inputs)
}

/// Each invocation computes four pixels of a row, of [`CHANNELS`] channels or of one.
fn conv(conv: &Conv, step: &Step) -> Result<Dispatch, Fault> {
    let [height, width] = conv.window.size;
    bounded(conv.channels / conv.groups * (1 + height * (1 + width)))?;
    let (parameters, inputs) = convolution(conv, step);
    let outputs = conv.out_channels / conv.groups;
    let (shader, channels) = if outputs == 1 { (Shader::Depthwise, 1) } else { (Shader::Conv, CHANNELS as usize) };
    let blocks = outputs.div_ceil(channels) * conv.groups * conv.batch;
    // A workgroup has one block, for which it reads the same weights.
    let area = (conv.out_size[0] * conv.out_size[1].div_ceil(4)).next_multiple_of(GROUP);
    let count = blocks.checked_mul(area).filter(|count| u32::try_from(*count).is_ok());
    let count = count.ok_or_else(|| Fault::TooLarge("a convolution of more than 2^32 invocations".into()))?;
    each(shader, count, [words(&[area]), parameters].concat(), &inputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Slot;

    #[test]
    fn many_elements_are_spread_over_rows_of_workgroups() {
        let count = GROUPS_MAX * GROUP + 1;
        let slots = vec![Slot { length: count, constant: None }];
        let step = Step { node: 0, kernel: Kernel::Fill(1.0), inputs: vec![], output: 0, frees: vec![] };
        let dispatch = dispatch(&Program { slots, ..Program::default() }, &step).unwrap();
        assert_eq!(dispatch.groups, [65_535, 2]);
        assert_eq!(dispatch.parameters, [count as u32, (GROUPS_MAX * GROUP) as u32, 1.0_f32.to_bits()]);
    }
}
