//! What another node says of itself. What must hold is in `lattice/src/testing/parsers.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lattice::testing::parsers::check("report", input));
