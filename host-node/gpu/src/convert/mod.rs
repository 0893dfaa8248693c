//! The words of `wasi:webgpu` as wgpu's. Every value of theirs has one of wgpu's, or is refused by name; nothing here can
//! fail otherwise.

pub(crate) mod enums;
pub(crate) mod features;
pub(crate) mod formats;
pub(crate) mod limits;
pub(crate) mod records;
