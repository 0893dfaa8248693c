//! Each rule of the protocol for itself; `any.rs` has whole exchanges, with any bodies over a bus that may break.

mod any;

use super::*;
use crate::frame::tests::{request_head, response_head};
use std::sync::Arc;

const T0: Duration = Duration::from_secs(100);
const MIB: usize = 1 << 20;

fn config() -> Config {
    Config::new(MIB).unwrap()
}

fn requester() -> Exchange<Requester> {
    Exchange::request(T0, config(), request_head(), None).unwrap()
}

fn open(message: Bytes) -> Exchange<Responder> {
    match Exchange::accept(T0, config(), message) {
        Opened::Exchange(exchange, head) => {
            assert_eq!(*head, request_head());
            *exchange
        }
        other => panic!("not opened: {other:?}"),
    }
}

/// Both sides of an exchange whose request has arrived, its body still open.
fn pair() -> (Exchange<Requester>, Exchange<Responder>) {
    let mut router = requester();
    let head = router.poll_transmit(T0).unwrap();
    (router, open(head))
}

fn transmit<Role>(exchange: &mut Exchange<Role>) -> Vec<Frame> {
    std::iter::from_fn(|| exchange.poll_transmit(T0)).map(|message| Frame::decode(message).unwrap().1).collect()
}

fn carry<A, B>(from: &mut Exchange<A>, to: &mut Exchange<B>) {
    while let Some(message) = from.poll_transmit(T0) {
        to.on_frame(T0, message);
    }
}

fn events<Role>(exchange: &mut Exchange<Role>) -> Vec<Event> {
    std::iter::from_fn(|| exchange.poll_event()).collect()
}

fn data(bytes: usize) -> Frame {
    Frame::Data(Chunk { bytes: vec![0; bytes].into(), tail: Tail::More })
}

fn reset_event<Role>(exchange: &mut Exchange<Role>) -> Reset {
    match events(exchange).as_slice() {
        [Event::Reset(reset)] => reset.clone(),
        other => panic!("not one reset: {other:?}"),
    }
}

#[test]
fn a_small_exchange_is_two_messages() {
    let mut router = requester();
    router.send(&mut "question".into());
    router.end(None).unwrap();
    let request = router.poll_transmit(T0).unwrap();
    assert_eq!(router.poll_transmit(T0), None);

    let mut node = open(request);
    node.accept_body();
    assert_eq!(node.poll_transmit(T0), None, "the body is complete: no credit");
    assert_eq!(events(&mut node), [Event::Data("question".into()), Event::End(None)]);
    node.respond(response_head()).unwrap();
    node.send(&mut "answer".into());
    node.end(Some(response_head().headers)).unwrap();
    let response = node.poll_transmit(T0).unwrap();
    assert!(node.is_closed() && node.poll_transmit(T0).is_none());

    router.on_frame(T0, response);
    let head = Event::Response(Box::new(response_head()));
    let expect = [head, Event::Data("answer".into()), Event::End(Some(response_head().headers))];
    assert_eq!(events(&mut router), expect);
    assert!(router.is_closed() && router.poll_transmit(T0).is_none());
}

#[test]
fn sixty_four_kib_fit_beside_either_head() {
    let mut body = Bytes::from(vec![7; HTTP_INLINE_BODY_BYTES_MAX]);
    let mut router = requester();
    router.send(&mut body.clone());
    router.end(None).unwrap();
    let mut node = open(router.poll_transmit(T0).unwrap());
    node.respond(response_head()).unwrap();
    node.send(&mut body);
    assert!(body.is_empty());
    node.end(None).unwrap();
    carry(&mut node, &mut router);
    assert_eq!(events(&mut router).len(), 3);
    assert!(router.is_closed());
}

