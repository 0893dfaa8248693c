//! The lattice's buckets and streams: made if missing, read back, never silently different from what is needed.

use crate::connect::{ConnectError, Nats};
use async_nats::jetstream::{self, kv, object_store, stream};
use lattice::{id::LatticeId, limits::SPEC_HISTORY, store::Bucket, subject};
use std::time::Duration;

/// Least JetStream API level (ADR-44): 1 is nats-server 2.11, the first with per-key expiry and safe compare-and-set.
pub const API_LEVEL_LEAST: u32 = 1;
/// Level of nats-server 2.12.8.
pub const API_LEVEL_RECOMMENDED: u32 = 3;

/// How long a deletion stays visible to watchers of other tools. Nodes never depend on it: they diff snapshots.
pub(crate) const TOMBSTONE_TTL: Duration = Duration::from_secs(3600);
/// Copies on a clustered server.
const REPLICAS_CLUSTERED: usize = 3;
const EVENTS_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
const EVENTS_BYTES_MAX: i64 = 64 * 1024 * 1024;

pub(crate) struct Layout {
    pub(crate) artifacts: object_store::ObjectStore,
}

impl Layout {
    pub(crate) async fn open(nats: &Nats, lattice: &LatticeId, create: bool) -> Result<Layout, ConnectError> {
        for bucket in Bucket::ALL {
            ensure_bucket(nats, lattice, bucket, create).await?;
        }
        let artifacts = ensure_artifacts(nats, lattice, create).await?;
        if create {
            ensure_secrets(nats, lattice, true).await?;
            ensure_events(nats, lattice).await?;
        }
        Ok(Layout { artifacts })
    }
}

fn failed(what: &str, why: impl std::fmt::Display) -> ConnectError {
    ConnectError::Layout { what: what.to_owned(), why: why.to_string() }
}

/// Try with the copies that a cluster should have; with one only where the cluster has too few servers for that.
async fn with_replicas<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
    nats: &Nats,
    make: impl Fn(usize) -> F,
) -> Result<T, E> {
    if nats.server().cluster.is_none() {
        return make(1).await;
    }
    match make(REPLICAS_CLUSTERED).await {
        Err(error) if has_too_few_servers(&error.to_string()) => {
            tracing::warn!(%error, "the cluster has too few servers for three copies; keeping one");
            make(1).await
        }
        made => made,
    }
}

/// JetStream error codes 10005 and 10023; what reaches us is their text.
fn has_too_few_servers(error: &str) -> bool {
    ["no suitable peers", "insufficient resources", "10005", "10023"].iter().any(|sign| error.contains(sign))
}

pub(crate) async fn ensure_bucket(
    nats: &Nats,
    lattice: &LatticeId,
    bucket: Bucket,
    create: bool,
) -> Result<kv::Store, ConnectError> {
    let name = subject::bucket_name(lattice, bucket);
    let existing = nats.jetstream.get_key_value(&name).await;
    let store = match existing {
        Ok(store) => store,
        Err(error) if !create => {
            return Err(failed(
                &format!("bucket {name}"),
                format!("{error}; is a node of lattice {lattice:?} running? The first one makes it"),
            ));
        }
        Err(_) => {
            let config = |num_replicas| kv::Config {
                bucket: name.clone(),
                description: format!("lattice {lattice}: {bucket}"),
                history: match bucket {
                    Bucket::State => 1,
                    Bucket::Specs => i64::from(SPEC_HISTORY),
                },
                storage: stream::StorageType::File,
                num_replicas,
                republish: Some(stream::Republish {
                    source: format!("$KV.{name}.>"),
                    destination: format!("{}.>", subject::republish_prefix(lattice, bucket)),
                    headers_only: false,
                }),
                limit_markers: Some(TOMBSTONE_TTL),
                ..Default::default()
            };
            // Several first nodes may do this at once: the same configuration makes it idempotent.
            let made = with_replicas(nats, |replicas| nats.jetstream.create_key_value(config(replicas)))
                .await
                .map_err(|error| failed(&format!("bucket {name}"), error))?;
            // A server that lost one bucket under running nodes lost the rest as well.
            ensure_streams(nats, lattice).await?;
            made
        }
    };
    // Old servers drop settings that they don't know, and an operator may have made the bucket by hand: read back.
    let config = &store.stream.cached_info().config;
    let republished = config.republish.as_ref().map(|republish| republish.destination.as_str());
    let wanted = format!("{}.>", subject::republish_prefix(lattice, bucket));
    if republished != Some(wanted.as_str()) {
        return Err(failed(
            &format!("bucket {name}"),
            format!("it does not republish to {wanted}: delete it, or edit its stream with the nats CLI"),
        ));
    }
    if !config.allow_message_ttl {
        return Err(failed(&format!("bucket {name}"), "it does not allow expiry of single keys (allow_msg_ttl)"));
    }
    Ok(store)
}

