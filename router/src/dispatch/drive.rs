//! Drives one exchange: bodies, bus and clock on one side, the state machine of [`lattice::exchange`] on the other.
//! Decides nothing itself. Start at [`Drive::turn`].

use super::{
    exchanges::{Inbound, Open},
    windows::Window,
};
use crate::{
    body::{Piece, Whole, channel},
    round_trip,
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use lattice::{
    Fut,
    exchange::{Event, Exchange, Requester, Responder},
    frame::{Reset, ResetCode, ResponseHead},
    http::{Body, BodyError, CallError},
    id::NodeId,
    store::{Bus, BusError, Clock, Message},
};
use std::{sync::Arc, task::Poll, time::Duration};
use tokio::sync::{mpsc, oneshot};

/// What differs between the side that asks and the side that answers.
pub(crate) trait Side: Sized + Send + 'static {
    /// What tells its exchanges apart.
    type Name: Ord + Clone + Send;
    /// Who is on the other side, as far as that is known.
    type Peer: Send;
    /// A reader that goes away ends the exchange. An instance may answer a request that it has not read.
    const READER_IS_NEEDED: bool;
    fn on_no_responders(exchange: &mut Exchange<Self>);
    fn on_peer_gone(exchange: &mut Exchange<Self>);
    /// The reader began to read.
    fn on_first_read(exchange: &mut Exchange<Self>);
    /// What the peer is told when the body that this side sends breaks.
    fn source_broke(error: &BodyError) -> Reset;
    /// What the peer is told when the exchange is dropped.
    fn dropped() -> Reset;
}

impl Side for Requester {
    /// The last token of the reply subject.
    type Name = u64;
    type Peer = NodeId;
    const READER_IS_NEEDED: bool = true;
    fn on_no_responders(exchange: &mut Exchange<Self>) {
        exchange.on_no_responders();
    }
    fn on_peer_gone(exchange: &mut Exchange<Self>) {
        exchange.on_peer_gone();
    }
    fn on_first_read(_: &mut Exchange<Self>) {}
    fn source_broke(error: &BodyError) -> Reset {
        Reset::from(&CallError::Body(error.clone()))
    }
    fn dropped() -> Reset {
        Reset::new(ResetCode::Cancelled, "the client went away")
    }
}

impl Side for Responder {
    /// The reply subject.
    type Name = String;
    type Peer = ();
    const READER_IS_NEEDED: bool = false;
    /// Its messages ask for no answer.
    fn on_no_responders(_: &mut Exchange<Self>) {}
    fn on_peer_gone(_: &mut Exchange<Self>) {}
    fn on_first_read(exchange: &mut Exchange<Self>) {
        exchange.accept_body();
    }
    /// Whatever the reason, it was the component that did not finish its response.
    fn source_broke(error: &BodyError) -> Reset {
        match error {
            BodyError::Timeout => Reset::new(ResetCode::Timeout, error.to_string()),
            _ => Reset::new(ResetCode::Failed, error.to_string()),
        }
    }
    fn dropped() -> Reset {
        Reset::new(ResetCode::ShuttingDown, "the node is going away")
    }
}

/// Where an exchange's frames go.
#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) subject: String,
    pub(crate) reply: Option<String>,
}

/// One side of one exchange with all that it needs to go on. Dropped early, it tells the peer.
pub(crate) struct Drive<S: Side> {
    pub(crate) exchange: Exchange<S>,
    wire: Wire,
    open: Open<S>,
    /// What the exchange holds of the body that comes in.
    window: Window,
    outgoing: Outgoing,
    reader: Reader,
    timer: Option<(Duration, Fut<'static, ()>)>,
    /// Made, and not yet taken by the bus.
    unsent: Option<Bytes>,
    /// When the first frame left.
    sent: Option<Duration>,
    /// What is asked may be asked again, so it need not be waited for while nothing gets through.
    is_repeatable: bool,
}

/// What one turn came to.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Something went on.
    Progress,
    /// The response's head; at a requester, once.
    Response(Box<ResponseHead>),
    /// The exchange failed.
    Reset(Reset),
    /// The body that this side sends could not be read to its end. The peer was told.
    SourceBroke(BodyError),
    /// All is sent and delivered.
    Over,
    /// Nothing came in, what was sent is not known to have left this node, and nothing gets through: it is given up.
    CutOff,
}

/// The body that this side sends.
#[derive(Default)]
struct Outgoing {
    body: Option<Body>,
    /// Read, but beyond what the exchange takes now.
    rest: Bytes,
    /// The body broke. What was read before is sent before the peer is told.
    broken: Option<BodyError>,
}

