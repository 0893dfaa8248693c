//! Sends the HTTP requests of guests, of 0.2 and of 0.3 alike: judged by the grants, over pooled connections, within times
//! and numbers. Redirects are for the guest to follow, by a request that is judged like any other.

use super::{
    Network,
    body::ResponseBody,
    connect::{CONNECT_MAX, Connector},
    failure, loopback,
    mesh::Polled,
};
use crate::{inherited::Inherited, spans};
use http::{Method, Request, Response, Uri, header, uri};
use http_body_util::BodyExt as _;
use hyper_util::{
    client::legacy::{Client, connect::capture_connection},
    rt::{TokioExecutor, TokioTimer},
};
use lattice::{
    id::WorkloadName,
    mesh,
    spec::grants::{Host, HttpTarget, Scheme},
};
use std::{
    future::pending,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::time::timeout;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

/// Where a guest asks for no other time.
const CONNECT_DEFAULT: Duration = Duration::from_secs(10);
const FIRST_BYTE_DEFAULT: Duration = Duration::from_secs(60);
const BETWEEN_BYTES_DEFAULT: Duration = Duration::from_secs(60);
/// Longest time to the head of a response, and between two parts of its body, whatever a guest asks for.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// A connection nobody uses is closed. Shorter than most servers' own time, which would close it under a request.
const IDLE: Duration = Duration::from_secs(15);
const IDLE_PER_HOST_MAX: usize = 32;
/// Of a response's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 128;

pub(super) fn new(connector: Connector) -> Client<Connector, WasiBody> {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
        .http1_max_buf_size(HEAD_BYTES_MAX)
        .http1_max_headers(HEADERS_MAX)
        .http2_max_header_list_size(HEAD_BYTES_MAX as u32)
        .build(connector)
}

pub(super) struct Times {
    connect: Duration,
    pub(super) first_byte: Duration,
    pub(super) between_bytes: Duration,
}

impl From<RequestOptions> for Times {
    fn from(options: RequestOptions) -> Self {
        let within = |time: Option<Duration>, default: Duration, max| time.unwrap_or(default).min(max);
        Self {
            connect: within(options.connect_timeout, CONNECT_DEFAULT, CONNECT_MAX),
            first_byte: within(options.first_byte_timeout, FIRST_BYTE_DEFAULT, SILENCE_MAX),
            between_bytes: within(options.between_bytes_timeout, BETWEEN_BYTES_DEFAULT, SILENCE_MAX),
        }
    }
}

impl Network {
    /// Send a request if it is granted, and wait for the head of the response. Dropping the future, or the body, ends it.
    pub(crate) async fn send(
        self: Arc<Self>,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        inherited: Inherited,
        polled: Polled,
    ) -> Result<Response<WasiBody>, Error> {
        self.counters.requests.fetch_add(1, Relaxed);
        let (mut request, callee) = self.judge(request)?;
        inherited.trace(request.headers_mut());
        let span = spans::outgoing(&self.node.tracer, &mut request);
        let times = options.unwrap_or_default().into();
        let sent = match callee {
            None => self.send_judged(request, times).await,
            Some(callee) => self.call(callee, request, times, &inherited, polled).await,
        };
        spans::answered(span, &sent);
        if sent.is_err() {
            self.counters.failures.fetch_add(1, Relaxed);
        }
        sent
    }

    /// What was judged is what is sent: the request's own way of writing the host goes no further. With it comes the
    /// workload that it is for, if it is for one.
    fn judge(&self, mut request: Request<WasiBody>) -> Result<(Request<WasiBody>, Option<WorkloadName>), Error> {
        let uri = request.uri();
        let scheme = match uri.scheme() {
            Some(scheme) if *scheme == uri::Scheme::HTTPS => Scheme::Https,
            Some(scheme) if *scheme == uri::Scheme::HTTP => Scheme::Http,
            _ => return Err(Error::HttpRequestUriInvalid),
        };
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let target =
            HttpTarget::new(scheme, authority.as_str(), uri.path()).map_err(|_| Error::HttpRequestUriInvalid)?;
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid); // a tunnel would be a socket without its grant
        }
        let callee = callee(&target)?;
        if !loopback::is_here(&target.host) && !self.grants.allow_http(&target) {
            self.denials.note(|| {
                let grant = target.grant();
                format!(
                    "a request to {grant} was denied; to allow it add to the spec: grants: {{http-out: [\"{grant}\"]}}"
                )
            });
            return Err(Error::HttpRequestDenied);
        }
        let path = uri.path_and_query().cloned().unwrap_or_else(|| uri::PathAndQuery::from_static("/"));
        let authority = match target.port == scheme.default_port() {
            true => target.host.to_string(),
            false => format!("{}:{}", target.host, target.port),
        };
        let uri = Uri::builder().scheme(scheme.as_str()).authority(authority).path_and_query(path).build();
        *request.uri_mut() = uri.map_err(|_| Error::HttpRequestUriInvalid)?;
        request.headers_mut().remove(header::HOST); // the client writes it from the URI
        Ok((request, callee))
    }

    async fn send_judged(&self, mut request: Request<WasiBody>, times: Times) -> Result<Response<WasiBody>, Error> {
        let place = self.requests.clone().try_acquire_owned().map_err(|_| Error::ConnectionLimitReached)?;
        let mut connection = capture_connection(&mut request);
        let connected = async {
            connection.wait_for_connection_metadata().await;
        };
        // The guest's times are two: until there is a connection, and from then on to the head.
        let limits = async {
            if timeout(times.connect, connected).await.is_err() {
                return Error::ConnectionTimeout;
            }
            match timeout(times.first_byte, pending::<()>()).await {
                Ok(()) | Err(_) => Error::ConnectionReadTimeout,
            }
        };
        let response = tokio::select! {
            biased;
            response = self.client.request(request) => response.map_err(|error| failure::of_client(&error))?,
            error = limits => return Err(error),
        };
        Ok(response.map(|body| ResponseBody::new(body, failure::of_hyper, times.between_bytes, place).boxed_unsync()))
    }
}

/// The workload that a request is for. What only looks like one leads nowhere, least of all to a DNS.
fn callee(target: &HttpTarget<'_>) -> Result<Option<WorkloadName>, Error> {
    let Host::Name(name) = &target.host else { return Ok(None) };
    match mesh::workload_of(name) {
        None => Ok(None),
        Some(None) => Err(Error::DestinationNotFound),
        Some(Some(_)) if target.scheme != Scheme::Http || target.port != target.scheme.default_port() => {
            Err(Error::HttpRequestUriInvalid)
        }
        Some(workload) => Ok(workload),
    }
}
