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

mod receiving;
mod requester;
mod responder;
mod sending;
#[cfg(test)]
mod tests;

use crate::frame::{
    self, Chunk, EncodeError, FRAME_BYTES_MIN, FRAME_HEADER_BYTES, Frame, HTTP_INLINE_BODY_BYTES_MAX, RequestHead,
    Reset, ResetCode, ResponseHead, Tail,
};
use bytes::Bytes;
use http::HeaderMap;
use receiving::{Receives, Receiving};
use sending::Sending;
use std::{marker::PhantomData, num::NonZeroU32, time::Duration};

/// Most body bytes in one data frame.
pub const HTTP_CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Body bytes that a receiver has room for, by default and at most.
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

    /// Give leave for a window of so many bytes from now on, at most 2^31 - 1. Leave that was given stays.
    pub fn set_window(&mut self, bytes: u32) {
        self.receiving.set_window(bytes.clamp(1, GRANT_BYTES_MAX));
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

    /// The next thing to pass on, as long as there is one: what [`Exchange::poll_head`] has, then [`Exchange::poll_body`].
    pub fn poll_event(&mut self) -> Option<Event> {
        self.poll_head().or_else(|| self.poll_body())
    }

    /// The exchange's failure, or the response's head. Not to be left waiting, however slow the reader is.
    pub fn poll_head(&mut self) -> Option<Event> {
        let fault = self.fault.take().map(Event::Reset);
        fault.or_else(|| self.response.take().map(Event::Response))
    }

    /// The next piece of the peer's body, or its end. Best left here until the reader can take it: meanwhile small
    /// pieces are joined.
    pub fn poll_body(&mut self) -> Option<Event> {
        let bytes = self.receiving.pop().map(Event::Data);
        bytes.or_else(|| self.receiving.end.take().map(Event::End))
    }

    /// Whether [`Exchange::poll_body`] has something.
    pub fn has_body(&self) -> bool {
        self.receiving.has_some()
    }

    /// The peer's body with its trailers, if all of it is here in one piece.
    pub fn take_whole(&mut self) -> Option<(Bytes, Option<HeaderMap>)> {
        if self.fault.is_some() { None } else { self.receiving.take_whole() }
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
