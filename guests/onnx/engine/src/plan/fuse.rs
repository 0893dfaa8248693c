//! Makes one step of two where nothing is lost by it.

use crate::kernel::Kernel;
use crate::program::{Program, SlotId};

/// What comes after a convolution, element by element, is done by it, where nothing else looks at its output.
pub fn fuse(program: &mut Program) {
    let mut readers = vec![0_usize; program.slots.len()];
    let kept: Vec<SlotId> = program.output_slots().collect();
    for slot in program.steps.iter().flat_map(|step| &step.inputs).chain(&kept) {
        if let Some(count) = readers.get_mut(*slot) {
            *count += 1;
        }
    }
    // Which convolution wrote a slot, as long as it has room for a function.
    let mut writers: Vec<Option<usize>> = vec![None; program.slots.len()];
    let mut is_done = vec![false; program.steps.len()];
    for at in 0..program.steps.len() {
        let Some(step) = program.steps.get(at) else { continue };
        let output = step.output;
        match (&step.kernel, step.inputs.as_slice()) {
            (Kernel::Conv(_) | Kernel::ConvTranspose(_), _) => {
                writers.iter_mut().skip(output).take(1).for_each(|writer| *writer = Some(at));
            }
            (Kernel::Unary(function), [x]) if readers.get(*x) == Some(&1) => {
                let function = *function;
                let Some(writer) = writers.get(*x).copied().flatten() else { continue };
                let Some(step) = program.steps.get_mut(writer) else { continue };
                if let Kernel::Conv(conv) | Kernel::ConvTranspose(conv) = &mut step.kernel
                    && conv.then.is_none()
                {
                    conv.then = Some(function);
                    step.output = output;
                    is_done.iter_mut().skip(at).take(1).for_each(|is| *is = true);
                }
            }
            _ => {}
        }
    }
    let mut is_done = is_done.into_iter();
    program.steps.retain(|_| !is_done.next().unwrap_or(false));
}
