//! Runs ONNX models, in three steps:
//!
//! 1. [`model`] reads the bytes of a model: nodes, attributes and weights, nothing computed.
//! 2. [`plan`] makes of a model and the shapes of its inputs a [`Program`](program::Program): steps with all sizes worked out, over slots
//!    of `f32`. Integers (shapes, axes, indices) are computed while planning, so programs hold none.
//! 3. An [`Executor`] carries out a program: [`cpu`], or a GPU by the shaders in [`wgsl`].
//!
//! A model may come from anyone. Each step answers an [`Error`] that names the node and its operator; no bytes make it panic, and
//! memory is bounded by [`limits`] before it is taken. How long a program computes is for its host to bound.

// Sizes of bodies are checked against the limits, which are far below what an `usize` of a component holds.
#![allow(async_fn_in_trait, reason = "executors are chosen when a component is built")]

pub mod cpu;
pub mod error;
pub mod kernel;
pub mod limits;
pub mod model;
pub mod npy;
pub mod plan;
pub mod program;
pub mod tensor;
pub mod wgsl;
pub mod wire;

pub use error::{Error, Fault};
pub use model::Model;
pub use plan::{Input, plan};
pub use program::Program;
pub use tensor::{Data, Kind, Tensor};

/// Carries out programs, on whatever it computes with.
pub trait Executor {
    /// What it computes with, in a word: `cpu`, `gpu`.
    fn name(&self) -> &'static str;

    /// Compute a program. `inputs` has the values of [`Program::inputs`], in that order and of those lengths; the answer those of
    /// [`Program::outputs`].
    async fn run(&mut self, program: &Program, inputs: &[&[f32]]) -> Result<Vec<Vec<f32>>, Error>;
}
