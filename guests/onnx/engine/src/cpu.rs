//! The executor that computes with the processor: vector instructions where the target has them, one thread.

mod conv;
mod matrix;
mod simple;

use crate::error::{Error, Fault};
use crate::kernel::{Kernel, Walk};
use crate::program::{Program, Slot, SlotId, Step};
use crate::{Executor, kernel::Unary};

pub struct Cpu;

impl Executor for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    async fn run(&mut self, program: &Program, inputs: &[&[f32]]) -> Result<Vec<Vec<f32>>, Error> {
        run(program, inputs)
    }
}

/// As [`Executor::run`], for those who can't wait.
pub fn run(program: &Program, inputs: &[&[f32]]) -> Result<Vec<Vec<f32>>, Error> {
    program.check(inputs)?;
    let given: Vec<_> = program.inputs.iter().copied().zip(inputs.iter().copied()).collect();
    steps(&program.slots, &program.steps, &given, &program.output_slots().collect::<Vec<_>>()).map_err(Error::Graph)
}

enum Held<'a> {
    Nothing,
    Owned(Vec<f32>),
    Borrowed(&'a [f32]),
}

impl Held<'_> {
    fn values(&self) -> &[f32] {
        match self {
            Self::Nothing => &[],
            Self::Owned(values) => values,
            Self::Borrowed(values) => values,
        }
    }
}

/// Carry out steps over slots, of which some are given, and answer the values of others.
pub(crate) fn steps(
    slots: &[Slot],
    steps: &[Step],
    given: &[(SlotId, &[f32])],
    kept: &[SlotId],
) -> Result<Vec<Vec<f32>>, Fault> {
    let constant = |slot: &Slot| slot.constant.is_some();
    let mut held: Vec<Held<'_>> = slots
        .iter()
        .map(|slot| match slot.constant.as_ref().and_then(|tensor| tensor.as_floats()) {
            Some(values) => Held::Borrowed(values),
            None => Held::Nothing,
        })
        .collect();
    for (slot, values) in given {
        held.iter_mut().skip(*slot).take(1).for_each(|place| *place = Held::Borrowed(values));
    }
    let broken = || Fault::Invalid("a step of a slot that is not there".into());
    for step in steps {
        let slot = slots.get(step.output).filter(|slot| !constant(slot)).ok_or_else(broken)?;
        let place = held.get_mut(step.output).ok_or_else(broken)?;
        let mut output = match std::mem::replace(place, Held::Nothing) {
            Held::Owned(values) => values,
            _ => vec![0.0; slot.length],
        };
        let inputs: Vec<&[f32]> = step.inputs.iter().filter_map(|slot| held.get(*slot)).map(Held::values).collect();
        let has_all = step.inputs.iter().all(|input| {
            slots
                .get(*input)
                .is_some_and(|slot| held.get(*input).is_some_and(|held| held.values().len() == slot.length))
        });
        if !has_all {
            return Err(broken());
        }
        compute(&step.kernel, &inputs, &mut output);
        held.iter_mut().skip(step.output).take(1).for_each(|place| *place = Held::Owned(std::mem::take(&mut output)));
        for slot in &step.frees {
            held.iter_mut().skip(*slot).take(1).for_each(|place| *place = Held::Nothing);
        }
    }
    Ok(kept.iter().map(|slot| held.get(*slot).map_or(Vec::new(), |held| held.values().to_vec())).collect())
}

/// The planner has checked that the sizes in a kernel are those of its inputs and its output.
fn compute(kernel: &Kernel, inputs: &[&[f32]], out: &mut [f32]) {
    let bias = inputs.get(2).copied();
    match (kernel, inputs) {
        (Kernel::Unary(function), [x, ..]) => {
            for (out, x) in out.iter_mut().zip(*x) {
                *out = *x;
            }
            unary(*function, out);
        }
        (Kernel::Binary { function, walk }, [a, b, ..]) => simple::binary(*function, walk, a, b, out),
        (Kernel::Conv(conv), [x, weights, ..]) => conv::conv(conv, x, weights, bias, out),
        (Kernel::ConvTranspose(conv), [x, weights, ..]) => conv::conv_transpose(conv, x, weights, bias, out),
        (Kernel::Pool(pool), [x, ..]) => conv::pool(pool, x, out),
        (Kernel::MatMul(matmul), [a, b, ..]) => matrix::matmul(matmul, a, b, out),
        (Kernel::BatchNorm { channels, inner, epsilon }, [x, scale, bias, mean, variance, ..]) => {
            simple::batch_norm([*channels, *inner], *epsilon, x, [scale, bias, mean, variance], out);
        }
        (Kernel::Softmax { outer, count, inner, log }, [x, ..]) => {
            simple::softmax([*outer, *count, *inner], *log, x, out);
        }
        (Kernel::Reduce { function, outer, count, inner }, [x, ..]) => {
            simple::reduce(*function, [*outer, *count, *inner], x, out);
        }
        (Kernel::Copy { walk, from, to }, [x, ..]) => copy(walk, *from, *to, x, out),
        (Kernel::Taps(taps), [x, ..]) => simple::taps(taps, x, out),
        (Kernel::Fill(value), _) => out.fill(*value),
        // A kernel without its inputs is none that the planner makes.
        _ => {}
    }
}

/// In place.
fn unary(function: Unary, values: &mut [f32]) {
    simple::unary(function, values);
}

/// Elements of `from` to places of `to`.
pub(crate) fn copy<T: Copy>(walk: &Walk<2>, from_at: usize, to_at: usize, from: &[T], to: &mut [T]) {
    let (count, [step_from, step_to], lines) = walk.lines();
    for [line_from, line_to] in lines {
        let begin_from = from_at.wrapping_add_signed(line_from);
        let begin_to = to_at.wrapping_add_signed(line_to);
        if step_from == 1 && step_to == 1 {
            let pair = (from.get(begin_from..begin_from + count), to.get_mut(begin_to..begin_to + count));
            if let (Some(from), Some(to)) = pair {
                to.copy_from_slice(from);
            }
            continue;
        }
        let (mut at_from, mut at_to) = (begin_from, begin_to);
        for _ in 0..count {
            if let (Some(from), Some(to)) = (from.get(at_from), to.get_mut(at_to)) {
                *to = *from;
            }
            at_from = at_from.wrapping_add_signed(step_from);
            at_to = at_to.wrapping_add_signed(step_to);
        }
    }
}