#[test]
fn a_request_body_waits_for_leave() {
    let mut router = requester();
    let mut body = Bytes::from(vec![7; 4 * MIB]);
    router.send(&mut body);
    assert_eq!(body.len(), 4 * MIB - HTTP_INLINE_BODY_BYTES_MAX);
    let mut node = open(router.poll_transmit(T0).unwrap());
    assert_eq!((router.capacity_to_send(), router.poll_transmit(T0)), (0, None));
    carry(&mut node, &mut router);
    assert_eq!(router.capacity_to_send(), 0, "the node did not accept the body yet");

    node.accept_body();
    carry(&mut node, &mut router);
    // A window, less the chunk that nobody consumed yet; never more than the send queue at once.
    let mut sent = 0;
    while router.capacity_to_send() > 0 {
        assert!(router.capacity_to_send() <= SEND_QUEUE_BYTES_MAX);
        let before = body.len();
        router.send(&mut body);
        sent += before - body.len();
        carry(&mut router, &mut node);
    }
    assert_eq!(sent, HTTP_WINDOW_BYTES as usize - HTTP_INLINE_BODY_BYTES_MAX);

    // Credit comes after half a window, not before.
    let half = HTTP_WINDOW_BYTES as usize / 2;
    let mut got: usize = 0;
    while let Some(Event::Data(bytes)) = node.poll_event() {
        got += bytes.len();
    }
    assert_eq!(got, HTTP_WINDOW_BYTES as usize);
    let expect = [Frame::Credit { bytes: NonZeroU32::new(HTTP_WINDOW_BYTES / 2).unwrap() }];
    for _ in 0..2 {
        node.consumed(half - 1);
        assert_eq!(node.poll_transmit(T0), None);
        node.consumed(1);
        assert_eq!(transmit(&mut node), expect);
    }
    node.consumed(MIB);
    assert_eq!(node.poll_transmit(T0), None, "nobody has more than was handed out");
    assert!(!node.is_closed());
}

#[test]
fn an_overrun_resets() {
    let (mut router, mut node) = pair();
    node.on_frame(T0, data(1).encode(1, MIB).unwrap());
    assert_eq!(reset_event(&mut node).code, ResetCode::ProtocolError);
    let sent = transmit(&mut node);
    assert!(matches!(&sent[..], [Frame::Reset(reset)] if reset.code == ResetCode::ProtocolError), "{sent:?}");

    let response = Frame::Response {
        head: Box::new(response_head()),
        window_bytes: 0,
        chunk: Chunk { bytes: vec![0; HTTP_INLINE_BODY_BYTES_MAX].into(), tail: Tail::More },
    };
    router.on_frame(T0, response.encode(0, MIB).unwrap());
    let window = HTTP_WINDOW_BYTES as usize;
    router.on_frame(T0, data(window - HTTP_INLINE_BODY_BYTES_MAX).encode(1, MIB).unwrap());
    assert!(!router.is_closed());
    router.on_frame(T0, data(1).encode(2, MIB).unwrap());
    assert_eq!(reset_event(&mut router).code, ResetCode::ProtocolError);
}

#[test]
fn too_much_credit_resets() {
    let (mut router, _node) = pair();
    for sequence in 0..2 {
        assert!(!router.is_closed());
        let credit = Frame::Credit { bytes: NonZeroU32::new(GRANT_BYTES_MAX).unwrap() };
        router.on_frame(T0, credit.encode(sequence, MIB).unwrap());
    }
    assert_eq!(reset_event(&mut router).code, ResetCode::ProtocolError);
}

#[test]
fn frames_out_of_place_reset() {
    let response = |tail| Frame::Response {
        head: Box::new(response_head()),
        window_bytes: 0,
        chunk: Chunk { bytes: Bytes::new(), tail },
    };
    let request = Frame::Request {
        head: Box::new(request_head()),
        remaining_ms: None,
        window_bytes: 9,
        chunk: Chunk { bytes: Bytes::new(), tail: Tail::End },
    };
    let check_router = |frames: &[&Frame]| {
        let (mut router, _) = pair();
        for (sequence, frame) in frames.iter().enumerate() {
            assert!(!router.is_closed());
            router.on_frame(T0, frame.encode(sequence as u32, MIB).unwrap());
        }
        assert_eq!(reset_event(&mut router).code, ResetCode::ProtocolError, "{frames:?}");
    };
    check_router(&[&data(1)]);
    check_router(&[&request]);
    check_router(&[&response(Tail::More), &response(Tail::More)]);
    let check_node = |frame: &Frame| {
        let mut node = open(request.encode(0, MIB).unwrap());
        node.on_frame(T0, frame.encode(1, MIB).unwrap());
        assert_eq!(reset_event(&mut node).code, ResetCode::ProtocolError, "{frame:?}");
    };
    check_node(&data(1));
    check_node(&request);
    check_node(&response(Tail::End));
    check_node(&Frame::Data(Chunk { bytes: Bytes::new(), tail: Tail::End }));
    let (_, mut node) = pair();
    node.on_frame(T0, Bytes::from_static(b"garbage"));
    assert_eq!(reset_event(&mut node).code, ResetCode::ProtocolError);
}

