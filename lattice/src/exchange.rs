//! One HTTP exchange between two nodes, as two state machines without IO: [`Exchange<Requester>`] in the router that took
//! the request, [`Exchange<Responder>`] on the node whose instance answers. They decide what each frame means, what is
//! sent next, how much may be under way, and when the exchange is over. They do no IO, read no clock and start no timer:
//! the owner passes the time in, as a [`Duration`] since any fixed point of one monotonic clock.
//!
//! How to drive one: pass in each message of the peer ([`Exchange::on_frame`]), body bytes as far as
//! [`Exchange::capacity_to_send`] goes ([`Exchange::send`], [`Exchange::end`]), and the time
//! ([`Exchange::on_time`] at [`Exchange::next_time`]). After each of these drain [`Exchange::poll_transmit`] into the bus
//! and [`Exchange::poll_event`] into the reader, and report what the reader took ([`Exchange::consumed`]). Let go of it
//! when [`Exchange::is_closed`] and both drains are empty.
//!
//! What holds, whatever the peer or the bus does:
//! - a body is delivered as it was sent, or ends in [`Event::Reset`]; never cut, never with bytes missing;
//! - at most a window of received body and [`SEND_QUEUE_BYTES_MAX`] of unsent body are held;
//! - at most one reset is sent, and nothing after it; whatever comes after the end is ignored;
//! - an exchange that the peer forgot ends within the idle limit.

use crate::frame::{
    self, CHUNK_LENGTH_BYTES, Chunk, EncodeError, FRAME_BYTES_MIN, FRAME_HEADER_BYTES, Frame,
    HTTP_INLINE_BODY_BYTES_MAX, RequestHead, Reset, ResetCode, ResponseHead, Tail,
};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use std::{collections::VecDeque, marker::PhantomData, num::NonZeroU32, time::Duration};

/// Most body bytes in one data frame.
pub const HTTP_CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Body bytes that a receiver has room for, by default.
pub const HTTP_WINDOW_BYTES: u32 = 1024 * 1024;
/// Most body bytes that wait for [`Exchange::poll_transmit`].
pub const SEND_QUEUE_BYTES_MAX: usize = 4 * HTTP_CHUNK_BYTES_MAX;
/// A side that sent nothing for so long sends a ping.
pub const PING_AFTER: Duration = Duration::from_secs(5);
/// A side that heard nothing for so long ends the exchange: room for two lost or late pings.
pub const IDLE_LIMIT: Duration = Duration::from_secs(15);

/// Most bytes that a sender may ever have leave for, so that no sum of credits overflows.
const GRANT_BYTES_MAX: u32 = i32::MAX as u32;
/// Received pieces below this are joined while the reader is behind: a peer that sends single bytes must not cost a
/// buffer for each.
const SMALL_CHUNK_BYTES: usize = 1024;

const _: () = assert!(HTTP_WINDOW_BYTES <= GRANT_BYTES_MAX);
const _: () = assert!(HTTP_CHUNK_BYTES_MAX <= HTTP_WINDOW_BYTES as usize / 2);
// Else a chunk with trailers would be larger than the largest frame.
const _: () = assert!(HTTP_CHUNK_BYTES_MAX <= HTTP_INLINE_BODY_BYTES_MAX);

/// The side that asks: a router.
#[derive(Debug)]
pub enum Requester {}

/// The side that answers: the node that holds the instance.
#[derive(Debug)]
pub enum Responder {}

/// What both sides set for themselves; neither needs to know the other's.
#[derive(Debug, Clone)]
pub struct Config {
    frame_bytes_max: usize,
    window_bytes: u32,
    ping_after: Duration,
    idle_limit: Duration,
}

/// The NATS server takes only payloads that are too small for a head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server's payload limit of {0} bytes is too small; at least {FRAME_BYTES_MIN} are needed")]
pub struct PayloadLimitTooSmall(pub usize);

