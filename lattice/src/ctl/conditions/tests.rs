//! What is so follows from the replicas, and is told in words.

use super::*;
use crate::{ctl::Refusal, id::NodeId, record::LostRoute};

const NEWEST: Generation = Generation(3);

fn held(replica: u32, phase: Phase, generation: u64, message: Option<&str>) -> SlotStatus {
    SlotStatus {
        node: NodeId::new("n1").ok(),
        phase: Some(phase),
        generation: Some(Generation(generation)),
        message: message.map(str::to_owned),
        claimed_at: Some(rfc3339(1_000)),
        since: Some(rfc3339(2_000 + u64::from(replica))),
        ..SlotStatus::vacant(replica)
    }
}

fn refused(replica: u32) -> SlotStatus {
    let refusal = Refusal { node: NodeId::new("n1").unwrap(), reason: "zone is us-1".into(), rule: String::new() };
    SlotStatus { refused: vec![refusal], ..SlotStatus::vacant(replica) }
}

/// The five as `Kind=Reason`, with a `!` before what is not so.
fn check(slots: &[SlotStatus], expect: &str) -> Vec<Condition> {
    let found = conditions(Standing {
        generation: NEWEST,
        template: NEWEST,
        rollout: None,
        admitted_at: 500,
        aborted: None,
        corrupt: None,
        config: None,
        slots,
    });
    let words: Vec<String> = found
        .iter()
        .map(|Condition { kind, status, reason, .. }| {
            format!("{}{}={}", if *status { "" } else { "!" }, kind.as_str(), reason.as_str())
        })
        .collect();
    assert_eq!(words.join(" "), expect, "{slots:?}");
    found
}

#[test]
fn what_is_so_follows_from_the_replicas() {
    use Phase::{Failed, Ready, Starting};
    let ready = |replica| held(replica, Ready, 3, None);
    check(
        &[ready(0), ready(1)],
        "Admitted=Accepted Placed=AllPlaced Ready=AllReady !Progressing=AllReady !Degraded=AsAsked",
    );
    check(
        &[],
        "Admitted=Accepted Placed=NothingWanted Ready=NothingWanted !Progressing=NothingWanted !Degraded=AsAsked",
    );
    check(
        &[ready(0), SlotStatus::vacant(1)],
        "Admitted=Accepted !Placed=Claiming !Ready=Claiming Progressing=Claiming !Degraded=AsAsked",
    );
    check(
        &[ready(0), refused(1)],
        "Admitted=Accepted !Placed=NoNodeFits !Ready=NoNodeFits !Progressing=NoNodeFits Degraded=NoNodeFits",
    );
    check(
        &[held(0, Starting, 3, None)],
        "Admitted=Accepted Placed=AllPlaced !Ready=Starting Progressing=Starting !Degraded=AsAsked",
    );
    check(
        &[ready(0), held(1, Ready, 2, None)],
        "Admitted=Accepted Placed=AllPlaced !Ready=Updating Progressing=Updating !Degraded=AsAsked",
    );
    check(
        &[ready(0), held(1, Ready, 2, Some("no export"))],
        "Admitted=Accepted Placed=AllPlaced !Ready=UpdateFailed !Progressing=UpdateFailed Degraded=UpdateFailed",
    );
    // One that failed is told before one that is on its way; both are told.
    check(
        &[held(0, Starting, 3, None), held(1, Failed, 3, Some("no export"))],
        "Admitted=Accepted Placed=AllPlaced !Ready=ReplicaFailed Progressing=Starting Degraded=ReplicaFailed",
    );
}

