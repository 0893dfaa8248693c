//! Nodes that are cut off from the server, in one direction or in both, while clients reach them still.

use crate::harness::{
    Lattice, Server,
    api::{holders, spec},
    eventually, http,
    load::Load,
    wire::{Cut, Wire},
};
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

/// What is strict never runs twice, what is available serves on, and all is as before once the node is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_gives_up_what_is_strict_before_others_take_it() {
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    let mut wires = BTreeMap::new();
    for id in ["n1", "n2", "n3"] {
        let wire = Wire::to(lattice.server.port()).await;
        lattice.launch_node_by(wire.url(), id, &[]);
        wires.insert(id.to_owned(), wire);
    }
    lattice.all_ready().await;
    let api = lattice.api().await;
    let digest = api.upload("hello-http02").await;
    let mut strict = spec("strict", digest, 1);
    strict["class"] = "strict".into();
    api.put(&strict).await.unwrap();
    api.put(&spec("everywhere", digest, 3)).await.unwrap();

    for cut in [Cut::Both, Cut::ToServer, Cut::FromServer] {
        let strict = api.ready("strict").await;
        api.ready("everywhere").await;
        lattice.serving("strict.test", "/quiet").await;
        lattice.serving("everywhere.test", "/quiet").await;
        let lonely = lattice.node(holders(&strict)[0].as_str());
        let other = lattice.other_than(&lonely.id);
        let load = Load::start([other.http()], "everywhere.test", "/quiet");

        let since = Instant::now();
        wires[&lonely.id].cut(cut);
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
        let answer = lonely.get("everywhere.test", "/quiet").await;
        let serves_on = (answer.status, answer.node()) == (200, lonely.id.as_str());
        // One that still hears may have heard that others took over for it, and stopped; whom it asks does not hear it.
        let gave_up = cut == Cut::ToServer && answer.status == 504;
        assert!(serves_on || gave_up, "{cut:?}: what is available serves on: {answer:?}");
        load.stop().await.assert_none_failed();

        wires[&lonely.id].cut(Cut::Nothing);
        lonely.ready().await;
        lattice.listed(3).await;
    }
    api.ready("everywhere").await;
    lattice.serving("strict.test", "/quiet").await;
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
