//! That each answer fits a message, however large the lattice is, and that nothing is lost for who asks on.

use super::*;
use crate::admission::testing::admission_that_sees;
use lattice::{
    ctl::{
        ExplainReply, HEADER_DRY_RUN, HEADER_ERROR_CODE, HistoryItem, NodeReply, PutReply, StatusReply, WorkloadSummary,
    },
    id::{Generation, Incarnation, LatticeId, NodeId, Revision, SlotId, WorkloadName},
    record::{Capacity, DrainOrder, Holder, Key, NodeOrder, Phase, Record as _, Session, Slot, SpecRecord},
    spec::{self, WorkloadSpec},
    store::{Bucket, Message, Precondition},
    subject::{Topic, WorkloadVerb},
    view::{LatticeView, Versioned},
};
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// What servers let pass by default.
const MESSAGE_MAX: usize = 1 << 20;
const REPLICAS: u32 = 10_000;
const NODES: u32 = 200;
/// Replicas without a node.
const VACANT: u32 = 600;
/// A replica that fails, among those that no list would come to.
const FAILED: u32 = 9_000;

fn of<R>(record: R, revision: u64) -> Versioned<R> {
    Versioned { record, revision: Revision(revision) }
}

fn workload(name: &str, replicas: u32) -> WorkloadSpec {
    let source = lattice::id::Digest::of(b"one");
    let text = format!("name: {name}\ncomponents: [{{name: a, source: '{source}'}}]\nreplicas: {replicas}\n");
    spec::parse(text.as_bytes()).unwrap()
}

fn node(number: u32) -> NodeId {
    NodeId::new(format!("{number:0>60}")).unwrap()
}

fn put(view: &mut LatticeView, spec: WorkloadSpec) {
    let record = SpecRecord::new(spec, uuid::Uuid::nil(), Generation::FIRST);
    view.specs.insert(record.spec.name.clone(), Arc::new(of(record, 1)));
}

/// A workload `web` that finds no room for all of it, on nodes with long names of which the first is to be emptied.
fn crowded() -> LatticeView {
    let mut view = LatticeView::default();
    for number in 0..NODES {
        let session = Session {
            labels: [("zone".to_owned(), "z".repeat(200))].into(),
            capacity: Capacity { memory: 1 << 40, slots: 1, millicores: 0 },
            ..lattice::testing::session(node(number), Incarnation::from_u128(1))
        };
        view.sessions.insert(session.node.clone(), of(session, 1));
    }
    let order = NodeOrder { node: node(0), cordoned: false, drain: Some(DrainOrder { deadline: None }) };
    view.orders.insert(node(0), of(order, 1));
    put(&mut view, workload("web", REPLICAS));
    for index in VACANT..REPLICAS {
        // Most of them on one node.
        let number = if index < VACANT + NODES { index - VACANT } else { 0 };
        let (phase, message) = match index {
            FAILED => (Phase::Failed, Some("x".repeat(2000))),
            _ => (Phase::Ready, None),
        };
        let slot = Slot {
            holder: Holder { node: node(number), incarnation: Incarnation::from_u128(1) },
            uid: uuid::Uuid::nil(),
            generation: Generation::FIRST,
            phase,
            message,
            failures: None,
            handover_from: None,
            gpu: None,
            handover_gpu: None,
            nonce: uuid::Uuid::nil(),
            claimed_at: 1,
            since: 1,
        };
        view.slots.insert(SlotId::new(name("web"), index), of(slot, 1));
    }
    view
}

fn name(name: &str) -> WorkloadName {
    WorkloadName::new(name).unwrap()
}

/// An answer that fits a message, and how many items it says are left out.
async fn ask<T: DeserializeOwned>(admission: &Admission, topic: Topic, payload: &str) -> (T, usize) {
    ask_with(admission, topic, payload, Headers::new()).await
}

async fn ask_with<T: DeserializeOwned>(
    admission: &Admission,
    topic: Topic,
    payload: &str,
    headers: Headers,
) -> (T, usize) {
    let subject = topic.subject(&LatticeId::new("default").unwrap());
    let reply = Some("_INBOX.me".to_owned());
    let message =
        Message { subject: subject.clone(), reply, headers, payload: payload.to_owned().into(), ..Message::default() };
    let Answer { headers, payload } = admission.answer(message).await.unwrap();
    assert!(payload.len() < MESSAGE_MAX, "{subject}: {} bytes", payload.len());
    let value = match serde_json::from_slice::<Reply<T>>(&payload).unwrap() {
        Reply::Ok(value) => value,
        Reply::Error(error) => panic!("{subject}: {error}"),
    };
    (value, headers.get(HEADER_OMITTED).map_or(0, |omitted| omitted.parse().unwrap()))
}

