//! What planning answers, and executors carry out.

use std::rc::Rc;

use crate::error::{Error, Fault};
use crate::kernel::Kernel;
use crate::limits::LIVE_BYTES_MAX;
use crate::tensor::Tensor;

/// A place for the values of one tensor, an index of [`Program::slots`].
pub type SlotId = usize;

#[derive(Debug, Clone, Default)]
pub struct Program {
    pub slots: Vec<Slot>,
    /// In the order of [`Input`](crate::Input)s that are not known when planning.
    pub inputs: Vec<SlotId>,
    pub steps: Vec<Step>,
    pub outputs: Vec<Output>,
}

#[derive(Debug, Clone)]
pub struct Slot {
    /// Elements.
    pub length: usize,
    /// A weight, or another constant, of floats. No step writes to it.
    pub constant: Option<Rc<Tensor>>,
}

#[derive(Debug, Clone)]
pub struct Step {
    /// The node that it comes from, by its number in the model.
    pub node: usize,
    pub kernel: Kernel,
    /// None of them is the output.
    pub inputs: Vec<SlotId>,
    /// Several steps one after the other may write parts of one slot; each element is written before it is read.
    pub output: SlotId,
    /// Slots that nothing after this step looks at.
    pub frees: Vec<SlotId>,
}

#[derive(Debug, Clone)]
pub struct Output {
    pub name: String,
    pub shape: Vec<usize>,
    pub value: OutputValue,
}

#[derive(Debug, Clone)]
pub enum OutputValue {
    /// Known without computing: a shape, or what depends on constants alone.
    Known(Rc<Tensor>),
    Slot(SlotId),
}

impl Program {
    /// Slots whose values an execution answers, in the order of the outputs. A slot may be there twice.
    pub fn output_slots(&self) -> impl Iterator<Item = SlotId> {
        self.outputs.iter().filter_map(|output| match output.value {
            OutputValue::Slot(slot) => Some(slot),
            OutputValue::Known(_) => None,
        })
    }

    /// Whether these are values for the inputs: as many, and of their lengths.
    pub fn check(&self, inputs: &[&[f32]]) -> Result<(), Error> {
        let length = |slot: &SlotId| self.slots.get(*slot).map(|slot| slot.length);
        let fits = inputs.len() == self.inputs.len()
            && self.inputs.iter().zip(inputs).all(|(slot, values)| length(slot) == Some(values.len()));
        if fits { Ok(()) } else { Err(Error::Executor("these are no inputs for this program".into())) }
    }

    /// The outputs, with the values that an executor answered.
    pub fn tensors(&self, values: Vec<Vec<f32>>) -> Result<Vec<(String, Tensor)>, Fault> {
        let mut values = values.into_iter();
        let tensor = |output: &Output| match &output.value {
            OutputValue::Known(tensor) => Ok((output.name.clone(), Tensor::clone(tensor))),
            OutputValue::Slot(_) => {
                let values = values.next().unwrap_or_default();
                Ok((output.name.clone(), Tensor::floats(output.shape.clone(), values)?))
            }
        };
        self.outputs.iter().map(tensor).collect()
    }

    /// Multiplications of convolutions and products of matrices.
    pub fn multiplications(&self) -> u64 {
        self.steps.iter().fold(0, |sum, step| sum.saturating_add(step.kernel.multiplications()))
    }

    /// Works out after which step each slot is free, and what all slots take that are in use at a time.
    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        let mut last_use: Vec<Option<usize>> = vec![None; self.slots.len()];
        for (at, step) in self.steps.iter().enumerate() {
            for slot in step.inputs.iter().chain([&step.output]) {
                if let Some(last) = last_use.get_mut(*slot) {
                    *last = Some(at);
                }
            }
        }
        let kept: Vec<SlotId> = self.output_slots().collect();
        for slot in kept {
            if let Some(last) = last_use.get_mut(slot) {
                *last = None;
            }
        }
        let is_constant = |slot: usize| self.slots.get(slot).is_some_and(|slot| slot.constant.is_some());
        for (slot, last) in last_use.iter().enumerate() {
            let step = last.filter(|_| !is_constant(slot)).and_then(|at| self.steps.get_mut(at));
            if let Some(step) = step {
                step.frees.push(slot);
            }
        }
        let peak = self.peak();
        if peak > LIVE_BYTES_MAX as u64 {
            return Err(Fault::TooLarge(format!("it needs {peak} bytes at a time, of at most {LIVE_BYTES_MAX}")));
        }
        Ok(())
    }

    /// Most bytes of slots in use at a time.
    pub fn peak(&self) -> u64 {
        let length = |slot: &SlotId| self.slots.get(*slot).map_or(0, |slot| slot.length as u64 * 4);
        let mut is_live = vec![false; self.slots.len()];
        let mut live: u64 = self.inputs.iter().map(length).sum();
        self.inputs.iter().for_each(|slot| is_live.get_mut(*slot).into_iter().for_each(|is| *is = true));
        let mut peak = live;
        for step in &self.steps {
            if let Some(is) = is_live.get_mut(step.output)
                && !std::mem::replace(is, true)
            {
                live += length(&step.output);
            }
            peak = peak.max(live);
            live -= step.frees.iter().map(length).sum::<u64>().min(live);
        }
        peak
    }
}