#[test]
fn a_cancelled_exchange_sends_one_reset_and_nothing_more() {
    let cancelled = || Reset::new(ResetCode::Cancelled, "client left");
    let (mut router, mut node) = pair();
    node.respond(response_head()).unwrap();
    router.reset(cancelled());
    router.reset(cancelled());
    let message = router.poll_transmit(T0).unwrap();
    assert_eq!(Frame::decode(message.clone()).unwrap().1, Frame::Reset(cancelled()));
    node.on_frame(T0, message.clone());
    node.on_frame(T0, message);
    assert_eq!(reset_event(&mut node), cancelled());
    node.reset(cancelled());
    node.end(None).unwrap();
    router.on_frame(T0, data(1).encode(0, MIB).unwrap());
    for transmitted in [transmit(&mut router), transmit(&mut node)] {
        assert_eq!(transmitted, []);
    }
    router.on_time(T0 + 2 * IDLE_LIMIT);
    assert_eq!((router.next_time(), router.poll_event(), node.poll_event()), (None, None, None));

    // Both at once: each sends one, none answers.
    let (mut router, mut node) = pair();
    router.reset(cancelled());
    node.reset(cancelled());
    let (from_router, from_node) = (router.poll_transmit(T0).unwrap(), node.poll_transmit(T0).unwrap());
    router.on_frame(T0, from_node);
    node.on_frame(T0, from_router);
    assert_eq!((transmit(&mut router), transmit(&mut node)), (vec![], vec![]));

    let mut never_sent = requester();
    never_sent.reset(cancelled());
    assert_eq!(transmit(&mut never_sent), [], "the node has not heard of it");
}

#[test]
fn nothing_ran_is_believed_only_before_the_answer() {
    let refusal = || Reset::new(ResetCode::Overloaded { retry_after_ms: 1 }, "").with_nothing_ran();
    let (mut router, mut node) = pair();
    node.reset(refusal());
    carry(&mut node, &mut router);
    assert_eq!(reset_event(&mut router), refusal());

    let (mut router, mut node) = pair();
    node.respond(response_head()).unwrap();
    carry(&mut node, &mut router);
    assert_eq!(events(&mut router).len(), 1);
    node.reset(refusal());
    carry(&mut node, &mut router);
    assert!(!reset_event(&mut router).nothing_ran);
}

#[test]
fn no_responders_prove_that_nothing_ran_only_for_the_head() {
    let (mut router, _) = pair();
    router.on_no_responders();
    let reset = reset_event(&mut router);
    assert_eq!((reset.code, reset.nothing_ran), (ResetCode::NotHere, true));
    assert_eq!(transmit(&mut router), []);

    let (mut router, _) = pair();
    router.on_time(T0 + PING_AFTER);
    assert_eq!(transmit(&mut router), [Frame::Ping]);
    router.on_no_responders();
    let reset = reset_event(&mut router);
    assert_eq!((reset.code, reset.nothing_ran), (ResetCode::Idle, false));
}

#[test]
fn an_early_response_ends_the_request() {
    let (mut router, mut node) = pair();
    node.accept_body();
    carry(&mut node, &mut router);
    router.send(&mut Bytes::from(vec![0; 1000]));
    let late = router.poll_transmit(T0).unwrap();
    router.send(&mut Bytes::from(vec![0; 1000]));
    node.respond(response_head()).unwrap();
    node.end(None).unwrap();
    carry(&mut node, &mut router);
    assert_eq!(events(&mut router), [Event::Response(Box::new(response_head())), Event::End(None)]);
    assert!(router.is_closed() && node.is_closed());
    assert_eq!((router.capacity_to_send(), transmit(&mut router)), (0, vec![]));
    assert!(matches!(Exchange::accept(T0, config(), late.clone()), Opened::Ignored));
    node.on_frame(T0, late);
    assert_eq!((events(&mut node), transmit(&mut node)), (vec![], vec![]));
}