/// What the owner of an exchange has to pass on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The response's head. At a requester only, before any other event but a reset.
    Response(Box<ResponseHead>),
    /// More of the peer's body. Report it to [`Exchange::consumed`] once the reader has taken it.
    Data(Bytes),
    /// The peer's body is complete. At a requester this also ends the exchange: the rest of the request's body is not
    /// wanted.
    End(Option<HeaderMap>),
    /// The exchange failed, here or at the peer; events not polled before are gone. Not told after [`Exchange::reset`].
    Reset(Reset),
}

/// What a message for an exchange that a node does not know comes to.
#[derive(Debug)]
pub enum Opened {
    Exchange(Box<Exchange<Responder>>, Box<RequestHead>),
    /// Send this to the message's reply subject; there is no exchange.
    Refused(Bytes),
    /// A late message of an exchange that is over.
    Ignored,
}

/// One side of one exchange.
#[derive(Debug)]
pub struct Exchange<Role> {
    role: PhantomData<Role>,
    config: Config,
    closed: bool,
    /// Sequence of the next frame, each way.
    next_out: u32,
    next_in: u32,
    /// Something was sent; something was received.
    started: bool,
    heard: bool,
    /// This side's head, until it is sent.
    head: Option<Head>,
    /// A responder has given its head.
    responded: bool,
    /// The peer's response, until it is polled; whether there was one.
    response: Option<Box<ResponseHead>>,
    response_seen: bool,
    sending: Sending,
    receiving: Receiving,
    /// To be sent, to be told.
    reset_out: Option<Reset>,
    fault: Option<Reset>,
    deadline: Option<Duration>,
    last_in: Duration,
    last_out: Duration,
    ping_due: bool,
}

#[derive(Debug)]
enum Head {
    Request(Box<RequestHead>),
    Response(Box<ResponseHead>),
}

/// A message for a reply subject that has no exchange: refuses a request without reading it.
pub fn refuse(reset: Reset) -> Bytes {
    // A reset always fits: see the assertion beside FRAME_BYTES_MIN. An empty message would be refused by the peer, so
    // that the exchange ends all the same.
    Frame::Reset(reset).encode(0, FRAME_BYTES_MIN).unwrap_or_default()
}

/// A message for a node under a reply subject that no exchange has: a living node answers it with a reset, and nothing
/// else comes of it.
pub fn probe() -> Bytes {
    Frame::Ping.encode(0, FRAME_BYTES_MIN).unwrap_or_default()
}

impl Config {
    /// `payload_bytes_max` is the limit that the NATS server announced when the node connected.
    pub fn new(payload_bytes_max: usize) -> Result<Self, PayloadLimitTooSmall> {
        if payload_bytes_max < FRAME_BYTES_MIN {
            return Err(PayloadLimitTooSmall(payload_bytes_max));
        }
        Ok(Self {
            frame_bytes_max: payload_bytes_max,
            window_bytes: HTTP_WINDOW_BYTES,
            ping_after: PING_AFTER,
            idle_limit: IDLE_LIMIT,
        })
    }

    /// Bytes of the peer's body to have room for: 1 to 2^31 - 1.
    pub fn window_bytes(mut self, bytes: u32) -> Self {
        self.window_bytes = bytes.clamp(1, GRANT_BYTES_MAX);
        self
    }
}

impl Exchange<Requester> {
    /// Begin an exchange. `deadline` is a time on the clock of `now`; what is left of it travels with the head.
    /// Body that is already there and fits beside the head should be given before the first
    /// [`Exchange::poll_transmit`]: then it travels in the same message. More is sent once the node grants room for it.
    pub fn request(
        now: Duration,
        config: Config,
        head: RequestHead,
        deadline: Option<Duration>,
    ) -> Result<Self, EncodeError> {
        let head_bytes = head.check(config.frame_bytes_max)?;
        let inline = config.frame_bytes_max - head_bytes - CHUNK_LENGTH_BYTES;
        // The chunk beside the head needs no leave: it is the leave. Beyond it, nothing until the node has answered, so
        // that a request refused, or sent to a node that is gone, costs one message and proves that nothing ran.
        let leave = inline.min(HTTP_INLINE_BODY_BYTES_MAX) as u32;
        let mut exchange = Self::new(now, config, leave, Receives::Response);
        exchange.deadline = deadline;
        exchange.head = Some(Head::Request(Box::new(head)));
        Ok(exchange)
    }

