//! TLS of the ingress: certificates from files, chosen by the name that a client asks for (SNI), and read again while the
//! node runs. It must not know what a request is. Start at [`Tls::load`].
//!
//! What a connection began with it keeps: a new certificate, or a new list of authorities, is for new connections.

mod certificates;
mod der;
mod identity;

use crate::{body::lock, headers::Secured, metrics::Metrics};
use arc_swap::ArcSwap;
use certificates::{Certificates, Files};
use lattice::store::Clock;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig, ServerConnection,
        crypto::ring,
        pki_types::{CertificateDer, pem::PemObject as _},
        server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier},
    },
};

/// Sessions that clients may resume, where they show no certificates.
const SESSIONS_MAX: usize = 4096;

/// Where certificates are. All files are PEM.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// A chain, its own certificate first, and the file of its key: none where the key is in the file of the chain.
    pub certificates: Vec<(PathBuf, Option<PathBuf>)>,
    /// A directory of more: `NAME.pem` or `NAME.crt`, with the key in `NAME.key` or in the same file.
    pub directory: Option<PathBuf>,
    /// Authorities. Given, a client without a certificate of one of them gets no connection.
    pub client_authorities: Option<PathBuf>,
    /// How often the files are read again. Default 5 s.
    pub reload_every: Duration,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            directory: None,
            client_authorities: None,
            reload_every: Duration::from_secs(5),
        }
    }
}

/// Why files are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {why}", file.display())]
    File { file: PathBuf, why: String },
    #[error("no certificate is given")]
    None,
    #[error("more than {max} certificates")]
    TooMany { max: usize },
    #[error("these certificates can't be served: {0}")]
    Settings(String),
}

/// What new connections are served with.
pub struct Tls {
    options: TlsOptions,
    current: ArcSwap<ServerConfig>,
    /// What was last read, good or not, and how it went.
    last: Mutex<Last>,
}

struct Last {
    digest: [u8; 32],
    /// Unix time, in seconds.
    not_after: i64,
    names: usize,
}

impl Tls {
    /// Read the files. Blocks.
    pub fn load(options: TlsOptions) -> Result<Self, TlsError> {
        let files = Files::read(&options)?;
        let (config, not_after, names) = config(&files)?;
        let last = Mutex::new(Last { digest: files.digest(), not_after, names });
        Ok(Self { options, current: ArcSwap::from_pointee(config), last })
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Read the files again and again. What can't be served changes nothing, and is told once.
    pub(crate) async fn follow(self: Arc<Self>, clock: &dyn Clock, metrics: &Metrics) {
        metrics.certificates_expire.set(lock(&self.last).not_after);
        let mut told = String::new();
        loop {
            clock.sleep(self.options.reload_every).await;
            let tls = self.clone();
            // A thread that is lost with the process is the only way for this to fail.
            let Ok(outcome) = tokio::task::spawn_blocking(move || tls.reload()).await else { continue };
            match outcome {
                Ok(false) => told.clear(),
                Ok(true) => {
                    told.clear();
                    let Last { not_after, names, .. } = *lock(&self.last);
                    tracing::info!(names, "new certificates are served");
                    metrics.count_reload(true);
                    metrics.certificates_expire.set(not_after);
                }
                Err(error) => {
                    let error = error.to_string();
                    if told != error {
                        tracing::error!(%error, "new certificates are not taken; those before stay");
                        metrics.count_reload(false);
                        told = error;
                    }
                }
            }
        }
    }

    /// Whether other certificates are served now.
    fn reload(&self) -> Result<bool, TlsError> {
        let files = Files::read(&self.options)?;
        let digest = files.digest();
        if lock(&self.last).digest == digest {
            return Ok(false);
        }
        let (config, not_after, names) = config(&files)?;
        self.current.store(Arc::new(config));
        *lock(&self.last) = Last { digest, not_after, names };
        Ok(true)
    }
}

/// The settings, the first end of a certificate, and how many names are covered.
fn config(files: &Files) -> Result<(ServerConfig, i64, usize), TlsError> {
    let settings = |error: &dyn std::fmt::Display| TlsError::Settings(error.to_string());
    let provider = Arc::new(ring::default_provider());
    let certificates = Certificates::parse(files, &provider)?;
    let (not_after, names) = (certificates.not_after(), certificates.names());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| settings(&error))?;
    let builder = match &files.client_authorities {
        None => builder.with_no_client_auth(),
        Some((file, bytes)) => {
            let bad = |why: String| TlsError::File { file: file.clone(), why };
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(bytes) {
                let certificate = certificate.map_err(|error| bad(error.to_string()))?;
                roots.add(certificate).map_err(|error| bad(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(bad("there is no certificate in it".into()));
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| bad(error.to_string()))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    // The last one is what curl offers alone when it is told to speak HTTP/1.0.
    config.alpn_protocols = [&b"h2"[..], b"http/1.1", b"http/1.0"].map(<[u8]>::to_vec).into();
    if files.client_authorities.is_some() {
        // A session that is resumed is not asked how old its certificate is, and would outlive it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
    }
    Ok((config, not_after, names))
}

/// What a client said and showed in its handshake.
pub(crate) fn secured(session: &ServerConnection) -> Secured {
    let shown = session.peer_certificates().and_then(<[_]>::first);
    Secured {
        server_name: session.server_name().map(str::to_ascii_lowercase),
        certificate: shown.and_then(identity::describe),
    }
}