/// What no bucket's reader would miss: make it again where it vanished.
pub(crate) async fn ensure_streams(nats: &Nats, lattice: &LatticeId) -> Result<(), ConnectError> {
    ensure_artifacts(nats, lattice, true).await?;
    ensure_events(nats, lattice).await
}

/// The bucket of the values of secrets. Nothing watches it, and nothing is republished.
pub(crate) async fn ensure_secrets(
    nats: &Nats,
    lattice: &LatticeId,
    create: bool,
) -> Result<stream::Stream, ConnectError> {
    let name = subject::secrets_name(lattice);
    let store = match nats.jetstream.get_key_value(&name).await {
        Ok(store) => store,
        Err(error) if !create => return Err(failed(&format!("bucket {name}"), error)),
        Err(_) => with_replicas(nats, |num_replicas| {
            nats.jetstream.create_key_value(kv::Config {
                bucket: name.clone(),
                description: format!("lattice {lattice}: values of secrets"),
                history: 1,
                storage: stream::StorageType::File,
                num_replicas,
                ..Default::default()
            })
        })
        .await
        .map_err(|error| failed(&format!("bucket {name}"), error))?,
    };
    let config = &store.stream.cached_info().config;
    if config.republish.is_some() || config.sources.as_ref().is_some_and(|sources| !sources.is_empty()) {
        return Err(failed(&format!("bucket {name}"), "it republishes what is put there, or takes in other streams"));
    }
    Ok(store.stream)
}

async fn ensure_artifacts(
    nats: &Nats,
    lattice: &LatticeId,
    create: bool,
) -> Result<object_store::ObjectStore, ConnectError> {
    let name = subject::artifacts_name(lattice);
    match nats.jetstream.get_object_store(&name).await {
        Ok(store) => Ok(store),
        Err(error) if !create => Err(failed(&format!("object store {name}"), error)),
        Err(_) => with_replicas(nats, |num_replicas| {
            nats.jetstream.create_object_store(object_store::Config {
                bucket: name.clone(),
                description: Some(format!("lattice {lattice}: components by SHA-256")),
                storage: stream::StorageType::File,
                num_replicas,
                ..Default::default()
            })
        })
        .await
        .map_err(|error| failed(&format!("object store {name}"), error)),
    }
}

async fn ensure_events(nats: &Nats, lattice: &LatticeId) -> Result<(), ConnectError> {
    let name = subject::events_stream(lattice);
    let config = |num_replicas| jetstream::stream::Config {
        name: name.clone(),
        description: Some(format!("lattice {lattice}: events (CloudEvents 1.0)")),
        subjects: vec![subject::events_all(lattice)],
        max_age: EVENTS_AGE_MAX,
        max_bytes: EVENTS_BYTES_MAX,
        discard: stream::DiscardPolicy::Old,
        storage: stream::StorageType::File,
        num_replicas,
        ..Default::default()
    };
    if nats.jetstream.get_stream(&name).await.is_ok() {
        return Ok(());
    }
    with_replicas(nats, |replicas| nats.jetstream.create_stream(config(replicas)))
        .await
        .map(drop)
        .map_err(|error| failed(&format!("stream {name}"), error))
}
