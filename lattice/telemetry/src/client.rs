//! Sends what is exported: OTLP over HTTP/1.1, one connection for each signal, kept while the other side keeps it. Says
//! once a minute that nobody takes anything, and once that somebody does again.

use crate::{counts::Counts, settings::Exporter};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use std::{
    fmt,
    io::Write as _,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, runtime::Handle};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};

/// Of an answer; nobody reads more of it.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Least time between two warnings.
const WARN_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Why a signal can't be sent at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {path}: {reason}")]
pub struct CertificateError {
    what: &'static str,
    path: String,
    reason: String,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    exporter: Exporter,
    runtime: Handle,
    tls: Option<TlsConnector>,
    connection: tokio::sync::Mutex<Option<SendRequest<Full<Bytes>>>>,
    trouble: Mutex<Trouble>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Trouble {
    is_failing: bool,
    warned: Option<Instant>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Client {
    pub(crate) fn new(exporter: Exporter, runtime: Handle, counts: Arc<Counts>) -> Result<Self, CertificateError> {
        let is_https = exporter.endpoint.scheme_str() == Some("https");
        let tls = if is_https { Some(connector(&exporter)?) } else { None };
        Ok(Self(Arc::new(Inner {
            exporter,
            runtime,
            tls,
            connection: tokio::sync::Mutex::default(),
            trouble: Mutex::default(),
            counts,
        })))
    }

    /// Send one message of the signal, once.
    pub(crate) async fn post(&self, message: Vec<u8>) -> Result<(), Failure> {
        let mut request = Request::post(self.0.exporter.endpoint.clone()).body(Bytes::from(message))?;
        let kind = HeaderValue::from_static("application/x-protobuf");
        request.headers_mut().insert(header::CONTENT_TYPE, kind);
        let response = self.0.send(request).await?;
        match response.status().is_success() {
            true => Ok(()),
            false => Err(format!("answered {}", response.status()).into()),
        }
    }
}

impl Inner {
    /// Within the exporter's time. What came of it is told.
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Failure> {
        let sent = match tokio::time::timeout(self.exporter.timeout, self.exchange(request)).await {
            Ok(sent) => sent,
            Err(_) => Err(format!("no answer within {} ms", self.exporter.timeout.as_millis()).into()),
        };
        match &sent {
            Ok(response) if response.status().is_success() => self.taken(),
            Ok(response) => self.failed(&format!("answered {}", response.status())),
            Err(error) => self.failed(&error.to_string()),
        }
        sent
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Failure> {
        let request = self.prepare(request)?;
        let mut connection = self.connection.lock().await;
        let kept = match connection.take() {
            Some(mut kept) => kept.ready().await.is_ok().then_some(kept),
            None => None,
        };
        let mut sender = match kept {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        *connection = Some(sender);
        Ok(Response::from_parts(head, body))
    }

    fn prepare(&self, request: Request<Bytes>) -> Result<Request<Full<Bytes>>, Failure> {
        let (mut head, mut body) = request.into_parts();
        let host = head.uri.authority().ok_or("no host")?.host_and_port();
        head.headers.insert(header::HOST, HeaderValue::try_from(host)?);
        let agent = concat!("lattice/", env!("CARGO_PKG_VERSION"));
        head.headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        for (name, value) in &self.exporter.headers {
            head.headers.insert(name, value.clone());
        }
        if self.exporter.gzip {
            let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
            encoder.write_all(&body)?;
            body = encoder.finish()?.into();
            head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = Uri::try_from(path)?;
        Ok(Request::from_parts(head, Full::new(body)))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let authority = self.exporter.endpoint.authority().ok_or("no host")?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        let _ = stream.set_nodelay(true);
        let sender = match &self.tls {
            None => {
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                sender
            }
            Some(tls) => {
                let stream = tls.connect(ServerName::try_from(host)?, stream).await?;
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                sender
            }
        };
        Ok(sender)
    }

    fn taken(&self) {
        self.counts.exports(self.exporter.signal, true);
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut trouble.is_failing) && trouble.warned.take().is_some() {
            drop(trouble);
            tracing::info!(signal = self.exporter.signal, "telemetry is taken again");
        }
    }

    fn failed(&self, error: &str) {
        self.counts.exports(self.exporter.signal, false);
        {
            let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            trouble.is_failing = true;
            if trouble.warned.is_some_and(|warned| warned.elapsed() < WARN_AGAIN_AFTER) {
                return;
            }
            trouble.warned = Some(Instant::now());
        }
        let (signal, endpoint) = (self.exporter.signal, shown(&self.exporter.endpoint));
        tracing::warn!(signal, endpoint, error, "telemetry is not taken; what there is no room for is dropped");
    }
}

/// Without what may be a secret.
fn shown(endpoint: &Uri) -> String {
    let host = endpoint.authority().map(|authority| authority.host_and_port()).unwrap_or_default();
    format!("{}://{host}{}", endpoint.scheme_str().unwrap_or("http"), endpoint.path())
}

trait HostAndPort {
    /// Without user information.
    fn host_and_port(&self) -> String;
}

impl HostAndPort for http::uri::Authority {
    fn host_and_port(&self) -> String {
        match self.port() {
            Some(port) => format!("{}:{port}", self.host()),
            None => self.host().to_owned(),
        }
    }
}

/// For the SDK's exporters, whose threads are not the runtime's.
impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let inner = self.0.clone();
        let sending = self.0.runtime.spawn(async move { inner.send(request).await });
        Box::pin(async move { sending.await? })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.exporter.fmt(f)
    }
}

fn connector(exporter: &Exporter) -> Result<TlsConnector, CertificateError> {
    let mut roots = RootCertStore::empty();
    match &exporter.authorities {
        Some(path) => {
            for certificate in certificates(path)? {
                let bad = |error| wrong("not a certificate authority", path, error);
                roots.add(certificate).map_err(bad)?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let none = Path::new("");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("no version of TLS", none, error))?
        .with_root_certificates(roots);
    let config = match &exporter.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong("not a private key", key, error))?;
            let bad = |error| wrong("not a certificate of this key", certificate, error);
            builder.with_client_auth_cert(certificates(certificate)?, private).map_err(bad)?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let bad = |error: &dyn fmt::Display| wrong("not certificates in PEM", path, error);
    let read = CertificateDer::pem_file_iter(path).map_err(|error| bad(&error))?;
    let certificates = read.collect::<Result<Vec<_>, _>>().map_err(|error| bad(&error))?;
    if certificates.is_empty() {
        return Err(bad(&"there is none in it"));
    }
    Ok(certificates)
}

fn wrong(what: &'static str, path: &Path, reason: impl fmt::Display) -> CertificateError {
    CertificateError { what, path: path.display().to_string(), reason: reason.to_string() }
}
