//! How many replicas a workload is to have, by what they had to do. Pure: the time is an argument, and what one node saw
//! over time is in its [`Scaler`].
//!
//! What is asked for is absolute: the load of all replicas together, divided by what one is to carry. So replicas that are
//! still starting do not make more of them be asked for, as a ratio of what is there would. More are asked for by what is
//! known to be there, fewer only by what is known not to be: what did not report counts as nothing for the one and as a full
//! replica for the other.
//!
//! Start at [`Scaler::look`].

mod window;

use crate::{Me, hash};
use lattice::{
    id::{Generation, Incarnation, NodeId, WorkloadName},
    limits::REPLICAS_MAX,
    record::{Phase, SpecRecord},
    report::{LoadReport, NodeReport},
    spec::{AutoscaleSpec, PendingTarget, ScaleTarget},
    view::LatticeView,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use window::Window;

/// Nodes that follow the load of a workload: one decides, the others stand in for it.
pub const FOLLOWERS: u32 = 3;
/// A load that differs by less from what the replicas are to carry changes nothing: it is noise.
const TOLERANCE_PERMILLE: u64 = 100;
/// What an average goes over, once there is so much. Reports come every five seconds, sooner where the load moves.
const AVERAGE_MS: u64 = 5_000;
/// What an average must go over to say anything.
const AVERAGE_MS_MIN: u64 = 1_000;
/// A replica that was not heard of for so long may do anything: three reports are missing.
const SILENT: Duration = Duration::from_secs(15);
/// Reports of one replica that are kept. One a second covers an average twice.
const POINTS_MAX: usize = 12;

/// What is known of one replica now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replica {
    /// Nothing runs there that could have a load: nobody holds it, or it failed.
    Absent,
    /// It starts, or its node did not say.
    Unknown,
    Heard(Heard),
}

/// What a replica's node said last of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Sums of two lives are not compared.
    pub life: (Incarnation, Generation),
    /// When it was heard, by the clock of the node that decides.
    pub at: Duration,
    /// Requests so far.
    pub requests: u64,
    /// Requests that were there at that moment.
    pub present: u64,
    pub load: LoadReport,
}

/// What is known of a workload at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub replicas: &'a BTreeMap<u32, Replica>,
    /// Requests wait somewhere for a replica to be there.
    pub awaited: bool,
    /// Messages that wait at the consumer that its target names; none where it names none, or where that is not known.
    pub pending: Option<u64>,
}

/// What is to be, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub replicas: u32,
    pub why: String,
}

/// The last report of each node, with its age in milliseconds.
pub type Reported = BTreeMap<NodeId, (Arc<NodeReport>, u64)>;

/// A node's place among those that decide about a workload: 0 decides, the next ones stand in. None for a node that is no
/// member, or is leaving.
pub fn scale_rank(view: &LatticeView, workload: &WorkloadName, me: &Me) -> Option<u32> {
    view.live(&me.holder()).filter(|session| !session.draining)?;
    let workload = hash::SlotWeights::of(workload).weight(0);
    let order = |node: &NodeId| hash::meet(workload, hash::weight(node));
    let mine = (order(&me.node), &me.node);
    let members = view.sessions.iter().filter(|(_, session)| !session.record.draining);
    u32::try_from(members.filter(|(node, _)| (order(node), *node) < mine).count()).ok()
}

