//! Requests that only look. Specs are read from the store's leader; what is placed where comes from the view.

use super::{
    Admission,
    answers::{NAMES_MAX, Page, SLOTS_NAMED_MAX, count, cut, cut_by_rank, cut_to_fit},
    body,
    put::not_found,
    steps, unavailable,
};
use crate::reports::Reported;
use lattice::{
    ctl::{
        AutoscaleStatus, ConditionKind, CtlError, ErrorCode, GenerationState, HistoryItem, HistoryRequest, LastScaling,
        NodeListRequest, NodeReply, RolloutStatus, SlotStatus, SpecReply, Standing, StatusReply, StatusRequest, Totals,
        WorkloadListRequest, WorkloadState, WorkloadSummary, conditions,
    },
    event::rfc3339,
    id::{Generation, NodeId, Revision, SlotId, WorkloadName},
    record::{Holder, Key, Phase, Record as _, RolloutState, Slot, SpecRecord},
    report::SlotReport,
    store::{Bucket, Change, Message},
    view::{LatticeView, Versioned},
};
use lattice_planner::Outlook;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

fn spec_reply(record: SpecRecord, revision: Revision) -> SpecReply {
    let SpecRecord { spec, generation, hash, admitted_at, aborted, configs, .. } = record;
    let configs = configs.into_iter().map(|(name, stamp)| (name, stamp.version)).collect();
    SpecReply { spec, generation, revision, hash, admitted_at: rfc3339(admitted_at), state: None, aborted, configs }
}

/// What each generation of the workload's present life is to it now; `is_settled` says that nothing is rolled out.
fn states(records: &[SpecRecord], is_settled: bool) -> BTreeMap<Generation, GenerationState> {
    let mut states: BTreeMap<Generation, GenerationState> =
        records.iter().map(|record| (record.generation, GenerationState::Past)).collect();
    let aborted = records.iter().filter_map(|record| record.aborted.as_ref()).map(|aborted| aborted.generation);
    states.extend(aborted.map(|generation| (generation, GenerationState::Aborted)));
    if let Some(current) = records.last() {
        let stable = current.stable.as_ref().filter(|_| !is_settled);
        states.extend(stable.map(|stable| (stable.generation, GenerationState::Stable)));
        states.insert(current.generation, GenerationState::Current);
    }
    states
}

impl Admission {
    pub(super) async fn get(&self, name: &WorkloadName) -> Result<SpecReply, CtlError> {
        let key = Key::Spec(name.clone()).to_string();
        let entry = self.platform.store.get(Bucket::Specs, &key).await.map_err(|error| unavailable(&error))?;
        let entry = entry.ok_or_else(|| not_found(name))?;
        let record = SpecRecord::decode(&entry.value).map_err(|error| {
            CtlError::new(ErrorCode::Unavailable, format!("the record of {name} is corrupt: {error}"))
                .hint("put the spec again to repair it")
        })?;
        Ok(spec_reply(record, entry.revision))
    }

    async fn changes(&self, name: &WorkloadName) -> Result<Vec<Change>, CtlError> {
        let key = Key::Spec(name.clone()).to_string();
        self.platform.store.history(Bucket::Specs, &key).await.map_err(|error| unavailable(&error))
    }

    /// The records of the workload's present life, oldest first.
    pub(super) async fn records(&self, name: &WorkloadName) -> Result<Vec<SpecRecord>, CtlError> {
        Ok(of_this_life(&self.changes(name).await?))
    }

