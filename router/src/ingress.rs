//! HTTP in: accepts connections, bounds them, and hands each request to the router. HTTP/1.1, and HTTP/2: with TLS as the
//! client chooses (ALPN), without TLS by prior knowledge (RFC 9113 §3.3).

mod activity;
mod bodies;
pub(crate) mod framing;
mod preface;
mod rarely;
pub(crate) mod refusals;
mod socket;
mod unheard;

use crate::{
    Router, RouterOptions,
    error::RouteError,
    headers::Client,
    limits::{EachPlace, Place},
    metrics::{Handshake, Up},
    seldom::Seldom,
    tls::{Tls, secured},
};
use activity::{Activity, Lapse, Patience, Streams};
use bodies::{Paced, Watched};
use http::{Version, header::TRANSFER_ENCODING};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use lattice::{
    http::{BodyError, empty},
    store::Clock,
};
use preface::Rewound;
use rarely::Rarely;
use refusals::{Refusals, Tapped};
use socket::{Notes, Socket};
use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::server::TlsStream;
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use unheard::Unheard;

/// Pause after a failed accept. The usual cause is that the process has no file descriptor left.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Bytes of an HTTP/1 connection that are read, or held to be written, at a time. The next piece of a body waits for the
/// one before, so the number of pieces is what a large body costs; a connection has a buffer of this size only while
/// its client fills it. Heads have a limit of their own.
const H1_BUFFER_BYTES: usize = 128 * 1024;
/// Streams of one HTTP/2 connection at a time.
const H2_STREAMS_MAX: u32 = 100;
/// Bytes of request body that one HTTP/2 stream may have under way, unread.
const H2_STREAM_BYTES: u32 = 512 * 1024;
/// The same of one connection: so much that some streams whose component does not read do not hold up the others.
const H2_CONNECTION_BYTES: u32 = 8 * H2_STREAM_BYTES;
/// Bytes of a response that one HTTP/2 stream holds for a client that gave leave for them and does not read its socket.
const H2_SEND_BYTES: usize = 64 * 1024;
/// An HTTP/2 connection that is silent for so long is asked whether it lives; without an answer it is closed.
const H2_PING_AFTER: Duration = Duration::from_secs(30);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A request that is answered with an error, whatever it asks for. Among its extensions.
#[derive(Debug, Clone)]
pub(crate) struct Refused(pub(crate) RouteError);

/// Serve until `stop`, then let what is under way end within `drain`, then cut it. With `tls` if there is some.
pub(crate) async fn serve(
    router: Router,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
    drain: Duration,
) {
    let (places, by_address) = router.connection_places();
    let not_accepted = Seldom::default();
    let cut = CancellationToken::new();
    let connections = TaskTracker::new();
    let clock = router.clock().clone();
    let _follower = tls.clone().map(|tls| {
        let (clock, metrics) = (clock.clone(), router.metrics().clone());
        AbortOnDropHandle::new(tokio::spawn(async move { tls.follow(&*clock, &metrics).await }))
    });
    loop {
        let accept = async {
            // Without a place nothing is accepted: the backlog of the kernel holds the rest.
            let place = places.wait().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let own = match router.options().trusts(peer.ip()) {
                    true => None,
                    false => match by_address.try_take(peer.ip().to_canonical()) {
                        Some(own) => Some(own),
                        None => {
                            tracing::debug!(%peer, "a connection is closed: its address has too many");
                            continue;
                        }
                    },
                };
                let ends = Ends::new(&router, stop.clone(), cut.clone());
                connections.spawn(connection(router.clone(), stream, peer, tls.clone(), (place, own), ends));
            }
            Err(error) => {
                if let Some(suppressed) = not_accepted.pass(clock.now()) {
                    tracing::warn!(%error, suppressed, "a connection was not accepted");
                }
                clock.sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
    drop(listener);
    connections.close();
    tokio::select! {
        biased;
        () = connections.wait() => return,
        () = clock.sleep(drain) => {}
    }
    tracing::warn!(connections = connections.len(), "connections are cut: they did not end in time");
    cut.cancel();
    connections.wait().await;
}

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
}

fn header_bytes(options: &RouterOptions) -> usize {
    options.header_bytes_max.clamp(8 * 1024, 1 << 20)
}

/// hyper's settings.
fn http1(options: &RouterOptions) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // hyper would set a timer for each head; the connection's own limits are in [`Ends::wait`].
        .header_read_timeout(None)
        .max_headers(options.headers_max)
        // The buffer alone is no limit of a head: what it has room for beyond that is used too.
        .max_header_size(header_bytes(options))
        .max_buf_size(H1_BUFFER_BYTES.max(header_bytes(options)));
    builder
}

