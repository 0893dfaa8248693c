//! Records, which whoever has the account may write. What must hold is in `lattice/src/testing/parsers.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: lattice_fuzz::begin_with_parser("record"), |input: &[u8]| {
    lattice::testing::parsers::check("record", input)
});
