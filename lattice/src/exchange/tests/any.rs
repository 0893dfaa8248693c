//! The two machines over a bus that keeps order, or breaks it once: any bodies, windows and orders of steps.

use super::{MIB, T0};
use crate::{
    exchange::*,
    frame::tests::{headers, request_head, response_head},
};
use proptest::prelude::*;
use std::collections::VecDeque;

#[derive(Debug, Clone)]
struct Script {
    frame_bytes_max: usize,
    windows: [u32; 2],
    bodies: [Vec<usize>; 2],
    trailers: [Option<HeaderMap>; 2],
    /// The node ends its response only once it has the whole request.
    reads_all: bool,
    steps: Vec<(u8, u16)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Drop,
    Repeat,
    Swap,
}

/// What one side's owner knows.
#[derive(Default)]
struct Side {
    to_send: VecDeque<Bytes>,
    sent_end: bool,
    head: Option<ResponseHead>,
    got: Vec<u8>,
    got_end: Option<Option<HeaderMap>>,
    reset: Option<Reset>,
    unconsumed: usize,
    resets_out: usize,
    frames_out: usize,
}

impl Side {
    fn new(sizes: &[usize], salt: u8) -> (Self, Vec<u8>) {
        let body: Vec<u8> = (0..sizes.iter().sum::<usize>()).map(|i| (i * 31 + i / 256) as u8 ^ salt).collect();
        let mut rest = Bytes::from(body.clone());
        let to_send = sizes.iter().map(|&size| rest.split_to(size)).collect();
        (Self { to_send, ..Self::default() }, body)
    }

    fn send<Role>(&mut self, exchange: &mut Exchange<Role>, may_end: bool, trailers: &Option<HeaderMap>) -> bool {
        if let Some(chunk) = self.to_send.front_mut() {
            let before = chunk.len();
            exchange.send(chunk);
            let progress = chunk.len() < before;
            if chunk.is_empty() {
                self.to_send.pop_front();
                return true;
            }
            return progress;
        }
        if self.sent_end || !may_end {
            return false;
        }
        exchange.end(trailers.clone()).unwrap();
        self.sent_end = true;
        true
    }

    fn poll<Role>(&mut self, exchange: &mut Exchange<Role>) -> bool {
        match exchange.poll_event() {
            None => return false,
            Some(Event::Response(head)) => assert!(self.head.replace(*head).is_none()),
            Some(Event::Data(bytes)) => {
                assert!(self.got_end.is_none() && self.reset.is_none());
                self.unconsumed += bytes.len();
                self.got.extend_from_slice(&bytes);
            }
            Some(Event::End(trailers)) => assert!(self.got_end.replace(trailers).is_none()),
            Some(Event::Reset(reset)) => assert!(self.reset.replace(reset).is_none()),
        }
        true
    }

    fn consume<Role>(&mut self, exchange: &mut Exchange<Role>, bytes: usize) -> bool {
        let bytes = bytes.min(self.unconsumed);
        self.unconsumed -= bytes;
        exchange.consumed(bytes);
        bytes > 0
    }

    fn transmit<Role>(&mut self, now: Duration, exchange: &mut Exchange<Role>, bus: &mut Bus) -> bool {
        let Some(message) = exchange.poll_transmit(now) else { return false };
        assert_eq!(self.resets_out, 0, "something after a reset");
        let (sequence, frame) = Frame::decode(message.clone()).unwrap();
        assert_eq!(sequence as usize, self.frames_out);
        self.frames_out += 1;
        self.resets_out += usize::from(matches!(frame, Frame::Reset(_)));
        bus.push(message);
        true
    }
}

/// One direction.
#[derive(Default)]
struct Bus {
    queue: VecDeque<Bytes>,
    pushed: usize,
    fault: Option<(usize, Fault)>,
    swapped: Option<Bytes>,
}

impl Bus {
    fn push(&mut self, message: Bytes) {
        let fault = self.fault.filter(|(at, _)| *at == self.pushed).map(|(_, fault)| fault);
        self.pushed += 1;
        match fault {
            Some(Fault::Drop) => {}
            Some(Fault::Repeat) => self.queue.extend([message.clone(), message]),
            Some(Fault::Swap) => self.swapped = Some(message),
            None => {
                self.queue.push_back(message);
                self.queue.extend(self.swapped.take());
            }
        }
    }
}

