//! A peer that says anything: both sides of an exchange keep their bounds and send nothing after a reset.
//! The input is a list of messages, each behind a length byte; the sequence is put right, so that more than the first
//! one counts.
#![no_main]

use bytes::{BufMut as _, Bytes, BytesMut};
use lattice::exchange::{Config, Event, Exchange, HTTP_WINDOW_BYTES, Opened};
use lattice::frame::{FRAME_BYTES_MIN, FRAME_HEADER_BYTES, FRAME_VERSION, Frame, HTTP_INLINE_BODY_BYTES_MAX};
use libfuzzer_sys::fuzz_target;
use std::time::Duration;

const NOW: Duration = Duration::from_secs(1);
/// Sent by a router: a request that is still open.
const REQUEST: &[u8] = b"\x01\x01\0\0\0\0\0\0\x10\0\0\0\0\x03\xe8\0\x01w\0\x03GET\0\x04http\0\x01h\0\x01/\0\0\0\0\0\0";

/// A response and its end, leave for more, a ping, a reset.
const MESSAGES: [&[u8]; 4] = [
    b"\x14\x01\x02\0\0\0\0\0\0\0\x10\0\0\xc8\0\0\0\0\0\x01a\x0b\x01\x03\x01\0\0\0\0\0\0\0\0",
    b"\x0b\x01\x04\0\0\0\0\0\0\x08\0\0\x0c\x01\x03\0\0\0\0\0\0\0\0\x01a\x0b\x01\x03\x01\0\0\0\0\0\0\0\0",
    b"\x07\x01\x06\0\0\0\0\0\x0c\x01\x03\0\0\0\0\0\0\0\0\x01a",
    b"\x0e\x01\x05\0\0\0\0\0\x05\0\0\0\0\0\0",
];

fuzz_target!(init: lattice_fuzz::begin_with(MESSAGES), |input: &[u8]| {
    let config = || Config::new(FRAME_BYTES_MIN).expect("the least");
    let Opened::Exchange(mut node, head) = Exchange::accept(NOW, config(), Bytes::from_static(REQUEST)) else {
        unreachable!("a good request")
    };
    node.accept_body();
    drive(&mut node, 1, input);

    let mut router = Exchange::request(NOW, config(), *head, None).expect("a small head");
    drive(&mut router, 0, input);
});

fn drive<Role>(exchange: &mut Exchange<Role>, first: u32, mut input: &[u8]) {
    let mut reset = drain(exchange);
    let mut held = 0;
    for sequence in first.. {
        let Some((&length, rest)) = input.split_first() else { return };
        let (message, rest) = rest.split_at(rest.len().min(length.into()));
        input = rest;
        exchange.on_frame(NOW, in_sequence(message, sequence));
        // A window that shrinks and grows, up to the largest.
        if length % 3 == 0 {
            exchange.set_window(u32::from(length) << 12);
        }
        while let Some(event) = exchange.poll_head().or_else(|| next_of_body(exchange)) {
            if let Event::Data(bytes) = event {
                held += bytes.len();
            }
        }
        assert!(held <= HTTP_WINDOW_BYTES as usize + HTTP_INLINE_BODY_BYTES_MAX, "more than the window");
        if length % 2 == 0 {
            exchange.consumed(held);
            held = 0;
        }
        let more = drain(exchange);
        assert!(!(reset && more), "two resets");
        reset |= more;
        assert!(!reset || exchange.is_closed());
    }
}

fn next_of_body<Role>(exchange: &mut Exchange<Role>) -> Option<Event> {
    let is_there = exchange.has_body();
    let event = exchange.poll_body();
    assert_eq!(is_there, event.is_some(), "{event:?}");
    event
}

/// Send all; true if a reset was among it, the last.
fn drain<Role>(exchange: &mut Exchange<Role>) -> bool {
    let mut reset = false;
    while let Some(message) = exchange.poll_transmit(NOW) {
        assert!(!reset, "something after a reset");
        let (_, frame) = Frame::decode(message).expect("what is sent is a frame");
        reset = matches!(frame, Frame::Reset(_));
    }
    reset
}

fn in_sequence(message: &[u8], sequence: u32) -> Bytes {
    let Some((header, rest)) = message.split_at_checked(FRAME_HEADER_BYTES) else {
        return Bytes::copy_from_slice(message);
    };
    let mut out = BytesMut::new();
    out.put_u8(FRAME_VERSION);
    out.put_slice(&header[1..3]);
    out.put_u32(sequence);
    out.put_slice(rest);
    out.freeze()
}
