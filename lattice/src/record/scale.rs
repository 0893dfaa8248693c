//! How many replicas a workload that scales itself has now.

use super::Record;
use crate::{
    limits::{MESSAGE_BYTES_MAX, one_line},
    store::Bucket,
};
use serde::{Deserialize, Serialize};

/// Decided: the replicas of a workload with `autoscale`. Written by whichever node decides, compare-and-set; use
/// [`crate::view::LatticeView::replicas`], which knows what holds where there is none. A version that does not know this
/// record does not read such specs either.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Scale {
    /// The life of the workload that it was decided for.
    pub uid: uuid::Uuid,
    pub replicas: u32,
    /// How many there were before.
    pub before: u32,
    /// When it was decided: milliseconds since 1970, by the writer's clock. For people only.
    pub since: u64,
    /// One sentence, for people.
    pub why: String,
}
impl Record for Scale {
    const BUCKET: Bucket = Bucket::State;
}

impl Scale {
    pub fn new(uid: uuid::Uuid, (before, replicas): (u32, u32), since: u64, why: &str) -> Self {
        Self { uid, replicas, before, since, why: one_line(why, MESSAGE_BYTES_MAX) }
    }
}
