//! What a node is told of who its HTTP clients are: authorities of their certificates, and proxies that it may believe.
//! curl is the client.

use crate::harness::{Lattice, Node, PATIENCE, Server, api::spec, free_port, http, workspace};
use hyper::Method;
use serde_json::json;
use std::process::Output;

fn certificate(name: &str) -> String {
    workspace().join("cli/tests/lattice/certificates").join(name).display().to_string()
}

/// A GET of `https://localhost/headers`, with a certificate of the client's own if one is named.
async fn curl(port: u16, own: Option<&str>, more: &[&str]) -> Output {
    let mut command = tokio::process::Command::new("curl");
    command.args(["--disable", "--silent", "--show-error", "--noproxy", "*", "--max-time", "30"]);
    command.args(["--cacert", &certificate("authority.pem"), "--write-out", "%{stderr}%{http_code}"]);
    command.args(more);
    if let Some(own) = own {
        command.args(["--cert", &certificate(&format!("{own}.pem")), "--key", &certificate(&format!("{own}.key"))]);
    }
    command.arg(format!("https://localhost:{port}/headers")).kill_on_drop(true);
    command.output().await.unwrap()
}

/// A GET without TLS, of somebody who says that it asks for another one; answers with the headers that the component saw.
async fn headers_seen(node: &Node) -> String {
    let said = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https")];
    let answer = http::send(&node.http(), Method::GET, "localhost", "/headers", &said, http::empty()).await.unwrap();
    http::whole(answer).await.unwrap().ok().text()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_clients_are_is_believed_of_authorities_and_proxies_that_are_named() {
    let (open, strict) = (free_port(), free_port());
    let (at_open, at_strict) = (format!("127.0.0.1:{open}"), format!("127.0.0.1:{strict}"));
    let (chain, key, authority) =
        (certificate("server.pem"), certificate("server.key"), certificate("https-clients-authority.pem"));
    let tls = ["--https-cert", &chain, "--https-key", &key];
    let access = tempfile::tempdir().unwrap();
    let access = access.path().join("access.log");
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    lattice.launch_node("default", "n1", &[&["--https", &at_open][..], &tls].concat());
    let named = ["--https-client-ca", &authority, "--trusted-proxy", "127.0.0.1/32"];
    let named = [&["--https", &at_strict][..], &tls, &named, &["--access-log-file", access.to_str().unwrap()]].concat();
    lattice.launch_node("default", "n2", &named);
    lattice.all_ready().await;
    let api = lattice.api().await;
    let mut asked = spec("echo", api.upload("echo").await, 2);
    asked["http"] = json!({ "routes": [{ "host": "localhost" }] });
    api.put(&asked).await.unwrap();
    api.ready("echo").await;
    for node in &lattice.nodes {
        node.answers("localhost", "/", (200, "")).await;
    }

    let clients = [None, Some("client"), Some("https-client-expired"), Some("https-client-right")];
    for own in clients {
        let served = curl(open, own, &[]).await;
        let (seen, status) = (String::from_utf8_lossy(&served.stdout), String::from_utf8_lossy(&served.stderr));
        assert!(served.status.success() && status.ends_with("200"), "{own:?}: {served:?}");
        assert!(!seen.contains("x-forwarded-client-cert"), "{own:?}: {seen}");
    }
    // A client may offer nothing but this, and so find no version in common.
    let served = curl(open, None, &["--http1.0"]).await;
    assert!(served.status.success() && String::from_utf8_lossy(&served.stderr).ends_with("200"), "{served:?}");
    for own in clients {
        let served = curl(strict, own, &[]).await;
        let (seen, status) = (String::from_utf8_lossy(&served.stdout), String::from_utf8_lossy(&served.stderr));
        if own == Some("https-client-right") {
            assert!(served.status.success() && status.ends_with("200"), "{served:?}");
            assert!(seen.contains("Subject=\"CN=client right\"") && seen.contains("DNS=client.test"), "{seen}");
        } else {
            assert!(!served.status.success() && status.contains("000") && seen.is_empty(), "{own:?}: {served:?}");
        }
    }

    let [stranger, proxied] = [headers_seen(lattice.node("n1")).await, headers_seen(lattice.node("n2")).await];
    assert!(!stranger.contains("203.0.113.9") && !stranger.contains("x-forwarded-proto: https"), "{stranger}");
    assert!(proxied.contains("x-forwarded-for: 203.0.113.9"), "{proxied}");
    assert!(proxied.contains("x-forwarded-proto: https"), "{proxied}");
    crate::harness::eventually("the access log names the client", PATIENCE, async || {
        let lines = std::fs::read_to_string(&access).unwrap();
        if lines.contains("\"client\":\"203.0.113.9\"") { Ok(()) } else { Err(lines) }
    })
    .await;
}
