//! Connecting as NATS users know it, and what the server says of itself.

use crate::{
    artifacts::ObjectStore,
    bus::NatsBus,
    clock::{SystemClock, SystemRng},
    guests::{GuestBuckets, NodeBuckets, Shown},
    layout,
    store::NatsStore,
    vault::NatsVault,
};
use async_nats::{jetstream, rustls};
use lattice::{
    id::LatticeId,
    store::{Bus, Connection, Platform},
};
use serde::Deserialize;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Messages that wait in one subscription before the client drops more: a dropped one shows as a gap in sequences.
const SUBSCRIPTION_MESSAGES_MAX: usize = 8 * 1024;
/// Messages that wait in the client for the connection to write them, 64 KiB each for most. More wait in the outbox, and
/// then with their senders.
const COMMANDS_MAX: usize = 256;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(4);

/// How to reach NATS. At most one way of authenticating is meant to be set.
#[derive(Clone, Default)]
pub struct ConnectOptions {
    /// `nats://host:4222`, `tls://…`. What stands before an `@` is not shown to servers.
    pub servers: Vec<String>,
    /// A credentials file (JWT and seed).
    pub credentials: Option<PathBuf>,
    /// An nkey seed (`SU…`).
    pub nkey_seed: Option<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub token: Option<String>,
    /// Certificates of authorities to trust, beside the system's.
    pub tls_ca: Option<PathBuf>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub tls_required: bool,
    /// Shown in the server's list of connections.
    pub name: String,
    /// Keep trying when the server is not there at first.
    pub retry_first: bool,
    /// Take replies under a prefix that no other connection has.
    pub own_inbox: bool,
}

impl std::fmt::Debug for ConnectOptions {
    /// Without anything that is, or may contain, a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("name", &self.name)
            .field("retry_first", &self.retry_first)
            .finish_non_exhaustive()
    }
}

/// Why there is no connection, or no lattice on it. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("bad NATS option: {0}")]
    Option(String),
    #[error("cannot reach NATS at {servers}: {why}")]
    Unreachable { servers: String, why: String },
    #[error("NATS at {servers} refused the credentials: {why}")]
    Unauthorised { servers: String, why: String },
    #[error(
        "JetStream is not enabled on this nats-server ({why}): start it with `nats-server -js`, or enable JetStream for the account"
    )]
    NoJetStream { why: String },
    #[error(
        "nats-server {version} is too old: its JetStream API level is {level}, at least {least} is needed (nats-server 2.11; 2.12.8 or newer is recommended), since compare-and-set and expiry are not safe before",
        level = level.map_or_else(|| "absent".into(), |l| l.to_string()),
        least = layout::API_LEVEL_LEAST
    )]
    TooOld { version: String, level: Option<u32> },
    #[error("cannot prepare {what}: {why}")]
    Layout { what: String, why: String },
}

/// What the connected server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    pub name: String,
    pub version: String,
    pub host: String,
    pub port: u16,
    pub cluster: Option<String>,
    pub payload_bytes_max: usize,
}

/// A connection to NATS. Cheap to clone; the connection ends with the last clone.
#[derive(Clone)]
pub struct Nats {
    pub(crate) client: async_nats::Client,
    pub(crate) jetstream: jetstream::Context,
    /// Counts connections made, from 1; subscribers learn from a change that messages may have been missed.
    pub(crate) epochs: watch::Receiver<u64>,
    /// Counts messages that the client dropped since a subscription of this connection was full.
    pub(crate) drops: watch::Receiver<u64>,
    /// Who connects to accounts of workloads.
    pub(crate) accounts: Option<GuestBuckets>,
}

/// Connect.
pub async fn connect(options: ConnectOptions) -> Result<Nats, ConnectError> {
    establish(options, async_nats::ConnectOptions::new()).await
}

