//! Any bytes decode to a frame or to an error. What decodes can be written, and read again as the same frame.
#![no_main]

use bytes::Bytes;
use lattice::frame::Frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok((sequence, frame)) = Frame::decode(Bytes::copy_from_slice(input)) {
        let encoded = frame.encode(sequence, 1 << 20).expect("what was read can be written");
        assert_eq!(Frame::decode(encoded), Ok((sequence, frame)));
    }
});