#[tokio::test]
async fn a_workload_of_ten_thousand_replicas_is_told_of() {
    let (admission, platform) = admission_that_sees(crowded());
    let of_web = |verb| Topic::Workload(verb, name("web"));
    let (status, _): (StatusReply, _) = ask(&admission, of_web(WorkloadVerb::Status), "").await;
    assert_eq!((status.replicas, status.ready), (REPLICAS, REPLICAS - VACANT - 1));
    assert_eq!(status.slots.len() + status.slots_omitted as usize, REPLICAS as usize);
    assert!(status.slots.is_sorted_by_key(|slot| slot.replica));
    // What is wrong is not left out for what is not.
    let failed = status.slots.iter().find(|slot| slot.replica == FAILED).unwrap();
    assert_eq!(failed.phase, Some(Phase::Failed));
    let vacant = &status.slots[0];
    assert_eq!(vacant.refused.len() + vacant.refused_omitted as usize, NODES as usize);
    // Part by part all of them come.
    let mut come: Vec<u32> = Vec::new();
    loop {
        let from = come.last().map_or(0, |last| last + 1);
        let (part, _): (StatusReply, _) =
            ask(&admission, of_web(WorkloadVerb::Status), &format!("{{\"from\": {from}}}")).await;
        assert_eq!(part.slots.len() + part.slots_omitted as usize, (REPLICAS - from) as usize);
        come.extend(part.slots.iter().map(|slot| slot.replica));
        if part.slots_omitted == 0 {
            break;
        }
    }
    assert_eq!(come, (0..REPLICAS).collect::<Vec<_>>());

    let (explained, _): (ExplainReply, _) = ask(&admission, of_web(WorkloadVerb::Explain), "").await;
    assert_eq!((explained.replica, explained.nodes.len()), (0, NODES as usize));
    let (node, _): (NodeReply, _) = ask(&admission, Topic::NodeGet(self::node(0)), "").await;
    let held = (REPLICAS - VACANT - NODES + 1) as usize;
    assert_eq!(node.slots.len() + node.slots_omitted as usize, held);
    let drain = node.drain.unwrap();
    assert_eq!((drain.left.len(), drain.count()), (SLOTS_NAMED_MAX, held));

    let source = platform.artifacts.put(bytes::Bytes::from_static(b"one")).await.unwrap();
    assert_eq!(source, lattice::id::Digest::of(b"one"));
    let spec = serde_json::to_string(&workload("other", REPLICAS)).unwrap();
    let dry = Headers::from([(HEADER_DRY_RUN.to_owned(), "true".to_owned())]);
    let (planned, _): (PutReply, _) = ask_with(&admission, Topic::WorkloadPut, &spec, dry).await;
    assert_eq!(planned.plan.unwrap().len() + planned.plan_omitted as usize, REPLICAS as usize);
}

#[tokio::test]
async fn of_a_hundred_thousand_nodes_some_are_named_and_the_rest_counted() {
    let standing = |number: u32| lattice::ctl::NodeStanding {
        node: node(number),
        rank: (number < 10).then_some(number),
        score: None,
        rule: (number >= 10).then(|| "memory".to_owned()),
        reason: Some("has 0 B of memory left, and 128 MiB are needed".to_owned()),
    };
    let mut nodes: Vec<_> = (0..100_000).map(standing).collect();
    let holder = node(99_000);
    let left_out = crate::admission::placement::leave_out(&mut nodes, Some(&holder), MESSAGE_MAX / 2);
    assert!(serde_json::to_vec(&nodes).unwrap().len() < MESSAGE_MAX);
    assert_eq!(nodes.len() + left_out.len(), 100_000);
    assert_eq!(nodes.last().map(|standing| &standing.node), Some(&holder));
}