/// Connect with what is to be shown to servers at each time. To another cluster that has servers of the spec's choice: those
/// that it tells of are nobody's choice.
pub(crate) async fn connect_showing(
    options: ConnectOptions,
    shown: Arc<Shown>,
    trusts: Option<rustls::ClientConfig>,
    is_other_cluster: bool,
) -> Result<Nats, ConnectError> {
    let answer = move |nonce: Vec<u8>| {
        let answer = shown.answer(&nonce);
        async move { answer }
    };
    let mut nats = async_nats::ConnectOptions::with_auth_callback(answer);
    if let Some(trusts) = trusts {
        nats = nats.tls_client_config(trusts);
    }
    if is_other_cluster {
        nats = nats.ignore_discovered_servers();
    }
    establish(options, nats).await
}

async fn establish(options: ConnectOptions, nats: async_nats::ConnectOptions) -> Result<Nats, ConnectError> {
    let servers = options.servers.join(", ");
    let bad = |why: &dyn std::fmt::Display| ConnectError::Option(why.to_string());
    let addresses = options
        .servers
        .iter()
        .map(|server| server.parse::<async_nats::ServerAddr>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| ConnectError::Option(format!("{servers} is not a NATS URL: {error}")))?;

    let (epoch, epochs) = watch::channel(0);
    let (drop, drops) = watch::channel(0);
    let mut nats = nats
        .name(&options.name)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(Duration::from_secs(5)))
        .client_capacity(COMMANDS_MAX)
        .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
        .ping_interval(Duration::from_secs(10))
        .require_tls(options.tls_required)
        .reconnect_delay_callback(|attempts| {
            let exponent = u32::try_from(attempts.min(6)).unwrap_or(6);
            let backoff = Duration::from_millis(50).saturating_mul(1 << exponent).min(RECONNECT_DELAY_MAX);
            // Full jitter, so that a thousand nodes don't return in step.
            backoff.mul_f64((uuid::Uuid::new_v4().as_u128() % 1_000) as f64 / 1_000.0)
        })
        .event_callback(move |event| {
            match &event {
                async_nats::Event::Connected => epoch.send_modify(|epoch| *epoch += 1),
                async_nats::Event::Disconnected => {
                    tracing::warn!("lost the connection to NATS; trying to reconnect");
                }
                async_nats::Event::SlowConsumer(subscription) => {
                    drop.send_modify(|drops| *drops += 1);
                    tracing::warn!(subscription, "messages were dropped: this node reads slower than they arrive");
                }
                async_nats::Event::ServerError(error) => tracing::warn!(%error, "NATS server error"),
                other => tracing::debug!(event = %other, "NATS event"),
            }
            async {}
        });
    if options.own_inbox {
        nats = nats.custom_inbox_prefix(format!("_INBOX.{}", uuid::Uuid::new_v4().simple()));
    }
    if options.retry_first {
        nats = nats.retry_on_initial_connect();
    }
    if let Some(path) = &options.credentials {
        nats = nats
            .credentials_file(path)
            .await
            .map_err(|error| ConnectError::Option(format!("credentials file {}: {error}", path.display())))?;
    }
    if let Some(seed) = options.nkey_seed {
        nats = nats.nkey(seed);
    }
    if let Some(user) = options.user {
        nats = nats.user_and_password(user, options.password.unwrap_or_default());
    }
    if let Some(token) = options.token {
        nats = nats.token(token);
    }
    if let Some(ca) = options.tls_ca {
        nats = nats.add_root_certificates(ca);
    }
    match (options.tls_cert, options.tls_key) {
        (Some(cert), Some(key)) => nats = nats.add_client_certificate(cert, key),
        (None, None) => {}
        _ => return Err(bad(&"a client certificate needs both its certificate and its key")),
    }
    let client = nats.connect(addresses).await.map_err(|error| {
        let why = error.to_string();
        match error.kind() {
            async_nats::ConnectErrorKind::Authentication | async_nats::ConnectErrorKind::AuthorizationViolation => {
                ConnectError::Unauthorised { servers: servers.clone(), why }
            }
            _ => ConnectError::Unreachable { servers: servers.clone(), why },
        }
    })?;
    let jetstream = jetstream::context::ContextBuilder::new().timeout(Duration::from_secs(5)).build(client.clone());
    Ok(Nats { client, jetstream, epochs, drops, accounts: None })
}