    /// The server found no subscriber for a frame of this exchange: the node is gone.
    pub fn on_no_responders(&mut self) {
        if self.closed {
            return;
        }
        let gone = if self.next_out == 1 && !self.heard {
            Reset::new(ResetCode::NotHere, "the node is not connected").with_nothing_ran()
        } else {
            // Which of the frames found nobody is not told, so the head may have been delivered.
            Reset::new(ResetCode::Idle, "the node is gone")
        };
        self.close();
        self.fault = Some(gone);
    }

    /// The node is known to be gone, and what became of the request is not.
    pub fn on_peer_gone(&mut self) {
        if !self.closed {
            self.close();
            self.fault = Some(Reset::new(ResetCode::Idle, "the node is gone"));
        }
    }
}

impl Exchange<Responder> {
    /// Take a message whose reply subject names no exchange known here.
    pub fn accept(now: Duration, config: Config, message: Bytes) -> Opened {
        let opens = frame::opens_exchange(&message);
        match Frame::decode(message) {
            Ok((0, Frame::Request { head, remaining_ms, window_bytes, chunk })) => {
                if window_bytes > GRANT_BYTES_MAX {
                    let reset = Reset::new(ResetCode::ProtocolError, "the window is larger than 2^31 - 1");
                    return Opened::Refused(refuse(reset.with_nothing_ran()));
                }
                let mut exchange = Self::new(now, config, window_bytes, Receives::Request);
                exchange.deadline = remaining_ms.map(|ms| now.saturating_add(Duration::from_millis(ms.get().into())));
                exchange.next_in = 1;
                exchange.heard = true;
                exchange.started = true; // the peer awaits an answer
                exchange.receiving.take(chunk);
                Opened::Exchange(Box::new(exchange), head)
            }
            // What was lost, the exchange's head or this side's end of it, is not known here.
            Ok((_, Frame::Ping | Frame::Request { .. })) => {
                Opened::Refused(refuse(Reset::new(ResetCode::SequenceGap, "the exchange is not known here")))
            }
            Ok(_) => Opened::Ignored,
            Err(error @ frame::DecodeError::Version(_)) => {
                Opened::Refused(refuse(Reset::new(ResetCode::ProtocolError, error.to_string()).with_nothing_ran()))
            }
            Err(error) if opens => {
                Opened::Refused(refuse(Reset::new(ResetCode::ProtocolError, error.to_string()).with_nothing_ran()))
            }
            Err(_) => Opened::Ignored,
        }
    }

    /// The request's body will be read: give the router leave for a window of it. Call this once an instance has taken
    /// the request; until then only the chunk beside the head is here.
    pub fn accept_body(&mut self) {
        self.receiving.granting = true;
    }

    /// Answer. Body that is already there should be given, and ended, before [`Exchange::poll_transmit`]: then it
    /// travels in the same message. Only the first answer counts.
    pub fn respond(&mut self, head: ResponseHead) -> Result<(), EncodeError> {
        head.check(self.config.frame_bytes_max)?;
        if !self.closed && !self.responded {
            self.responded = true;
            self.head = Some(Head::Response(Box::new(head)));
        }
        Ok(())
    }

    /// When the router gives up, on the clock of `now`.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }
}

