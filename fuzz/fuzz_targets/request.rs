//! Bodies of requests of the control interface. What must hold is in `lattice/src/testing/parsers.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: lattice_fuzz::begin_with_parser("request"), |input: &[u8]| {
    lattice::testing::parsers::check("request", input)
});
