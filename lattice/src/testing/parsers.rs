//! What holds for each parser that a stranger can reach, whatever comes in: it ends without a panic, and what it takes can
//! be written and is read again as the same. The fuzz targets in `fuzz/` hand them any bytes; a test here hands them
//! mutations of good examples.
//!
//! Start at [`PARSERS`].

use crate::{
    bucket::{decode_key, encode_key},
    ctl::{
        ConfigDeleteRequest, ConfigPutRequest, DrainRequest, ExplainRequest, RollbackRequest, RolloutRequest,
        ScaleRequest,
    },
    id::{Generation, SlotId, WorkloadName},
    limits::MESSAGE_BYTES_MAX,
    record::{ConfigRecord, Key, NodeOrder, Record, Rollout, Scale, Session, Slot, SpecRecord, Ticks},
    report::NodeReport,
    spec::{self, Cron, Zone},
    store::Bucket,
    subject::{self, Topic},
    trace::TraceContext,
    units::{Bytes, Millicores, Millis},
};
use http::HeaderMap;
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, str::FromStr};

/// One of them.
#[derive(Debug, Clone, Copy)]
pub struct Parser {
    /// That of its fuzz target.
    pub name: &'static str,
    /// Panics where something does not hold.
    pub check: fn(&[u8]),
    pub examples: &'static [&'static str],
}

/// All of them.
pub const PARSERS: [Parser; 7] = [
    Parser { name: "spec", check: check_spec, examples: SPECS },
    Parser { name: "record", check: check_record, examples: RECORDS },
    Parser { name: "request", check: check_request, examples: REQUESTS },
    Parser { name: "report", check: check_report, examples: REPORTS },
    Parser { name: "name", check: check_name, examples: NAMES },
    Parser { name: "schedule", check: check_schedule, examples: SCHEDULES },
    Parser { name: "value", check: check_value, examples: VALUES },
];

/// Hand the input to the parser of this name.
pub fn check(name: &str, input: &[u8]) {
    PARSERS.iter().filter(|parser| parser.name == name).for_each(|parser| (parser.check)(input));
}

/// A spec as a person sends it. What is said of a bad one fits a terminal.
fn check_spec(input: &[u8]) {
    match spec::parse(input) {
        Ok(read) => {
            let value = serde_json::to_value(&read).unwrap_or_default();
            assert_eq!(spec::parse_value(&value).as_ref(), Ok(&read), "{value}");
            let record = SpecRecord::new(read, uuid::Uuid::nil(), Generation::FIRST);
            assert_eq!(SpecRecord::decode(&record.encode()).as_ref(), Ok(&record));
        }
        Err(error) => {
            assert!(error.hint.is_some(), "{error:?}");
            let told = [&error.field, &error.message, error.hint.as_deref().unwrap_or_default()].concat();
            assert!(told.len() <= TOLD_BYTES_MAX, "{} bytes: {told}", told.len());
            assert!(!told.chars().any(char::is_control), "{told:?}");
        }
    }
}

/// Of what is wrong with a document: field, message and hint.
const TOLD_BYTES_MAX: usize = 3 * MESSAGE_BYTES_MAX;

/// What lies in the store, which whoever has the account may write.
fn check_record(input: &[u8]) {
    fn again<R: Record + PartialEq + Debug>(input: &[u8]) {
        if let Ok(record) = R::decode(input) {
            assert_eq!(R::decode(&record.encode()).as_ref(), Ok(&record));
        }
    }
    again::<SpecRecord>(input);
    again::<Session>(input);
    again::<NodeOrder>(input);
    again::<Slot>(input);
    again::<Ticks>(input);
    again::<Rollout>(input);
    again::<Scale>(input);
    again::<ConfigRecord>(input);
}

/// Bodies of requests of the control interface, but for specs.
fn check_request(input: &[u8]) {
    fn again<T: DeserializeOwned + Serialize + PartialEq + Debug>(input: &[u8]) {
        if let Ok(request) = serde_json::from_slice::<T>(input) {
            let written = serde_json::to_vec(&request).unwrap_or_default();
            assert_eq!(serde_json::from_slice::<T>(&written).ok().as_ref(), Some(&request));
        }
    }
    again::<ScaleRequest>(input);
    again::<RollbackRequest>(input);
    again::<RolloutRequest>(input);
    again::<DrainRequest>(input);
    again::<ExplainRequest>(input);
    again::<ConfigPutRequest>(input);
    again::<ConfigDeleteRequest>(input);
}

