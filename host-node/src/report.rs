//! What the running units count, as the lattice's report says it.

use crate::{health::Crashes, instances::ReadyUnits, load::LoadMeter};
use lattice::{
    host::Observed,
    id::SlotId,
    report::{
        Counts, HostReport, InstancesReport, LastFailure, NodeUsage, PartReport, PartState, Peak, ReportedRole,
        ReuseOff, SlotReport,
    },
};
use lattice_runtime::{PartRole, PartStats, Runtime, Unit};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const REUSE_REMEDY: &str = "requests get a fresh instance each, which is slower. Build a component that answers more than \
    one request in an instance (in JavaScript export incomingHandler instead of listening to fetch), or write \
    `reuse: off` to say that it is meant so";

/// Of all units that take requests, and of slots whose units failed.
pub(crate) fn report(
    units: &ReadyUnits,
    runtime: &Runtime,
    observed: &BTreeMap<SlotId, Observed>,
    crashes: &Crashes,
    meter: &LoadMeter,
) -> HostReport {
    let answers = units.answers();
    let serving = units.all().into_iter().filter_map(|(slot, unit)| {
        let observed = observed.get(&slot)?;
        let of_generation = answers.get(&slot).filter(|(generation, _)| *generation == observed.generation);
        let answers = of_generation.map(|(_, answers)| *answers);
        let report = SlotReport { load: meter.of(&slot), answers, ..of_unit(observed, &unit) };
        Some((slot, report))
    });
    let mut slots: BTreeMap<SlotId, SlotReport> = serving.collect();
    for (slot, observed) in observed {
        let Some(crash) = crashes.of(slot, observed.uid, observed.generation) else { continue };
        let report = slots.entry(slot.clone());
        report.or_insert_with(|| SlotReport::new(observed.uid, observed.generation)).crash = Some(crash);
    }
    let loads = runtime.load_stats();
    let (instances, instances_limit) = runtime.instances();
    let usage = NodeUsage {
        memory: runtime.memory_bytes_used(),
        memory_limit: runtime.memory_bytes_total(),
        instances,
        instances_limit,
        in_flight: slots.values().map(|slot| slot.in_flight).sum(),
        waiting: slots.values().map(|slot| slot.waiting).sum(),
        compiled: loads.compiled,
        from_disk: loads.from_disk,
    };
    HostReport { usage, slots }
}

fn of_unit(observed: &Observed, unit: &Unit) -> SlotReport {
    let stats = unit.stats();
    let limits = unit.limits();
    let tally = &stats.tally;
    SlotReport {
        requests: stats.requests,
        refused: stats.refused,
        retries: stats.retries,
        in_flight: stats.in_flight.into(),
        waiting: stats.queued.into(),
        instances: InstancesReport {
            live: stats.instances_live.into(),
            idle: stats.instances_idle.into(),
            created: stats.instances_created,
        },
        memory: Peak { peak: tally.memory_peak, limit: limits.memory_bytes },
        cpu: Peak { peak: millis(tally.cpu_peak), limit: millis(limits.cpu) },
        failures: counts(tally.failures.iter().map(|(kind, count)| (kind.as_str(), *count))),
        last_failure: tally.last_failure.as_ref().map(|last| LastFailure {
            kind: last.kind.as_str().to_owned(),
            message: last.message.clone(),
            at: unix_ms(last.at),
        }),
        limits: counts(tally.limits.iter().map(|(limit, count)| (limit.as_str(), *count))),
        retired: counts(stats.instances_retired.iter().map(|(reason, count)| (reason.as_str(), *count))),
        strikes: stats.strikes,
        reuse_off: stats.reuse_disabled.clone().map(|reason| ReuseOff {
            digest: unit.digest(),
            reason,
            remedy: REUSE_REMEDY.to_owned(),
            since: stats.reuse_disabled_at.map(unix_ms).unwrap_or_default(),
        }),
        parts: stats.parts.into_iter().map(of_part).collect(),
        configs: observed.configs.iter().map(|(name, stamp)| (name.clone(), stamp.version)).collect(),
        ..SlotReport::new(observed.uid, observed.generation)
    }
}

fn of_part(stats: PartStats) -> PartReport {
    PartReport {
        name: stats.name,
        role: match stats.role {
            PartRole::Service { .. } => ReportedRole::Service,
            PartRole::Lazy { .. } => ReportedRole::Lazy,
            PartRole::Isolated => ReportedRole::Isolated,
        },
        state: match stats.state {
            lattice_runtime::PartState::Starting => PartState::Starting,
            lattice_runtime::PartState::Ready => PartState::Ready,
            lattice_runtime::PartState::Restarting => PartState::Restarting,
            lattice_runtime::PartState::GivenUp => PartState::GivenUp,
            lattice_runtime::PartState::Done => PartState::Done,
            lattice_runtime::PartState::Stopped => PartState::Stopped,
        },
        instances: stats.instances_live.into(),
        calls: stats.calls,
        failures: stats.failures.saturating_add(stats.refused),
        restarts: stats.restarts,
        last_error: stats.last_error,
    }
}

fn counts<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> Counts {
    counts.map(|(name, count)| (name.to_owned(), count)).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unix_ms(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}