/// The same for one connection: its streams are its own.
fn http2(options: &RouterOptions, activity: &Activity) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(Streams(activity.clone()));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .initial_stream_window_size(H2_STREAM_BYTES)
        .initial_connection_window_size(H2_CONNECTION_BYTES)
        .max_send_buf_size(H2_SEND_BYTES)
        .max_header_list_size(u32::try_from(header_bytes(options)).unwrap_or(u32::MAX))
        .keep_alive_interval(H2_PING_AFTER)
        .keep_alive_timeout(H2_PING_TIMEOUT);
    builder
}

/// What a connection ends by, beside its client.
struct Ends {
    /// Nothing more is taken.
    stop: CancellationToken,
    /// Nothing goes on.
    cut: CancellationToken,
    /// Until when the first head is waited for, and the handshake before it.
    begin_by: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// What is under way is answered, and nothing more.
    Soon,
    Now,
}

impl Ends {
    fn new(router: &Router, stop: CancellationToken, cut: CancellationToken) -> Self {
        let begin_by = router.clock().now().saturating_add(router.options().head_timeout);
        Self { stop, cut, begin_by }
    }

    /// The end of the time that a connection has to begin.
    async fn late(&self, clock: &dyn Clock) {
        clock.sleep(self.begin_by.saturating_sub(clock.now())).await;
    }

    /// Waits for a reason to end the connection: at first for its first head, then for a lapse of its client.
    async fn wait(&self, activity: &Activity, clock: &dyn Clock) -> End {
        tokio::select! {
            biased;
            () = self.cut.cancelled() => return End::Now,
            () = self.stop.cancelled() => return End::Soon,
            () = activity.begun() => {}
            () = self.late(clock) => return End::Now,
        }
        tokio::select! {
            biased;
            () = self.cut.cancelled() => End::Now,
            () = self.stop.cancelled() => End::Soon,
            lapse = activity.lapse() => match lapse {
                Lapse::Stalled => End::Now,
                Lapse::Idle => End::Soon,
            },
        }
    }

    /// The end of the last response may still be on its way, and a client may not take even that.
    async fn wait_ending(&self, activity: &Activity) {
        tokio::select! {
            biased;
            () = self.cut.cancelled() => {}
            _ = activity.lapse_ending() => {}
        }
    }
}

async fn connection(
    router: Router,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<Tls>>,
    _places: (Option<Place>, Option<EachPlace<IpAddr>>),
    ends: Ends,
) {
    let _up = Up::new(&router.metrics().connections);
    // Small responses must not wait for an acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let client = router.client(peer);
    let Some(tls) = tls else {
        let Some((speaks, stream)) = begins(&router, stream, &ends).await else { return };
        return talk(router, stream, speaks, peer, client, ends).await;
    };
    // Boxed: what a handshake needs is not for the life of the connection, and connections without TLS have none.
    let Some(stream) = Box::pin(handshake(&router, &tls, stream, peer, &ends)).await else { return };
    let session = stream.get_ref().1;
    let speaks = if session.alpn_protocol() == Some(b"h2") { Speaks::Http2 } else { Speaks::Http1 };
    let client = client.over_tls(secured(session));
    Box::pin(talk(router, Rewound::fresh(stream), speaks, peer, client, ends)).await;
}