/// What another node says of itself: bounded once, it stays as it is.
fn check_report(input: &[u8]) {
    if let Ok(report) = NodeReport::decode(input) {
        let written = serde_json::to_vec(&report).unwrap_or_default();
        if written.len() <= input.len() {
            assert_eq!(NodeReport::decode(&written).as_ref(), Ok(&report));
        }
    }
}

/// Subjects, keys and names: there is one way to write each.
fn check_name(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some((lattice, topic)) = Topic::parse(text) {
        let written = topic.subject(&lattice);
        let is_alias = text.ends_with(".ctl.schema");
        assert!(written == text || is_alias, "{text:?} {written:?}");
        assert!(!text.contains(['*', '>', ' ']) && text.is_ascii(), "{text:?}");
    }
    for bucket in [Bucket::Specs, Bucket::State] {
        if let Some(key) = Key::parse(bucket, text) {
            assert_eq!((key.to_string().as_str(), key.bucket()), (text, bucket));
        }
    }
    if let Ok(name) = WorkloadName::new(text) {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        assert!(name.as_str().bytes().all(is_plain) && (1..=63).contains(&text.len()), "{text:?}");
    }
    if let Ok(slot) = text.parse::<SlotId>() {
        assert_eq!(slot.to_string(), text);
    }
    if subject::is_reply_subject(text) {
        assert!(!text.contains("..") && !text.ends_with('.'), "{text:?}");
    }
    // A guest's key, under which it is stored, and back.
    if let Ok(key) = encode_key(text) {
        assert_eq!(decode_key(&key).as_deref(), Some(text), "{key:?}");
        assert!(!key.contains(['*', '>', ' ']) && key.is_ascii(), "{key:?}");
    }
}

/// An expression, and behind a line break a time zone.
fn check_schedule(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (expression, zone) = text.split_once('\n').unwrap_or((text, "UTC"));
    let zone = zone.parse::<Zone>();
    let Ok(cron) = expression.parse::<Cron>() else { return };
    assert_eq!(cron.to_string().parse::<Cron>().as_ref(), Ok(&cron));
    let Ok(zone) = zone else { return };
    assert_eq!(zone.to_string().parse::<Zone>().as_ref(), Ok(&zone));
    for after in [0, 1_711_846_799_000, 1_730_000_000_123, u64::MAX] {
        let Some(tick) = cron.next_after(&zone, after) else { continue };
        assert!(tick > after && tick % 1000 == 0, "{cron} {zone} {after} {tick}");
        // Which moments are ticks does not depend on the one that is asked about.
        assert_eq!(cron.next_after(&zone, tick - 1), Some(tick), "{cron} {zone} {after}");
    }
}

