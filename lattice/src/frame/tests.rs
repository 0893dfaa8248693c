//! Golden frames, refusals, limits, and round trips of any frame.

use super::*;
use crate::http::{BodyError, CallError};
use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use std::time::Duration;

pub(crate) fn request_head() -> RequestHead {
    let mut headers = HeaderMap::new();
    headers.append("accept", HeaderValue::from_static("a"));
    headers.append("accept", HeaderValue::from_static("b"));
    RequestHead {
        workload: WorkloadName::new("shop").unwrap(),
        method: Method::GET,
        scheme: Scheme::HTTP,
        authority: Authority::from_static("h.test"),
        path_and_query: PathAndQuery::from_static("/x?y"),
        headers: Arc::new(headers),
    }
}

pub(crate) fn response_head() -> ResponseHead {
    let mut headers = HeaderMap::new();
    headers.append("x-v", HeaderValue::from_bytes(b"\xff").unwrap());
    ResponseHead { status: StatusCode::OK, headers }
}

/// The frame, its sequence, and its bytes; `|` and blanks stand between fields.
fn check_golden(frame: Frame, sequence: u32, golden: &[&[u8]]) {
    let golden = golden.concat();
    let encoded = frame.encode(sequence, FRAME_BYTES_MIN).unwrap();
    assert_eq!(encoded, golden, "{frame:?} became {:?}", encoded.escape_ascii().to_string());
    assert_eq!(Frame::decode(encoded.clone()), Ok((sequence, frame)));
    for end in 0..encoded.len() {
        assert!(Frame::decode(encoded.slice(..end)).is_err(), "cut at {end}");
    }
    let longer = [encoded.as_ref(), b"\0"].concat();
    assert!(Frame::decode(longer.into()).is_err(), "one byte more");
}

#[test]
fn golden_request() {
    check_golden(
        Frame::Request {
            head: Box::new(request_head()),
            remaining_ms: NonZeroU32::new(1000),
            window_bytes: 1 << 20,
            chunk: Chunk { bytes: "hi".into(), tail: Tail::End },
        },
        0,
        &[
            b"\x01\x01\x01\0\0\0\0",                                // version, kind, END, sequence
            b"\0\x10\0\0\0\0\x03\xe8",                              // window, remaining time
            b"\0\x04shop\0\x03GET\0\x04http\0\x06h.test\0\x04/x?y", // workload … path
            b"\0\x02\0\x06accept\0\x01a\0\x06accept\0\x01b",        // headers
            b"\0\0\0\x02hi",                                        // chunk
        ],
    );
}

#[test]
fn golden_response() {
    let mut trailers = HeaderMap::new();
    trailers.append("grpc-status", HeaderValue::from_static("0"));
    check_golden(
        Frame::Response {
            head: Box::new(response_head()),
            window_bytes: 0,
            chunk: Chunk { bytes: "ok".into(), tail: Tail::Trailers(trailers) },
        },
        7,
        &[
            b"\x01\x02\x03\0\0\0\x07",
            b"\0\0\0\0\0\xc8",
            b"\0\x01\0\x03x-v\0\x01\xff",
            b"\0\0\0\x02ok",
            b"\0\x01\0\x0bgrpc-status\0\x010",
        ],
    );
}

#[test]
fn golden_others() {
    let data = |bytes: &'static str, tail| Frame::Data(Chunk { bytes: bytes.into(), tail });
    check_golden(data("abc", Tail::More), 1, &[b"\x01\x03\0\0\0\0\x01", b"\0\0\0\x03abc"]);
    check_golden(data("", Tail::End), u32::MAX, &[b"\x01\x03\x01\xff\xff\xff\xff", b"\0\0\0\0"]);
    check_golden(Frame::Credit { bytes: NonZeroU32::new(0x8_0000).unwrap() }, 2, &[b"\x01\x04\0\0\0\0\x02\0\x08\0\0"]);
    check_golden(
        Frame::Reset(Reset::new(ResetCode::Overloaded { retry_after_ms: 2000 }, "full").with_nothing_ran()),
        3,
        &[b"\x01\x05\x04\0\0\0\x03", b"\x03\0\0\x07\xd0", b"\0\x04full"],
    );
    check_golden(Frame::Ping, 4, &[b"\x01\x06\0\0\0\0\x04"]);
}

#[test]
fn codes_have_fixed_numbers() {
    let codes: Vec<String> = (0..=255)
        .filter_map(|number| ResetCode::from_wire(number, 0).ok().map(|code| (number, code)))
        .inspect(|(number, code)| assert_eq!(code.to_wire(), (*number, 0)))
        .map(|(number, code)| format!("{number} {code}"))
        .collect();
    assert_eq!(
        codes.join(", "),
        "1 cancelled, 2 not-here, 3 overloaded, 4 timeout, 5 failed, 6 body-too-large, 7 protocol-error, \
         8 sequence-gap, 9 shutting-down, 10 idle"
    );
}

