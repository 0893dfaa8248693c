//! Writes the spec that gives a rollout up. Its record says already that it is; see `rollouts.rs`.

use lattice::{
    id::Revision,
    record::{Aborted, Key, Record as _, SpecRecord},
    store::{Bucket, Platform, Precondition, StoreError},
    view::LatticeView,
};
use lattice_planner::leave_taken;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// How long the view may take to show what was written.
const ECHO: Duration = Duration::from_secs(1);

/// What comes in the place of a spec that is given up: what was stable, without routes that are another workload's now.
pub(crate) fn back(view: &LatticeView, spec: &SpecRecord, reason: &str, unix_ms: u64) -> Option<SpecRecord> {
    let mut back = spec.abort(reason, unix_ms)?;
    leave_taken(view, &mut back, None);
    Some(back)
}

/// Write it. Answers what is in force then, which has a route less where somebody took it at the same moment.
pub(crate) async fn write(
    platform: &Platform,
    mut view: watch::Receiver<Arc<LatticeView>>,
    back: SpecRecord,
    expect: Revision,
) -> Result<(SpecRecord, Revision), StoreError> {
    let key = Key::Spec(back.spec.name.clone()).to_string();
    let revision = platform.store.write(Bucket::Specs, &key, back.encode(), Precondition::At(expect)).await?;
    let shown = view.wait_for(|view| view.seen.get(&Bucket::Specs).is_some_and(|seen| seen.head >= revision.0));
    let timeout = platform.clock.sleep(ECHO);
    tokio::select! { // cancel-safe: both only wait
        biased;
        _ = shown => {}
        () = timeout => {}
    }
    let seen = view.borrow().clone();
    let mut again = SpecRecord { generation: back.generation.next(), ..back.clone() };
    // Of two that were written at the same moment the later one goes back, as in admission.
    if !leave_taken(&seen, &mut again, Some(revision)) {
        return Ok((back, revision));
    }
    let written = platform.store.write(Bucket::Specs, &key, again.encode(), Precondition::At(revision)).await;
    match written {
        Ok(revision) => Ok((again, revision)),
        // Somebody has put another one since.
        Err(StoreError::Conflict { .. }) => Ok((back, revision)),
        Err(error) => Err(error),
    }
}

/// What is told of it.
pub(crate) fn told(record: &SpecRecord) -> Option<String> {
    let aborted = record.aborted.as_ref()?;
    let Aborted { generation, reason, .. } = aborted;
    let loss = aborted.loss().map_or_else(String::new, |loss| format!("; the one before it is in force again {loss}"));
    let kept = record.declined.iter().filter_map(|(name, declined)| {
        let own = record.configs.get(name)?;
        Some(format!("; {name} stays at version {} here, not {}", own.version, declined.version))
    });
    Some(format!("generation {generation} is given up: {reason}{loss}{}", kept.collect::<String>()))
}
