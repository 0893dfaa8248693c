//! What a person should hear of from the counts of this node's replicas: each thing once, then seldom. Pure: a count that
//! rose is told, however often it was looked at meanwhile.

use lattice::{
    event::{Event, EventKind},
    id::{Generation, SlotId},
    report::{HostReport, PartState, SlotReport},
};
use std::{collections::BTreeMap, time::Duration};

/// Between two events about the same limit of a replica.
const LIMIT_EVERY: Duration = Duration::from_secs(600);
/// Between two events about instances of a replica that ended in a trap.
const TRAP_EVERY: Duration = Duration::from_secs(60);
/// Events of one look. What is more is told by the next ones.
const AT_ONCE: usize = 32;

/// What was told so far.
#[derive(Default)]
pub(crate) struct Notices {
    slots: BTreeMap<SlotId, Told>,
}

struct Told {
    uid: uuid::Uuid,
    generation: Generation,
    /// By what it is about: the count that was told, and when.
    counts: BTreeMap<String, (u64, Duration)>,
}

/// Something that is counted, and how it is told.
struct Matter {
    what: String,
    count: u64,
    every: Duration,
    /// Of how many more than were told before.
    event: Box<dyn FnOnce(u64) -> Event>,
}

impl Notices {
    /// The events that are due.
    pub(crate) fn due(&mut self, report: &HostReport, now: Duration) -> Vec<Event> {
        self.slots.retain(|slot, told| {
            let is_recent = |(_, at): &(u64, Duration)| now.saturating_sub(*at) < LIMIT_EVERY;
            report.slots.contains_key(slot) || told.counts.values().any(is_recent)
        });
        let mut events = Vec::new();
        for (slot, seen) in &report.slots {
            let (uid, generation) = (seen.uid, seen.generation);
            let told =
                self.slots.entry(slot.clone()).or_insert_with(|| Told { uid, generation, counts: BTreeMap::new() });
            if (told.uid, told.generation) != (uid, generation) {
                (told.uid, told.generation) = (uid, generation);
                // Another unit counts from zero. When something was told stays: a new generation is no reason to repeat it.
                told.counts.values_mut().for_each(|(count, _)| *count = 0);
            }
            for Matter { what, count, every, event } in matters(slot, seen) {
                if count == 0 || events.len() >= AT_ONCE {
                    continue;
                }
                let (told_count, at) = match told.counts.get_mut(&what) {
                    Some((told, at)) => {
                        *told = (*told).min(count); // a replica that was started again counts from zero as well
                        (*told, Some(*at))
                    }
                    None => (0, None),
                };
                if count > told_count && at.is_none_or(|at| now.saturating_sub(at) >= every) {
                    events.push(event(count - told_count));
                    told.counts.insert(what, (count, now));
                }
            }
        }
        events
    }
}

fn matters(slot: &SlotId, seen: &SlotReport) -> Vec<Matter> {
    let mut matters = Vec::new();
    if let Some(off) = seen.reuse_off.clone() {
        let slot = slot.clone();
        matters.push(Matter {
            what: "reuse".into(),
            count: 1,
            every: LIMIT_EVERY,
            event: Box::new(move |_| {
                let text = format!("instances of {} are no longer reused: {}", off.digest, off.reason);
                Event::new(EventKind::ReuseOff, slot, text).hint(off.remedy)
            }),
        });
    }
    for (limit, count) in &seen.limits {
        let (slot, limit, count) = (slot.clone(), limit.clone(), *count);
        matters.push(Matter {
            what: format!("limit {limit}"),
            count,
            every: LIMIT_EVERY,
            event: Box::new(move |_| {
                let times = if count == 1 { "once".to_owned() } else { format!("{count} times so far") };
                let event = Event::new(EventKind::LimitHit, slot, format!("limit {limit} was reached {times}"));
                match hint(&limit) {
                    Some(hint) => event.hint(hint),
                    None => event,
                }
            }),
        });
    }
    let last = seen.last_failure.clone().filter(|last| matches!(last.kind.as_str(), "trap" | "exit" | "panic"));
    if let Some(count) = seen.retired.get("trap") {
        let slot = slot.clone();
        matters.push(Matter {
            what: "trap".into(),
            count: *count,
            every: TRAP_EVERY,
            event: Box::new(move |more| {
                let last = last.map_or_else(String::new, |last| format!(": the last one {}", last.message));
                let instances = if more == 1 { "an instance".to_owned() } else { format!("{more} instances") };
                Event::new(EventKind::InstanceTrapped, slot, format!("{instances} ended in a trap{last}"))
            }),
        });
    }
    for part in seen.parts.iter().filter(|part| part.state == PartState::GivenUp) {
        let (slot, name, error) = (slot.clone(), part.name.clone(), part.last_error.clone());
        matters.push(Matter {
            what: format!("part {name}"),
            count: 1,
            every: TRAP_EVERY,
            event: Box::new(move |_| {
                let why = error.map_or_else(String::new, |error| format!(": {error}"));
                Event::new(
                    EventKind::PartGaveUp,
                    slot,
                    format!("{name} failed too often and is given up; its replica is started again as a whole{why}"),
                )
                .hint("mend it and deploy the workload again, or raise services[].restart.give-up-after")
            }),
        });
    }
    matters
}

