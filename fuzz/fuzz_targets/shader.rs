//! Shaders of guests, before and in naga. What must hold is in `host-node/gpu/src/testing.rs`.
#![no_main]

use lattice_gpu::testing::{SHADERS, check_shader};

libfuzzer_sys::fuzz_target!(init: lattice_fuzz::begin_with(SHADERS), |input: &[u8]| check_shader(input));