impl<Role> Exchange<Role> {
    fn new(now: Duration, config: Config, leave: u32, receives: Receives) -> Self {
        let receiving = Receiving::new(receives, config.window_bytes);
        Self {
            role: PhantomData,
            config,
            closed: false,
            next_out: 0,
            next_in: 0,
            started: false,
            heard: false,
            head: None,
            responded: false,
            response: None,
            response_seen: false,
            sending: Sending { leave, ..Sending::default() },
            receiving,
            reset_out: None,
            fault: None,
            deadline: None,
            last_in: now,
            last_out: now,
            ping_due: false,
        }
    }

    /// Nothing is sent or received any more. What was received may still wait for [`Exchange::poll_event`]; a body whose
    /// [`Event::End`] does not come is cut.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Body bytes that [`Exchange::send`] takes now. A responder's is 0 until it has answered.
    pub fn capacity_to_send(&self) -> usize {
        if self.closed || self.sending.ended || self.sending.end.is_some() || self.awaits_answer() {
            return 0;
        }
        (self.sending.leave as usize).min(SEND_QUEUE_BYTES_MAX).saturating_sub(self.sending.queued)
    }

    /// The head of the response is here: from now on only silence ends the exchange, so that a long body is not cut.
    pub fn lift_deadline(&mut self) {
        self.deadline = None;
    }

    /// Take as much from the front of `bytes` as [`Exchange::capacity_to_send`] says; the rest stays.
    pub fn send(&mut self, bytes: &mut Bytes) {
        let taken = bytes.split_to(bytes.len().min(self.capacity_to_send()));
        if !taken.is_empty() {
            self.sending.queued += taken.len();
            self.sending.queue.push_back(taken);
        }
    }

