//! What becomes of one operation: its span, where it is recorded, and its count.

use super::*;
use http::{HeaderMap, HeaderValue};
use lattice::{
    nats::{Code, Failure},
    trace::{Recorder, Span, TRACEPARENT},
};
use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

#[derive(Debug, Default)]
struct Kept(AtomicU64, Mutex<Vec<Span>>);

impl Recorder for Kept {
    fn records(&self, _: u128, parent: Option<bool>) -> bool {
        parent == Some(true)
    }

    fn span_id(&self) -> u64 {
        0x100 + self.0.fetch_add(1, Relaxed)
    }

    fn now(&self) -> u64 {
        1
    }

    fn record(&self, span: Span) {
        crate::lock(&self.1).push(span);
    }
}

const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const NOT_SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

fn inherited(traceparent: &'static str) -> Inherited {
    let headers = HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_static(traceparent))]);
    Inherited::of(&headers, &Arc::default(), Duration::from_secs(1))
}

struct Scene {
    kept: Arc<Kept>,
    tracer: Tracer,
    counts: Arc<Counts>,
}

impl Scene {
    fn new() -> Self {
        let kept = Arc::<Kept>::default();
        Self { tracer: Tracer::new(kept.clone()), kept, counts: Arc::default() }
    }

    fn begin(&self, named: Named, inherited: &mut Inherited) -> Operation {
        Operation::begin(&self.tracer, self.counts.clone(), named, inherited)
    }

    fn only_span(&self) -> Span {
        let spans = crate::lock(&self.kept.1);
        assert_eq!(spans.len(), 1, "{spans:?}");
        spans[0].clone()
    }

    fn counted(&self) -> Vec<(&'static str, &'static str, &'static str, u64)> {
        self.counts.read().iter().map(|it| (it.interface, it.operation, it.outcome, it.count())).collect()
    }
}

#[track_caller]
fn check(span: &Span, expect: &[(&str, &str)]) {
    let text = |value: &Value| match value {
        Value::Text(text) => text.to_string(),
        other => format!("{other:?}"),
    };
    let found: Vec<_> = span.attributes.iter().map(|(key, value)| (*key, text(value))).collect();
    let found: Vec<_> = found.iter().map(|(key, value)| (*key, value.as_str())).collect();
    assert_eq!(found, expect);
}

#[test]
fn a_message_is_sent_in_the_context_of_its_span() {
    let scene = Scene::new();
    let mut work = inherited(SAMPLED);
    let operation = scene.begin((Interface::Core, Kind::Publish, "publish"), &mut work).on("orders.7");
    let sent = work.trace_of_message();
    assert_eq!(
        sent.get("traceparent").map(String::as_str),
        Some("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000100-01")
    );
    let _ = operation.end(Ok::<_, Failure>(()));
    let span = scene.only_span();
    assert_eq!((&*span.name, span.kind, span.error.as_deref()), ("publish", SpanKind::Producer, None));
    assert_eq!((span.parent, span.parent_is_remote), (Some(0x00f0_67aa_0ba9_02b7), false));
    let expect = [
        ("lattice.interface", "lattice:nats/core"),
        ("messaging.system", "nats"),
        ("messaging.operation.name", "publish"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "orders.7"),
    ];
    check(&span, &expect);
    assert_eq!(scene.counted(), [("lattice:nats/core", "publish", "done", 1)]);
}

#[test]
fn a_bucket_is_a_database_and_what_is_known_of_a_failure_is_told() {
    let scene = Scene::new();
    let operation = scene.begin((Interface::Kv, Kind::Write, "update"), &mut inherited(SAMPLED)).on("sessions");
    let failed = operation.end(Err::<(), _>(Failure::maybe(Code::Timeout, "no answer to seven")));
    assert!(failed.is_err());
    let span = scene.only_span();
    let told = (&*span.name, span.kind, span.error.as_deref());
    assert_eq!(told, ("update sessions", SpanKind::Client, Some("timeout")));
    let expect = [
        ("lattice.interface", "lattice:nats/kv"),
        ("db.system.name", "nats"),
        ("db.operation.name", "update"),
        ("db.collection.name", "sessions"),
        ("lattice.nats.outcome", "maybe"),
    ];
    check(&span, &expect);
    assert_eq!(scene.counted(), [("lattice:nats/kv", "write", "timeout-maybe", 1)]);
}

#[test]
fn what_is_not_recorded_is_counted_and_has_no_span() {
    let scene = Scene::new();
    let mut work = inherited(NOT_SAMPLED);
    let operation = scene.begin((Interface::Keyvalue, Kind::Read, "get"), &mut work);
    let operation = operation.on("default").with("x", || -> &'static str { panic!("nobody takes it") });
    let _ = operation.end(Ok::<_, Failure>(()));
    let passed_on = work.trace_of_message();
    assert_eq!(passed_on.get("traceparent").map(String::as_str), Some(NOT_SAMPLED), "the trace goes on as it was");
    let denied = Operation::begin(
        &Tracer::default(),
        scene.counts.clone(),
        (Interface::Keyvalue, Kind::Open, "open"),
        &mut Inherited::default(),
    );
    let _ = denied.end(Err::<(), _>(Failure::not(Code::Denied, "x")));
    assert!(crate::lock(&scene.kept.1).is_empty());
    let expect = [("wasi:keyvalue", "open", "denied", 1), ("wasi:keyvalue", "read", "done", 1)];
    assert_eq!(scene.counted(), expect);
}

#[test]
fn what_nobody_waits_for_any_more_was_cancelled() {
    let scene = Scene::new();
    drop(scene.begin((Interface::Jetstream, Kind::Receive, "fetch"), &mut inherited(SAMPLED)).on("orders"));
    let span = scene.only_span();
    assert_eq!((&*span.name, span.error.as_deref()), ("fetch", Some("cancelled")));
    assert_eq!(scene.counted(), [("lattice:nats/jetstream", "receive", "cancelled", 1)]);
}

#[test]
fn what_changes_nothing_has_done_nothing() {
    let scene = Scene::new();
    for (kind, name) in [(Kind::Read, "has-object"), (Kind::Write, "clear")] {
        let operation = scene.begin((Interface::Blobstore, kind, name), &mut Inherited::default());
        let _ = operation.end(Err::<(), _>(Failure::maybe(Code::Timeout, "x")));
    }
    let expect = [("wasi:blobstore", "read", "timeout", 1), ("wasi:blobstore", "write", "timeout-maybe", 1)];
    assert_eq!(scene.counted(), expect);
}

#[test]
fn words_of_labels_differ() {
    let differ = |words: Vec<&'static str>| {
        let set: std::collections::BTreeSet<_> = words.iter().collect();
        assert_eq!(set.len(), words.len(), "{words:?}");
    };
    differ(Interface::ALL.map(Interface::as_str).into());
    differ(Kind::ALL.map(Kind::as_str).into());
    differ(Outcome::ALL.map(Outcome::as_str).into());
}