#[test]
fn a_deadline_travels_as_remaining_time() {
    let deadline = Some(T0 + Duration::from_millis(2500));
    let mut router = Exchange::request(T0, config(), request_head(), deadline).unwrap();
    let sent_at = T0 + Duration::from_millis(500);
    let message = router.poll_transmit(sent_at).unwrap();
    let node_clock = Duration::from_secs(7);
    let Opened::Exchange(mut node, _) = Exchange::accept(node_clock, config(), message) else { panic!("refused") };
    assert_eq!(node.deadline(), Some(node_clock + Duration::from_secs(2)));
    assert_eq!(node.next_time(), node.deadline());
    node.on_time(node_clock + Duration::from_millis(1999));
    assert!(!node.is_closed());
    node.on_time(node_clock + Duration::from_secs(2));
    assert_eq!(reset_event(&mut node).code, ResetCode::Timeout);
    carry(&mut node, &mut router);
    assert_eq!(reset_event(&mut router).code, ResetCode::Timeout);

    let mut router = Exchange::request(T0, config(), request_head(), Some(T0)).unwrap();
    let Ok((_, Frame::Request { remaining_ms, .. })) = Frame::decode(router.poll_transmit(T0).unwrap()) else {
        panic!("request")
    };
    assert_eq!(remaining_ms, NonZeroU32::new(1), "passed already is not none");
}

#[test]
fn silence_is_broken_by_pings_and_ends_the_exchange() {
    let (mut router, mut node) = pair();
    assert_eq!(router.next_time(), Some(T0 + PING_AFTER));
    let mut now = T0;
    for _ in 0..10 {
        now += PING_AFTER;
        node.on_time(now);
        router.on_time(now);
        let (ping, pong) = (router.poll_transmit(now).unwrap(), node.poll_transmit(now).unwrap());
        assert_eq!((router.poll_transmit(now), node.poll_transmit(now)), (None, None));
        node.on_frame(now, ping);
        router.on_frame(now, pong);
    }
    // Now the node falls silent.
    let mut resets = 0;
    while let Some(due) = router.next_time() {
        assert!(due > now, "time stands still");
        now = due;
        router.on_time(now);
        while let Some(message) = router.poll_transmit(now) {
            resets += usize::from(matches!(Frame::decode(message), Ok((_, Frame::Reset(_)))));
        }
    }
    assert_eq!((now, resets), (T0 + 10 * PING_AFTER + IDLE_LIMIT, 1));
    assert_eq!(reset_event(&mut router).code, ResetCode::Idle);
}

#[test]
fn what_a_node_does_not_know_is_answered_or_ignored() {
    let check = |message: Bytes, expect: Option<(ResetCode, bool)>| {
        let opened = Exchange::accept(T0, config(), message);
        let reply = match &opened {
            Opened::Refused(reply) => match Frame::decode(reply.clone()).unwrap() {
                (0, Frame::Reset(reset)) => Some((reset.code, reset.nothing_ran)),
                other => panic!("{other:?}"),
            },
            Opened::Ignored => None,
            Opened::Exchange(..) => panic!("opened"),
        };
        assert_eq!(reply, expect);
    };
    check(Frame::Ping.encode(3, MIB).unwrap(), Some((ResetCode::SequenceGap, false)));
    check(data(1).encode(3, MIB).unwrap(), None);
    check(Frame::Credit { bytes: NonZeroU32::MIN }.encode(3, MIB).unwrap(), None);
    check(Frame::Reset(Reset::new(ResetCode::Cancelled, "")).encode(3, MIB).unwrap(), None);
    check(Bytes::from_static(b"\x02\x01"), Some((ResetCode::ProtocolError, true)));
    check(Bytes::from_static(b"\x01\x01\0\0\0\0\0\0"), Some((ResetCode::ProtocolError, true)));
    check(Bytes::from_static(b"\x01\x01\0\0\0\0\x01\0"), None);
    check(Bytes::new(), None);
}

#[test]
fn what_does_not_fit_is_an_error_and_no_frame() {
    assert_eq!(Config::new(FRAME_BYTES_MIN - 1).unwrap_err(), PayloadLimitTooSmall(FRAME_BYTES_MIN - 1));
    let small = || Config::new(FRAME_BYTES_MIN).unwrap();
    let mut large = HeaderMap::new();
    large.insert("a", vec![b'v'; FRAME_BYTES_MIN].try_into().unwrap());
    let head = RequestHead { headers: Arc::new(large.clone()), ..request_head() };
    let error = Exchange::request(T0, small(), head, None).unwrap_err();
    assert!(matches!(error, EncodeError::HeadTooLarge { .. }), "{error}");

    let mut router = Exchange::request(T0, small(), request_head(), None).unwrap();
    let Opened::Exchange(mut node, _) = Exchange::accept(T0, small(), router.poll_transmit(T0).unwrap()) else {
        panic!("refused")
    };
    assert!(node.respond(ResponseHead { headers: large.clone(), ..response_head() }).is_err());
    assert!(!node.is_closed(), "there is still room for another answer");
    node.respond(response_head()).unwrap();
    assert!(matches!(node.end(Some(large)), Err(EncodeError::TrailersTooLarge { .. })));
    node.end(None).unwrap();
    carry(&mut node, &mut router);
    assert_eq!(events(&mut router).len(), 2);
}

