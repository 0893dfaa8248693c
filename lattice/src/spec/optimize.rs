//! `compose.optimize`: how much the compiler does about calls from component to component.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much the compiler does about calls that cross the border of composed components.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Optimize {
    /// Each component is compiled for itself, and a call is a call.
    #[default]
    Default,
    /// Small functions are inlined over the border, which makes calls of them cheaper. Compiling takes longer and the
    /// code is larger. Traces of traps may leave out what was inlined.
    Max,
}
