//! Shaders of guests, before and in naga. What must hold is in `host-node/gpu/src/testing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lattice_gpu::testing::check_shader(input));
