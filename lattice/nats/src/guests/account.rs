//! Connections to accounts of workloads: with credentials that may be replaced while they stand, to servers that the
//! operator of the node lets guests reach.
//!
//! Credentials are asked for with each new connection that the client library makes. So a connection that outlives its
//! credentials (a user JWT that expired, a password that was changed) comes back with those that were given last, and what
//! is open on it stays open.

use super::{GuestBuckets, OwnAccount, away::Away};
use crate::connect::{ConnectError, ConnectOptions, Nats, connect_showing};
use async_nats::{Auth, AuthError, ServerAddr, rustls};
use lattice::{
    account::{Account, Credentials, Login},
    address::AddressPolicy,
    id::WorkloadName,
    nats::LoginError,
    secret::Secret,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// A workload, and the account without its credentials.
pub(super) type Place = (WorkloadName, String);

/// What is shown to servers from now on.
pub(crate) struct Shown(Mutex<Option<Credentials>>);

impl GuestBuckets {
    pub(super) fn tries(&self, login: &Login) -> Arc<Tries> {
        let mut all = self.0.tries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        all.retain(|_, tries| Arc::strong_count(tries) > 1 || tries.away.is_fresh(now));
        all.entry(login.clone()).or_default().clone()
    }

    /// For one more connection to an account: whoever has one there already shows this from now on as well.
    pub(super) fn shown(&self, workload: &WorkloadName, account: &Account) -> Arc<Shown> {
        let mut all = self.0.shown.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, shown| shown.strong_count() > 0);
        let (place, credentials) = ((workload.clone(), account.place().to_owned()), account.credentials().cloned());
        if let Some(shown) = all.get(&place).and_then(Weak::upgrade) {
            *shown.0.lock().unwrap_or_else(PoisonError::into_inner) = credentials;
            return shown;
        }
        let shown = Arc::new(Shown(Mutex::new(credentials)));
        all.insert(place, Arc::downgrade(&shown));
        shown
    }
}

/// What became of the last try to connect to an account. It outlives the connection that nobody waits for any more, so that
/// guests whose account lets nobody in do not try with each request.
#[derive(Default)]
pub(super) struct Tries {
    pub(super) away: Away,
    error: Mutex<Option<LoginError>>,
}

impl Tries {
    pub(super) fn error(&self) -> Option<LoginError> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, error: &LoginError) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
    }
}

impl Shown {
    /// What a server gets for its nonce.
    pub(crate) fn answer(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let credentials = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut auth = Auth::new();
        match credentials {
            None => {}
            Some(Credentials::Jwt { jwt, seed }) => {
                (auth.jwt, auth.signature) = (Some(text(&jwt)?), Some(key(&seed)?.sign(nonce).map_err(unusable)?));
            }
            Some(Credentials::Nkey { seed }) => {
                let key = key(&seed)?;
                (auth.nkey, auth.signature) = (Some(key.public_key()), Some(key.sign(nonce).map_err(unusable)?));
            }
            Some(Credentials::Password { user, password }) => {
                (auth.username, auth.password) = (Some(text(&user)?), Some(text(&password)?));
            }
        }
        Ok(auth)
    }
}

/// The client library takes texts. It does not overwrite them.
fn text(secret: &Secret) -> Result<String, AuthError> {
    String::from_utf8(secret.reveal().to_vec()).map_err(unusable)
}

fn key(seed: &Secret) -> Result<nkeys::KeyPair, AuthError> {
    nkeys::KeyPair::from_seed(std::str::from_utf8(seed.reveal()).map_err(unusable)?).map_err(unusable)
}

/// Whatever is wrong with it, its text may be in the error.
fn unusable<E>(_: E) -> AuthError {
    AuthError::new("the credentials can't be used")
}

/// Connect to an account. Nothing of what the node itself connects with is shown to anybody.
pub(super) async fn connect(
    options: ConnectOptions,
    own: &OwnAccount,
    addresses: &AddressPolicy,
) -> Result<Nats, LoginError> {
    let account = &own.account;
    let mut options = ConnectOptions {
        credentials: None,
        nkey_seed: None,
        user: None,
        password: None,
        token: None,
        tls_cert: None,
        tls_key: None,
        ..options
    };
    let bad = |error: &dyn std::fmt::Display| LoginError::Servers(error.to_string());
    if account.servers().is_empty() {
        let servers = options.servers.iter().map(|server| bare(server)).collect::<Result<_, _>>();
        options.servers = servers.map_err(|()| bad(&"the node's own servers have no URL that others can use"))?;
    } else {
        for server in account.servers() {
            let server: ServerAddr = server.parse().map_err(|error| bad(&error))?;
            check(&server, addresses).await?;
        }
        (options.servers, options.tls_ca, options.tls_required) = (account.servers().to_vec(), None, false);
    }
    let trusts = account.ca_pem().map(trusting).transpose()?;
    let is_other_cluster = !account.servers().is_empty();
    connect_showing(options, own.shown.clone(), trusts, is_other_cluster).await.map_err(|error| match error {
        ConnectError::Unauthorised { .. } => LoginError::Credentials(error.to_string()),
        error => LoginError::Unreachable(error.to_string()),
    })
}

/// The URL of a server without what is shown to it.
fn bare(server: &str) -> Result<String, ()> {
    let mut url = server.parse::<ServerAddr>().map_err(drop)?.into_inner();
    url.set_username("")?;
    url.set_password(None)?;
    Ok(url.to_string())
}

/// Each address that a name has now. A name may have others later: an operator who lets guests reach nothing private
/// relies on their names being told apart by who answers there, which must speak NATS.
async fn check(server: &ServerAddr, addresses: &AddressPolicy) -> Result<(), LoginError> {
    let name = format!("{}:{}", server.host(), server.port());
    let found = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((server.host(), server.port()))).await;
    let found = found.map_err(|_| LoginError::Unreachable(format!("{name}: the lookup took too long")))?;
    let found = found.map_err(|error| LoginError::Unreachable(format!("{name}: {error}")))?;
    for address in found {
        addresses.check(address.ip()).map_err(|special| {
            LoginError::Servers(format!(
                "{name} is at {}, {special}: nodes reach it for guests only if they are started with --allow-egress",
                address.ip()
            ))
        })?;
    }
    Ok(())
}

/// TLS that trusts these authorities and no others.
fn trusting(pem: &str) -> Result<rustls::ClientConfig, LoginError> {
    let bad = |error: &dyn std::fmt::Display| LoginError::Authority(error.to_string());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(|error| bad(&error))?).map_err(|error| bad(&error))?;
    }
    if roots.is_empty() {
        return Err(bad(&"there is no certificate in it"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| bad(&error))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_shows_its_own_servers_is_not_in_their_urls_for_others() {
        assert_eq!(bare("nats://node:hunter2@a.test:4222").unwrap(), "nats://a.test:4222");
        assert_eq!(bare("tls://token@a.test").unwrap(), "tls://a.test");
    }

    #[tokio::test]
    async fn private_addresses_are_for_the_operator_to_allow() {
        let server: ServerAddr = "nats://127.0.0.1:4222".parse().unwrap();
        let error = check(&server, &AddressPolicy::default()).await.unwrap_err();
        assert!(matches!(&error, LoginError::Servers(text) if text.contains("a loopback address")), "{error}");
        let allowed = AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]);
        assert_eq!(check(&server, &allowed).await, Ok(()));
    }
}
