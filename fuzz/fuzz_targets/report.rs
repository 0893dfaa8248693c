//! What another node says of itself. What must hold is in `lattice/src/testing/parsers.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: lattice_fuzz::begin_with_parser("report"), |input: &[u8]| {
    lattice::testing::parsers::check("report", input)
});