fn hint(limit: &str) -> Option<&'static str> {
    Some(match limit {
        "memory" => "raise limits.memory, or find what the component keeps",
        "node-memory" => "give the node more with --memory, or lower reuse.max-instances of what runs there",
        "instances" => "run more nodes, or lower reuse.max-instances of what runs there",
        "handles" => "the component must give back what the host lends it: bodies, streams, requests",
        "streams" => "the component must end the streams that it exchanges with its services, or have fewer at a time",
        "cpu" => "raise limits.cpu, or find what computes for so long",
        "wall" => "raise limits.wall, or find what the component waits for",
        "queue" => "run more replicas, or raise limits.concurrency, limits.queue or reuse.max-instances",
        "body" => "raise limits.body, if such requests are to be taken",
        "log-lines" => "print less: what was printed beyond the limit is lost",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::{
        id::Digest,
        report::{LastFailure, PartReport, ReportedRole, ReuseOff},
    };

    fn report(change: impl FnOnce(&mut SlotReport)) -> HostReport {
        let mut slot = SlotReport::new(uuid::Uuid::nil(), Generation::FIRST);
        change(&mut slot);
        let id = SlotId::new("web".parse().unwrap(), 0);
        HostReport { slots: [(id, slot)].into(), ..HostReport::default() }
    }

    fn texts(events: &[Event]) -> Vec<(&'static str, &str)> {
        events.iter().map(|event| (event.kind.as_str(), event.message.as_str())).collect()
    }

    const START: Duration = Duration::from_secs(1000);

    #[test]
    fn a_limit_is_told_at_once_and_then_seldom() {
        let mut notices = Notices::default();
        let hits = |count| report(|slot| slot.limits = [("memory".into(), count)].into());
        assert_eq!(notices.due(&report(|_| ()), START), []);
        let first = notices.due(&hits(1), START);
        assert_eq!(texts(&first), [("limit-hit", "limit memory was reached once")]);
        assert!(first[0].hint.as_ref().unwrap().contains("limits.memory"));
        assert_eq!(notices.due(&hits(2), START + LIMIT_EVERY / 2), []);
        let later = START + LIMIT_EVERY;
        assert_eq!(texts(&notices.due(&hits(7), later)), [("limit-hit", "limit memory was reached 7 times so far")]);
        assert_eq!(notices.due(&hits(7), later + LIMIT_EVERY), [], "nothing new");
        // Another limit is another matter.
        let other = report(|slot| slot.limits = [("memory".into(), 7), ("wall".into(), 1)].into());
        assert_eq!(texts(&notices.due(&other, later)), [("limit-hit", "limit wall was reached once")]);
    }

    #[test]
    fn a_new_generation_counts_from_zero_and_is_told_no_sooner() {
        let mut notices = Notices::default();
        let hits = |generation, count| {
            report(|slot| {
                slot.generation = Generation(generation);
                slot.limits.insert("cpu".into(), count);
            })
        };
        assert_eq!(notices.due(&hits(1, 9), START).len(), 1);
        assert_eq!(notices.due(&hits(2, 1), START + Duration::from_secs(1)), []);
        assert_eq!(notices.due(&hits(2, 1), START + LIMIT_EVERY).len(), 1, "fewer than were told of the one before");
    }

    #[test]
    fn traps_are_told_together() {
        let mut notices = Notices::default();
        let traps = |count| {
            report(|slot| {
                slot.retired.insert("trap".into(), count);
                let message = "wasm trap: unreachable in f".to_owned();
                slot.last_failure = Some(LastFailure { kind: "trap".into(), message, at: 0 });
            })
        };
        let once = notices.due(&traps(1), START);
        assert_eq!(
            texts(&once),
            [("instance-trapped", "an instance ended in a trap: the last one wasm trap: unreachable in f")]
        );
        assert_eq!(notices.due(&traps(40), START + Duration::from_secs(1)), []);
        let more = notices.due(&traps(41), START + TRAP_EVERY);
        assert!(more[0].message.starts_with("40 instances ended in a trap"), "{more:?}");
    }

    #[test]
    fn what_was_switched_off_or_given_up_comes_with_a_remedy() {
        let mut notices = Notices::default();
        let off = report(|slot| {
            slot.reuse_off = Some(ReuseOff {
                digest: Digest::of(b"guest"),
                reason: "a kept instance returned without a response".into(),
                remedy: "write `reuse: off`".into(),
                since: 0,
            });
            slot.parts.push(PartReport {
                name: "pool".parse().unwrap(),
                role: ReportedRole::Service,
                state: PartState::GivenUp,
                instances: 1,
                calls: 2,
                failures: 0,
                restarts: 10,
                last_error: Some("exited with status 1".into()),
            });
        });
        let events = notices.due(&off, START);
        let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["reuse-off", "part-gave-up"]);
        assert_eq!(events[0].hint.as_deref(), Some("write `reuse: off`"));
        assert!(events[0].message.contains(&Digest::of(b"guest").to_string()));
        assert!(events[1].message.contains("exited with status 1"));
        assert_eq!(notices.due(&off, START + 2 * LIMIT_EVERY), []);
    }

    #[test]
    fn a_flood_is_told_bit_by_bit() {
        let mut notices = Notices::default();
        let slot = |index| {
            let mut slot = SlotReport::new(uuid::Uuid::nil(), Generation::FIRST);
            slot.limits.insert("queue".into(), 1);
            (SlotId::new("web".parse().unwrap(), index), slot)
        };
        let report = HostReport { slots: (0..70).map(slot).collect(), ..HostReport::default() };
        let told: Vec<usize> = (0..4).map(|_| notices.due(&report, START).len()).collect();
        assert_eq!(told, [AT_ONCE, AT_ONCE, 6, 0]);
    }
}
