//! TLS of outgoing requests: rustls, the system's certificate authorities and the operator's.

use std::sync::{Arc, OnceLock};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        client::Resumption,
        crypto::ring,
        pki_types::{CertificateDer, pem::PemObject as _},
    },
};

/// Sessions that one replica's client may resume.
const SESSIONS_MAX: usize = 64;

pub(crate) struct Tls {
    operators: Vec<CertificateDer<'static>>,
    /// Read at the first request that needs it: some hundred files.
    config: OnceLock<ClientConfig>,
}

impl Tls {
    pub(crate) fn new(authorities_pem: &[u8]) -> Result<Self, String> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(authorities_pem).collect();
        let operators = certificates.map_err(|error| error.to_string())?;
        if operators.is_empty() && !authorities_pem.is_empty() {
            return Err("there is no certificate in it".into());
        }
        let mut store = RootCertStore::empty();
        for certificate in &operators {
            store.add(certificate.clone()).map_err(|error| error.to_string())?;
        }
        Ok(Self { operators, config: OnceLock::new() })
    }

    /// Blocks for some milliseconds the first time. Sessions are not shared between two callers: what is resumed tells
    /// servers that two requests are of the same client.
    pub(crate) fn connector(&self) -> TlsConnector {
        let mut config = self.config.get_or_init(|| self.config()).clone();
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        TlsConnector::from(Arc::new(config))
    }

    fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            tracing::warn!(%error, "a certificate authority of the system can't be read");
        }
        roots.add_parsable_certificates(system.certs);
        if roots.is_empty() && self.operators.is_empty() {
            tracing::warn!(
                "no certificate authorities: outgoing https fails. Install ca-certificates, set SSL_CERT_FILE, or give \
                 the node --egress-ca FILE"
            );
        }
        roots.add_parsable_certificates(self.operators.iter().cloned());
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        // Both versions that there are, so this can't fail; without any no server would be spoken to.
        let builder = match builder.with_safe_default_protocol_versions() {
            Ok(builder) => builder,
            Err(error) => {
                tracing::error!(%error, "no version of TLS");
                ClientConfig::builder()
            }
        };
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}
