//! To an instance of another node, as frames over the bus. A small request with a small response is one message each
//! way and needs no task; whatever is longer goes on in a task of its own, so that a client that reads slowly does not
//! keep the exchange from its pings.

use super::{
    drive::{Drive, Turn, Wire},
    exchanges::{Exchanges, Inbound},
    peers::Peers,
    pulse::Pulse,
    until,
    way::{Echoes, Reach},
    windows::Windows,
};
use crate::{
    body::{Source, Whole},
    error::RouteError,
    metrics::Metrics,
    retry::Unanswered,
    seldom::Seldom,
};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use lattice::{
    exchange::{Config, Exchange, Requester},
    frame::{EncodeError, RequestHead, Reset, ResetCode, ResponseHead},
    http::Response,
    id::{LatticeId, NodeId, WorkloadName},
    spec::is_idempotent,
    store::{Bus, Clock, Connection, STATUS_NO_RESPONDERS},
    subject,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Pause before the inbox is subscribed again.
const RESUBSCRIBE_AFTER: Duration = Duration::from_millis(500);
/// Last token of the subject of echoes.
const ECHO: &str = "echo";

pub(crate) struct Remote {
    lattice: LatticeId,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    peers: Peers,
    metrics: Metrics,
    exchanges: Exchanges<Requester>,
    windows: Arc<Windows>,
    inbox: Arc<Inbox>,
    reach: Reach,
    failures: Seldom,
    unsendable: Seldom,
    /// The inbox is subscribed.
    listening: watch::Receiver<bool>,
    _listener: AbortOnDropHandle<()>,
    _pulse: AbortOnDropHandle<()>,
    _echoes: AbortOnDropHandle<()>,
}

/// Where all replies to this router come: each exchange has a subject of its own under one prefix.
pub(crate) struct Inbox {
    /// With the dot at its end.
    prefix: String,
    next: AtomicU64,
}

impl Inbox {
    fn new(bus: &dyn Bus) -> Self {
        Self { prefix: format!("{}.x.", bus.inbox()), next: AtomicU64::new(0) }
    }

    /// The name of one more exchange.
    pub(crate) fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn subject(&self, name: u64) -> String {
        format!("{}{name}", self.prefix)
    }

    /// What this router sends to itself. No exchange has such a name.
    pub(crate) fn echo(&self) -> String {
        format!("{}{ECHO}", self.prefix)
    }

    fn is_echo(&self, subject: &str) -> bool {
        subject.strip_prefix(&self.prefix) == Some(ECHO)
    }

    fn name(&self, subject: &str) -> Option<u64> {
        subject.strip_prefix(&self.prefix)?.parse().ok()
    }
}

impl Remote {
    pub(crate) fn new(
        lattice: LatticeId,
        bus: Arc<dyn Bus>,
        clock: Arc<dyn Clock>,
        peers: Peers,
        metrics: Metrics,
    ) -> Self {
        let exchanges = Exchanges::default();
        let inbox = Arc::new(Inbox::new(&*bus));
        let reach = Reach::default();
        let (is_listening, listening) = watch::channel(false);
        let listener =
            listen(bus.clone(), clock.clone(), (inbox.clone(), reach.clone()), exchanges.clone(), is_listening);
        let pulse = Pulse {
            lattice: lattice.clone(),
            bus: bus.clone(),
            clock: clock.clone(),
            exchanges: exchanges.clone(),
            inbox: inbox.clone(),
            peers: peers.clone(),
            reach: reach.clone(),
        };
        let echoes = Echoes {
            bus: bus.clone(),
            clock: clock.clone(),
            exchanges: exchanges.clone(),
            inbox: inbox.clone(),
            reach: reach.clone(),
            listening: listening.clone(),
        };
        Self {
            lattice,
            bus,
            clock,
            peers,
            metrics,
            exchanges,
            windows: Arc::default(),
            inbox,
            reach,
            failures: Seldom::default(),
            unsendable: Seldom::default(),
            listening,
            _listener: AbortOnDropHandle::new(tokio::spawn(listener)),
            _pulse: AbortOnDropHandle::new(tokio::spawn(pulse.watch())),
            _echoes: AbortOnDropHandle::new(tokio::spawn(echoes.watch())),
        }
    }

    /// Up where what is sent to other nodes gets there.
    pub(crate) fn connection(&self) -> Connection {
        self.reach.connection(&*self.bus)
    }

    pub(crate) fn reach(&self) -> &Reach {
        &self.reach
    }

    /// `deadline` is for the response's head.
    pub(crate) async fn send(
        &self,
        node: &NodeId,
        head: RequestHead,
        body: &Source,
        deadline: Duration,
    ) -> Result<Response, Unanswered> {
        let unreachable = || Unanswered::nothing_ran(RouteError::Unreachable);
        // A message would wait in the client's buffer until the connection is back: too late for a request.
        if self.connection() == Connection::Down {
            return Err(unreachable());
        }
        let mut listening = self.listening.clone();
        let listens = until(&*self.clock, deadline, listening.wait_for(|listens| *listens)).await;
        if !matches!(listens, Ok(Ok(_))) {
            return Err(unreachable());
        }
        drop(listens);

        let config = Config::new(self.bus.payload_bytes_max()).map_err(|error| {
            if let Some(suppressed) = self.unsendable.pass(self.clock.now()) {
                tracing::error!(%error, suppressed, "requests can't be sent to other nodes");
            }
            unreachable()
        })?;
        let window = self.windows.open();
        let config = config.window_bytes(window.bytes());
        let (workload, is_repeatable) = (head.workload.clone(), is_idempotent(&head.method));
        let exchange =
            Exchange::request(self.clock.now(), config, head, Some(deadline)).map_err(|error| match error {
                EncodeError::HeadTooLarge { .. } | EncodeError::TooManyHeaders { .. } => {
                    Unanswered::nothing_ran(RouteError::HeadTooLarge)
                }
                _ => Unanswered::nothing_ran(RouteError::Failed),
            })?;
        let name = self.inbox.next();
        let wire = Wire {
            bus: self.bus.clone(),
            clock: self.clock.clone(),
            subject: subject::http(&self.lattice, node),
            reply: Some(self.inbox.subject(name)),
        };
        let mut drive = Drive::new(exchange, wire, self.exchanges.open(name, node.clone()), window);
        drive.is_repeatable(is_repeatable);
        match body {
            Source::Whole(whole) => give_whole(&mut drive, whole)?,
            // Not read before the node has taken the request: until then it can be sent elsewhere.
            Source::Stream(_) => drive.send_body(body.body()),
        }
        loop {
            match drive.turn().await {
                Turn::Progress => {}
                Turn::Response(head) => {
                    self.peers.answered(node);
                    return Ok(self.respond(drive, *head));
                }
                Turn::SourceBroke(error) => return Err(Unanswered::maybe_ran((&error).into())),
                Turn::Reset(reset) => return Err(self.on_reset(node, &workload, &reset)),
                Turn::Over => return Err(Unanswered::maybe_ran(RouteError::PeerLost)),
                Turn::CutOff => return Err(Unanswered::maybe_ran(RouteError::Unreachable)),
            }
        }
    }

    fn respond(&self, mut drive: Box<Drive<Requester>>, head: ResponseHead) -> Response {
        // From here on silence is what counts, not the time that the head had.
        drive.exchange.lift_deadline();
        let body = match drive.take_whole() {
            Some(whole) => whole.boxed_unsync(),
            None => {
                let body = drive.deliver_to_reader();
                let metrics = self.metrics.clone();
                tokio::spawn(async move {
                    if let Err(reset) = drive.run().await {
                        tracing::debug!(%reset, "a response ended early");
                        metrics.count_reset(reset.code);
                    }
                });
                body
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        response
    }

    fn on_reset(&self, node: &NodeId, workload: &WorkloadName, reset: &Reset) -> Unanswered {
        self.metrics.count_reset(reset.code);
        let error = match reset.code {
            ResetCode::NotHere => RouteError::NotReady,
            ResetCode::Overloaded { retry_after_ms } => {
                RouteError::Overloaded { retry_after: Duration::from_millis(retry_after_ms.into()) }
            }
            ResetCode::Timeout => RouteError::Timeout,
            ResetCode::BodyTooLarge => RouteError::BodyTooLarge,
            ResetCode::Failed => RouteError::Failed,
            ResetCode::Cancelled => RouteError::BodyBroken,
            ResetCode::ProtocolError | ResetCode::SequenceGap | ResetCode::ShuttingDown | ResetCode::Idle => {
                RouteError::PeerLost
            }
        };
        if error == RouteError::Failed
            && let Some(suppressed) = self.failures.pass(self.clock.now())
        {
            tracing::warn!(%node, %workload, reason = %reset, suppressed, "the component failed on another node");
        }
        if matches!(error, RouteError::NotReady | RouteError::PeerLost) {
            self.peers.suspect(node, self.clock.now());
        }
        Unanswered { error, nothing_ran: reset.nothing_ran }
    }
}

/// Give a body that fits beside the head.
fn give_whole(drive: &mut Drive<Requester>, whole: &Whole) -> Result<(), Unanswered> {
    let mut bytes = whole.bytes.clone();
    drive.exchange.send(&mut bytes);
    if !bytes.is_empty() {
        // The head leaves less room than usual: what remains is sent once the node has taken the request.
        drive.send_body(Whole { bytes, trailers: whole.trailers.clone() }.boxed_unsync());
        return Ok(());
    }
    let too_large = |_| Unanswered::nothing_ran(RouteError::HeadTooLarge);
    drive.exchange.end(whole.trailers.clone()).map_err(too_large)
}

/// Pass on what comes to this router's inbox. Runs as long as the router.
async fn listen(
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    (inbox, reach): (Arc<Inbox>, Reach),
    exchanges: Exchanges<Requester>,
    is_listening: watch::Sender<bool>,
) {
    loop {
        match bus.subscribe(format!("{}*", inbox.prefix), None).await {
            Ok(mut messages) => {
                is_listening.send_replace(true);
                while let Some(message) = messages.next().await {
                    let Some(name) = inbox.name(&message.subject) else {
                        if inbox.is_echo(&message.subject) {
                            reach.heard(&message.payload);
                        }
                        continue;
                    };
                    let inbound = match message.status {
                        None => Inbound::Frame(message.payload),
                        Some(STATUS_NO_RESPONDERS) => Inbound::NoResponders,
                        Some(_) => continue,
                    };
                    // One that is over is not known any more: late frames are ignored.
                    let _ = exchanges.deliver(&name, inbound);
                }
                is_listening.send_replace(false);
                exchanges.close();
            }
            Err(error) => tracing::warn!(%error, "replies of other nodes can't be received; trying again"),
        }
        clock.sleep(RESUBSCRIBE_AFTER).await;
    }
}