struct World {
    now: Duration,
    script: Script,
    node_config: Config,
    router: Exchange<Requester>,
    node: Option<Exchange<Responder>>,
    sides: [Side; 2],
    buses: [Bus; 2],
}

impl World {
    fn step(&mut self, what: u8, amount: u16) -> bool {
        let [router_side, node_side] = &mut self.sides;
        let [to_node, to_router] = &mut self.buses;
        let [request_trailers, response_trailers] = &self.script.trailers;
        match (what % 10, &mut self.node) {
            (0, _) => router_side.send(&mut self.router, true, request_trailers),
            (1, _) => router_side.poll(&mut self.router),
            (2, _) => router_side.consume(&mut self.router, amount.into()),
            (3, _) => router_side.transmit(self.now, &mut self.router, to_node),
            (4, _) => match to_router.queue.pop_front() {
                None => false,
                Some(message) => {
                    self.router.on_frame(self.now, message);
                    assert!(self.router.receiving.held <= self.script.windows[0] as usize);
                    true
                }
            },
            (5, node) => {
                let Some(message) = to_node.queue.pop_front() else { return false };
                match node {
                    Some(node) if !node.is_closed() => {
                        node.on_frame(self.now, message);
                        let bound = (self.script.windows[1] as usize).max(HTTP_INLINE_BODY_BYTES_MAX);
                        assert!(node.receiving.held <= bound);
                    }
                    // Over here, and forgotten.
                    _ => match Exchange::accept(self.now, self.node_config.clone(), message) {
                        Opened::Exchange(mut exchange, head) => {
                            assert_eq!(*head, request_head());
                            exchange.accept_body();
                            // A repeated head must not overwrite the exchange that it was a copy of: the bus does
                            // not repeat messages of exchanges that are over.
                            if node.is_none() {
                                *node = Some(*exchange);
                            }
                        }
                        Opened::Refused(reply) => to_router.push(reply),
                        Opened::Ignored => {}
                    },
                }
                true
            }
            (_, None) => false,
            (6, Some(node)) => {
                node.respond(response_head()).unwrap();
                let may_end = !self.script.reads_all || node_side.got_end.is_some();
                node_side.send(node, may_end, response_trailers)
            }
            (7, Some(node)) => node_side.poll(node),
            (8, Some(node)) => node_side.consume(node, amount.into()),
            (_, Some(node)) => node_side.transmit(self.now, node, to_router),
        }
    }

    /// Run the script's steps, then all steps in turn until nothing moves, then let time pass, until both are closed.
    fn run(script: Script, fault: Option<(usize, usize, Fault)>) -> (Self, [Vec<u8>; 2]) {
        let (router_side, request_body) = Side::new(&script.bodies[0], 0);
        let (node_side, response_body) = Side::new(&script.bodies[1], 0x55);
        let config = Config::new(script.frame_bytes_max).unwrap();
        let node_config = config.clone().window_bytes(script.windows[1]);
        let router_config = config.window_bytes(script.windows[0]);
        let mut world = World {
            now: T0,
            router: Exchange::request(T0, router_config, request_head(), None).unwrap(),
            node: None,
            node_config,
            sides: [router_side, node_side],
            buses: Default::default(),
            script,
        };
        if let Some((direction, at, fault)) = fault {
            world.buses[direction].fault = Some((at, fault));
        }
        for (what, amount) in world.script.steps.clone() {
            world.step(what, amount);
        }
        for _ in 0..60 {
            while (0..10).filter(|&what| world.step(what, u16::MAX)).count() > 0 {}
            if world.router.is_closed() && world.node.as_ref().is_none_or(Exchange::is_closed) {
                return (world, [request_body, response_body]);
            }
            world.now += Duration::from_secs(1);
            world.router.on_time(world.now);
            world.node.iter_mut().for_each(|node| node.on_time(world.now));
        }
        panic!("still open after a minute");
    }