/// Without TLS the first bytes tell what a client speaks.
async fn begins(router: &Router, stream: TcpStream, ends: &Ends) -> Option<(Speaks, Rewound<TcpStream>)> {
    tokio::select! {
        biased;
        () = ends.cut.cancelled() => None,
        () = ends.stop.cancelled() => None,
        told = preface::told(stream) => told.ok(),
        () = ends.late(&**router.clock()) => None,
    }
}

async fn handshake(
    router: &Router,
    tls: &Tls,
    stream: TcpStream,
    peer: SocketAddr,
    ends: &Ends,
) -> Option<TlsStream<TcpStream>> {
    let shaken = tokio::select! {
        biased;
        () = ends.cut.cancelled() => return None,
        () = ends.stop.cancelled() => return None,
        shaken = tls.acceptor().accept(stream) => shaken,
        () = ends.late(&**router.clock()) => {
            router.metrics().count_handshake(Handshake::Late);
            return None;
        }
    };
    match shaken {
        Ok(stream) => {
            router.metrics().count_handshake(Handshake::Done);
            Some(stream)
        }
        Err(error) => {
            router.metrics().count_handshake(Handshake::Failed);
            tracing::debug!(%peer, %error, "a TLS handshake failed");
            None
        }
    }
}

/// Serve HTTP on a connection until it ends.
async fn talk<S>(router: Router, stream: Rewound<S>, speaks: Speaks, peer: SocketAddr, client: Client, ends: Ends)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let clock = router.clock().clone();
    let activity = Activity::new(clock.clone(), Patience::new(router.options()), router.metrics().clone());
    let notes = Notes::new();
    let serves = Arc::new((router, client));
    let (serves_each, watch, heard) = (serves.clone(), activity.clone(), notes.clone());
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (serves, open) = (serves_each.clone(), watch.begin());
        let is_http1 = request.version() <= Version::HTTP_11;
        heard.set_heard(open.number());
        let is_doubtful =
            is_http1 && request.headers().contains_key(TRANSFER_ENCODING) && heard.is_doubtful(open.number());
        let unread = (is_http1 && !request.body().is_end_stream()).then(|| heard.clone());
        async move {
            let mut request = request.map(|body| match body.is_end_stream() {
                true => empty(),
                false => {
                    let body = body.map_err(|error| BodyError::Aborted(error.to_string()));
                    Paced::new(body, &open, unread).boxed_unsync()
                }
            });
            if is_doubtful {
                let refused = RouteError::BadTarget("both content-length and transfer-encoding");
                request.extensions_mut().insert(Refused(refused));
            }
            let (router, client) = &*serves;
            let response = router.handle_from(client, request).await;
            Ok::<_, Infallible>(response.map(|body| Watched::new(body, open)))
        }
    });
    let options = serves.0.options();
    match speaks {
        Speaks::Http1 => {
            let unheard = Unheard::new(serves.clone(), activity.clone());
            let socket = Socket::new(stream, notes, unheard, clock.clone());
            let serving = http1(options).serve_connection(TokioIo::new(socket), service);
            until_over(serving, peer, &ends, &activity, &*clock).await;
        }
        Speaks::Http2 => {
            let refusals = Refusals::new(serves.clone(), activity.clone());
            let serving =
                http2(options, &activity).serve_connection(TokioIo::new(Tapped::new(stream, refusals)), service);
            until_over(serving, peer, &ends, &activity, &*clock).await;
        }
    }
}

async fn until_over<C>(serving: C, peer: SocketAddr, ends: &Ends, activity: &Activity, clock: &dyn Clock)
where
    C: GracefulConnection<Error = hyper::Error>,
{
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        biased;
        ended = &mut serving => ended,
        end = Rarely::new(ends.wait(activity, clock)) => {
            if end == End::Now {
                tracing::debug!(%peer, "a connection is cut");
                return;
            }
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                ended = &mut serving => ended,
                () = Rarely::new(ends.wait_ending(activity)) => {
                    tracing::debug!(%peer, "a connection is cut while it ends");
                    return;
                }
            }
        }
    };
    if let Err(error) = ended {
        let error: &dyn std::error::Error = &error;
        tracing::debug!(%peer, error, "a connection ended early");
    }
}
