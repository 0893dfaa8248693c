//! Any bytes decode to a frame or to an error. What decodes can be written, and read again as the same frame.
#![no_main]

use bytes::Bytes;
use lattice::frame::Frame;
use libfuzzer_sys::fuzz_target;

/// One of each kind.
const FRAMES: [&[u8]; 6] = [
    b"\x01\x01\x01\0\0\0\0\0\x10\0\0\0\0\x03\xe8\0\x04shop\0\x03GET\0\x04http\0\x06h.test\0\x04/x?y\0\x01\0\x06accept\0\x01a\0\0\0\x02hi",
    b"\x01\x02\x03\0\0\0\x07\0\0\0\0\0\xc8\0\x01\0\x03x-v\0\x01\xff\0\0\0\x02ok\0\x01\0\x0bgrpc-status\0\x010",
    b"\x01\x03\0\0\0\0\x01\0\0\0\x03abc",
    b"\x01\x04\0\0\0\0\x02\0\x08\0\0",
    b"\x01\x05\x04\0\0\0\x03\x03\0\0\x07\xd0\0\x04full",
    b"\x01\x06\0\0\0\0\x04",
];

fuzz_target!(init: lattice_fuzz::begin_with(FRAMES), |input: &[u8]| {
    if let Ok((sequence, frame)) = Frame::decode(Bytes::copy_from_slice(input)) {
        let encoded = frame.encode(sequence, 1 << 20).expect("what was read can be written");
        assert_eq!(Frame::decode(encoded), Ok((sequence, frame)));
    }
});