    fn check(&self, bodies: &[Vec<u8>; 2], faulty: bool) {
        let [router, node] = &self.sides;
        let [request_body, response_body] = bodies;
        let [request_trailers, response_trailers] = &self.script.trailers;
        assert!(request_body.starts_with(&node.got), "a wrong request body");
        assert!(response_body.starts_with(&router.got), "a wrong response body");
        if let Some(trailers) = &node.got_end {
            assert_eq!((&node.got, trailers), (request_body, request_trailers));
        }
        if let Some(trailers) = &router.got_end {
            assert_eq!((&router.got, trailers), (response_body, response_trailers));
            assert_eq!(router.head, Some(response_head()));
        }
        assert_ne!(router.got_end.is_some(), router.reset.is_some(), "neither an answer nor an error, or both");
        if !faulty {
            assert_eq!((&router.reset, &node.reset), (&None, &None));
            assert!(node.got_end.is_some() || !self.script.reads_all);
            assert_eq!(self.now, T0, "nothing waits for a timer");
        }
        if router.reset.as_ref().is_some_and(|reset| reset.nothing_ran) {
            assert!(self.node.is_none());
        }
    }
}

fn script() -> impl Strategy<Value = Script> {
    let window = || prop_oneof![Just(1_u32), Just(7), Just(1000), Just(20_000), Just(HTTP_WINDOW_BYTES)];
    let frame = prop_oneof![Just(FRAME_BYTES_MIN), Just(10_000), Just(MIB)];
    let trailers = || prop::option::of(headers());
    ((window(), window()), frame, any::<bool>(), (trailers(), trailers())).prop_flat_map(
        |((to_router, to_node), frame_bytes_max, reads_all, (request_trailers, response_trailers))| {
            // Small windows get small bodies, or a case takes a hundred thousand frames.
            let sizes = |window: u32| prop::collection::vec(0..(window as usize * 40).min(30_000), 0..8);
            let steps = prop::collection::vec((any::<u8>(), any::<u16>()), 0..400);
            (sizes(to_node), sizes(to_router), steps).prop_map(move |(request, response, steps)| Script {
                frame_bytes_max,
                windows: [to_router, to_node],
                bodies: [request, response],
                trailers: [request_trailers.clone(), response_trailers.clone()],
                reads_all,
                steps,
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bodies_arrive_as_they_were_sent(script in script()) {
        let (world, bodies) = World::run(script, None);
        world.check(&bodies, false);
    }

    #[test]
    fn a_broken_bus_never_makes_a_wrong_body(
        script in script(),
        direction in 0..2_usize,
        at in any::<prop::sample::Index>(),
        fault in prop_oneof![Just(Fault::Drop), Just(Fault::Repeat), Just(Fault::Swap)],
    ) {
        let (sound, _) = World::run(script.clone(), None);
        let at = at.index(sound.buses[direction].pushed);
        let (world, bodies) = World::run(script, Some((direction, at, fault)));
        world.check(&bodies, true);
    }
}

#[test]
fn every_single_fault_of_one_exchange_is_seen() {
    let script = Script {
        frame_bytes_max: FRAME_BYTES_MIN,
        windows: [20_000, 20_000],
        bodies: [vec![50_000], vec![50_000]],
        trailers: [None, Some(response_head().headers)],
        reads_all: true,
        steps: Vec::new(),
    };
    let (sound, _) = World::run(script.clone(), None);
    let mut resets = 0;
    for direction in 0..2 {
        for at in 0..sound.buses[direction].pushed {
            for fault in [Fault::Drop, Fault::Repeat, Fault::Swap] {
                let (world, bodies) = World::run(script.clone(), Some((direction, at, fault)));
                world.check(&bodies, true);
                let reset = world.sides.iter().any(|side| side.reset.is_some());
                // The last frame of the response may be repeated: the exchange is over by then.
                let over = direction == 1 && at + 1 == sound.buses[1].pushed && fault == Fault::Repeat;
                assert_eq!(reset, !over, "direction {direction}, frame {at}, {fault:?}");
                resets += usize::from(reset);
            }
        }
    }
    assert!(resets > 40, "{resets}");
}
