//! From options to an open lattice. A node may be started before its NATS, so what can pass is waited for; what cannot
//! (options, credentials, a server that is too old) ends the node at once with what to do.

use crate::client::explain_connect;
use crate::connection::Settings;
use lattice::{id::LatticeId, store::Platform};
use lattice_nats::{ConnectError, GuestBuckets, Nats};
use std::time::Duration;
use tokio::time::Instant;

const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A JetStream cluster elects leaders when it starts, and answers with errors until it has them.
const LAYOUT_PATIENCE: Duration = Duration::from_secs(30);

/// Connect and make what the lattice's store lacks. Cancel-safe: what was made stays and is found again.
pub(super) async fn join(
    settings: Settings,
    lattice: LatticeId,
    name: String,
    guests: GuestBuckets,
) -> anyhow::Result<(Nats, Platform)> {
    let summary = settings.summary();
    let options = settings.into_options(&name)?;
    let mut wait = RETRY_FIRST;
    let mut connected: Option<Instant> = None;
    loop {
        let error = match lattice_nats::connect(options.clone()).await {
            Ok(nats) => {
                let nats = nats.with_accounts(guests.clone());
                let since = *connected.get_or_insert_with(Instant::now);
                match nats.open(&lattice, true).await {
                    Ok(platform) => return Ok((nats, platform)),
                    Err(error) if !may_pass(&error) || since.elapsed() > LAYOUT_PATIENCE => {
                        return Err(explain_connect(error, &summary));
                    }
                    Err(error) => error,
                }
            }
            Err(error) if may_pass(&error) => error,
            Err(error) => return Err(explain_connect(error, &summary)),
        };
        tracing::warn!("{error}; trying again");
        // Half of it by chance, so that nodes that lost one server don't come back in step.
        let half = wait / 2;
        let jitter = half.mul_f64(uuid::Uuid::new_v4().as_bytes().first().map_or(0.0, |byte| f64::from(*byte) / 255.0));
        tokio::time::sleep(half + jitter).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

fn may_pass(error: &ConnectError) -> bool {
    match error {
        ConnectError::Unreachable { .. } | ConnectError::NoJetStream { .. } | ConnectError::Layout { .. } => true,
        ConnectError::Option(_) | ConnectError::Unauthorised { .. } | ConnectError::TooOld { .. } => false,
    }
}
