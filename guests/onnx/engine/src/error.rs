//! What can be wrong with a model, or with what it is given.

use std::fmt;

/// What can be wrong with one node, said without its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing that ONNX allows: shapes that don't fit, a missing input, an attribute out of range.
    Invalid(String),
    /// Valid, and not done here.
    Unsupported(String),
    /// It takes more than the [`limits`](crate::limits).
    TooLarge(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Bytes that are no model. The offset is within the innermost message that could be read.
    Malformed { at: usize, what: &'static str },
    /// A tensor, a value, an input or an output of the graph, by its name.
    Value { name: String, fault: Fault },
    /// The first node that can't be planned.
    Node { node: String, operator: String, fault: Fault },
    /// What is said of the graph as a whole.
    Graph(Fault),
    /// What computes a program failed: a GPU that is lost.
    Executor(String),
}

/// Longest name of a model that errors repeat, in characters.
const NAME_SHOWN_MAX: usize = 80;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(what) => write!(f, "{what}"),
            Self::Unsupported(what) => write!(f, "not supported: {what}"),
            Self::TooLarge(what) => write!(f, "too large: {what}"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |name: &str| name.chars().take(NAME_SHOWN_MAX).collect::<String>();
        match self {
            Self::Malformed { at, what } => write!(f, "no ONNX model: {what} at byte {at}"),
            Self::Value { name, fault } => write!(f, "value {:?}: {fault}", shown(name)),
            Self::Node { node, operator, fault } => write!(f, "node {:?} ({}): {fault}", shown(node), shown(operator)),
            Self::Graph(fault) => write!(f, "the graph: {fault}"),
            Self::Executor(what) => write!(f, "{what}"),
        }
    }
}

impl std::error::Error for Fault {}
impl std::error::Error for Error {}

/// Answer early with [`Fault::Invalid`].
pub(crate) fn ensure(is: bool, what: impl FnOnce() -> String) -> Result<(), Fault> {
    if is { Ok(()) } else { Err(Fault::Invalid(what())) }
}
