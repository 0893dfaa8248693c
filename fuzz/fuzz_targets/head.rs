//! The head of a client's request, on its way to a route and to a component. What must hold is in `router/src/parsers.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lattice_router::parsers::check_head(input));