#[test]
fn a_rollout_waits_for_replicas_to_be_wanted_without_being_told_as_one_under_way() {
    let rollout = RolloutStatus {
        state: RolloutState::Progressing,
        stable: Generation(2),
        below: 1,
        updated: 0,
        step: 0,
        weight: None,
        message: None,
    };
    let of = |slots: &[SlotStatus]| {
        let standing = Standing {
            generation: NEWEST,
            template: NEWEST,
            rollout: Some(&rollout),
            admitted_at: 500,
            aborted: None,
            corrupt: None,
            config: None,
            slots,
        };
        let words = |condition: &Condition| format!("{}={}", condition.status, condition.reason.as_str());
        conditions(standing).iter().skip(2).take(2).map(words).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(of(&[]), "true=NothingWanted false=NothingWanted");
    assert_eq!(of(&[held(0, Phase::Ready, 3, None)]), "false=Updating true=Updating");
}

#[test]
fn a_rollout_that_waits_for_people_is_not_on_its_way() {
    let rollout = |state, message: Option<&str>| RolloutStatus {
        state,
        stable: Generation(2),
        below: 1,
        updated: 1,
        step: 1,
        weight: None,
        message: message.map(str::to_owned),
    };
    let of = |rollout: &RolloutStatus, slots: &[SlotStatus]| {
        let standing = Standing {
            generation: NEWEST,
            template: NEWEST,
            rollout: Some(rollout),
            admitted_at: 500,
            aborted: None,
            corrupt: None,
            config: None,
            slots,
        };
        let told = |condition: &Condition| {
            format!("{}={}: {}", condition.status, condition.reason.as_str(), condition.message)
        };
        conditions(standing).iter().skip(2).map(told).collect::<Vec<_>>()
    };
    let half = [held(0, Phase::Ready, 3, None), held(1, Phase::Ready, 2, None)];
    let paused = of(&rollout(RolloutState::Paused, Some("step 1 of 1 (50%) is over")), &half);
    let why = "false=RolloutPaused: 1 of 2 replicas run generation 3: step 1 of 1 (50%) is over";
    assert_eq!(paused, [why, why, "false=AsAsked: nothing stands in the way"]);
    let by_hand = of(&rollout(RolloutState::Paused, None), &half);
    assert!(by_hand[0].ends_with("the others wait until somebody resumes it"), "{by_hand:?}");
    // One that may change already does.
    let starts = [held(0, Phase::Starting, 3, None), held(1, Phase::Ready, 2, None)];
    assert!(of(&rollout(RolloutState::Paused, None), &starts)[1].starts_with("true=Starting"));
    // A step that ends by itself is on its way.
    let held_for = of(&rollout(RolloutState::Progressing, Some("step 1 of 1 (50%) holds")), &half);
    assert_eq!(held_for[1], "true=Updating: 1 of 2 replicas run generation 3: step 1 of 1 (50%) holds");
    let given_up = of(&rollout(RolloutState::GivingUp, Some("replica 0 failed")), &half);
    assert_eq!(given_up[1], "true=Updating: generation 3 is given up: replica 0 failed");
}

#[test]
fn one_that_fails_again_and_again_degrades_though_it_is_ready_now() {
    let crashing = SlotStatus { crashing: Some("pool ended 3 times".into()), ..held(0, Phase::Ready, 3, None) };
    let found = check(
        &[crashing, held(1, Phase::Ready, 3, None)],
        "Admitted=Accepted Placed=AllPlaced Ready=AllReady !Progressing=AllReady Degraded=ReplicaCrashing",
    );
    assert_eq!(found[4].message, "replica 0: pool ended 3 times");
}

#[test]
fn configuration_that_is_missing_is_told_and_takes_nothing_from_what_runs() {
    let missing = ConfigError::Missing(["shop".parse().unwrap()].into());
    let of = |slots: &[SlotStatus]| {
        let standing = Standing {
            generation: NEWEST,
            template: NEWEST,
            rollout: None,
            admitted_at: 500,
            aborted: None,
            corrupt: None,
            config: Some(&missing),
            slots,
        };
        let words = |condition: &Condition| format!("{}={}", condition.status, condition.reason.as_str());
        conditions(standing).iter().skip(2).map(words).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(of(&[held(0, Phase::Starting, 3, None)]), "false=ConfigMissing false=ConfigMissing true=ConfigMissing");
    assert_eq!(of(&[held(0, Phase::Ready, 2, None)]), "false=ConfigMissing false=ConfigMissing true=ConfigMissing");
    assert_eq!(of(&[held(0, Phase::Ready, 3, None)]), "true=AllReady false=AllReady true=ConfigMissing");
}

#[test]
fn messages_name_replicas_and_times_come_from_the_records() {
    use Phase::{Failed, Ready};
    let since = |found: &[Condition], at: usize| found[at].since.clone();
    let found = conditions(Standing {
        generation: NEWEST,
        template: NEWEST,
        rollout: None,
        admitted_at: 500,
        aborted: None,
        corrupt: None,
        config: None,
        slots: &[held(0, Ready, 3, None), held(1, Ready, 3, None)],
    });
    assert_eq!(since(&found, 0), Some(rfc3339(500)));
    assert_eq!(since(&found, 1), Some(rfc3339(1_000)));
    assert_eq!(since(&found, 2), Some(rfc3339(2_001)), "since the last one got ready");
    let failed: Vec<SlotStatus> = (0..5).map(|replica| held(replica, Failed, 3, Some("no\nexport"))).collect();
    let found = conditions(Standing {
        generation: NEWEST,
        template: NEWEST,
        rollout: None,
        admitted_at: 500,
        aborted: None,
        corrupt: None,
        config: None,
        slots: &failed,
    });
    assert_eq!(found[4].message, "replica 0: no export; replica 1: no export; replica 2: no export; and 2 more");
    assert_eq!(since(&found, 4), Some(rfc3339(2_000)), "since the first one failed");
    let found = conditions(Standing {
        generation: NEWEST,
        template: NEWEST,
        rollout: None,
        admitted_at: 500,
        aborted: None,
        corrupt: Some("no name"),
        config: None,
        slots: &[refused(7)],
    });
    assert_eq!((found[0].status, found[0].reason, since(&found, 0)), (false, Reason::RecordCorrupt, None));
    assert_eq!(found[0].message, "generation 3 stays in force: the newest record does not parse: no name");
    assert_eq!(found[1].message, "replica 7: n1: zone is us-1");
}

#[test]
fn names_are_those_of_the_wire_and_newer_ones_are_read() {
    for slots in [vec![held(0, Phase::Ready, 3, None)], vec![refused(0)], vec![]] {
        for condition in conditions(Standing {
            generation: NEWEST,
            template: NEWEST,
            rollout: None,
            admitted_at: 1,
            aborted: None,
            corrupt: None,
            config: None,
            slots: &slots,
        }) {
            let json = serde_json::to_value(&condition).unwrap();
            assert_eq!(
                (&json["type"], &json["reason"]),
                (&condition.kind.as_str().into(), &condition.reason.as_str().into())
            );
            assert_eq!(serde_json::from_value::<Condition>(json).unwrap(), condition);
        }
    }
    let newer = r#"{"type": "Sunny", "status": true, "reason": "NoClouds", "message": "x"}"#;
    let read: Condition = serde_json::from_str(newer).unwrap();
    assert_eq!((read.kind, read.reason), (ConditionKind::Other, Reason::Other));
}

#[test]
fn routes_that_did_not_come_back_are_told_of_though_all_is_ready() {
    let lost = ["a.test/", "b.test/"].map(|route| LostRoute { route: route.into(), holder: "other".parse().unwrap() });
    let aborted = Aborted { generation: Generation(2), reason: "no luck".into(), lost: lost.into() };
    let found = conditions(Standing {
        generation: NEWEST,
        template: Generation(1),
        rollout: None,
        admitted_at: 500,
        aborted: Some(&aborted),
        corrupt: None,
        config: None,
        slots: &[held(0, Phase::Ready, 1, None)],
    });
    let degraded = found.last().unwrap();
    assert_eq!((found[2].status, degraded.status, degraded.reason), (true, true, Reason::RoutesTaken));
    let expect =
        "generation 3 is what ran before, without a.test/, which other has taken, b.test/, which other has taken";
    assert!(degraded.message.starts_with(expect), "{}", degraded.message);
}
