//! Requests to move replicas to better places: what would move is found out here, and who moves it stands in one record.

use super::{Admission, blocking, body, unavailable};
use lattice::{
    ctl::{CtlError, ErrorCode, PlannedMove, RebalanceReply, RebalanceRequest, RebalanceState, RebalanceStatus},
    event::EventKind,
    record::{DecodeError, Key, Move, Rebalance, Record as _},
    store::{Bucket, Message, Precondition, StoreError},
};
use lattice_planner::{Better, better_places};

/// Replicas that may be moved at a time.
const AT_ONCE_MAX: u32 = 64;
const ATTEMPTS: usize = 8;

impl Admission {
    pub(super) async fn rebalance(&self, message: &Message) -> Result<RebalanceReply, CtlError> {
        let RebalanceRequest { at_once, workload, dry_run } =
            body(&message.payload, r#"{"at-once": 2, "workload": "shop", "dry-run": true}, or nothing"#)?;
        if !(1..=AT_ONCE_MAX).contains(&at_once) {
            let text = format!("{at_once} is not between 1 and {AT_ONCE_MAX}");
            return Err(CtlError::new(ErrorCode::Invalid, text).field("at-once"));
        }
        let view = self.view()?;
        if let Some(name) = workload.as_ref().filter(|name| !view.specs.contains_key(*name)) {
            return Err(super::put::not_found(name));
        }
        let found = blocking(move || better_places(&view, workload.as_ref())).await.unwrap_or_default();
        let planned = |Better { slot, from, to, by, gpu: _ }: &Better| PlannedMove {
            slot: slot.clone(),
            from: from.clone(),
            to: to.clone(),
            by: (*by).to_owned(),
        };
        let moves: Vec<PlannedMove> = found.iter().map(planned).collect();
        if dry_run || moves.is_empty() {
            return Ok(RebalanceReply { moves, started: false });
        }
        let record = Rebalance {
            id: self.platform.rng.uuid(),
            at_once,
            moving: Vec::new(),
            left: found.into_iter().map(|Better { slot, from, .. }| Move { slot, from }).collect(),
            moved: 0,
            skipped: 0,
            changed_at: self.platform.clock.unix_ms(),
        };
        let key = Key::Rebalance.to_string();
        match self.platform.store.write(Bucket::State, &key, record.encode(), Precondition::Absent).await {
            Ok(_) => {}
            Err(StoreError::Conflict { .. }) => {
                return Err(CtlError::new(ErrorCode::Conflict, "replicas are being moved to better places already")
                    .hint("`lattice rebalance --status` shows how far that is, `--cancel` ends it"));
            }
            Err(error) => return Err(unavailable(&error)),
        }
        let text = format!("{} replicas move to better places, {at_once} at a time", moves.len());
        self.events.send(EventKind::RebalanceBegun, &self.options.lattice, text).await;
        Ok(RebalanceReply { moves, started: true })
    }

    pub(super) async fn rebalance_state(&self) -> Result<RebalanceState, CtlError> {
        let key = Key::Rebalance.to_string();
        let entry = self.platform.store.get(Bucket::State, &key).await.map_err(|error| unavailable(&error))?;
        let under_way = entry.and_then(|entry| Rebalance::decode(&entry.value).ok()).map(|record| status(&record));
        Ok(RebalanceState { under_way })
    }

    /// End it. What was claimed by then goes on; all else stays where it is.
    pub(super) async fn cancel_rebalance(&self) -> Result<RebalanceState, CtlError> {
        let key = Key::Rebalance.to_string();
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let entry = self.platform.store.get(Bucket::State, &key).await.map_err(|error| unavailable(&error))?;
            let Some(entry) = entry else { return Ok(RebalanceState { under_way: last }) };
            last = match Rebalance::decode(&entry.value) {
                Ok(record) => Some(status(&record)),
                Err(error @ DecodeError::Newer(_)) => {
                    return Err(CtlError::new(ErrorCode::Conflict, error.to_string()));
                }
                Err(DecodeError::Malformed(_)) => None,
            };
            match self.platform.store.delete(Bucket::State, &key, entry.revision).await {
                Ok(_) => {
                    let text = "cancelled: what is on its way goes on, all else stays";
                    self.events.send(EventKind::RebalanceEnded, &self.options.lattice, text).await;
                    return Ok(RebalanceState { under_way: last });
                }
                // The next look finds what became of it.
                Err(StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. }) => {}
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Err(CtlError::new(ErrorCode::Conflict, "nodes write it all the time").hint("try again"))
    }
}

fn status(record: &Rebalance) -> RebalanceStatus {
    let Rebalance { at_once, moving, left, moved, skipped, .. } = record;
    let left = u32::try_from(left.len()).unwrap_or(u32::MAX);
    RebalanceStatus { at_once: *at_once, moving: moving.clone(), left, moved: *moved, skipped: *skipped }
}
