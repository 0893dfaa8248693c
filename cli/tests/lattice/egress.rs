//! What guests reach outside, as the operator and the spec of a real node say. What comes of a request that both allow is
//! of no interest here: that it is tried is.

use crate::harness::{
    Lattice, Node, Server,
    api::{holders, spec},
    eventually, free_port, http,
};
use hyper::Method;
use lattice::ctl::ErrorCode;
use serde_json::json;
use std::time::Duration;

/// A private address. Whether anybody has it depends on the machine.
const TARGET: &str = "http://10.255.255.1:81";

/// What the guest was told when it asked for `target`.
async fn told(node: &Node, target: &str) -> String {
    let headers = [("x-target", target), ("x-connect-ms", "200"), ("x-first-byte-ms", "200")];
    let answer = http::send(&node.http(), Method::GET, "fetcher.test", "/", &headers, http::empty()).await.unwrap();
    http::whole(answer).await.unwrap().text()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spec_and_the_operator_both_decide_what_a_guest_reaches() {
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    lattice.launch_node("default", "n1", &[]);
    lattice.launch_node("default", "n2", &["--allow-egress", "10.255.255.1/32"]);
    lattice.all_ready().await;
    let api = lattice.api().await;
    let mut asked = spec("fetcher", api.upload("fetcher").await, 2);
    asked["grants"] = json!({ "http-out": [TARGET] });
    api.put(&asked).await.unwrap();
    let mut nodes = holders(&api.ready("fetcher").await);
    nodes.sort();
    assert_eq!(nodes.iter().map(|node| node.as_str()).collect::<Vec<_>>(), ["n1", "n2"], "each answers for itself");
    let (strict, open) = (lattice.node("n1"), lattice.node("n2"));

    // Until a node has heard of its own replica, the other one answers.
    for (node, is_prohibited) in [(strict, true), (open, false)] {
        eventually("the operator decides", Duration::from_secs(30), async || {
            let answer = told(node, TARGET).await;
            let is_as_said = answer.contains("DestinationIpProhibited") == is_prohibited && !answer.contains("Denied");
            if is_as_said { Ok(()) } else { Err(answer) }
        })
        .await;
    }
    for node in [strict, open] {
        assert!(told(node, "http://other.test/").await.contains("HttpRequestDenied"), "no grant covers it");
    }
    // Said once in a while: the other node has told of the address already.
    open.process().wait_line(r#"http-out: ["http://other.test"#, Duration::from_secs(10)).await;

    asked["grants"] = json!({ "http-out": ["https://"] });
    let error = api.put(&asked).await.unwrap_err();
    assert_eq!((error.code, error.field.as_deref()), (ErrorCode::Invalid, Some("grants.http-out[0]")), "{error:?}");
}

/// Whom requests over TLS trust is the operator's to say. A nats-server is what answers: it tells its health over HTTPS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_adds_an_authority_that_requests_trust() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lattice/certificates");
    let port = free_port();
    let _secure = Server::start_configured(&format!(
        "https: \"127.0.0.2:{port}\"\ntls {{ cert_file: \"{folder}/egress.pem\", key_file: \"{folder}/egress.key\" }}"
    ))
    .await;
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    let allow = ["--allow-egress", "127.0.0.2/32"];
    lattice.launch_node("default", "n1", &allow);
    let authority = format!("{folder}/egress-authority.pem");
    lattice.launch_node("default", "n2", &[&allow[..], &["--egress-ca", &authority]].concat());
    lattice.all_ready().await;
    let api = lattice.api().await;
    let target = format!("https://127.0.0.2:{port}");
    let mut asked = spec("fetcher", api.upload("fetcher").await, 2);
    asked["grants"] = json!({ "http-out": [target] });
    api.put(&asked).await.unwrap();
    api.ready("fetcher").await;
    // Until a node has heard of its own replica, the other one answers.
    for (id, expected) in [("n1", "TlsCertificateError"), ("n2", r#""status":"ok""#)] {
        eventually("the operator decides whom requests trust", Duration::from_secs(30), async || {
            let headers = [("x-target", &*format!("{target}/healthz"))];
            let node = lattice.node(id);
            let answer = http::send(&node.http(), Method::GET, "fetcher.test", "/", &headers, http::empty()).await;
            let answer = http::whole(answer.unwrap()).await.unwrap().text();
            if answer.contains(expected) { Ok(()) } else { Err(answer) }
        })
        .await;
    }
}
