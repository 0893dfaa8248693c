//! Records as the store's leader has them, for those who write by them: a view may be late.

use lattice::{
    id::{Revision, WorkloadName},
    record::{DecodeError, Key, Record as _, Rollout},
    store::{Bucket, Platform, StoreError},
};

/// Why it is not known how far a rollout is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// As if there were none, what is stable would be taken from a spec that is not.
    #[error("rollout.{workload}: {error}")]
    Newer { workload: WorkloadName, error: DecodeError },
}

/// How far a workload is on the way to its newest template. A record that is malformed is as if it were not there.
pub(crate) async fn rollout(platform: &Platform, name: &WorkloadName) -> Result<Option<(Rollout, Revision)>, Unread> {
    let key = Key::Rollout(name.clone()).to_string();
    let Some(entry) = platform.store.get(Bucket::State, &key).await? else { return Ok(None) };
    match Rollout::decode(&entry.value) {
        Ok(rollout) => Ok(Some((rollout, entry.revision))),
        Err(DecodeError::Malformed(_)) => Ok(None),
        Err(error @ DecodeError::Newer(_)) => Err(Unread::Newer { workload: name.clone(), error }),
    }
}