#[test]
fn single_bytes_do_not_cost_a_buffer_each() {
    let (mut router, mut node) = pair();
    node.accept_body();
    carry(&mut node, &mut router);
    for sequence in 1..=10_000 {
        node.on_frame(T0, data(1).encode(sequence, MIB).unwrap());
    }
    let pieces: Vec<usize> = events(&mut node)
        .iter()
        .map(|event| match event {
            Event::Data(bytes) => bytes.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(pieces, [1, 9_999]);
}

#[test]
fn joined_bytes_keep_their_place() {
    let (mut router, mut node) = pair();
    node.accept_body();
    carry(&mut node, &mut router);
    let mut body = Vec::new();
    for (sequence, size) in [(1, 3), (2, 5), (3, SMALL_CHUNK_BYTES), (4, 2), (5, 4)] {
        let bytes = vec![sequence as u8; size];
        body.extend_from_slice(&bytes);
        let frame = Frame::Data(Chunk { bytes: bytes.into(), tail: Tail::More });
        node.on_frame(T0, frame.encode(sequence, MIB).unwrap());
    }
    let got: Vec<Bytes> = std::iter::from_fn(|| node.receiving.pop()).collect();
    assert_eq!(got.concat(), body);
}

#[test]
fn the_end_of_a_request_waits_for_the_node_too() {
    let (mut router, mut node) = pair();
    router.end(None).unwrap();
    assert_eq!(router.poll_transmit(T0), None, "no responders would prove nothing any more");
    node.accept_body();
    carry(&mut node, &mut router);
    carry(&mut router, &mut node);
    assert_eq!(events(&mut node), [Event::End(None)]);
}

#[test]
fn large_trailers_travel_behind_the_last_bytes() {
    let config = || Config::new(FRAME_BYTES_MIN).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("a", vec![b'v'; FRAME_BYTES_MIN - 100].try_into().unwrap());
    let mut router = Exchange::request(T0, config(), request_head(), None).unwrap();
    router.send(&mut Bytes::from_static(&[7; 200]));
    router.end(Some(trailers.clone())).unwrap();
    let message = router.poll_transmit(T0).unwrap();
    let Opened::Exchange(mut node, _) = Exchange::accept(T0, config(), message) else { panic!("refused") };
    node.accept_body();
    carry(&mut node, &mut router);
    carry(&mut router, &mut node);
    assert_eq!(events(&mut node), [Event::Data(vec![7; 200].into()), Event::End(Some(trailers.clone()))]);

    node.respond(response_head()).unwrap();
    carry(&mut node, &mut router);
    node.send(&mut Bytes::from_static(&[7; 200]));
    node.end(Some(trailers.clone())).unwrap();
    let sent = transmit(&mut node);
    let data = Frame::Data(Chunk { bytes: vec![7; 200].into(), tail: Tail::More });
    assert_eq!(sent, [data, Frame::Data(Chunk { bytes: Bytes::new(), tail: Tail::Trailers(trailers) })]);
}

#[test]
fn silence_counts_from_the_request() {
    let mut router = requester();
    router.on_time(T0 + 2 * IDLE_LIMIT);
    assert_eq!((router.is_closed(), router.next_time()), (false, None), "nothing was sent yet");
    let sent_at = T0 + 2 * IDLE_LIMIT;
    assert!(router.poll_transmit(sent_at).is_some());
    router.on_time(sent_at + IDLE_LIMIT - Duration::from_millis(1));
    assert!(!router.is_closed());
    router.on_time(sent_at + IDLE_LIMIT);
    assert!(router.is_closed());
}

#[test]
fn small_writes_share_a_frame() {
    let (mut router, mut node) = pair();
    node.respond(response_head()).unwrap();
    carry(&mut node, &mut router);
    for _ in 0..100 {
        node.send(&mut "event".into());
    }
    node.end(None).unwrap();
    let bytes = "event".repeat(100).into();
    assert_eq!(transmit(&mut node), [Frame::Data(Chunk { bytes, tail: Tail::End })]);
}