/// Who reads the body that comes in.
#[derive(Default)]
struct Reader {
    pieces: Option<mpsc::Sender<Piece>>,
    first_read: Option<oneshot::Receiver<()>>,
    /// Nobody wants the rest.
    gone: bool,
}

impl<S: Side> Drive<S> {
    /// Boxed, since it is large, and moves from one future into another.
    pub(crate) fn new(exchange: Exchange<S>, wire: Wire, open: Open<S>, window: Window) -> Box<Self> {
        Box::new(Self {
            exchange,
            wire,
            open,
            window,
            outgoing: Outgoing::default(),
            reader: Reader::default(),
            timer: None,
            unsent: None,
            sent: None,
            is_repeatable: false,
        })
    }

    /// What is asked may be asked again.
    pub(crate) fn is_repeatable(&mut self, is_repeatable: bool) {
        self.is_repeatable = is_repeatable;
    }

    /// Send this body from now on.
    pub(crate) fn send_body(&mut self, body: Body) {
        self.outgoing.body = Some(body);
    }

    /// Deliver what comes in to a reader from now on. Until then it waits in the exchange.
    pub(crate) fn deliver_to_reader(&mut self) -> Body {
        let (pieces, first_read, body) = channel();
        self.reader.pieces = Some(pieces);
        self.reader.first_read = Some(first_read);
        body.boxed_unsync()
    }

    /// Take as much of the outgoing body as is there at once, so that it travels beside the head.
    pub(crate) fn take_what_is_ready(&mut self) -> Turn {
        while self.exchange.capacity_to_send() > 0 && self.outgoing.body.is_some() {
            let Some(read) = self.outgoing.next().now_or_never() else { break };
            if let Err(reset) = self.take(read) {
                return Turn::Reset(reset);
            }
        }
        Turn::Progress
    }

    /// Send what is due, pass on what came, then wait for the next thing to happen. Cancel-safe:
    /// nothing but the report of an end can be lost, and that shows in the exchange.
    pub(crate) async fn turn(&mut self) -> Turn {
        if let Err(error) = self.flush().await {
            return Turn::Reset(self.on_bus_error(&error));
        }
        if let Some(error) = self.outgoing.broken.take() {
            self.reset(S::source_broke(&error)).await;
            return Turn::SourceBroke(error);
        }
        match self.exchange.poll_head() {
            Some(Event::Response(head)) => return Turn::Response(head),
            Some(Event::Reset(reset)) => {
                // Found on this side, the peer is to hear of it.
                let _ = self.flush().await;
                return Turn::Reset(reset);
            }
            _ => {}
        }
        if self.reader.gone {
            while self.exchange.poll_body().is_some() {}
        }
        // A client reads at its own pace what came in full. A guest whose answer is complete is not waited for.
        if self.exchange.is_closed() && (!self.exchange.has_body() || !S::READER_IS_NEEDED) {
            return Turn::Over;
        }
        self.set_timer();
        self.wait().await
    }

    /// Turn until the exchange is over and the reader has all. The reader learns of every end.
    pub(crate) async fn run(mut self: Box<Self>) -> Result<(), Reset> {
        loop {
            let (error, reset) = match self.turn().await {
                Turn::Progress | Turn::Response(_) => continue,
                Turn::Over => return Ok(()),
                Turn::CutOff => {
                    let reset = Reset::new(ResetCode::Cancelled, "nothing that this node sends gets through");
                    (reset.to_body_error(), reset)
                }
                Turn::Reset(reset) => (reset.to_body_error(), reset),
                Turn::SourceBroke(error) => {
                    let reset = S::source_broke(&error);
                    (error, reset)
                }
            };
            self.reader.fail(error).await;
            return Err(reset);
        }
    }

    /// End the exchange and tell the peer.
    pub(crate) async fn reset(&mut self, reset: Reset) {
        self.exchange.reset(reset);
        let _ = self.flush().await;
    }