#[test]
fn what_is_not_a_frame_is_refused() {
    let check = |bytes: &[u8], expect: DecodeError| {
        assert_eq!(Frame::decode(Bytes::copy_from_slice(bytes)), Err(expect), "{}", bytes.escape_ascii());
    };
    check(b"", DecodeError::Truncated);
    check(b"\x02\x06\0\0\0\0\0", DecodeError::Version(2));
    check(b"\x01\x07\0\0\0\0\0", DecodeError::Kind(7));
    check(b"\x01\x06\x01\0\0\0\0", DecodeError::Flags { kind: 6, flags: 1 });
    check(b"\x01\x03\x02\0\0\0\0\0\0\0\x01a\0\0", DecodeError::Flags { kind: 3, flags: 2 });
    check(b"\x01\x03\0\0\0\0\0\0\0\0\0", DecodeError::EmptyData);
    check(b"\x01\x03\0\0\0\0\0\xff\xff\xff\xffa", DecodeError::Truncated);
    check(b"\x01\x04\0\0\0\0\0\0\0\0\0", DecodeError::ZeroCredit);
    check(b"\x01\x05\0\0\0\0\0\x0b\0\0\0\0\0\0", DecodeError::ResetCode(11));
    check(b"\x01\x05\0\0\0\0\0\x01\0\0\0\x01\0\0", DecodeError::Malformed("retry time"));
    check(b"\x01\x05\0\0\0\0\0\x01\0\0\0\0\0\x01\xff", DecodeError::Malformed("reset message"));
    check(b"\x01\x02\0\0\0\0\0\0\0\0\0\0\x01\0\0", DecodeError::Malformed("status"));
    check(b"\x01\x02\0\0\0\0\0\0\0\0\0\0\xc8\x01\x01", DecodeError::TooManyHeaders(257));
    check(b"\x01\x02\0\0\0\0\0\0\0\0\0\0\xc8\0\x01\0\x01A\0\0", DecodeError::Malformed("header name"));
    check(b"\x01\x02\0\0\0\0\0\0\0\0\0\0\xc8\0\x01\0\x01a\0\x01\n", DecodeError::Malformed("header value"));
    let request = b"\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0\0";
    check(&[request, b"\0\x03a.b".as_slice()].concat(), DecodeError::Malformed("workload name"));
    check(&[request, b"\0\x01w\0\x01 ".as_slice()].concat(), DecodeError::Malformed("method"));
    check(&[request, b"\0\x01w\0\x01A\0\x01 ".as_slice()].concat(), DecodeError::Malformed("scheme"));
    check(&[request, b"\0\x01w\0\x01A\0\x04http\0\0".as_slice()].concat(), DecodeError::Malformed("authority"));
    let path = b"\0\x01w\0\x01A\0\x04http\0\x01h\0\x04/x#y".as_slice();
    check(&[request, path].concat(), DecodeError::Malformed("path"));
}

#[test]
fn a_reader_enforces_the_limits_too() {
    let head = b"\x01\x02\0\0\0\0\0\0\0\0\0\0\xc8".as_slice();
    let no_chunk = [0; 4];
    // 15 bytes before the first header, 5 beside the value of each.
    let response = |value: usize| {
        let first = [b"\0\x02\0\x01a\x80\0".as_slice(), &[b'v'; 0x8000]].concat();
        let second = [b"\0\x01a".as_slice(), &(value as u16).to_be_bytes(), &vec![b'v'; value]].concat();
        Frame::decode([head, &first, &second, &no_chunk].concat().into())
    };
    let fits = HEAD_BYTES_MAX - 15 - 5 - 0x8000 - 5;
    assert!(response(fits).is_ok());
    assert_eq!(response(fits + 1), Err(DecodeError::HeadTooLarge(HEAD_BYTES_MAX + 1)));

    let inline = |bytes: usize| {
        let chunk = [(bytes as u32).to_be_bytes().as_slice(), &vec![0; bytes]].concat();
        Frame::decode([head, b"\0\0", &chunk].concat().into())
    };
    assert!(inline(HTTP_INLINE_BODY_BYTES_MAX).is_ok());
    let beyond = HTTP_INLINE_BODY_BYTES_MAX + 1;
    assert_eq!(inline(beyond), Err(DecodeError::InlineTooLarge(beyond)));
}