    /// This side's body is complete. A responder's exchange is over once that is sent, whatever of the request's body is
    /// still to come. Only the first end counts, and for a responder only after the answer.
    pub fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), EncodeError> {
        if let Some(trailers) = &trailers {
            frame::check_trailers(trailers, self.config.frame_bytes_max)?;
        }
        if !self.closed && !self.sending.ended && self.sending.end.is_none() && !self.awaits_answer() {
            self.sending.end = Some(trailers.map_or(Tail::End, Tail::Trailers));
        }
        Ok(())
    }

    /// The reader took so many bytes of [`Event::Data`]: the peer may send as many more.
    pub fn consumed(&mut self, bytes: usize) {
        self.receiving.consumed(bytes);
    }

    /// End the exchange from this side. The peer is told; no event follows here.
    pub fn reset(&mut self, reset: Reset) {
        if !self.closed {
            self.reset_out = self.started.then_some(reset);
            self.close();
        }
    }

    /// Take a message of the peer.
    pub fn on_frame(&mut self, now: Duration, message: Bytes) {
        if self.closed {
            return;
        }
        let (sequence, frame) = match Frame::decode(message) {
            Ok(decoded) => decoded,
            Err(error) => return self.fail(ResetCode::ProtocolError, error.to_string()),
        };
        // A reset ends the exchange whatever was lost before it, and may come from one who knows no sequence.
        if let Frame::Reset(mut reset) = frame {
            // Something ran if there was an answer; and a router can't know what ran.
            reset.nothing_ran &= !self.response_seen && !self.is_responder();
            self.close();
            self.fault = Some(reset);
            return;
        }
        if sequence != self.next_in {
            let message = format!("frame {sequence} came where {} was due", self.next_in);
            return self.fail(ResetCode::SequenceGap, message);
        }
        // Wraps after 2^32 frames; as many would have to be lost at once to go unseen.
        self.next_in = self.next_in.wrapping_add(1);
        self.heard = true;
        self.last_in = now;
        match frame {
            Frame::Ping | Frame::Reset(_) => {}
            Frame::Credit { bytes } => self.grant(bytes.get()),
            Frame::Data(chunk) if self.is_responder() || self.response_seen => self.receive(chunk),
            Frame::Response { head, window_bytes, chunk } if !self.is_responder() && !self.response_seen => {
                self.response = Some(head);
                self.response_seen = true;
                self.grant(window_bytes);
                self.receive(chunk);
            }
            Frame::Data(_) => self.fail(ResetCode::ProtocolError, "data before the head"),
            Frame::Request { .. } | Frame::Response { .. } => self.fail(ResetCode::ProtocolError, "a second head"),
        }
    }

    /// See to the deadline, the idle limit and the next ping. Calling it too early or too often does no harm.
    pub fn on_time(&mut self, now: Duration) {
        if self.closed {
            return;
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return self.fail(ResetCode::Timeout, "the deadline passed");
        }
        if !self.started {
            return;
        }
        if now.saturating_sub(self.last_in) >= self.config.idle_limit {
            return self.fail(ResetCode::Idle, "nothing was heard from the peer");
        }
        if now.saturating_sub(self.last_out) >= self.config.ping_after {
            self.ping_due = true;
        }
    }

    /// When [`Exchange::on_time`] next has something to do. `None`: never.
    pub fn next_time(&self) -> Option<Duration> {
        if self.closed {
            return None;
        }
        let idle = self.started.then(|| self.last_in.saturating_add(self.config.idle_limit));
        let ping = (self.started && !self.ping_due).then(|| self.last_out.saturating_add(self.config.ping_after));
        [self.deadline, idle, ping].into_iter().flatten().min()
    }

    /// The next message to send to the peer, as long as there is one.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<Bytes> {
        if let Some(reset) = self.reset_out.take() {
            return self.emit(now, Frame::Reset(reset));
        }
        if self.closed {
            return None;
        }
        if let Some(head) = self.head.take() {
            let frame = self.head_frame(now, head);
            return self.emit_body(now, frame);
        }
        if let Some(bytes) = self.receiving.credit() {
            return self.emit(now, Frame::Credit { bytes });
        }
        // The order of the head and the answer is what proves that nothing ran: see `request`.
        let may_send = if self.is_responder() { self.responded } else { self.heard };
        if may_send && self.sending.has_work() {
            let chunk = self.sending.take(self.config.frame_bytes_max - FRAME_HEADER_BYTES, HTTP_CHUNK_BYTES_MAX);
            return self.emit_body(now, Frame::Data(chunk));
        }
        if self.ping_due {
            return self.emit(now, Frame::Ping);
        }
        None
    }

    /// The next thing to pass on, as long as there is one.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(reset) = self.fault.take() {
            return Some(Event::Reset(reset));
        }
        if let Some(head) = self.response.take() {
            return Some(Event::Response(head));
        }
        if let Some(bytes) = self.receiving.pop() {
            return Some(Event::Data(bytes));
        }
        self.receiving.end.take().map(Event::End)
    }

    fn is_responder(&self) -> bool {
        self.receiving.receives == Receives::Request
    }

    fn awaits_answer(&self) -> bool {
        self.is_responder() && !self.responded
    }

    fn head_frame(&mut self, now: Duration, head: Head) -> Frame {
        let limit = self.config.frame_bytes_max;
        // Both heads were checked when they were given, so their lengths are known to be good.
        match head {
            Head::Request(head) => {
                let room = limit - head.check(limit).unwrap_or(limit);
                let chunk = self.sending.take(room, HTTP_INLINE_BODY_BYTES_MAX);
                self.sending.leave = 0;
                self.last_in = now; // the peer's silence counts from here
                let window_bytes = self.receiving.grant_all();
                // 0 would say that there is no deadline.
                let remaining_ms = self.deadline.map(|deadline| {
                    let ms = deadline.saturating_sub(now).as_millis();
                    NonZeroU32::new(u32::try_from(ms).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
                });
                Frame::Request { head, remaining_ms, window_bytes, chunk }
            }
            Head::Response(head) => {
                let room = limit - head.check(limit).unwrap_or(limit);
                let chunk = self.sending.take(room, HTTP_INLINE_BODY_BYTES_MAX);
                let window_bytes = self.receiving.credit().map_or(0, NonZeroU32::get);
                Frame::Response { head, window_bytes, chunk }
            }
        }
    }

    fn emit_body(&mut self, now: Duration, frame: Frame) -> Option<Bytes> {
        let message = self.emit(now, frame);
        // The end of the response ends the exchange. What the router still sends of the request is ignored from now on.
        if self.is_responder() && self.sending.ended {
            self.close_after_end();
        }
        message
    }

    fn emit(&mut self, now: Duration, frame: Frame) -> Option<Bytes> {
        match frame.encode(self.next_out, self.config.frame_bytes_max) {
            Ok(message) => {
                self.next_out = self.next_out.wrapping_add(1);
                self.started = true;
                self.last_out = now;
                self.ping_due = false;
                Some(message)
            }
            // Everything was checked before; if it happens still, both sides learn of it.
            Err(error) => {
                self.fail(ResetCode::Failed, error.to_string());
                self.reset_out.take().map(refuse)
            }
        }
    }

    fn grant(&mut self, bytes: u32) {
        match self.sending.leave.checked_add(bytes) {
            Some(leave) if leave <= GRANT_BYTES_MAX => self.sending.leave = leave,
            _ => self.fail(ResetCode::ProtocolError, "more credit than 2^31 - 1 bytes"),
        }
    }

    fn receive(&mut self, chunk: Chunk) {
        if self.closed {
            return; // the credit beside it was refused
        }
        if self.receiving.ended {
            return self.fail(ResetCode::ProtocolError, "data after the end");
        }
        if chunk.bytes.len() > self.receiving.room {
            return self.fail(ResetCode::ProtocolError, "more data than the window");
        }
        self.receiving.room -= chunk.bytes.len();
        self.receiving.take(chunk);
        if self.receiving.ended && !self.is_responder() {
            self.close_after_end();
        }
    }

    /// End on an error found here: the peer and the owner are told.
    fn fail(&mut self, code: ResetCode, message: impl AsRef<str>) {
        let mut reset = Reset::new(code, message);
        self.reset_out = self.started.then(|| reset.clone());
        reset.nothing_ran = !self.started;
        self.close();
        self.fault = Some(reset);
    }

    /// End without success: what was received is worth nothing to a reader that can't have the rest.
    fn close(&mut self) {
        self.close_after_end();
        self.response = None;
        self.receiving.clear();
    }

    fn close_after_end(&mut self) {
        self.closed = true;
        self.head = None;
        self.sending = Sending::default();
    }
}