/// What is known of each replica that a workload is to have.
pub fn heard_of(view: &LatticeView, spec: &SpecRecord, reported: &Reported, now: Duration) -> BTreeMap<u32, Replica> {
    let mut replicas: BTreeMap<u32, Replica> = (0..view.replicas(spec)).map(|index| (index, Replica::Absent)).collect();
    for (slot, held) in view.slots_of(&spec.spec.name) {
        let Some(replica) = replicas.get_mut(&slot.index).filter(|_| held.record.uid == spec.uid) else { continue };
        let serving = held.record.serving().filter(|holder| view.live(holder).is_some());
        let Some(serving) = serving else {
            let starts = held.record.phase == Phase::Starting && view.live(&held.record.holder).is_some();
            *replica = if starts { Replica::Unknown } else { Replica::Absent };
            continue;
        };
        let said = reported.get(&serving.node).filter(|(report, _)| report.incarnation == serving.incarnation);
        let heard = said.and_then(|(report, age)| {
            let slot = report.host.slots.get(slot).filter(|slot| slot.uid == spec.uid)?;
            Some(Heard {
                life: (serving.incarnation, slot.generation),
                at: now.saturating_sub(Duration::from_millis(*age)),
                requests: slot.requests,
                present: slot.present(),
                load: slot.load?,
            })
        });
        let heard = heard.filter(|heard| now.saturating_sub(heard.at) < SILENT);
        *replica = heard.map_or(Replica::Unknown, Replica::Heard);
    }
    replicas
}

/// The workloads that requests wait for, by what nodes said lately.
pub fn awaited(reported: &Reported) -> BTreeSet<&WorkloadName> {
    let fresh = reported.values().filter(|(_, age)| Duration::from_millis(*age) < SILENT);
    fresh.flat_map(|(report, _)| &report.awaited).collect()
}

/// What one node saw of one workload, and decides about it.
#[derive(Debug, Clone)]
pub struct Scaler {
    /// What it follows: another generation may have other targets.
    of: (uuid::Uuid, Generation),
    tracks: BTreeMap<u32, Track>,
    /// What would have been enough, look by look: as long as it takes to have more, and as it takes to have fewer.
    up: Window,
    down: Window,
    /// When there was work last, or may have been.
    worked: Duration,
}

/// What was heard of one replica, oldest first.
#[derive(Debug, Clone)]
struct Track {
    points: VecDeque<Heard>,
    /// When what was heard last to show that something was done there, was.
    worked: Duration,
}

impl Scaler {
    /// One that has seen nothing yet: what it does not know was there keeps it from asking for fewer.
    pub fn new(spec: &SpecRecord, now: Duration) -> Self {
        let of = (spec.uid, spec.generation);
        Self { of, tracks: BTreeMap::new(), up: Window::new(now), down: Window::new(now), worked: now }
    }

    /// Look at what is known, at most every second or so. `current` is what holds. Answers with what should hold instead.
    pub fn look(&mut self, now: Duration, spec: &SpecRecord, current: u32, seen: Seen<'_>) -> Option<Decision> {
        let autoscale = spec.spec.autoscale.as_ref()?;
        if self.of != (spec.uid, spec.generation) || current == 0 {
            *self = Scaler::new(spec, now);
        }
        if current == 0 {
            // A request brings it back, or a message that waits at a consumer.
            let pending = seen.pending.filter(|pending| *pending > 0)?;
            let load = Load::of_pending(autoscale.target.pending()?, pending);
            let replicas = autoscale.within(load.enough(current).max(1));
            return Some(Decision { replicas, why: load.too_much(autoscale, current) });
        }
        self.follow(now, autoscale, seen);
        let load = match &autoscale.target {
            ScaleTarget::Pending(target) => {
                seen.pending.map_or(Load::default(), |pending| Load::of_pending(target, pending))
            }
            target => self.load(target, spec.spec.seats(), seen.replicas),
        };
        let enough = autoscale.within(load.enough(current).max(1));
        let (up_after, down_after) = (autoscale.up_after.into(), autoscale.down_after.into());
        self.up.add(now, enough, up_after);
        self.down.add(now, enough, down_after);
        if let Some(idle) = autoscale.idle()
            && self.idle(now) >= idle
        {
            let what =
                if autoscale.target.pending().is_some() { "no request and nothing pending" } else { "no request" };
            let why = format!("{what} for {}", humantime(idle));
            return Some(Decision { replicas: 0, why });
        }
        if let Some(replicas) = self.up.least(now, up_after).filter(|least| *least > current) {
            return Some(Decision { replicas, why: load.too_much(autoscale, current) });
        }
        let replicas = self.down.most(now, down_after).filter(|most| *most < current)?;
        let why = format!("no more were needed for {}", humantime(down_after));
        Some(Decision { replicas, why })
    }

