//! What is written in one word: durations, sizes, ranges of addresses, the context of a trace. What must hold is in `lattice/src/testing/parsers.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: lattice_fuzz::begin_with_parser("value"), |input: &[u8]| {
    lattice::testing::parsers::check("value", input)
});
