//! The head of a client's request, on its way to a route and to a component. What must hold is in `router/src/parsers.rs`.
#![no_main]

use lattice_router::parsers::{HEADS, check_head};

libfuzzer_sys::fuzz_target!(init: lattice_fuzz::begin_with(HEADS), |input: &[u8]| check_head(input));