#[test]
fn heads_beyond_their_limits_are_errors() {
    let response = |headers: HeaderMap| Frame::Response {
        head: Box::new(ResponseHead { status: StatusCode::OK, headers }),
        window_bytes: 0,
        chunk: Chunk::default(),
    };
    let large = |bytes: usize| {
        HeaderMap::from_iter([(HeaderName::from_static("a"), HeaderValue::from_bytes(&vec![b'v'; bytes]).unwrap())])
    };
    // 13 fixed, 2 for the count, 5 for the header beside its value.
    for (frame_max, fits) in [(FRAME_BYTES_MIN, FRAME_BYTES_MIN - 24), (1 << 20, HEAD_BYTES_MAX - 20)] {
        let encoded = response(large(fits)).encode(0, frame_max).unwrap();
        assert!(encoded.len() <= frame_max);
        assert!(Frame::decode(encoded).is_ok());
        let error = response(large(fits + 1)).encode(0, frame_max).unwrap_err();
        assert!(matches!(error, EncodeError::HeadTooLarge { .. }), "{error}");
    }
    let mut many = HeaderMap::new();
    for _ in 0..HEADERS_MAX {
        many.append("a", HeaderValue::from_static(""));
    }
    assert!(Frame::decode(response(many.clone()).encode(0, FRAME_BYTES_MIN).unwrap()).is_ok());
    many.append("a", HeaderValue::from_static(""));
    assert_eq!(response(many).encode(0, FRAME_BYTES_MIN), Err(EncodeError::TooManyHeaders { count: 257 }));

    let chunk = |bytes| Chunk { bytes: vec![0; bytes].into(), tail: Tail::End };
    let inline = |bytes| Frame::Response { head: Box::new(response_head()), window_bytes: 0, chunk: chunk(bytes) };
    assert!(inline(HTTP_INLINE_BODY_BYTES_MAX).encode(0, 1 << 20).is_ok());
    let error = inline(HTTP_INLINE_BODY_BYTES_MAX + 1).encode(0, 1 << 20);
    assert_eq!(error, Err(EncodeError::InlineTooLarge { bytes: HTTP_INLINE_BODY_BYTES_MAX + 1 }));
    let error = Frame::Data(chunk(FRAME_BYTES_MIN)).encode(0, FRAME_BYTES_MIN);
    assert_eq!(error, Err(EncodeError::FrameTooLarge { bytes: FRAME_BYTES_MIN + 11, limit: FRAME_BYTES_MIN }));
    let trailers = Chunk { bytes: Bytes::new(), tail: Tail::Trailers(large(FRAME_BYTES_MIN)) };
    let error = Frame::Data(trailers).encode(0, FRAME_BYTES_MIN).unwrap_err();
    assert!(matches!(error, EncodeError::TrailersTooLarge { .. }), "{error}");
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let reset = Reset::new(ResetCode::Failed, "ä".repeat(RESET_MESSAGE_BYTES_MAX));
    assert_eq!(reset.message().len(), RESET_MESSAGE_BYTES_MAX);
    assert_eq!(Reset::new(ResetCode::Failed, format!("x{}", "ä".repeat(300))).message().len(), 511);
}

#[test]
fn a_message_can_not_forge_a_line() {
    assert_eq!(Reset::new(ResetCode::Failed, "a\nb\u{1b}[2J\u{85}ä").message(), "a b [2J ä");
    let sent = Bytes::from_static(b"\x01\x05\0\0\0\0\0\x05\0\0\0\0\0\x04a\nb\r");
    let (_, decoded) = Frame::decode(sent).unwrap();
    assert_eq!(decoded, Frame::Reset(Reset::new(ResetCode::Failed, "a b ")));
}

#[test]
fn errors_of_a_call_survive_the_hop() {
    let limit = Duration::from_secs(9);
    for error in [
        CallError::NotHere,
        CallError::Overloaded { retry_after: Duration::from_millis(1500) },
        CallError::Timeout { limit },
    ] {
        assert_eq!(Reset::from(&error).to_call_error(limit), error);
    }
    let failed = Reset::from(&CallError::Failed { message: "trap".into() }).to_call_error(limit);
    assert!(matches!(&failed, CallError::Failed { message } if message.contains("trap")), "{failed}");
    assert!(!failed.nothing_ran());
    // Not even a node that says "not here" is believed to have run nothing, unless it says that too.
    assert!(!Reset::new(ResetCode::NotHere, "").to_call_error(limit).nothing_ran());
    assert!(Reset::new(ResetCode::ShuttingDown, "").with_nothing_ran().to_call_error(limit).nothing_ran());
    let late = Reset::from(&CallError::Body(BodyError::Timeout)).to_body_error();
    assert_eq!(late, BodyError::Timeout);
}

