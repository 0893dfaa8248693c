//! How large a model and what it computes may be.

/// Bytes of a model.
pub const MODEL_BYTES_MAX: usize = 64 << 20;
/// Nodes of a graph, and steps of a program.
pub const NODES_MAX: usize = 20_000;
/// Names of inputs and outputs of one node.
pub const NAMES_MAX: usize = 1_024;
/// Numbers of one attribute.
pub const ATTRIBUTE_NUMBERS_MAX: usize = 65_536;
/// Dimensions of a tensor.
pub const RANK_MAX: usize = 8;
/// Elements of a tensor: 256 MiB of `f32`.
pub const ELEMENTS_MAX: usize = 64 << 20;
/// Elements of a tensor of integers that planning computes: they are shapes, axes and indices.
pub const INTEGERS_MAX: usize = 1 << 20;
/// Bytes of all weights and other constants, those that planning computes included.
pub const CONSTANT_BYTES_MAX: usize = 512 << 20;
/// Bytes of all values that a program holds at a time, constants not counted.
pub const LIVE_BYTES_MAX: usize = 1 << 30;
/// A side of a window, its stride and its dilation.
pub const WINDOW_MAX: usize = 4_096;

const _: () = assert!(MODEL_BYTES_MAX <= CONSTANT_BYTES_MAX, "weights of a model that is small enough have room");
const _: () = assert!(ELEMENTS_MAX * 4 <= LIVE_BYTES_MAX, "a tensor that is small enough has room");
const _: () = assert!(ELEMENTS_MAX < i32::MAX as usize / 8, "offsets fit the 32-bit numbers of shaders");