    async fn wait(&mut self) -> Turn {
        match self.next().await {
            Next::Message(Some(Inbound::Frame(payload))) => self.exchange.on_frame(self.wire.clock.now(), payload),
            Next::Message(Some(Inbound::NoResponders)) => S::on_no_responders(&mut self.exchange),
            Next::Message(Some(Inbound::PeerGone)) => S::on_peer_gone(&mut self.exchange),
            // Dropped, it tells the peer: that comes behind the request, should both arrive.
            Next::Message(Some(Inbound::CutOff(came_back))) => {
                let is_given_up = |sent| round_trip::is_given_up(self.is_repeatable, sent, came_back);
                if self.sent.is_some_and(is_given_up) {
                    return Turn::CutOff;
                }
            }
            Next::Message(None) => {
                let reset = Reset::new(ResetCode::SequenceGap, "frames were lost on this side");
                self.exchange.reset(reset.clone());
                return Turn::Reset(reset);
            }
            Next::Delivered(bytes) => {
                self.exchange.consumed(bytes);
                if let Some(bytes) = self.window.consumed(bytes) {
                    self.exchange.set_window(bytes);
                }
            }
            Next::ReaderGone => return self.on_reader_gone(),
            Next::FirstRead(reads) => {
                self.reader.first_read = None;
                if reads {
                    S::on_first_read(&mut self.exchange);
                }
            }
            Next::Body(read) => {
                return match self.take(read) {
                    // More may be there already: join it into fuller frames.
                    Ok(()) => self.take_what_is_ready(),
                    Err(reset) => Turn::Reset(reset),
                };
            }
            Next::Time => {
                self.timer = None;
                self.exchange.on_time(self.wire.clock.now());
            }
        }
        Turn::Progress
    }

    async fn next(&mut self) -> Next {
        let Self { exchange, open, outgoing, reader, timer, .. } = self;
        let wants_body = exchange.capacity_to_send() > 0 && outgoing.body.is_some();
        let Reader { pieces, first_read, .. } = reader;
        let has_piece = pieces.is_some() && exchange.has_body();
        tokio::select! {
            biased;
            message = open.receive(), if !exchange.is_closed() => Next::Message(message),
            permit = reserve(pieces), if has_piece => match (permit, exchange.poll_body()) {
                (Some(permit), Some(Event::Data(bytes))) => {
                    let delivered = Next::Delivered(bytes.len());
                    permit.send(Piece::Data(bytes));
                    delivered
                }
                (Some(permit), Some(Event::End(trailers))) => {
                    permit.send(Piece::End(trailers));
                    Next::Delivered(0)
                }
                _ => Next::ReaderGone,
            },
            () = gone(pieces), if !has_piece => Next::ReaderGone,
            reads = told(first_read) => Next::FirstRead(reads),
            read = outgoing.next(), if wants_body => Next::Body(read),
            () = fires(timer) => Next::Time,
        }
    }

    fn on_reader_gone(&mut self) -> Turn {
        if S::READER_IS_NEEDED {
            let reset = S::dropped();
            self.exchange.reset(reset.clone());
            self.reader = Reader::default();
        } else {
            // What comes in is not wanted. It is not consumed either, so no more of it comes than the window.
            self.reader.pieces = None;
            self.reader.gone = true;
        }
        Turn::Progress
    }

    /// Pass on what was read of the outgoing body.
    fn take(&mut self, read: Read) -> Result<(), Reset> {
        let ended = match read {
            Read::Rest => {
                self.exchange.send(&mut self.outgoing.rest);
                Ok(())
            }
            Read::Frame(Some(Ok(frame))) => match frame.into_data() {
                Ok(bytes) => {
                    self.outgoing.rest = bytes;
                    self.exchange.send(&mut self.outgoing.rest);
                    let is_last = self.outgoing.body.as_ref().is_some_and(|body| body.is_end_stream());
                    if is_last && self.outgoing.rest.is_empty() { self.end(None) } else { Ok(()) }
                }
                Err(frame) => self.end(frame.into_trailers().ok()),
            },
            Read::Frame(None) => self.end(None),
            Read::Frame(Some(Err(error))) => {
                self.outgoing = Outgoing { broken: Some(error), ..Outgoing::default() };
                Ok(())
            }
        };
        ended.inspect_err(|reset| self.exchange.reset(reset.clone()))
    }

    fn end(&mut self, trailers: Option<http::HeaderMap>) -> Result<(), Reset> {
        self.outgoing = Outgoing::default();
        self.exchange.end(trailers).map_err(|error| Reset::new(ResetCode::Failed, error.to_string()))
    }

    fn set_timer(&mut self) {
        let Some(due) = self.exchange.next_time() else { return };
        // One that fires too early does no harm, so a later time needs no new timer.
        if self.timer.as_ref().is_none_or(|(at, _)| *at > due) {
            let pause = due.saturating_sub(self.wire.clock.now());
            self.timer = Some((due, self.wire.clock.sleep(pause)));
        }
    }