    /// The newest items that fit, oldest first.
    pub(super) async fn history(&self, name: &WorkloadName, message: &Message) -> Result<Page<HistoryItem>, CtlError> {
        let HistoryRequest { before } = body(&message.payload, r#"{"before": 12}, or nothing"#)?;
        let changes = self.changes(name).await?;
        if changes.is_empty() {
            return Err(not_found(name));
        }
        let item = |change: Change| match change.value.as_deref().map(SpecRecord::decode) {
            None => Some(HistoryItem::Deleted { revision: change.revision }),
            Some(Ok(record)) => Some(HistoryItem::Put(Box::new(spec_reply(record, change.revision)))),
            Some(Err(_)) => None,
        };
        let records = of_this_life(&changes);
        let is_settled = match records.last() {
            Some(current) => current.is_settled(self.rollout(current).await?.as_ref()),
            None => true,
        };
        let states = states(&records, is_settled);
        let mut items: Vec<HistoryItem> = changes.into_iter().filter_map(item).collect();
        for item in items.iter_mut().rev() {
            match item {
                HistoryItem::Put(spec) => spec.state = states.get(&spec.generation).copied(),
                HistoryItem::Deleted { .. } => break,
            }
        }
        let revision = |item: &HistoryItem| match item {
            HistoryItem::Put(spec) => spec.revision,
            HistoryItem::Deleted { revision } => *revision,
        };
        items.retain(|item| before.is_none_or(|before| revision(item) < before));
        let mut page = Page::fill(items.into_iter().rev(), self.room(), Some);
        page.items.reverse();
        Ok(page)
    }

    pub(super) async fn status(&self, name: &WorkloadName, message: &Message) -> Result<StatusReply, CtlError> {
        let StatusRequest { from } = body(&message.payload, r#"{"from": 1000}, or nothing"#)?;
        let view = self.view()?;
        let spec = view.specs.get(name).ok_or_else(|| not_found(name))?;
        let (room, first) = (self.room() / 2, from.unwrap_or(0));
        let told = Told { reported: &self.reports.now(), room, first, now: self.platform.clock.unix_ms() };
        let mut status = status(&view, spec, lattice_planner::outlook(&view, &BTreeSet::from([name])), told);
        // Reports have their own room, and beside both there is enough for the rest.
        let room = self.room().saturating_add(room);
        let omitted = match from {
            Some(from) => {
                status.slots.retain(|slot| slot.replica >= from);
                cut_to_fit(&mut status.slots, room)
            }
            None => {
                let template = status.template;
                cut_by_rank(&mut status.slots, room, |slot| rank(slot, template))
            }
        };
        status.conditions.extend(Box::pin(self.bound(&spec.record.spec)).await);
        Ok(StatusReply {
            slots_omitted: count(omitted),
            schedules: self.schedules(&view, &spec.record),
            autoscale: autoscale(&view, &spec.record),
            ..status
        })
    }

    pub(super) fn list(&self, message: &Message) -> Result<Page<WorkloadSummary>, CtlError> {
        let WorkloadListRequest { after } = body(&message.payload, r#"{"after": "shop"}, or nothing"#)?;
        let view = self.view()?;
        let after = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let reported = self.reports.now();
        let now = self.platform.clock.unix_ms();
        let lacks = |name: &&WorkloadName| {
            let held = view.slots_of(name).filter(|(_, slot)| view.live(&slot.record.holder).is_some()).count();
            held < lattice_planner::wanted(&view, name).len()
        };
        // Explaining walks the whole plan: once for all, and only where there is something to explain.
        let names = || view.specs.range::<WorkloadName, _>((after, Bound::Unbounded)).map(|(name, _)| name);
        let lacking: BTreeSet<&WorkloadName> = names().filter(lacks).collect();
        let mut outlooks: BTreeMap<&WorkloadName, BTreeMap<SlotId, Outlook>> = BTreeMap::new();
        if !lacking.is_empty() {
            for (slot, outlook) in lattice_planner::outlook(&view, &lacking) {
                if let Some(name) = lacking.get(&slot.workload) {
                    outlooks.entry(name).or_default().insert(slot, outlook);
                }
            }
        }
        let summary = |name: &WorkloadName| {
            let spec = view.specs.get(name)?;
            let outlooks = outlooks.get(name).cloned().unwrap_or_default();
            let status = status(&view, spec, outlooks, Told { reported: &reported, room: 0, first: 0, now });
            let mut totals = Totals::default();
            for (slot, held) in view.slots_of(name) {
                if let Some((report, age)) = of_slot(&reported, slot, &held.record) {
                    totals.add(report, age);
                }
            }
            let routes = spec.record.spec.http.routes.iter();
            let nodes: BTreeSet<NodeId> = status.slots.iter().filter_map(|slot| slot.node.clone()).collect();
            let mut nodes: Vec<NodeId> = nodes.into_iter().collect();
            let nodes_omitted = count(cut(&mut nodes, NAMES_MAX));
            Some(WorkloadSummary {
                workload: status.workload,
                state: status.state,
                generation: status.generation,
                replicas: status.replicas,
                ready: status.ready,
                routes: routes.map(ToString::to_string).collect(),
                nodes,
                nodes_omitted,
                totals,
            })
        };
        Ok(Page::fill(names(), self.room(), summary))
    }

    pub(super) fn nodes(&self, message: &Message) -> Result<Page<NodeReply>, CtlError> {
        let NodeListRequest { after } = body(&message.payload, r#"{"after": "n1"}, or nothing"#)?;
        let (view, reported) = (self.view()?, self.reports.now());
        let after = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let ids = view.sessions.range::<NodeId, _>((after, Bound::Unbounded)).map(|(node, _)| node);
        Ok(Page::fill(ids, self.room(), |node| node_reply(&view, node, &reported)))
    }

    pub(super) fn node(&self, node: &NodeId) -> Result<NodeReply, CtlError> {
        let missing =
            || CtlError::new(ErrorCode::NotFound, format!("there is no node {node}")).hint("see `lattice nodes`");
        node_reply(&*self.view()?, node, &self.reports.now()).ok_or_else(missing)
    }
}

/// The records since the last deletion, oldest first.
fn of_this_life(changes: &[Change]) -> Vec<SpecRecord> {
    let mut records: Vec<SpecRecord> = Vec::new();
    for change in changes {
        match change.value.as_deref().map(SpecRecord::decode) {
            None => records.clear(),
            Some(Ok(record)) => records.push(record),
            Some(Err(_)) => {} // corrupt, and repaired by a later one
        }
    }
    records
}

/// What the holder of a slot said of it.
fn of_slot<'a>(reported: &'a Reported, slot: &SlotId, record: &Slot) -> Option<(&'a SlotReport, u64)> {
    let said = reported.get(&record.holder.node);
    // A life of the node that is over held the slot before, and counted from another beginning.
    let (report, age) = said.filter(|(report, _)| report.incarnation == record.holder.incarnation)?;
    let of_slot = report.host.slots.get(slot).filter(|of_slot| of_slot.uid == record.uid)?;
    Some((of_slot, *age))
}

fn node_reply(view: &LatticeView, node: &NodeId, reported: &Reported) -> Option<NodeReply> {
    let session = view.sessions.get(node)?.record.clone();
    let held = view.slots.iter().filter(|(_, slot)| slot.record.holder.node == *node);
    let (mut memory_reserved, mut millicores_reserved) = (0_u64, 0_u64);
    let mut slots: Vec<String> = held
        .map(|(slot, _)| {
            if let Some(spec) = view.specs.get(&slot.workload).map(|spec| &spec.record.spec) {
                memory_reserved = memory_reserved.saturating_add(spec.memory_reserved());
                millicores_reserved = millicores_reserved.saturating_add(spec.reserve.cpu.0);
            }
            slot.to_string()
        })
        .collect();
    let gpus_held = view.slots.iter().filter_map(|(slot, held)| {
        let is_here = |holder: &Holder| holder.node == *node && holder.incarnation == session.incarnation;
        let Slot { holder, gpu, handover_from, handover_gpu, .. } = &held.record;
        let grant = match is_here(holder) {
            true => gpu.clone(),
            false => handover_gpu.clone().filter(|_| handover_from.as_ref().is_some_and(is_here)),
        };
        Some((slot.to_string(), grant?))
    });
    let gpus_held = gpus_held.collect();
    let said = reported.get(node).filter(|(report, _)| report.incarnation == session.incarnation);
    let (usage, usage_age) = said.map(|(report, age)| (report.host.usage, *age)).unzip();
    let (cordoned, drain) = (view.is_cordoned(node), super::maintenance::drain_status(view, node));
    Some(NodeReply {
        session,
        cordoned,
        drain,
        slots_omitted: count(cut(&mut slots, SLOTS_NAMED_MAX)),
        slots,
        memory_reserved,
        millicores_reserved,
        gpus_held,
        usage,
        usage_age,
    })
}

/// What nodes said of their replicas.
#[derive(Clone, Copy)]
struct Told<'a> {
    reported: &'a Reported,
    /// Bytes of it that the answer has room for.
    room: usize,
    /// The first replica whose report is of interest.
    first: u32,
    /// Milliseconds since 1970.
    now: u64,
}

/// Less is more telling. Where one that is ready at the newest generation is shown, all that are left out are as well.
fn rank(slot: &SlotStatus, template: Option<Generation>) -> (bool, bool) {
    let is_newest = slot.phase == Some(Phase::Ready) && slot.generation == template;
    (is_newest, slot.message.is_none() && slot.crashing.is_none())
}

/// `outlooks` are those of slots that nobody holds.
fn status(
    view: &LatticeView,
    spec: &Versioned<SpecRecord>,
    mut outlooks: BTreeMap<SlotId, Outlook>,
    Told { reported, mut room, first, now }: Told<'_>,
) -> StatusReply {
    let SpecRecord { spec: asked, generation, uid, admitted_at, .. } = &spec.record;
    // Who wrote no time down is of an older version.
    let time = |unix_ms: u64| (unix_ms > 0).then(|| rfc3339(unix_ms));
    let slots: Vec<SlotStatus> = lattice_planner::wanted(view, &asked.name)
        .into_iter()
        .map(|replica| {
            let slot = SlotId::new(asked.name.clone(), replica);
            let held = view.slots.get(&slot).map(|slot| &slot.record).filter(|slot| slot.uid == *uid);
            match held.filter(|slot| view.live(&slot.holder).is_some()) {
                Some(record) => {
                    let told = of_slot(reported, &slot, record);
                    let crashing = told.and_then(|(report, _)| report.crashing(now));
                    let report = told.filter(|(report, _)| {
                        if room == 0 || replica < first {
                            return false;
                        }
                        let length = serde_json::to_vec(report).map_or(usize::MAX, |json| json.len());
                        let fits = length <= room;
                        room = room.saturating_sub(length);
                        fits
                    });
                    let (report, report_age) = report.map(|(report, age)| (Box::new(report.clone()), age)).unzip();
                    SlotStatus {
                        node: Some(record.holder.node.clone()),
                        phase: Some(record.phase),
                        generation: Some(record.generation),
                        message: record.said(),
                        crashing,
                        claimed_at: time(record.claimed_at),
                        since: time(record.since),
                        gpu: record.gpu.clone(),
                        report,
                        report_age,
                        ..SlotStatus::vacant(replica)
                    }
                }
                None => {
                    let Outlook { first: _, refused, refused_omitted } = outlooks.remove(&slot).unwrap_or_default();
                    SlotStatus { refused, refused_omitted, ..SlotStatus::vacant(replica) }
                }
            }
        })
        .collect();
    let ready = slots.iter().filter(|slot| slot.phase == Some(Phase::Ready)).count();
    let corrupt = view.corrupt.get(&Key::Spec(asked.name.clone()).to_string()).map(|corrupt| corrupt.error.to_string());
    let template = spec.record.template();
    let updated =
        slots.iter().filter(|slot| slot.phase == Some(Phase::Ready) && slot.generation == Some(template)).count();
    let rollout = rollout(view, &spec.record, u32::try_from(updated).unwrap_or(u32::MAX));
    let config = if asked.has_configs() { view.resolve(asked).err() } else { None };
    let conditions = conditions(Standing {
        generation: *generation,
        template,
        rollout: rollout.as_ref(),
        admitted_at: *admitted_at,
        aborted: spec.record.aborted.as_ref(),
        corrupt: corrupt.as_deref(),
        config: config.as_ref(),
        slots: &slots,
    });
    let is = |kind: ConditionKind| conditions.iter().any(|condition| condition.kind == kind && condition.status);
    let is_crashing = slots.iter().any(|slot| slot.crashing.is_some());
    let state = if slots.is_empty() {
        WorkloadState::Idle
    } else if is(ConditionKind::Ready) && !is_crashing {
        WorkloadState::Ready
    } else if is(ConditionKind::Degraded) {
        WorkloadState::Degraded
    } else {
        WorkloadState::Progressing
    };
    StatusReply {
        workload: asked.name.clone(),
        state,
        generation: *generation,
        revision: spec.revision,
        replicas: u32::try_from(slots.len()).unwrap_or(u32::MAX),
        ready: u32::try_from(ready).unwrap_or(u32::MAX),
        conditions,
        slots,
        slots_omitted: 0,
        schedules: Vec::new(),
        template: Some(template),
        rollout,
        aborted: spec.record.aborted.clone(),
        autoscale: None,
    }
}

/// How far a change is; nothing where none is under way.
fn rollout(view: &LatticeView, spec: &SpecRecord, updated: u32) -> Option<RolloutStatus> {
    let known = view.rollout(&spec.spec.name).filter(|rollout| rollout.is_of(spec));
    let is_over = spec.is_settled(known) && spec.beside(known).is_none();
    let stable = spec.stable.as_ref().filter(|_| !is_over)?;
    let held = || Some(steps::hold(view, spec, known?)?.text());
    Some(RolloutStatus {
        state: known.map_or(RolloutState::Progressing, |rollout| rollout.state),
        stable: stable.generation,
        below: known.map_or(0, |rollout| rollout.below),
        step: known.map_or(0, |rollout| rollout.step),
        weight: spec.weighed(known).map(|weighed| weighed.percent),
        updated,
        message: known.and_then(|rollout| rollout.message.clone()).or_else(held),
    })
}

/// How many replicas a workload is to have that scales itself, and why.
fn autoscale(view: &LatticeView, record: &SpecRecord) -> Option<AutoscaleStatus> {
    let spec = record.spec.autoscale.clone()?;
    let scale = view.scales.get(&record.spec.name).map(|scale| &scale.record).filter(|scale| scale.uid == record.uid);
    let last = scale.map(|scale| LastScaling {
        at: rfc3339(scale.since),
        before: scale.before,
        replicas: scale.replicas,
        why: scale.why.clone(),
    });
    Some(AutoscaleStatus { spec, last })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{
        record::Holder,
        report::{HostReport, NodeReport},
    };
    use std::sync::Arc;

    #[test]
    fn what_an_earlier_life_of_the_node_said_is_not_shown() {
        let (slot, uid): (SlotId, _) = ("w.0".parse().unwrap(), uuid::Uuid::from_u128(7));
        let node: NodeId = "n1".parse().unwrap();
        let held = |life: u128| Slot {
            holder: Holder { node: node.clone(), incarnation: uuid::Uuid::from_u128(life) },
            uid,
            generation: Generation::FIRST,
            phase: Phase::Ready,
            message: None,
            failures: None,
            handover_from: None,
            gpu: None,
            handover_gpu: None,
            nonce: uuid::Uuid::nil(),
            claimed_at: 0,
            since: 0,
        };
        let host = HostReport {
            slots: BTreeMap::from([(slot.clone(), SlotReport::new(uid, Generation::FIRST))]),
            ..HostReport::default()
        };
        let said = NodeReport::new(node.clone(), uuid::Uuid::from_u128(1), host);
        let reported = Reported::from([(node.clone(), (Arc::new(said), 5))]);
        assert_eq!(of_slot(&reported, &slot, &held(1)).map(|(_, age)| age), Some(5));
        assert_eq!(of_slot(&reported, &slot, &held(2)), None);
    }
}