pub(crate) fn headers() -> impl Strategy<Value = HeaderMap> {
    let value = prop::collection::vec(prop_oneof![Just(b'\t'), 0x20..=0x7e_u8, 0x80..=0xff_u8], 0..40);
    prop::collection::vec(("[a-z0-9!#$%&'*+.^_`|~-]{1,12}|a|b", value), 0..12).prop_map(|lines| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(&value).unwrap());
        }
        headers
    })
}

fn chunk() -> impl Strategy<Value = Chunk> {
    let tail = prop_oneof![Just(Tail::More), Just(Tail::End), headers().prop_map(Tail::Trailers)];
    (prop::collection::vec(any::<u8>(), 0..2000), tail).prop_map(|(bytes, tail)| Chunk { bytes: bytes.into(), tail })
}

fn any_request_head() -> impl Strategy<Value = RequestHead> {
    (
        "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        "[A-Za-z!#$]{1,20}",
        "https?|[a-z][a-z0-9+.-]{0,10}",
        "([A-Za-z0-9.-]{1,30}|\\[::1\\])(:[0-9]{1,4})?",
        "\\*|/[a-zA-Z0-9/._~%-]{0,40}(\\?[a-z=&?/]{0,20})?",
        headers(),
    )
        .prop_map(|(workload, method, scheme, authority, path, headers)| RequestHead {
            workload: WorkloadName::new(workload).unwrap(),
            method: Method::from_bytes(method.as_bytes()).unwrap(),
            scheme: scheme.parse().unwrap(),
            authority: authority.parse().unwrap(),
            path_and_query: path.parse().unwrap(),
            headers: Arc::new(headers),
        })
}

fn reset() -> impl Strategy<Value = Reset> {
    (1..=10_u8, any::<u32>(), any::<bool>(), ".{0,80}").prop_map(|(code, retry, nothing_ran, message)| {
        let code = ResetCode::from_wire(code, if code == 3 { retry } else { 0 }).unwrap();
        let reset = Reset::new(code, message);
        if nothing_ran { reset.with_nothing_ran() } else { reset }
    })
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (any_request_head(), any::<u32>(), any::<u32>(), chunk()).prop_map(|(head, ms, window_bytes, chunk)| {
            Frame::Request { head: Box::new(head), remaining_ms: NonZeroU32::new(ms), window_bytes, chunk }
        }),
        (100..=999_u16, headers(), any::<u32>(), chunk()).prop_map(|(status, headers, window_bytes, chunk)| {
            let head = ResponseHead { status: StatusCode::from_u16(status).unwrap(), headers };
            Frame::Response { head: Box::new(head), window_bytes, chunk }
        }),
        chunk()
            .prop_filter("data has bytes or an end", |chunk| !chunk.bytes.is_empty() || chunk.tail != Tail::More)
            .prop_map(Frame::Data),
        (1..=u32::MAX).prop_map(|bytes| Frame::Credit { bytes: NonZeroU32::new(bytes).unwrap() }),
        reset().prop_map(Frame::Reset),
        Just(Frame::Ping),
    ]
}

proptest! {
    #[test]
    fn a_frame_round_trips(frame in frame(), sequence: u32) {
        let encoded = frame.encode(sequence, 1 << 20).unwrap();
        prop_assert_eq!(frame.encode(sequence, encoded.len().max(FRAME_BYTES_MIN)).unwrap(), encoded.clone());
        let (decoded_sequence, decoded) = Frame::decode(encoded).unwrap();
        prop_assert_eq!(decoded_sequence, sequence);
        if let (Frame::Request { head, .. }, Frame::Request { head: decoded, .. }) = (&frame, &decoded) {
            // `Authority` and repeated headers compare loosely; the wire must not.
            prop_assert_eq!(head.authority.as_str(), decoded.authority.as_str());
            let lines = |head: &RequestHead| {
                head.headers.iter().map(|(n, v)| (n.clone(), v.clone())).collect::<Vec<_>>()
            };
            prop_assert_eq!(lines(head), lines(decoded));
        }
        prop_assert_eq!(decoded, frame);
    }

    #[test]
    fn any_bytes_decode_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Frame::decode(bytes.into());
    }

    #[test]
    fn a_damaged_frame_is_refused_or_means_something(
        frame in frame(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = frame.encode(0, 1 << 20).unwrap().to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len().min(200));
            bytes[at] = byte;
        }
        if let Ok((sequence, decoded)) = Frame::decode(bytes.into()) {
            let again = decoded.encode(sequence, 1 << 20).unwrap();
            prop_assert_eq!(Frame::decode(again), Ok((sequence, decoded)));
        }
    }
}