    async fn flush(&mut self) -> Result<(), BusError> {
        loop {
            if self.unsent.is_none() {
                self.unsent = self.exchange.poll_transmit(self.wire.clock.now());
            }
            let Some(payload) = self.unsent.clone() else { return Ok(()) };
            self.publish(payload).await?;
            self.unsent = None;
            self.sent.get_or_insert_with(|| self.wire.clock.now());
        }
    }

    /// Hand a frame to the bus. While the bus takes nothing, the exchange's limits of time still hold.
    async fn publish(&mut self, payload: Bytes) -> Result<(), BusError> {
        let Self { exchange, wire, .. } = self;
        let mut publish = wire.publish(payload);
        if let Poll::Ready(published) = futures_util::poll!(&mut publish) {
            return published;
        }
        let stuck = || BusError::Disconnected("the connection takes no messages".into());
        loop {
            let now = wire.clock.now();
            let Some(due) = exchange.next_time() else { return Err(stuck()) };
            tokio::select! {
                biased;
                published = &mut publish => return published,
                () = wire.clock.sleep(due.saturating_sub(now).max(Duration::from_millis(10))) => {
                    exchange.on_time(wire.clock.now());
                }
            }
        }
    }

    fn on_bus_error(&mut self, error: &BusError) -> Reset {
        // A reset of the exchange's own, such as its deadline, says more than the bus does.
        let own = match self.exchange.poll_head() {
            Some(Event::Reset(reset)) => Some(reset),
            _ => None,
        };
        let reset = own.unwrap_or_else(|| Reset::new(ResetCode::SequenceGap, error.to_string()));
        let reset = if self.sent.is_some() { reset } else { reset.with_nothing_ran() };
        self.exchange.reset(reset.clone());
        self.unsent = None;
        while self.exchange.poll_transmit(self.wire.clock.now()).is_some() {}
        reset
    }
}

impl<S: Side> Drive<S> {
    /// The peer's body, if all of it came with the head. Else what did come waits for the reader.
    pub(crate) fn take_whole(&mut self) -> Option<Whole> {
        let (bytes, trailers) = self.exchange.take_whole()?;
        Some(Whole { bytes, trailers })
    }
}

impl<S: Side> Drop for Drive<S> {
    fn drop(&mut self) {
        if !self.exchange.is_closed() {
            self.exchange.reset(S::dropped());
        }
        let Some(payload) = self.exchange.poll_transmit(self.wire.clock.now()) else { return };
        // One message, best effort: the peer's idle limit sees to the rest.
        if self.wire.publish(payload.clone()).now_or_never().is_some() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let wire = self.wire.clone();
            runtime.spawn(async move { wire.publish(payload).await });
        }
    }
}

impl Wire {
    pub(crate) fn publish(&self, payload: Bytes) -> Fut<'_, Result<(), BusError>> {
        let (subject, reply) = (self.subject.clone(), self.reply.clone());
        self.bus.publish(Message { subject, reply, payload, ..Message::default() })
    }
}

/// What happened.
enum Next {
    Message(Option<Inbound>),
    /// So many bytes went to the reader.
    Delivered(usize),
    ReaderGone,
    /// The reader began to read, or was dropped before.
    FirstRead(bool),
    Body(Read),
    Time,
}

enum Read {
    /// More of what was read before.
    Rest,
    Frame(Option<Result<Frame<Bytes>, BodyError>>),
}

impl Outgoing {
    async fn next(&mut self) -> Read {
        if !self.rest.is_empty() {
            return Read::Rest;
        }
        match &mut self.body {
            Some(body) => Read::Frame(body.frame().await),
            None => std::future::pending().await,
        }
    }
}

impl Reader {
    async fn fail(&mut self, error: BodyError) {
        if let Some(pieces) = self.pieces.take() {
            let _ = pieces.send(Piece::Broken(error)).await;
        }
    }
}

async fn reserve(pieces: &Option<mpsc::Sender<Piece>>) -> Option<mpsc::Permit<'_, Piece>> {
    match pieces {
        Some(pieces) => pieces.reserve().await.ok(),
        None => None,
    }
}

async fn gone(pieces: &Option<mpsc::Sender<Piece>>) {
    match pieces {
        Some(pieces) => pieces.closed().await,
        None => std::future::pending().await,
    }
}

async fn told(first_read: &mut Option<oneshot::Receiver<()>>) -> bool {
    match first_read {
        Some(first_read) => first_read.await.is_ok(),
        None => std::future::pending().await,
    }
}

async fn fires(timer: &mut Option<(Duration, Fut<'static, ()>)>) {
    match timer {
        Some((_, sleep)) => sleep.await,
        None => std::future::pending().await,
    }
}
