//! Something dies, stops or is cut off, under load: what callers notice, and how long.

use crate::harness::{
    Api, Lattice, Node, PATIENCE, Server,
    api::{holders, spec},
    eventually, guest, http,
    load::Load,
    shared,
};
use hyper::Method;
use lattice::{
    ctl::WorkloadState,
    id::NodeId,
    store::{Bucket, Headers},
};
use rustix::process::Signal;
use serde_json::json;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// `--timing dev`: a silent session is removed after this.
const KILL: Duration = Duration::from_secs(5);
/// For noticing at the next tick, claiming, compiling from the cache or anew, and the tables, on a busy machine.
const START: Duration = Duration::from_secs(10);

async fn placements(api: &Api, names: &[&str]) -> BTreeMap<String, Vec<NodeId>> {
    let mut placed = BTreeMap::new();
    for name in names {
        placed.insert((*name).to_owned(), holders(&api.ready(name).await));
    }
    placed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_killed_under_load() {
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    for (id, pin) in [("n1", "pin=a"), ("n2", "pin=b"), ("n3", "pin=c")] {
        lattice.launch_node("default", id, &["--label", pin]);
    }
    lattice.all_ready().await;
    let api = lattice.api().await;
    let digest = api.upload("hello-http02").await;
    // Both of n1's workloads have a replica there: `only` no other, `pair` one on n2. Then the rule is lifted, which moves
    // nothing.
    for (name, replicas, rule) in [("only", 1, "pin == a"), ("pair", 2, "pin in (a, b)")] {
        let mut asked = spec(name, digest, replicas);
        asked["placement"] = json!({ "require": [rule] });
        api.put(&asked).await.unwrap();
        api.ready(name).await;
        api.put(&spec(name, digest, replicas)).await.unwrap();
        let held = holders(&api.ready(name).await);
        assert!(held.iter().any(|node| node.as_str() == "n1"), "{name} is on {held:?}");
        lattice.serving(&format!("{name}.test"), "/").await;
    }
    let (victim, witness) = (lattice.node("n1"), lattice.node("n3"));
    let only = Load::start([witness.http()], "only.test", "/quiet");
    let pair = Load::start([witness.http(), witness.http()], "pair.test", "/quiet");
    for _ in 0..20 {
        witness.get("pair.test", "/").await.ok();
    }

    let killed = Instant::now();
    victim.kill9().await;
    eventually("`only` answers from elsewhere", KILL + START, async || {
        let answer = http::try_get(&witness.http(), "only.test", "/quiet").await.map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let back = killed.elapsed();
    let pair_status = eventually("`pair` has two replicas again", KILL + START, async || {
        let status = api.ready("pair").await;
        let held = holders(&status);
        if held.iter().any(|node| node.as_str() == "n1") { Err(format!("{held:?}")) } else { Ok(status) }
    })
    .await;
    let (only, pair) = (only.stop().await, pair.stop().await);
    println!("only replica killed: answered again after {} ms; {}", back.as_millis(), only.report());
    println!("one of two replicas killed: {}", pair.report());

    // Whoever calls meanwhile waits for the replica to come back; whoever can't wait that long is told whose fault it is.
    assert!(only.slowest() > Duration::from_secs(1), "nobody noticed: was it there? {}", only.report());
    let told = ["502 peer-lost", "503 not-ready", "504 timeout"].map(|why| Err(why.to_owned()));
    assert!(only.failures().all(|sample| told.contains(&sample.outcome)), "{}", only.report());
    assert!(pair.trouble() < Duration::from_secs(2), "{}", pair.report());
    let mut held = holders(&pair_status);
    held.sort();
    assert_eq!(held, [NodeId::new("n2").unwrap(), NodeId::new("n3").unwrap()]);
    lattice.listed(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_node_is_replaced_and_returns_as_another_life() {
    let lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    let mut strict = spec("strict", api.upload("hello-http02").await, 1);
    strict["class"] = "strict".into();
    api.put(&strict).await.unwrap();
    let status = api.ready("strict").await;
    lattice.serving("strict.test", "/").await;
    let frozen = lattice.node(holders(&status)[0].as_str());
    let other = lattice.other_than(&frozen.id);

    frozen.process().signal(Signal::STOP);
    let begin = Instant::now();
    // NATS does not tell that a process hangs: what was sent to it waits for the idle limit, what is sent later does not.
    eventually("it answers from elsewhere", KILL + START, async || {
        let address = other.http();
        let request = http::try_get(&address, "strict.test", "/");
        match tokio::time::timeout(Duration::from_secs(1), request).await {
            Ok(Ok(answer)) if answer.status == 200 && answer.node() == other.id => Ok(()),
            answer => Err(format!("{answer:?}")),
        }
    })
    .await;
    println!("the replica of a frozen node answered again after {} ms", begin.elapsed().as_millis());
    frozen.process().signal(Signal::CONT);
    frozen.ready().await;
    lattice.listed(2).await;
    // It lost the replica, and knows it: whoever asks it gets the answer of the one that has it.
    eventually("the old holder runs it no more", PATIENCE, async || {
        let answer = frozen.get("strict.test", "/").await;
        if answer.node() == other.id { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    assert_eq!(holders(&api.ready("strict").await)[0].as_str(), other.id);
    assert_eq!(api.slots("strict").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_is_restarted_under_running_nodes() {
    let mut lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    let status = api.deploy("steady", "hello-http02", 1).await;
    lattice.serving("steady.test", "/").await;
    let holder = lattice.node(holders(&status)[0].as_str());
    let load = Load::start([holder.http()], "steady.test", "/quiet");

    lattice.server.kill9().await;
    let down = Instant::now();
    for node in &lattice.nodes {
        eventually(&format!("{} says that it is cut off", node.id), PATIENCE, async || match node.is_ready().await {
            Ok((false, text)) if text.contains("not connected") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
    // Longer than any session lives: all of them look dead when the server is back.
    let outage = KILL + Duration::from_secs(2);
    tokio::time::sleep(outage.saturating_sub(down.elapsed())).await;
    let other = lattice.other_than(holders(&status)[0].as_str());
    // What runs elsewhere is refused soon, whether it may be sent again or not.
    let asked = Instant::now();
    let cut_off = other.get("steady.test", "/").await;
    let posted = http::send(&other.http(), Method::POST, "steady.test", "/", &[], http::full(b"x".to_vec())).await;
    let posted = http::whole(posted.unwrap()).await.unwrap();
    for answer in [&cut_off, &posted] {
        assert_eq!((answer.status, answer.error()), (503, "unreachable"), "{answer:?}");
    }
    let took = asked.elapsed();
    println!("two requests for another node were refused within {} ms", took.as_millis());
    assert!(took < Duration::from_secs(8), "{took:?}");
    let served = lattice.node(holders(&status)[0].as_str()).get("steady.test", "/").await.ok();
    for answer in [&cut_off, &served] {
        let since: u64 = answer.header("lattice-disconnected").parse().unwrap();
        assert!((KILL.as_secs()..KILL.as_secs() + 60).contains(&since), "{answer:?}");
    }

    lattice.server.start_again().await;
    let up = Instant::now();
    for node in &lattice.nodes {
        node.ready().await;
    }
    lattice.serving("steady.test", "/").await;
    for node in &lattice.nodes {
        eventually("nodes say no more that they are cut off", PATIENCE, async || {
            let answer = node.get("steady.test", "/").await;
            if answer.header("lattice-disconnected").is_empty() { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
    }
    println!("the lattice was whole {} ms after the server was back", up.elapsed().as_millis());
    let samples = load.stop().await;
    println!("local requests through an outage of {} s: {}", outage.as_secs(), samples.report());
    samples.assert_none_failed();
    let holder = holders(&status)[0].to_string();
    assert!(samples.0.iter().all(|sample| sample.outcome.as_ref() == Ok(&holder)));

    let after = api.deploy("after", "hello-http03", 2).await;
    assert_eq!(after.ready, 2);
    lattice.serving("after.test", "/").await;
    assert_eq!(holders(&api.ready("steady").await), holders(&status), "the replica moved");
    lattice.listed(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_are_killed_and_come_back_to_their_places() {
    let mut lattice = Lattice::start(3).await;
    let api = lattice.api().await;
    let names = ["one", "two", "four"];
    for (name, replicas) in names.into_iter().zip([1, 2, 4]) {
        api.submit(name, "hello-http02", replicas).await;
    }
    let before = placements(&api, &names).await;
    for node in &lattice.nodes {
        node.kill9().await;
    }
    let begin = Instant::now();
    for id in ["n3", "n1", "n2"] {
        lattice.node_mut(id).launch();
    }
    lattice.all_ready().await;
    for name in names {
        lattice.serving(&format!("{name}.test"), "/").await;
    }
    println!("all workloads answer {} ms after the nodes were started again", begin.elapsed().as_millis());
    assert_eq!(placements(&api, &names).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_asked_to_stop_hands_over_without_a_failed_request() {
    let lattice = Lattice::start(3).await;
    let api = lattice.api().await;
    let status = api.deploy("handed", "hello-http02", 1).await;
    let leaver = lattice.node(holders(&status)[0].as_str());
    let mut slow = spec("slow", api.upload("faults").await, 3);
    slow["limits"] = json!({ "wall": "20s" });
    api.put(&slow).await.unwrap();
    api.ready("slow").await;
    for host in ["handed.test", "slow.test"] {
        lattice.serving(host, "/").await;
    }
    let stayers: Vec<String> =
        lattice.nodes.iter().filter(|node| node.id != leaver.id).map(|node| node.http()).collect();
    let load = Load::start(stayers.clone(), "handed.test", "/quiet");
    // In flight on the leaving node itself when it is told.
    let address = leaver.http();
    let running = tokio::spawn(async move { http::try_get(&address, "slow.test", "/sleep/2000").await });
    for _ in 0..20 {
        http::get(&stayers[0], "handed.test", "/").await.ok();
    }

    let asked = Instant::now();
    leaver.sigterm();
    let exit = leaver.wait_exit().await;
    println!("left {} ms after SIGTERM", asked.elapsed().as_millis());
    assert_eq!(exit.code(), Some(0), "{}", leaver.process().log());
    let answer = running.await.unwrap().unwrap().ok();
    assert_eq!(answer.node(), leaver.id);
    // Gone from the store, not only from sight.
    let session = format!("session.{}", leaver.id);
    let keys = api.snapshot(Bucket::State).await.entries.into_iter().map(|entry| entry.key);
    assert_eq!(keys.filter(|key| *key == session).count(), 0);
    lattice.listed(2).await;

    let status = api.ready("handed").await;
    assert_ne!(holders(&status)[0].as_str(), leaver.id);
    for address in &stayers {
        http::get(address, "handed.test", "/").await.ok();
    }
    let samples = load.stop().await;
    println!("under a planned exit: {}", samples.report());
    samples.assert_none_failed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_everything_gets_it_back_from_the_nodes() {
    let mut lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    let status = api.deploy("kept", "hello-http02", 2).await;
    lattice.serving("kept.test", "/").await;
    let load = Load::start(lattice.nodes.iter().map(Node::http), "kept.test", "/quiet");

    lattice.server.kill9().await;
    lattice.server.wipe();
    lattice.server.start_again().await;
    for node in &lattice.nodes {
        node.ready().await;
    }
    // The buckets themselves have to be made again first.
    eventually("the workload is known again", PATIENCE, async || {
        // Each bucket is repaired for itself: the workload's own record may be the last to return.
        api.get("kept").await.map_err(|error| error.to_string())?;
        let again = api.status("kept").await.map_err(|error| error.to_string())?;
        let is_whole = again.state == WorkloadState::Ready && api.slots("kept").await.len() == 2;
        if is_whole { Ok(()) } else { Err(format!("{again:?}")) }
    })
    .await;
    assert_eq!(holders(&api.ready("kept").await), holders(&status), "a replica moved");
    load.stop().await.assert_none_failed();
    let events = lattice.cli_ok(&["events", "--last", "1000"]).await;
    assert!(events.contains("store-regressed"), "{events}");
    api.deploy("after", "hello-http03", 1).await;
    lattice.serving("after.test", "/").await;

    // The components are back as well: a node that never saw them can run them.
    let component = lattice::id::Digest::of(&std::fs::read(guest("hello-http02")).unwrap());
    eventually("the component is put back", PATIENCE, async || {
        let size = api.platform.artifacts.size(component).await.map_err(|error| error.to_string())?;
        size.ok_or_else(|| "not there".to_owned())
    })
    .await;
    lattice.launch_node("default", "n3", &[]);
    lattice.all_ready().await;
    api.scale("kept", 3).await.unwrap();
    let held = holders(&api.ready("kept").await);
    assert!(held.iter().any(|node| node.as_str() == "n3"), "{held:?}");
}

/// Nobody reads the stream of events, so nothing fails when it alone is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_events_that_was_deleted_is_made_again() {
    let lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    let deleted = api.request("$JS.API.STREAM.DELETE.lattice-default-events", Headers::new(), b"").await.unwrap();
    assert!(String::from_utf8_lossy(&deleted.payload).contains("\"success\":true"), "{deleted:?}");
    // Up to the next comparison with the store.
    eventually("the stream is there", PATIENCE, async || {
        let found = api.request("$JS.API.STREAM.INFO.lattice-default-events", Headers::new(), b"").await;
        let found = String::from_utf8_lossy(&found.map_err(|error| error.to_string())?.payload).into_owned();
        if found.contains("\"error\"") { Err(found) } else { Ok(()) }
    })
    .await;
    api.deploy("after", "hello-http02", 1).await;
    eventually("events are kept again", PATIENCE, async || {
        let events = lattice.cli_ok(&["events", "--last", "100"]).await;
        if events.contains("slot-ready") { Ok(()) } else { Err(events) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_restarted_alone_takes_up_what_it_had() {
    let mut lattice = Lattice::start(1).await;
    let api = lattice.api().await;
    api.deploy("patient", "hello-http02", 2).await;
    let before = api.slots("patient").await;
    lattice.nodes[0].sigterm();
    assert_eq!(lattice.nodes[0].wait_exit().await.code(), Some(0));
    // Nobody could take them: they stay recorded.
    assert_eq!(api.slots("patient").await, before);
    lattice.nodes[0].launch();
    lattice.all_ready().await;
    lattice.serving("patient.test", "/").await;
    assert_eq!(api.ready("patient").await.ready, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_generation_takes_over_without_a_failed_request() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let mut asked = spec("renewed", api.upload("hello-http02").await, 3);
    asked["components"][0]["env"] = json!({ "VERSION": "0" });
    api.put(&asked).await.unwrap();
    api.ready("renewed").await;
    lattice.serving("renewed.test", "/env/VERSION").await;
    let load = Load::start(lattice.nodes.iter().map(Node::http), "renewed.test", "/quiet");
    for version in 1..=3 {
        asked["components"][0]["env"] = json!({ "VERSION": version.to_string() });
        api.put(&asked).await.unwrap();
        api.ready("renewed").await;
        for node in &lattice.nodes {
            eventually("the new generation answers", PATIENCE, async || {
                let found = node.get("renewed.test", "/env/VERSION").await.ok().text();
                if found.trim() == version.to_string() { Ok(()) } else { Err(found) }
            })
            .await;
        }
    }
    load.stop().await.assert_none_failed();
}