#[derive(Deserialize)]
struct AccountInfo {
    api: Option<Api>,
    error: Option<ApiError>,
}
#[derive(Deserialize)]
struct Api {
    level: Option<u32>,
}
#[derive(Deserialize)]
struct ApiError {
    description: Option<String>,
}

impl Nats {
    /// For a node that looks at what is in accounts of workloads: it does so over the connections of their guests.
    pub fn with_accounts(self, guests: GuestBuckets) -> Self {
        Self { accounts: Some(guests), ..self }
    }

    /// The bus of this connection. Must be called within a tokio runtime.
    pub fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(NatsBus::new(self.clone()))
    }

    /// What the server says of itself. Empty before the first connection.
    pub fn server(&self) -> ServerFacts {
        let info = self.client.try_server_info().unwrap_or_default();
        ServerFacts {
            name: info.server_name,
            version: info.version,
            host: info.host,
            port: info.port,
            cluster: info.cluster,
            payload_bytes_max: info.max_payload,
        }
    }

    pub fn connection(&self) -> Connection {
        match self.client.connection_state() {
            async_nats::connection::State::Connected => Connection::Up,
            _ => Connection::Down,
        }
    }

    /// The account's JetStream API level (ADR-44); `None` on servers before 2.11.
    pub async fn api_level(&self) -> Result<Option<u32>, ConnectError> {
        let no_jetstream = |why: String| ConnectError::NoJetStream { why };
        let reply = self
            .client
            .request("$JS.API.INFO", bytes::Bytes::new())
            .await
            .map_err(|error| no_jetstream(error.to_string()))?;
        let info: AccountInfo =
            serde_json::from_slice(&reply.payload).map_err(|error| no_jetstream(error.to_string()))?;
        if let Some(error) = info.error {
            return Err(no_jetstream(error.description.unwrap_or_else(|| "no reason given".into())));
        }
        Ok(info.api.and_then(|api| api.level))
    }

    /// One round trip to the server.
    pub async fn round_trip(&self) -> Result<Duration, ConnectError> {
        let start = tokio::time::Instant::now();
        self.client
            .flush()
            .await
            .map_err(|error| ConnectError::Unreachable { servers: self.server().host, why: error.to_string() })?;
        Ok(start.elapsed())
    }

    /// Everything that the services of a lattice need. With `create`, buckets that are missing are made; without, their
    /// absence is an error that says so.
    pub async fn open(&self, lattice: &LatticeId, create: bool) -> Result<Platform, ConnectError> {
        let level = self.api_level().await?;
        if level.is_none_or(|level| level < layout::API_LEVEL_LEAST) {
            return Err(ConnectError::TooOld { version: self.server().version, level });
        }
        if let Some(level) = level.filter(|level| *level < layout::API_LEVEL_RECOMMENDED) {
            let version = self.server().version;
            tracing::warn!(version, level, "this nats-server works; 2.12.8 or newer is recommended");
        }
        let layout = layout::Layout::open(self, lattice, create).await?;
        Ok(Platform {
            store: Arc::new(NatsStore::new(self.clone(), lattice.clone(), create)),
            artifacts: Arc::new(ObjectStore::new(layout.artifacts)),
            vault: Arc::new(NatsVault::new(self.clone(), lattice.clone())),
            bus: self.bus(),
            buckets: Arc::new(NodeBuckets(self.clone())),
            nats: Arc::new(NodeBuckets(self.clone())),
            clock: Arc::new(SystemClock::default()),
            rng: Arc::new(SystemRng),
        })
    }
}
