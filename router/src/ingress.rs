//! HTTP in: accepts connections, bounds them, and hands each request to the router. HTTP/1.1, and HTTP/2 without TLS by
//! prior knowledge (RFC 9113 §3.3).

mod activity;
mod rarely;

use crate::{
    Router, RouterOptions,
    limits::{AddressPlace, AddressPlaces, Place, Places},
    metrics::Up,
    seldom::Seldom,
};
use activity::{Activity, Lapse, Watched};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use lattice::{
    http::{BodyError, empty},
    store::Clock,
};
use rarely::Rarely;
use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Pause after a failed accept. The usual cause is that the process has no file descriptor left.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Streams of one HTTP/2 connection at a time.
const H2_STREAMS_MAX: u32 = 100;
/// Bytes of request body that one HTTP/2 stream, and one connection, may have under way.
const H2_WINDOW_BYTES: u32 = 1024 * 1024;
/// An HTTP/2 connection that is silent for so long is asked whether it lives; without an answer it is closed.
const H2_PING_AFTER: Duration = Duration::from_secs(30);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Serve until `stop`, then let what is under way end within `drain`, then cut it.
pub(crate) async fn serve(router: Router, listener: TcpListener, stop: CancellationToken, drain: Duration) {
    let options = router.options();
    let places = Places::new(options.connections_max);
    let by_address = AddressPlaces::new(options.connections_per_address_max);
    let not_accepted = Seldom::default();
    let builder = builder(&router);
    let cut = CancellationToken::new();
    let connections = TaskTracker::new();
    let clock = router.clock().clone();
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
                let own = match options.trusts(peer.ip()) {
                    true => None,
                    false => match by_address.try_take(peer.ip()) {
                        Some(own) => Some(own),
                        None => {
                            tracing::debug!(%peer, "a connection is closed: its address has too many");
                            continue;
                        }
                    },
                };
                let (router, builder) = (router.clone(), builder.clone());
                let ends = Ends { stop: stop.clone(), cut: cut.clone() };
                connections.spawn(connection(router, builder, stream, peer, (place, own), ends));
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

fn builder(router: &Router) -> auto::Builder<TokioExecutor> {
    let options = router.options();
    let header_bytes = options.header_bytes_max.clamp(8 * 1024, 1 << 20);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        // hyper would set a timer for each head; the connection's own limits are in [`Ends::wait`].
        .header_read_timeout(None)
        .max_headers(options.headers_max)
        .max_buf_size(header_bytes)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .initial_stream_window_size(H2_WINDOW_BYTES)
        .initial_connection_window_size(H2_WINDOW_BYTES)
        .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// What is under way is answered, and nothing more.
    Soon,
    Now,
}

impl Ends {
    /// Waits for a reason to end the connection: at first for its first head, then for a lapse of its client.
    async fn wait(&self, activity: &Activity, options: &RouterOptions, clock: &dyn Clock) -> End {
        // hyper waits for the first bytes, which tell HTTP/1 from HTTP/2, without a limit of its own.
        tokio::select! {
            biased;
            () = self.cut.cancelled() => return End::Now,
            () = self.stop.cancelled() => return End::Soon,
            () = activity.begun() => {}
            () = clock.sleep(options.head_timeout) => return End::Now,
        }
        tokio::select! {
            biased;
            () = self.cut.cancelled() => End::Now,
            () = self.stop.cancelled() => End::Soon,
            lapse = activity.lapse(options.stall_timeout, options.idle_timeout) => match lapse {
                Lapse::Stalled => End::Now,
                Lapse::Idle => End::Soon,
            },
        }
    }

    /// The end of the last response may still be on its way, and a client may not take even that.
    async fn wait_ending(&self, activity: &Activity, options: &RouterOptions) {
        let idle = options.idle_timeout.saturating_add(options.stall_timeout);
        tokio::select! {
            biased;
            () = self.cut.cancelled() => {}
            _ = activity.lapse(options.stall_timeout, idle) => {}
        }
    }
}

async fn connection(
    router: Router,
    builder: auto::Builder<TokioExecutor>,
    stream: TcpStream,
    peer: SocketAddr,
    _places: (Option<Place>, Option<AddressPlace>),
    ends: Ends,
) {
    let _up = Up::new(&router.metrics().connections);
    // Small responses must not wait for an acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let activity = Activity::new(router.clock().clone());
    let serves = Arc::new((router.clone(), router.client(peer)));
    let watch = activity.clone();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (serves, open) = (serves.clone(), watch.begin());
        async move {
            let request = request.map(|body| match body.is_end_stream() {
                true => empty(),
                false => body.map_err(|error| BodyError::Aborted(error.to_string())).boxed_unsync(),
            });
            let (router, client) = &*serves;
            let response = router.handle_from(client, request).await;
            Ok::<_, Infallible>(response.map(|body| Watched::new(body, open)))
        }
    });
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        biased;
        ended = &mut serving => ended,
        end = Rarely::new(ends.wait(&activity, router.options(), &**router.clock())) => {
            if end == End::Now {
                tracing::debug!(%peer, "a connection is cut");
                return;
            }
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                ended = &mut serving => ended,
                () = Rarely::new(ends.wait_ending(&activity, router.options())) => {
                    tracing::debug!(%peer, "a connection is cut while it ends");
                    return;
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error, "a connection ended early");
    }
}