/// The body that goes out.
#[derive(Debug, Default)]
struct Sending {
    /// Bytes that the peer has room for, the queued ones included.
    leave: u32,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// How the body ends, once that is known and until it is sent.
    end: Option<Tail>,
    /// The end was sent.
    ended: bool,
}

impl Sending {
    fn has_work(&self) -> bool {
        !self.queue.is_empty() || self.end.is_some()
    }

    /// The next chunk, for a frame that has `room` bytes left for it, its length field included.
    fn take(&mut self, room: usize, bytes_max: usize) -> Chunk {
        let room = room.saturating_sub(CHUNK_LENGTH_BYTES);
        let bytes = self.take_bytes(room.min(bytes_max));
        let fits = match &self.end {
            _ if !self.queue.is_empty() => false,
            Some(Tail::Trailers(trailers)) => frame::headers_len(trailers) <= room - bytes.len(),
            other => other.is_some(),
        };
        let tail = if fits { self.end.take().unwrap_or_default() } else { Tail::More };
        self.ended |= tail != Tail::More;
        Chunk { bytes, tail }
    }

    /// Up to `limit` bytes from the queue, small pieces joined.
    fn take_bytes(&mut self, limit: usize) -> Bytes {
        let Some(mut bytes) = self.queue.pop_front() else { return Bytes::new() };
        if bytes.len() > limit {
            let rest = bytes.split_off(limit);
            self.queue.push_front(rest);
        } else if bytes.len() < limit && !self.queue.is_empty() {
            let mut joined = BytesMut::with_capacity(limit.min(self.queued));
            joined.extend_from_slice(&bytes);
            while joined.len() < limit {
                let Some(mut next) = self.queue.pop_front() else { break };
                let piece = next.split_to(next.len().min(limit - joined.len()));
                joined.extend_from_slice(&piece);
                if !next.is_empty() {
                    self.queue.push_front(next);
                }
            }
            bytes = joined.freeze();
        }
        self.queued -= bytes.len();
        // What is queued is within the leave.
        self.leave = self.leave.saturating_sub(bytes.len() as u32);
        bytes
    }
}

