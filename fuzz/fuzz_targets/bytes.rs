//! The bytes of a connection, however they come. What must hold is in `router/src/parsers.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lattice_router::parsers::check_bytes(input));
