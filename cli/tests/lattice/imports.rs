//! What components import and only some nodes offer: real nodes, and a peer whose session says that it offers more.

use crate::harness::{Lattice, PATIENCE, Peer, api::spec, eventually};
use lattice::{
    ctl::ErrorCode,
    interface::Offers,
    record::{Key, Record as _, Session},
    store::Bucket,
};
use std::sync::Arc;

/// A component that answers HTTP with the help of an interface that no version of lattice offers.
const OF_TOMORROW: &str = r#"(component
    (import "acme:fast/solver@1.2.3" (instance (export "solve" (func (result u32)))))
    (core module $m (func (export "f") (result i32) (i32.const 1)))
    (core instance $i (instantiate $m))
    (func $f (result u32) (canon lift (core func $i "f")))
    (instance $own (export "f" (func $f)))
    (export "wasi:http/incoming-handler@0.2.0" (instance $own)))"#;

#[tokio::test]
async fn what_only_some_nodes_offer_runs_only_there_and_everybody_can_say_why() {
    let lattice = Lattice::start(2).await;
    lattice.listed(2).await;
    let api = Arc::new(lattice.api().await);
    let component = wat::parse_str(OF_TOMORROW).unwrap();
    let digest = api.platform.artifacts.put(component.into()).await.unwrap();
    let solver = spec("solver", digest, 1);
    let refused = api.put(&solver).await.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (ErrorCode::BadComponent, Some("components[0].source")));
    assert!(refused.message.contains("imports acme:fast/solver@1.2.3, which is not offered"), "{refused}");

    // Nodes say what they offer, and what they do not.
    let entry = api.platform.store.get(Bucket::State, &Key::Session("n1".parse().unwrap()).to_string()).await;
    let offers = Session::decode(&entry.unwrap().unwrap().value).unwrap().offers.unwrap();
    assert!(offers.has("wasi:http@0.2") && offers.has("lattice:nats/core@0.1") && !offers.has("acme:fast/solver@1"));

    let offers = Offers::new(["acme:fast/solver@1.3.0"]);
    let _peer = Peer::join(api.clone(), "n9", |session| session.offers = Some(offers)).await;
    eventually("a node that was asked knows the peer", PATIENCE, async || {
        api.put(&solver).await.map_err(|error| error.to_string())
    })
    .await;
    let lacks = "does not offer acme:fast/solver@1, which is imported; it offers nothing of that package";
    let expected = ["n1", "n2"].map(|node| (node.to_owned(), "imports".to_owned(), lacks.to_owned()));
    eventually("both nodes are refused and the peer is not", PATIENCE, async || {
        let refused = lattice.refusals("solver").await;
        if refused == expected { Ok(()) } else { Err(format!("{refused:?}")) }
    })
    .await;
    assert!(lattice.cli_ok(&["explain", "solver"]).await.contains("n9 takes it"));
    // Neither of the real ones has tried.
    assert!(api.status("solver").await.unwrap().slots[0].node.is_none());
}
