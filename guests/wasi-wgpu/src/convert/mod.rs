//! From wgpu's types to those of the interface. What has no counterpart there is an error in words, never a panic.

pub(crate) mod enums;
pub(crate) mod features;
pub(crate) mod formats;
pub(crate) mod limits;
pub(crate) mod records;

/// Why something can't be said in the interface: the text of a validation error.
pub(crate) type Inexpressible = String;
