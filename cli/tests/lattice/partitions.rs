//! Nodes that are cut off from the server, in one direction or in both, while clients reach them still.

use crate::harness::{
    Lattice, Server,
    api::{holders, spec},
    eventually, http,
    load::Load,
    wire::{Cut, Wire},
};
use hyper::Method;
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};

/// `--timing dev`: a silent session is removed after this; then the replica is claimed and started.
const KILL: Duration = Duration::from_secs(5);
const START: Duration = Duration::from_secs(10);
/// For so long the lonely node is asked when another one has taken over.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// A request that was sent when the way was cut, and one that comes later: both learn within a second or so that other nodes are
/// out of reach. The rest is for a busy machine.
const FOUND_OUT: Duration = Duration::from_secs(5);
/// Of the routes that lead to one node only. A request that may have run is waited for until then.
const DEADLINE: Duration = Duration::from_secs(8);

/// What is strict never runs twice, what is available serves on, clients are told soon what is out of reach, and all is as before
/// once the node is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_gives_up_what_is_strict_before_others_take_it() {
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    let mut wires = BTreeMap::new();
    for id in ["n1", "n2", "n3"] {
        let wire = Wire::to(lattice.server.port()).await;
        lattice.launch_node_by(wire.url(), id, &["--label", &format!("pin={id}")]);
        wires.insert(id.to_owned(), wire);
    }
    lattice.all_ready().await;
    let api = lattice.api().await;
    let digest = api.upload("hello-http02").await;
    let mut strict = spec("strict", digest, 1);
    strict["class"] = "strict".into();
    api.put(&strict).await.unwrap();
    api.put(&spec("everywhere", digest, 3)).await.unwrap();
    for id in wires.keys() {
        let mut pinned = spec(&format!("only-{id}"), digest, 1);
        pinned["placement"] = json!({ "require": [format!("pin == {id}")] });
        pinned["http"]["routes"][0]["timeout"] = format!("{}s", DEADLINE.as_secs()).into();
        api.put(&pinned).await.unwrap();
    }

    for cut in [Cut::Both, Cut::ToServer, Cut::FromServer] {
        let strict = api.ready("strict").await;
        lattice.serving("strict.test", "/quiet").await;
        for workload in ["everywhere", "only-n1", "only-n2", "only-n3"] {
            api.ready(workload).await;
            lattice.serving(&format!("{workload}.test"), "/quiet").await;
        }
        let lonely = lattice.node(holders(&strict)[0].as_str());
        let other = lattice.other_than(&lonely.id);
        let load = Load::start([other.http()], "everywhere.test", "/quiet");

        let since = Instant::now();
        wires[&lonely.id].cut(cut);
        let elsewhere = format!("only-{}.test", other.id);
        let told = tokio::spawn(told(lonely.http(), elsewhere.clone()));
        // Both are asked all the time. The lonely one goes on being asked for a while when another one has answered.
        let taken_over = Arc::new(OnceLock::<Instant>::new());
        let own = tokio::spawn(last_own(lonely.http(), lonely.id.clone(), taken_over.clone()));
        let answered = eventually("another node answers for it", KILL + START, async || {
            let address = other.http();
            let asked = timeout(Duration::from_secs(1), http::try_get(&address, "strict.test", "/quiet")).await;
            match asked {
                Ok(Ok(answer)) if answer.status == 200 && answer.node() != lonely.id => Ok(Instant::now()),
                answer => Err(format!("{answer:?}")),
            }
        })
        .await;
        taken_over.set(answered).unwrap();
        let last = own.await.unwrap();
        assert!(last < answered, "{cut:?}: it still answered for itself, {:?} later", last - answered);
        println!(
            "{cut:?}: the strict replica answered there for {} ms, elsewhere after {} ms",
            (last - since).as_millis(),
            (answered - since).as_millis()
        );
        let [get, post] = told.await.unwrap();
        println!("{cut:?}: a client was told after {} ms", (get - since).as_millis());
        assert!(get - since < FOUND_OUT, "{cut:?}: {:?}", get - since);
        assert!(post - since < DEADLINE + FOUND_OUT, "{cut:?}: {:?}", post - since);
        // Also where the node hears that others took over for it: nobody hears whom it would ask.
        let answer = lonely.get("everywhere.test", "/quiet").await;
        assert_eq!((answer.status, answer.node()), (200, lonely.id.as_str()), "{cut:?}: what is available: {answer:?}");
        assert!(!answer.header("lattice-disconnected").is_empty(), "{cut:?}: {answer:?}");
        // What it does not send can't run, whatever the method.
        let asked = Instant::now();
        let refused = post_to(&lonely.http(), &elsewhere).await;
        assert_eq!((refused.status, refused.error()), (503, "unreachable"), "{cut:?}: {refused:?}");
        assert!(asked.elapsed() < FOUND_OUT, "{cut:?}: {:?}", asked.elapsed());
        let (is_ready, why) = lonely.is_ready().await.unwrap();
        assert!(!is_ready && why.contains("what runs here goes on serving"), "{cut:?}: {why}");
        load.stop().await.assert_none_failed();

        wires[&lonely.id].cut(Cut::Nothing);
        let mended = Instant::now();
        eventually("other nodes are in reach again", START, async || {
            match http::try_get(&lonely.http(), &elsewhere, "/quiet").await {
                Ok(answer) if answer.status == 200 => Ok(()),
                answer => Err(format!("{answer:?}")),
            }
        })
        .await;
        println!("{cut:?}: other nodes were in reach again after {} ms", mended.elapsed().as_millis());
        lonely.ready().await;
        lattice.listed(3).await;
    }
    api.ready("everywhere").await;
    lattice.serving("strict.test", "/quiet").await;
}

async fn post_to(address: &str, host: &str) -> http::Answer {
    let response = http::send(address, Method::POST, host, "/quiet", &[], http::full(b"x".to_vec())).await.unwrap();
    http::whole(response).await.unwrap()
}

/// Two requests for another node, sent when nobody knows yet that nothing arrives: when they were answered. One that may be sent
/// again is told to come later; one that may not, and that may have run for all that is known, is waited for.
async fn told(address: String, host: String) -> [Instant; 2] {
    let get = async {
        let answer = http::get(&address, &host, "/quiet").await;
        assert_eq!((answer.status, answer.error()), (503, "unreachable"), "{answer:?}");
        assert_eq!(answer.header("retry-after"), "1", "{answer:?}");
        assert!(!answer.header("lattice-disconnected").is_empty(), "{answer:?}");
        Instant::now()
    };
    let post = async {
        let answer = post_to(&address, &host).await;
        assert_eq!((answer.status, answer.error()), (504, "timeout"), "{answer:?}");
        Instant::now()
    };
    tokio::join!(get, post).into()
}

/// When a request last began that the node answered itself, until some time after another one had answered.
async fn last_own(address: String, id: String, taken_over: Arc<OnceLock<Instant>>) -> Instant {
    let mut last = Instant::now();
    while taken_over.get().is_none_or(|at| at.elapsed() < AFTERWARDS) {
        let began = Instant::now();
        let asked = timeout(Duration::from_millis(400), http::try_get(&address, "strict.test", "/quiet")).await;
        if matches!(asked, Ok(Ok(answer)) if (answer.status, answer.node()) == (200, id.as_str())) {
            last = began;
        }
        // Not an event that is awaited: so often is asked.
        sleep(Duration::from_millis(20)).await;
    }
    last
}