/// Whose body comes in, hence which side this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receives {
    Request,
    Response,
}

/// The body that comes in. At any time `room` + `held` is at most the window, or the chunk beside the request's head.
#[derive(Debug)]
struct Receiving {
    receives: Receives,
    window: usize,
    /// The owner wants the body.
    granting: bool,
    /// Bytes that the peer has leave to send.
    room: usize,
    /// Bytes received and not consumed; those among them that the owner has.
    held: usize,
    handed: usize,
    queue: VecDeque<Bytes>,
    /// Small pieces, joined; behind the queue.
    small: BytesMut,
    /// The end, until it is polled; whether it was received.
    end: Option<Option<HeaderMap>>,
    ended: bool,
}

impl Receiving {
    fn new(receives: Receives, window: u32) -> Self {
        Self {
            receives,
            window: window as usize,
            // A router always reads the response; a node reads the request once an instance has taken it.
            granting: receives == Receives::Response,
            room: 0,
            held: 0,
            handed: 0,
            queue: VecDeque::new(),
            small: BytesMut::new(),
            end: None,
            ended: false,
        }
    }

    fn take(&mut self, Chunk { bytes, tail }: Chunk) {
        self.held += bytes.len();
        let behind = !self.queue.is_empty() || !self.small.is_empty();
        if bytes.len() < SMALL_CHUNK_BYTES && behind {
            self.small.extend_from_slice(&bytes);
            if self.small.len() >= HTTP_CHUNK_BYTES_MAX {
                self.queue.push_back(self.small.split().freeze());
            }
        } else if !bytes.is_empty() {
            if !self.small.is_empty() {
                self.queue.push_back(self.small.split().freeze());
            }
            self.queue.push_back(bytes);
        }
        self.end = match tail {
            Tail::More => return,
            Tail::End => Some(None),
            Tail::Trailers(trailers) => Some(Some(trailers)),
        };
        self.ended = true;
    }

    fn pop(&mut self) -> Option<Bytes> {
        let bytes = match self.queue.pop_front() {
            None if self.small.is_empty() => return None,
            None => self.small.split().freeze(),
            Some(bytes) => bytes,
        };
        self.handed += bytes.len();
        Some(bytes)
    }

    fn consumed(&mut self, bytes: usize) {
        let bytes = bytes.min(self.handed);
        self.handed -= bytes;
        self.held = self.held.saturating_sub(bytes);
    }

    /// Leave to give now: at least half a window, so that credits are few; none where no more is to come.
    fn credit(&mut self) -> Option<NonZeroU32> {
        let bytes = self.window.saturating_sub(self.room + self.held);
        if !self.granting || self.ended || bytes < (self.window / 2).max(1) {
            return None;
        }
        self.room += bytes;
        NonZeroU32::new(bytes as u32) // a window is below 2^31
    }

    /// The first leave, in the head of the request.
    fn grant_all(&mut self) -> u32 {
        self.room = self.window;
        self.window as u32
    }

    fn clear(&mut self) {
        self.queue.clear();
        self.small = BytesMut::new();
        self.end = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::tests::{headers, request_head, response_head};
    use proptest::prelude::*;
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

    // The two machines over a bus that keeps order, or breaks it once.

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
}