#[tokio::test]
async fn lists_come_part_by_part() {
    let mut view = crowded();
    for number in 0..5_000 {
        put(&mut view, workload(&format!("w{number:0>60}"), 1));
    }
    let (admission, _) = admission_that_sees(view);
    let (mut names, mut nodes): (Vec<WorkloadName>, Vec<NodeId>) = Default::default();
    loop {
        let after = names.last().map_or_else(String::new, |last| format!("{{\"after\": \"{last}\"}}"));
        let (part, omitted): (Vec<WorkloadSummary>, _) = ask(&admission, Topic::WorkloadList, &after).await;
        names.extend(part.into_iter().map(|summary| summary.workload));
        assert_eq!(names.len() + omitted, 5_001);
        if omitted == 0 {
            break;
        }
    }
    assert!(names.is_sorted());
    loop {
        let after = nodes.last().map_or_else(String::new, |last| format!("{{\"after\": \"{last}\"}}"));
        let (part, omitted): (Vec<NodeReply>, _) = ask(&admission, Topic::NodeList, &after).await;
        nodes.extend(part.into_iter().map(|reply| reply.session.node));
        assert_eq!(nodes.len() + omitted, NODES as usize);
        if omitted == 0 {
            break;
        }
    }
    assert_eq!(nodes, (0..NODES).map(node).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_history_of_large_specs_comes_from_the_newest_on() {
    let (admission, platform) = admission_that_sees(LatticeView::default());
    let key = Key::Spec(name("web")).to_string();
    let (mut expect, mut record) = (Precondition::Absent, None);
    for version in 1..=20 {
        let mut spec = workload("web", 1);
        spec.components[0].env.insert("V".into(), format!("{version}{}", "x".repeat(200_000)));
        let next = match record.take() {
            None => SpecRecord::new(spec, uuid::Uuid::nil(), Generation::FIRST),
            Some(before) => SpecRecord { spec, generation: SpecRecord::template(&before).next(), ..before },
        };
        let written = platform.store.write(Bucket::Specs, &key, next.encode(), expect).await.unwrap();
        (expect, record) = (Precondition::At(written), Some(next));
    }
    let mut come: Vec<u64> = Vec::new();
    let mut before = String::new();
    loop {
        let topic = Topic::Workload(WorkloadVerb::History, name("web"));
        let (part, omitted): (Vec<HistoryItem>, _) = ask(&admission, topic, &before).await;
        let Some(HistoryItem::Put(first)) = part.first() else { panic!("{part:?}") };
        before = format!("{{\"before\": {}}}", first.revision);
        let generation = |item: &HistoryItem| match item {
            HistoryItem::Put(spec) => spec.generation.0,
            HistoryItem::Deleted { .. } => 0,
        };
        come.splice(0..0, part.iter().map(generation));
        assert_eq!(come.len() + omitted, 20);
        if omitted == 0 {
            break;
        }
    }
    assert_eq!(come, (1..=20).collect::<Vec<u64>>());
}

#[tokio::test]
async fn what_can_not_be_sent_is_answered_with_an_error() {
    let (admission, platform) = admission_that_sees(LatticeView::default());
    let most = platform.bus.payload_bytes_max();
    let answer = |length| Answer { headers: Headers::new(), payload: vec![b' '; length].into() };
    assert_eq!(admission.sendable(answer(most - HEADER_BYTES)).payload.len(), most - HEADER_BYTES);
    let refused = admission.sendable(answer(most));
    assert_eq!(refused.headers.get(HEADER_ERROR_CODE).map(String::as_str), Some("503"));
    assert!(refused.payload.len() < 1000);
}

#[test]
fn a_page_has_what_fits_and_one_item_at_least() {
    let text = |length: usize| Some("x".repeat(length - 2));
    let page = Page::fill([4, 4, 4], 8, text);
    assert_eq!((page.items.len(), page.omitted), (2, 1));
    assert_eq!(page.answer().unwrap().headers.get(HEADER_OMITTED).map(String::as_str), Some("1"));
    assert_eq!(Page::fill([4, 4], 8, text).answer().unwrap().headers, Headers::new());
    let page = Page::fill([9, 4], 8, text);
    assert_eq!((page.items.len(), page.omitted), (1, 1));
    assert_eq!(Page::fill([4, 2, 4], 8, |length| text(length).filter(|_| length > 2)).items.len(), 2);
}

#[test]
fn what_is_more_telling_is_left_and_the_order_is_kept() {
    let mut items = vec![1, 2, 3, 4, 5, 6];
    let omitted = cut_by_rank(&mut items, 100, |item| item % 2);
    assert_eq!((items.as_slice(), omitted), ([1, 2, 3, 4, 5, 6].as_slice(), 0));
    // With its place each item takes five bytes.
    let omitted = cut_by_rank(&mut items, 5, |item| item % 2);
    assert_eq!((items.as_slice(), omitted), ([2].as_slice(), 5));
}