    fn follow(&mut self, now: Duration, autoscale: &AutoscaleSpec, Seen { replicas, awaited, pending }: Seen<'_>) {
        for (index, replica) in replicas {
            match replica {
                Replica::Heard(heard) => match self.tracks.get_mut(index) {
                    Some(track) => track.add(*heard),
                    None => drop(self.tracks.insert(*index, Track::new(*heard))),
                },
                Replica::Unknown => self.worked = now,
                Replica::Absent => {}
            }
        }
        // What is not known to be nothing may be something.
        if awaited || autoscale.target.pending().is_some() && pending != Some(0) {
            self.worked = now;
        }
        let Self { tracks, worked, .. } = self;
        tracks.retain(|index, track| {
            *worked = track.worked.max(*worked);
            matches!(replicas.get(index), Some(Replica::Heard(_)))
        });
    }

    /// For how long it is known that nothing was done: up to the report that says so, not up to now.
    fn idle(&self, now: Duration) -> Duration {
        let heard = self.tracks.values().filter_map(|track| track.points.back()).map(|heard| heard.at);
        heard.min().unwrap_or(now).saturating_sub(self.worked)
    }

    fn load(&self, target: &ScaleTarget, seats: u32, replicas: &BTreeMap<u32, Replica>) -> Load {
        let mut load = Load::default();
        for (index, replica) in replicas {
            let average = self.tracks.get(index).and_then(Track::average);
            match (replica, average) {
                (Replica::Absent, _) => {}
                (Replica::Heard(_), Some(average)) => {
                    load.known += 1;
                    load.permille = load.permille.saturating_add(average.needed(target, seats));
                }
                (Replica::Heard(_) | Replica::Unknown, _) => load.unknown += 1,
            }
        }
        load
    }
}

impl Track {
    fn new(heard: Heard) -> Self {
        Self { worked: heard.at, points: VecDeque::from([heard]) }
    }

    fn add(&mut self, heard: Heard) {
        let Some(last) = self.points.back() else { return };
        if (heard.life, heard.load.watched) == (last.life, last.load.watched) {
            return; // the same report
        }
        let added = heard.load.since(&last.load).filter(|_| heard.life == last.life);
        let Some(added) = added else {
            *self = Track::new(heard);
            return;
        };
        if heard.present > 0 || heard.requests != last.requests || added.busy > 0 || added.queued > 0 {
            self.worked = heard.at;
        }
        if self.points.len() == POINTS_MAX {
            self.points.pop_back();
        }
        self.points.push_back(heard);
        let covers = |from: Option<&Heard>| {
            from.and_then(|from| heard.load.since(&from.load)).is_some_and(|load| load.watched >= AVERAGE_MS)
        };
        while covers(self.points.get(1)) {
            self.points.pop_front();
        }
    }

    /// What was added lately, if enough is known of it. Of one that has just begun to take requests, it is what there was
    /// in all that time before, too: what it carries now was carried by others then, and counts there.
    fn average(&self) -> Option<Average> {
        let (first, last) = (self.points.front()?, self.points.back()?);
        if first.load.watched < AVERAGE_MS {
            let watched = last.load.watched.max(AVERAGE_MS);
            return Some(Average { load: LoadReport { watched, ..last.load }, requests: last.requests });
        }
        let load = last.load.since(&first.load).filter(|load| load.watched >= AVERAGE_MS_MIN)?;
        Some(Average { load, requests: last.requests.saturating_sub(first.requests) })
    }
}

