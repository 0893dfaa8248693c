//! Where replicas go: zones, taints, cordons, daemons, priorities, and what `lattice explain` says of it.

use crate::harness::{
    Api, Lattice, PATIENCE, Server,
    api::{holders, spec},
    eventually,
};
use lattice::{ctl::StatusReply, id::NodeId};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Four nodes: two zones of two, `n4` tainted, `n3` with room for two replicas.
async fn zones() -> Lattice {
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    for (id, options) in [
        ("n1", ["--label", "zone=a", "--label", "cores=4"].as_slice()),
        ("n2", &["--label", "zone=a", "--label", "cores=16"]),
        ("n3", &["--label", "zone=b", "--label", "cores=16", "--slots", "2"]),
        ("n4", &["--label", "zone=b", "--taint", "gpu=a100:no-place"]),
    ] {
        lattice.launch_node("default", id, options);
    }
    lattice.all_ready().await;
    lattice.listed(4).await;
    lattice
}

fn placed(api_spec: &Value, placement: Value) -> Value {
    let mut spec = api_spec.clone();
    spec["placement"] = placement;
    if spec["placement"]["daemon"] == true {
        spec.as_object_mut().unwrap().remove("replicas");
    }
    spec
}

async fn deploy(api: &Api, spec: &Value) -> StatusReply {
    api.put(spec).await.unwrap();
    api.ready(spec["name"].as_str().unwrap()).await
}

fn names(nodes: &[NodeId]) -> Vec<&str> {
    let mut names: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn replicas_follow_the_rules_and_explain_says_which() {
    let lattice = zones().await;
    let api = lattice.api().await;
    let digest = api.upload("hello-http02").await;

    let spread = placed(&spec("spread", digest, 4), json!({"spread": [{"over": "zone", "hard": true}]}));
    let status = deploy(&api, &spread).await;
    assert_eq!(names(&holders(&status)), ["n1", "n2", "n3", "n3"]);

    let agent = placed(&spec("agent", digest, 1), json!({"daemon": true, "tolerate": ["gpu"], "priority": 5}));
    api.put(&agent).await.unwrap();
    // n3 is full: what is less important makes room there.
    let status = eventually("a replica on each node", PATIENCE, async || {
        let status = api.status("agent").await.map_err(|error| error.to_string())?;
        if status.ready == 4 { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!(names(&holders(&status)), ["n1", "n2", "n3", "n4"]);
    assert_eq!(api.scale("agent", 2).await.unwrap_err().field.as_deref(), Some("replicas"));

    let homeless = eventually("one replica has lost its node", PATIENCE, async || {
        let status = api.status("spread").await.map_err(|error| error.to_string())?;
        let homeless: Vec<u32> =
            status.slots.iter().filter(|slot| slot.node.is_none()).map(|slot| slot.replica).collect();
        if homeless.len() == 1 && status.ready == 3 { Ok(homeless[0]) } else { Err(format!("{status:?}")) }
    })
    .await;
    let text = lattice.cli_ok(&["explain", "spread"]).await;
    for part in [
        &format!("spread.{homeless} is vacant, and no node can take it"),
        "2 are in zone a already; at most 2 for an even spread over zone",
        "has no slot left of its 2",
        "has the taint gpu=a100:no-place, which is not tolerated",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }

    lattice.cli_ok(&["cordon", "n2"]).await;
    let big = placed(&spec("big", digest, 1), json!({"require": ["cores >= 16"]}));
    api.put(&big).await.unwrap();
    let explained = eventually("the cordon is seen", PATIENCE, async || {
        let text = lattice.cli_ok(&["explain", "big", "-o", "json"]).await;
        let value: Value = serde_json::from_str(&text).unwrap();
        let rules: BTreeSet<(String, String)> = value["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|node| Some((node["node"].as_str()?.to_owned(), node["rule"].as_str()?.to_owned())))
            .collect();
        if rules.contains(&("n2".into(), "cordon".into())) { Ok(rules) } else { Err(text) }
    })
    .await;
    let expected = [("n1", "require"), ("n2", "cordon"), ("n3", "slots"), ("n4", "require")];
    assert_eq!(explained, expected.map(|(node, rule)| (node.to_owned(), rule.to_owned())).into());
    assert!(lattice.cli_ok(&["nodes"]).await.contains("cordoned"));
    lattice.cli_ok(&["uncordon", "n2"]).await;
    assert_eq!(names(&holders(&api.ready("big").await)), ["n2"]);
    assert_eq!(lattice.cli(&["cordon", "nobody"]).await.status.code(), Some(3));
}

#[tokio::test]
async fn replicas_are_placed_where_processors_are_left() {
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    for (id, cpus) in [("n1", "1.5"), ("n2", "700m")] {
        lattice.launch_node("default", id, &["--cpus", cpus]);
    }
    lattice.all_ready().await;
    lattice.listed(2).await;
    let api = lattice.api().await;
    let digest = api.upload("hello-http02").await;

    let mut asked = spec("solver", digest, 4);
    asked["reserve"] = json!({"cpu": "half"});
    let refused = api.put(&asked).await.unwrap_err();
    assert_eq!(refused.field.as_deref(), Some("reserve.cpu"), "{refused:?}");
    asked["reserve"] = json!({"cpu": 0.7});
    api.put(&asked).await.unwrap();
    let status = eventually("three replicas have found processors", PATIENCE, async || {
        let status = api.status("solver").await.map_err(|error| error.to_string())?;
        if status.ready == 3 { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    let placed: Vec<&str> = status.slots.iter().filter_map(|slot| Some(slot.node.as_ref()?.as_str())).collect();
    assert_eq!(placed.iter().filter(|node| **node == "n1").count(), 2, "{status:?}");
    assert_eq!(placed.iter().filter(|node| **node == "n2").count(), 1, "{status:?}");

    let text = lattice.cli_ok(&["explain", "solver"]).await;
    for part in [
        "and no node can take it",
        "has too few processors left: 1.4 of 1.5 are reserved, 0.7 are needed",
        "has too few processors left: 0.7 of 0.7 are reserved, 0.7 are needed",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let nodes = lattice.cli_ok(&["nodes"]).await;
    assert!(nodes.contains("1.4/1.5") && nodes.contains("0.7/0.7"), "{nodes}");
    // What reserves none has room all the same.
    deploy(&api, &spec("plain", digest, 2)).await;
    lattice.launch_node("default", "n3", &["--cpus", "1"]);
    assert_eq!(names(&holders(&api.ready("solver").await)), ["n1", "n1", "n2", "n3"]);
}