/// What is written in one word: durations, sizes, ranges of addresses, the context of a trace.
fn check_value(input: &[u8]) {
    fn again<T: FromStr + ToString + PartialEq + Debug>(text: &str) {
        if let Ok(value) = text.parse::<T>() {
            assert_eq!(value.to_string().parse::<T>().ok().as_ref(), Some(&value), "{text:?}");
        }
    }
    if let Some(context) = TraceContext::parse(input) {
        let mut headers = HeaderMap::new();
        context.inject(&mut headers);
        assert_eq!(TraceContext::of(&headers), Some(context));
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    again::<Millis>(text);
    again::<Bytes>(text);
    again::<Millicores>(text);
    again::<crate::address::Cidr>(text);
}

const SPECS: &[&str] = &[
    "name: hello\ncomponents:\n  - {name: hello, source: file:./hello.wasm}\nhttp:\n  routes: [{host: hello.test}]\n",
    r#"name: shop
replicas: 3
class: available
components:
  - name: api
    source: sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
    env: {LOG: info}
    config: {currency: eur}
  - {name: auth, source: sha256:f90a94f82bf3eb2f39c8e43b9f38ddb1deae3c88fbcbcd2cb7b7c8c4b5fbcd11}
  - {name: export, source: sha256:88ecde925da3c6f8ec3d140683da9d2a422f26c1ae1d9212da1e5a53416dcc88, lazy: true, idle: 10s}
services:
  - name: pool
    source: sha256:aec070645fe53ee3b3763059376134f058cc337247c978add178b6ccdfb0019f
    limits: {memory: 64MiB}
    restart: {backoff: 200ms, backoff-max: 30s, give-up-after: 10}
compose:
  links: [{from: api, import: "acme:auth/check@1.0.0", to: auth}]
http:
  callers: [web]
  routes:
    - {host: shop.example.org, path: /api, timeout: 10s, methods: [GET], headers: {x-tenant: a}, query: {v: {prefix: "2"}}}
    - {host: "*.shop.example.org", path: {exact: /login}, rewrite: {prefix: /}, body-limit: 1MiB}
    - {host: old.example.org, redirect: {status: 308, host: shop.example.org}}
schedule:
  - {cron: "30 6 * * mon-fri", zone: Europe/Berlin, path: /report}
reuse: {requests: 10000, idle: 30s, min-warm: 1, max-instances: 64}
limits: {memory: 128MiB, cpu: 10s, wall: 30s, concurrency: 256, queue: 1024, body: 1GiB}
reserve: {cpu: 500m}
grants:
  http-out: ["https://api.stripe.com", "https://*.example.org"]
  connect: ["tcp://db.example.org:5432"]
placement: {require: ["zone == a", "gpu"]}
gpu: {any: [{memory: 8GiB, exclusive: true, class: [discrete], min-speed: {gemm-gflops: 100}}, {slots: 2, features: [shader-f16], limits: {max-buffer-size: 1024}}], cpu: fallback}
"#,
    r#"{"name":"a","components":[{"name":"a","source":"file:a.wasm"}],"http":{"routes":[{"host":"a.test","split":[{"workload":"b","percent":10}]}]},"autoscale":{"min":1,"max":5}}"#,
    "a: &a [x, x]\nb: [*a, *a]\n",
];
const RECORDS: &[&str] = &[
    r#"{"v":1,"holder":{"node":"n1","incarnation":"6f1d7b52-5d0e-4a53-8c2e-5f2f0e6d1a11"},"uid":"0b0f1b2e-7c7e-4d57-9f53-0a4bb1f3c9a1","generation":3,"phase":"ready","nonce":"0b0f1b2e-7c7e-4d57-9f53-0a4bb1f3c9a1","claimed-at":1795345100000,"since":1795345100000}"#,
    r#"{"v":1,"node":"n1","incarnation":"6f1d7b52-5d0e-4a53-8c2e-5f2f0e6d1a11","labels":{"arch":"x86_64"},"version":"0.1.0","capacity":{"memory":6442450944,"slots":256,"millicores":4000},"http":"127.0.0.1:8001","draining":false,"taints":["gpu=a100:no-place"],"started-at":1795345100000,"renewals":41}"#,
    r#"{"v":1,"node":"n1","incarnation":"6f1d7b52-5d0e-4a53-8c2e-5f2f0e6d1a11","labels":{},"version":"0.1.0","capacity":{"memory":6442450944,"slots":256},"http":null,"draining":false,"gpus":[{"id":"vk-0","name":"A GPU","class":"discrete","backend":"vulkan","driver":"x","pci":"0000:01:00.0","memory":{"total":2147483648,"free":1},"slots":4,"features":["shader-f16"],"limits":{"max-buffer-size":2147483647},"quirks":["loop-cap-65535"],"speed":{"gemm-gflops":7,"copy-mbps":2000,"dispatch-us":150},"failing":"lost","losses":3}],"started-at":1795345100000,"renewals":41}"#,
    r#"{"v":1,"holder":{"node":"n1","incarnation":"6f1d7b52-5d0e-4a53-8c2e-5f2f0e6d1a11"},"uid":"0b0f1b2e-7c7e-4d57-9f53-0a4bb1f3c9a1","generation":3,"phase":"starting","gpu":{"offer":"vk-0","memory":268435456,"slots":1},"handover-gpu":{"offer":"vk-1","memory":1,"slots":2},"nonce":"0b0f1b2e-7c7e-4d57-9f53-0a4bb1f3c9a1"}"#,
    r#"{"v":1,"node":"n1","cordoned":true,"drain":{"deadline":"5m"}}"#,
    r#"{"v":1,"spec":{"name":"a","components":[{"name":"a","source":"sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"}]},"uid":"0b0f1b2e-7c7e-4d57-9f53-0a4bb1f3c9a1","generation":1,"hash":"sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae","admitted-at":1}"#,
    r#"{"v":1,"uid":"0b0f1b2e-7c7e-4d57-9f53-0a4bb1f3c9a1","replicas":3}"#,
    r#"{"v":99}"#,
];
const REQUESTS: &[&str] = &[
    r#"{"replicas":3}"#,
    r#"{"to-generation":2}"#,
    r#"{"action":"pause"}"#,
    r#"{"deadline":"5m"}"#,
    r#"{"replica":0}"#,
    r#"{"entries":{"LOG":"info"}}"#,
    r#"{"force":true}"#,
    "{}",
];
const REPORTS: &[&str] = &[
    r#"{"node":"n1","incarnation":"6f1d7b52-5d0e-4a53-8c2e-5f2f0e6d1a11","usage":{"memory":3145728,"memory-limit":6442450944,"instances":2,"instances-limit":1000,"in-flight":1,"waiting":0,"compiled":1,"from-disk":3},"slots":{"hello.0":{"uid":"0b0f1b2e-7c7e-4d57-9f53-0a4bb1f3c9a1","generation":3,"requests":1042,"failures":{"trap":1},"last-failure":{"kind":"wall","message":"took longer","at":1795345200000},"parts":[{"name":"pool","role":"service","state":"ready","instances":1,"calls":40,"restarts":2,"last-error":"exited"}]}},"awaited":["a"]}"#,
];
const NAMES: &[&str] = &[
    "lattice.default.ctl.workload.put",
    "lattice.default.ctl.schema",
    "lattice.default.ctl.workload.logs.hello",
    "lattice.default.ctl.node.drain.n1",
    "lattice.default.ctl.config.put.shop",
    "lattice.default.http.n1",
    "lattice.default.evt.slot-ready",
    "lattice.default.report.n1",
    "lattice.default.log.hello.0",
    "spec.hello",
    "slot.hello.17",
    "session.n1",
    "rollout.hello",
    "hello.4294967295",
    "_INBOX.abc.def",
    "_R_.x",
];
const SCHEDULES: &[&str] = &[
    "*/5 * * * *",
    "30 6 * * mon-fri\nEurope/Berlin",
    "0 0 29 2 *\nAmerica/New_York",
    "15 30 2 * * sun\nAustralia/Lord_Howe",
    "@daily\nAsia/Kathmandu",
    "0 1-23/2 1,15 jan-jun 7",
    "59 59 23 31 12 *",
];
const VALUES: &[&str] = &[
    "150ms",
    "5m",
    "64KiB",
    "1GiB",
    "18446744073709551615ms",
    "500m",
    "0.125",
    "10.0.0.0/8",
    "fd00:1::/32",
    "192.0.2.7",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Mutations;

    #[test]
    fn good_examples_are_taken() {
        for text in SPECS.iter().take(3) {
            spec::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error:?}: {text}"));
        }
        let [slot, session, with_gpus, on_gpu, order, spec, ..] = RECORDS else { panic!("too few") };
        assert!(Slot::decode(slot.as_bytes()).is_ok() && Slot::decode(on_gpu.as_bytes()).is_ok());
        assert!(Session::decode(session.as_bytes()).is_ok() && Session::decode(with_gpus.as_bytes()).is_ok());
        assert!(NodeOrder::decode(order.as_bytes()).is_ok() && SpecRecord::decode(spec.as_bytes()).is_ok());
        assert!(NodeReport::decode(REPORTS[0].as_bytes()).is_ok());
        for text in NAMES.iter().take(9) {
            assert!(Topic::parse(text).is_some(), "{text}");
        }
        for text in SCHEDULES {
            text.split('\n').next().unwrap().parse::<Cron>().unwrap();
        }
    }

    #[test]
    fn whatever_comes_in_is_refused_or_read_as_it_is_written() {
        let mut failed = Vec::new();
        for Parser { name, check, examples } in PARSERS {
            let rounds = if matches!(name, "spec" | "schedule") { 1_000 } else { 10_000 };
            let broken = |input: &Vec<u8>| std::panic::catch_unwind(|| check(input)).is_err();
            if let Some(input) = Mutations::new(examples, 7).take(rounds).find(broken) {
                failed.push(format!("{name}: {:?}", String::from_utf8_lossy(&input)));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }
}
