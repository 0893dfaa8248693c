//! Two lattices on one NATS know nothing of each other.

use crate::harness::{Api, Lattice, Server};

#[tokio::test]
async fn two_lattices_on_one_server_do_not_see_each_other() {
    let mut first = Lattice::start_on(Server::start().await, "first", 1).await;
    first.launch_node("second", "m1", &[]).ready().await;
    let apis = [first.api().await, Api::connect(&first.server.url(), "second").await];
    for (api, replicas) in apis.iter().zip([1, 2]) {
        // One name in both: each has its own.
        api.deploy("same", "hello-http02", replicas).await;
    }
    apis[0].deploy("only-first", "hello-http03", 1).await;

    let nodes =
        async |api: &Api| api.nodes().await.iter().map(|node| node.session.node.to_string()).collect::<Vec<_>>();
    assert_eq!((nodes(&apis[0]).await, nodes(&apis[1]).await), (vec!["n1".to_owned()], vec!["m1".to_owned()]));
    let names = async |api: &Api| api.list().await.iter().map(|item| item.workload.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&apis[0]).await, ["only-first", "same"]);
    assert_eq!(names(&apis[1]).await, ["same"]);
    assert_eq!(apis[0].get("same").await.unwrap().spec.replicas, 1);
    assert_eq!(apis[1].get("same").await.unwrap().spec.replicas, 2);

    first.serving("same.test", "/").await;
    first.node("n1").answers("only-first.test", "/", (200, "")).await;
    for node in ["n1", "m1"] {
        assert_eq!(first.node(node).get("same.test", "/").await.ok().node(), node);
    }
    let answer = first.node("m1").get("only-first.test", "/").await;
    assert_eq!((answer.status, answer.error()), (404, "no-route"));

    assert!(apis[1].delete("same").await.unwrap().deleted);
    assert_eq!(names(&apis[0]).await, ["only-first", "same"]);
    first.node("n1").get("same.test", "/").await.ok();

    let missing = first.cli_of("second", &["status", "only-first"]).await;
    assert_eq!(missing.status.code(), Some(3), "{missing:?}");
    // A lattice that nobody made is not made by looking.
    let third = first.cli_of("third", &["list"]).await;
    assert!(String::from_utf8_lossy(&third.stderr).contains("third"), "{third:?}");
    assert_eq!(third.status.code(), Some(1), "{third:?}");
}
