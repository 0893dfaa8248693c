//! What a guest does wrong costs one exchange: the caller gets an answer that says whose fault it was, the node lives,
//! and other workloads go on.

use crate::harness::{
    api::{holders, spec},
    http,
    load::Load,
    shared,
};
use serde_json::json;

/// Deploys a guest with tight limits and asks it for each of its faults, on its own node and from another one.
async fn every_fault(guest: &str, faults: &[(&str, &[(u16, &str)])]) {
    let lattice = shared().await;
    let api = lattice.api().await;
    let digest = api.upload(guest).await;
    let mut asked = spec(guest, digest, 1);
    asked["limits"] = json!({ "memory": "32MiB", "cpu": "300ms", "wall": "1500ms" });
    api.put(&asked).await.unwrap();
    let status = api.ready(guest).await;
    let host = format!("{guest}.test");
    lattice.serving(&host, "/").await;
    let holder = lattice.node(holders(&status)[0].as_str());
    let other = lattice.other_than(&holder.id);

    let bystander = format!("bystander-{guest}");
    let bystander_host = format!("{bystander}.test");
    api.deploy(&bystander, "hello-http02", 3).await;
    lattice.serving(&bystander_host, "/").await;
    let load = Load::start([holder.http(), other.http()], &bystander_host, "/quiet");

    for (path, allowed) in faults {
        for node in [holder, other] {
            let answer = node.get(&host, path).await;
            let found = (answer.status, answer.error());
            assert!(allowed.contains(&found), "{guest}{path} through {}: {found:?}, not {allowed:?}", node.id);
            // The next caller is not to pay for it.
            node.get(&host, "/").await.ok();
        }
    }
    // Bodies that end before their time are cut, never passed off as whole.
    for path in ["/partial", "/short", "/stall"] {
        for node in [holder, other] {
            let answer = http::try_get(&node.http(), &host, path).await;
            let cut = answer.as_ref().map_or(true, |answer| answer.status >= 500 && !answer.error().is_empty());
            assert!(cut, "{guest}{path} through {}: {answer:?}", node.id);
            node.get(&host, "/").await.ok();
        }
    }
    load.stop().await.assert_none_failed();
    assert_eq!(api.status(guest).await.unwrap().ready, 1);
    for node in &lattice.nodes {
        assert!(node.process().is_running(), "{} died", node.id);
    }
}

const FAILED: &[(u16, &str)] = &[(502, "component-failed")];
const TIMEOUT: &[(u16, &str)] = &[(504, "timeout")];
/// Out of CPU time: a failure of the component or the end of its time, either says whose fault it was.
const STOPPED: &[(u16, &str)] = &[(502, "component-failed"), (504, "timeout")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_a_guest_of_http_0_2() {
    let faults: &[(&str, &[(u16, &str)])] = &[
        ("/trap", FAILED),
        ("/panic", FAILED),
        ("/loop", STOPPED),
        ("/memory", FAILED),
        ("/stack", FAILED),
        ("/exit", FAILED),
        ("/no-response", FAILED),
        ("/refuse", FAILED),
        ("/sleep/5000", TIMEOUT),
    ];
    every_fault("faults", faults).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_a_guest_of_http_0_3() {
    let faults: &[(&str, &[(u16, &str)])] = &[
        ("/trap", FAILED),
        ("/panic", FAILED),
        ("/loop", STOPPED),
        ("/memory", FAILED),
        ("/exit", FAILED),
        ("/no-response", TIMEOUT),
        ("/refuse", FAILED),
        ("/sleep/5000", TIMEOUT),
    ];
    every_fault("faults03", faults).await;
}
