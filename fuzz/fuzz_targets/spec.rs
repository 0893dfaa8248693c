//! A spec as a person sends it. What must hold is in `lattice/src/testing/parsers.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lattice::testing::parsers::check("spec", input));
