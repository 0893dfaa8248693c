//! What a shader may be, judged before a compiler sees it: naga recurses along operators and `else if`s and an overflow of
//! its stack is the end of the process, and a driver's compilation can't be cancelled. Twice: at the text (`source.rs`),
//! for what naga cannot bear, and at what naga made of it (`module.rs`), for what compilers cannot.
//!
//! Pure. What is refused here is far beyond what shaders are that people or frameworks write.

mod module;
mod source;

pub(crate) use module::{Sizes, check_module};
pub use source::check_source;

use thiserror::Error;

/// Bytes of one shader.
pub(crate) const SOURCE_BYTES_MAX: usize = 256 << 10;
/// Operators that one expression chains, those of the expressions around it included. naga takes about two kilobytes of
/// stack for each.
pub(crate) const OPERATORS_MAX: usize = 4_000;
/// `else if`s of one function.
pub(crate) const ELSE_IFS_MAX: usize = 2_000;
/// Brackets within brackets. naga's own bound is the same.
pub(crate) const NESTING_MAX: usize = 127;
/// Bytes of variables that each invocation has, functions' and private ones. Beyond a few kilobytes drivers unroll and spill
/// for minutes.
pub(crate) const PRIVATE_BYTES_MAX: u64 = 4 << 10;
/// Statements and expressions of an entry point with each call in the place of the function that it calls, as drivers
/// have it.
pub(crate) const INLINED_MAX: u64 = 1 << 17;
/// Variables of a module outside of functions, and overrides.
pub(crate) const GLOBALS_MAX: usize = 1_000;

/// Why a shader is not given to a compiler.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    #[error("the shader has {0} bytes, at most {SOURCE_BYTES_MAX} are compiled")]
    Bytes(usize),
    #[error("line {line}: an expression of more than {OPERATORS_MAX} operators")]
    Operators { line: usize },
    #[error("line {line}: more than {ELSE_IFS_MAX} `else if`s in one function")]
    ElseIfs { line: usize },
    #[error("line {line}: more than {NESTING_MAX} brackets within brackets")]
    Nesting { line: usize },
    #[error("{entry}: variables of {bytes} bytes for each invocation, at most {PRIVATE_BYTES_MAX} are compiled")]
    Private { entry: String, bytes: u64 },
    #[error("{entry}: workgroup variables of {bytes} bytes, the device has {limit}")]
    Workgroup { entry: String, bytes: u64, limit: u32 },
    #[error(
        "{entry}: with all calls inlined it has {size} statements and expressions, at most {INLINED_MAX} are compiled"
    )]
    Inlined { entry: String, size: u64 },
    #[error("more than {GLOBALS_MAX} variables or overrides")]
    Globals,
    #[error("functions call each other in a circle")]
    Recursion,
    #[error(
        "the size of a workgroup array cannot be told from the override {name}: give it a value, or a literal as its default"
    )]
    Unsized { name: String },
}
