//! Where the schedules of a workload are, for its status.

use super::Admission;
use lattice::{
    ctl::{LastFiring, ScheduleStatus},
    event::rfc3339,
    record::{Settled, SpecRecord},
    view::LatticeView,
};

impl Admission {
    pub(super) fn schedules(&self, view: &LatticeView, record: &SpecRecord) -> Vec<ScheduleStatus> {
        let now = self.platform.clock.unix_ms();
        let ticks =
            view.ticks.get(&record.spec.name).map(|ticks| &ticks.record).filter(|ticks| ticks.uid == record.uid);
        let of = |schedule: &lattice::spec::ScheduleSpec| {
            let settled = ticks.and_then(|ticks| ticks.schedules.get(&schedule.key()));
            let until = settled.map_or(0, |settled| settled.until);
            let next = schedule.next_after(now.max(until)).filter(|_| record.spec.may_run());
            let last = settled.and_then(|Settled { last, .. }| last.clone());
            ScheduleStatus {
                schedule: schedule.clone(),
                next: next.map(rfc3339),
                last: last.map(|firing| LastFiring {
                    tick: rfc3339(firing.tick),
                    node: firing.holder.node,
                    outcome: firing.outcome,
                }),
            }
        };
        record.spec.schedule.iter().map(of).collect()
    }
}