/// What all replicas have to do, in thousandths of what one is to carry.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    permille: u64,
    known: u32,
    unknown: u32,
    /// Messages at a consumer, where they are what counts.
    pending: u64,
}

impl Load {
    fn of_pending(target: &PendingTarget, pending: u64) -> Self {
        let permille = u128::from(pending) * 1000 / u128::from(target.each.max(1));
        let most = u64::from(REPLICAS_MAX) * 1000;
        // One is something, however many are the target.
        let permille = u64::try_from(permille).unwrap_or(most).clamp(u64::from(pending > 0), most);
        Self { permille, known: 1, unknown: 0, pending }
    }

    /// Replicas that would carry it; as many as there are, where they do or where that is not known.
    fn enough(&self, current: u32) -> u32 {
        let replicas = |permille: u64| u32::try_from(permille.div_ceil(1000)).unwrap_or(u32::MAX);
        let carried = u64::from(current) * 1000;
        let margin = u64::from(current) * TOLERANCE_PERMILLE;
        let at_most = self.permille.saturating_add(u64::from(self.unknown) * 1000);
        if self.permille > carried + margin {
            replicas(self.permille)
        } else if self.known > 0 && at_most < carried - margin {
            replicas(at_most).min(current)
        } else {
            current
        }
    }

    fn too_much(&self, autoscale: &AutoscaleSpec, current: u32) -> String {
        let of = |target: u32| self.permille.saturating_mul(target.into()) / 1000;
        let (load, target) = match &autoscale.target {
            ScaleTarget::Concurrency(target) => (format!("{} requests at a time", of(*target)), target.to_string()),
            ScaleTarget::Requests(target) => (format!("{} requests a second", of(*target)), target.to_string()),
            ScaleTarget::Cpu(target) => (format!("{} % of a core", of(*target)), format!("{target} %")),
            ScaleTarget::Pending(PendingTarget { stream, consumer, each }) => {
                (format!("{} messages of {stream}/{consumer}", self.pending), each.to_string())
            }
            // In words: what counts is two things at once.
            ScaleTarget::Queue(target) => {
                let enough = self.permille.div_ceil(1000);
                return format!(
                    "requests at work and in line take {enough} replicas with queues of {target}, not {current}"
                );
            }
        };
        let replicas = match current {
            0 => "no replica".to_owned(),
            1 => "1 replica".to_owned(),
            _ => format!("{current} replicas"),
        };
        let what = format!("{load} on {replicas}, and {target} each are the target");
        let most = if self.enough(current) > autoscale.max { "; max allows no more" } else { "" };
        format!("{what}{most}")
    }
}

/// What one replica had to do over some time.
#[derive(Debug, Clone, Copy)]
struct Average {
    load: LoadReport,
    requests: u64,
}

impl Average {
    /// Replicas that it keeps busy, in thousandths.
    fn needed(&self, target: &ScaleTarget, seats: u32) -> u64 {
        let LoadReport { watched, busy, queued, cpu } = self.load;
        let most = u64::from(REPLICAS_MAX) * 1000;
        // So much in all that time, where one replica is to have `target` at any moment.
        let per = |sum: u64, target: u32| {
            let whole = u128::from(watched.max(1)) * u128::from(target.max(1));
            u64::try_from(u128::from(sum) * 1000 / whole).unwrap_or(most).min(most)
        };
        match *target {
            ScaleTarget::Concurrency(target) => per(busy.saturating_add(queued), target),
            ScaleTarget::Requests(target) => per(self.requests.saturating_mul(1000), target),
            ScaleTarget::Queue(target) => per(busy, seats).saturating_add(per(queued, target)),
            ScaleTarget::Cpu(target) => per(cpu.saturating_mul(100), target),
            // Not of a replica.
            ScaleTarget::Pending(_) => 0,
        }
    }
}

fn humantime(duration: Duration) -> String {
    lattice::units::Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)).to_string()
}

#[cfg(test)]
mod tests;
