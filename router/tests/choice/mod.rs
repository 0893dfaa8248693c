//! Which node answers, where several could: by what they say of themselves, and by whether there is room here.

use crate::{table_knows, world::*};
use lattice::{
    id::{Generation, NodeId, SlotId},
    report::{HostReport, NodeReport, NodeUsage, Reports, SlotReport},
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// What the other nodes said last.
#[derive(Default)]
struct Said(Mutex<Vec<Arc<NodeReport>>>);

impl Reports for Said {
    fn latest(&self) -> Vec<Arc<NodeReport>> {
        self.0.lock().unwrap().clone()
    }
}

impl Said {
    /// So many requests are at work at each node in one replica of `w`, and as many wait.
    fn say(&self, nodes: [(&str, u64); 2]) {
        let report = |(node, requests): (&str, u64)| {
            let mut slot = SlotReport::new(uuid::Uuid::from_u128(1), Generation::FIRST);
            (slot.in_flight, slot.waiting) = (requests, requests);
            let host = HostReport { usage: NodeUsage::default(), slots: [(SlotId::new(name("w"), 0), slot)].into() };
            Arc::new(NodeReport::new(NodeId::new(node).unwrap(), uuid::Uuid::from_u128(2), host))
        };
        *self.0.lock().unwrap() = nodes.map(report).into();
    }
}

async fn answering(world: &World, node: &'static str, after: Duration) -> Node {
    let answering = world.node(node).await;
    answering.guests.run("w", move |_| async move {
        tokio::time::sleep(after).await;
        ok(node)
    });
    answering
}

/// From some moment on only this node is asked.
async fn goes_to(asked: &Node, expected: &str) {
    let goes = async {
        let mut in_a_row = 0;
        while in_a_row < 10 {
            in_a_row = if text(asked.get("http://w.test/").await).await == expected { in_a_row + 1 } else { 0 };
        }
    };
    assert!(tokio::time::timeout(SOON, goes).await.is_ok(), "{expected} is not asked");
}

#[tokio::test]
async fn what_nodes_report_of_their_load_decides_who_is_asked() {
    let world = World::new();
    let a = world.node("a").await;
    // So far apart that the time an answer takes decides as long as nobody says anything.
    let _b = answering(&world, "b", Duration::from_millis(60)).await;
    let _c = answering(&world, "c", Duration::from_millis(15)).await;
    // Room for all that is reported: what decides is which of the two has more to do.
    world.workload("w", &["b", "c"], "", "concurrency: 1000");
    table_knows(&a, "w").await;
    goes_to(&a, "c").await;
    let said = Arc::new(Said::default());
    a.router.heed(said.clone());
    said.say([("b", 0), ("c", 20)]);
    goes_to(&a, "b").await;
    // One that says something else is believed at once, and not only after the last word was forgotten.
    said.say([("b", 20), ("c", 0)]);
    goes_to(&a, "c").await;
}

#[tokio::test]
async fn here_first_as_long_as_there_is_room() {
    let world = World::new();
    let mut nodes = Vec::new();
    for node in ["a", "b"] {
        nodes.push(answering(&world, node, Duration::ZERO).await);
    }
    world.ready("w", &["a", "b"]);
    let a = &nodes[0];
    table_knows(a, "w").await;
    let answers = async || text(a.get("http://w.test/").await).await;
    for _ in 0..10 {
        assert_eq!(answers().await, "a");
    }
    a.guests.fill("w", true);
    for _ in 0..10 {
        assert_eq!(answers().await, "b", "full here");
    }
    a.guests.fill("w", false);
    for _ in 0..10 {
        assert_eq!(answers().await, "a", "room again");
    }
    // In line here, where nobody else has room.
    a.guests.fill("w", true);
    nodes[1].guests.stop("w");
    assert_eq!(text(nodes[0].get("http://w.test/").await).await, "a");
}
