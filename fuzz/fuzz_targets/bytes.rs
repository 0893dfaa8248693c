//! The bytes of a connection, however they come. What must hold is in `router/src/parsers.rs`.
#![no_main]

use lattice_router::parsers::{BYTES, check_bytes};

libfuzzer_sys::fuzz_target!(init: lattice_fuzz::begin_with(BYTES), |input: &[u8]| check_bytes(input));
