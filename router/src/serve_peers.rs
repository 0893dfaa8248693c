//! Answers requests that routers of other nodes send to the instances of this one.

use crate::{
    Router, RouterOptions,
    callee::{self, Callee},
    dispatch::{
        drive::{Drive, Turn, Wire},
        exchanges::{Exchanges, Inbound},
        until,
        windows::Windows,
    },
    error::RouteError,
    headers,
    limits::Places,
    mesh,
    metrics::Up,
    seldom::Seldom,
    trace,
};
use futures_util::{FutureExt as _, StreamExt as _};
use http::{Uri, uri};
use lattice::{
    exchange::{Config, Exchange, Opened, Responder, refuse},
    frame::{RequestHead, Reset, ResetCode, ResponseHead},
    http::{CallError, HEADER_AMONG, Request, empty},
    limits::{MESSAGE_BYTES_MAX, one_line},
    store::{BusError, Message},
    subject::{Topic, is_reply_subject},
};
use std::{pin::pin, sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Answer until `stop`; then refuse what is new, let what is under way end within `drain`, then reset it.
pub(crate) async fn serve(router: Router, stop: CancellationToken, drain: Duration) -> Result<(), BusError> {
    let options = router.options();
    let subject = Topic::Http(options.node.clone()).subject(&options.lattice);
    // Frames of exchanges that are open arrive on the same subject, so the subscription outlives the stop.
    let mut messages = router.bus().subscribe(subject, None).await?;
    let acceptor = Acceptor {
        exchanges: Exchanges::default(),
        windows: Arc::default(),
        places: Places::new(options.peer_exchanges_max),
        tasks: TaskTracker::new(),
        cut: CancellationToken::new(),
        warnings: Arc::default(),
        router: router.clone(),
    };
    let drained = async {
        stop.cancelled().await;
        acceptor.tasks.close();
        let clock = router.clock();
        let _ = until(&**clock, clock.now().saturating_add(drain), acceptor.tasks.wait()).await;
    };
    let mut drained = pin!(drained);
    let outcome = loop {
        tokio::select! {
            biased;
            () = &mut drained => break Ok(()),
            message = messages.next() => match message {
                Some(message) => acceptor.take(message, stop.is_cancelled()),
                None => break Err(BusError::Disconnected("the subscription for requests of other nodes ended".into())),
            },
        }
    };
    acceptor.cut.cancel();
    acceptor.tasks.close();
    acceptor.tasks.wait().await;
    outcome
}

struct Acceptor {
    router: Router,
    exchanges: Exchanges<Responder>,
    windows: Arc<Windows>,
    places: Places,
    tasks: TaskTracker,
    /// Ends what is under way.
    cut: CancellationToken,
    warnings: Arc<Warnings>,
}

#[derive(Default)]
struct Warnings {
    reply_subject: Seldom,
    unanswerable: Seldom,
    failure: Seldom,
    not_carried: Seldom,
}

impl Acceptor {
    /// Never waits: all exchanges share one subscription.
    fn take(&self, message: Message, stopping: bool) {
        let now = self.router.clock().now();
        let Some(reply) = message.reply.filter(|reply| is_reply_subject(reply)) else {
            if let Some(suppressed) = self.warnings.reply_subject.pass(now) {
                tracing::warn!(suppressed, "a request without a reply subject under an inbox was ignored");
            }
            return;
        };
        let Err(Inbound::Frame(payload)) = self.exchanges.deliver(&reply, Inbound::Frame(message.payload)) else {
            return;
        };
        let clock = self.router.clock();
        let config = match Config::new(self.router.bus().payload_bytes_max()) {
            Ok(config) => config,
            Err(error) => {
                if let Some(suppressed) = self.warnings.unanswerable.pass(now) {
                    tracing::error!(%error, suppressed, "requests of other nodes can't be answered");
                }
                return;
            }
        };
        let window = self.windows.open();
        let (exchange, head) = match Exchange::accept(now, config.window_bytes(window.bytes()), payload) {
            Opened::Exchange(exchange, head) => (*exchange, *head),
            Opened::Refused(payload) => return self.refuse(reply, payload),
            Opened::Ignored => return,
        };
        if stopping {
            let reset = Reset::new(ResetCode::ShuttingDown, "the node is going away").with_nothing_ran();
            return self.refuse(reply, refuse(reset));
        }
        // A guest would work for nobody. Should the way be mended soon, this lets the router ask another node.
        if !self.router.0.remote.reach().is_open() {
            let reset = Reset::new(ResetCode::ShuttingDown, "the node's answers do not reach NATS").with_nothing_ran();
            return self.refuse(reply, refuse(reset));
        }
        let Some(place) = self.places.try_take() else {
            let code = ResetCode::Overloaded { retry_after_ms: 1000 };
            let reset = Reset::new(code, "the node answers too many requests").with_nothing_ran();
            return self.refuse(reply, refuse(reset));
        };
        let wire = Wire { bus: self.router.bus().clone(), clock: clock.clone(), subject: reply.clone(), reply: None };
        let drive = Drive::new(exchange, wire, self.exchanges.open(reply, ()), window);
        let (router, cut, warnings) = (self.router.clone(), self.cut.clone(), self.warnings.clone());
        // Boxed: what is spawned is copied several times on its way.
        self.tasks.spawn(Box::pin(async move {
            let _place = place;
            let _up = Up::new(&router.metrics().peer_exchanges);
            tokio::select! {
                biased;
                () = cut.cancelled() => {} // the drive tells the router
                () = answer(&router, drive, head, &warnings) => {}
            }
        }));
    }

    fn refuse(&self, reply: String, payload: bytes::Bytes) {
        let wire =
            Wire { bus: self.router.bus().clone(), clock: self.router.clock().clone(), subject: reply, reply: None };
        // If the bus takes nothing now, the router's own limits of time end the exchange.
        let _ = wire.publish(payload).now_or_never();
    }
}

async fn answer(router: &Router, mut drive: Box<Drive<Responder>>, mut head: RequestHead, warnings: &Warnings) {
    let workload = head.workload.clone();
    if !mesh::lets_in(&router.table(), &workload, &head.headers) {
        let reset = Reset::new(ResetCode::NotHere, "the workload does not let this one call it").with_nothing_ran();
        return drive.reset(reset).await;
    }
    let Some(among) = callee::heed(&mut head.headers) else {
        let text = format!("{HEADER_AMONG} can't be read");
        return drive.reset(Reset::new(ResetCode::ProtocolError, text).with_nothing_ran()).await;
    };
    let RouterOptions { tracer, lattice, node, .. } = router.options();
    let mut arrival = trace::arrival(tracer, &mut head, lattice, node);
    let body = match drive.take_whole() {
        Some(whole) if whole == Default::default() => empty(),
        Some(whole) => http_body_util::BodyExt::boxed_unsync(whole),
        None => drive.deliver_to_reader(),
    };
    let Some(request) = to_request(head, body) else {
        let reset = Reset::new(ResetCode::ProtocolError, "the head is not a request").with_nothing_ran();
        return drive.reset(reset).await;
    };
    let mut call = Callee { workload: &workload, among }.call(&**router.instances(), request);
    let response = loop {
        tokio::select! {
            biased;
            response = &mut call => break response,
            turn = drive.turn() => match turn {
                Turn::Progress | Turn::Response(_) => {}
                // The router gave up, or is gone. Dropping the call stops the guest.
                Turn::Over | Turn::Reset(_) | Turn::SourceBroke(_) | Turn::CutOff => return,
            },
        }
    };
    let response = match response {
        Ok(response) => response,
        Err(error) => {
            if let Some(arrival) = &mut arrival {
                arrival.fail(RouteError::from(&error).code());
            }
            if let CallError::Failed { message } = &error
                && let Some(suppressed) = warnings.failure.pass(router.clock().now())
            {
                let reason = one_line(message, MESSAGE_BYTES_MAX);
                tracing::warn!(%workload, %reason, suppressed, "the component failed");
            }
            return drive.reset(Reset::from(&error)).await;
        }
    };
    let (parts, body) = response.into_parts();
    if let Some(arrival) = &mut arrival {
        arrival.set("http.response.status_code", parts.status.as_u16());
    }
    let mut head = ResponseHead { status: parts.status, headers: parts.headers };
    headers::strip_hop_by_hop(&mut head.headers);
    if let Err(error) = drive.exchange.respond(head) {
        if let Some(suppressed) = warnings.not_carried.pass(router.clock().now()) {
            tracing::warn!(%workload, %error, suppressed, "the response can't be carried");
        }
        return drive.reset(Reset::from(&CallError::Failed { message: error.to_string() })).await;
    }
    drive.exchange.lift_deadline();
    if http_body::Body::is_end_stream(&body) {
        let _ = drive.exchange.end(None);
    } else {
        drive.send_body(body);
        // Travels beside the head. Should it fail, the next turn tells the router.
        let _ = drive.take_what_is_ready();
    }
    if let Err(reset) = drive.run().await {
        tracing::debug!(%workload, %reset, "a response for another node ended early");
    }
}

fn to_request(head: RequestHead, body: lattice::http::Body) -> Option<Request> {
    let mut parts = uri::Parts::default();
    parts.scheme = Some(head.scheme);
    parts.authority = Some(head.authority);
    parts.path_and_query = Some(head.path_and_query);
    let mut request = Request::new(body);
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    *request.method_mut() = head.method;
    *request.headers_mut() = Arc::unwrap_or_clone(head.headers);
    Some(request)
}
