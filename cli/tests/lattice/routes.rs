//! What routes ask of requests and do to them, through the node that runs the component and through another one.

use crate::harness::{
    Api, Lattice, Node, PATIENCE,
    api::{holders, spec},
    eventually, http, shared,
};
use hyper::Method;
use lattice::{
    ctl::{ErrorCode, RouteList},
    store::Headers,
    subject::Topic,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Puts a guest with these routes, and waits until it is ready.
async fn deploy(api: &Api, name: &str, guest: &str, routes: Value) -> String {
    let mut asked = spec(name, api.upload(guest).await, 1);
    asked["http"]["routes"] = routes;
    asked["reuse"] = json!({ "max-instances": 1 });
    api.put(&asked).await.unwrap();
    holders(&api.ready(name).await)[0].to_string()
}

/// The node that runs it, and another one.
fn both<'a>(lattice: &'a Lattice, holder: &str) -> [&'a Node; 2] {
    [lattice.node(holder), lattice.other_than(holder)]
}

async fn send(node: &Node, method: Method, host: &str, path: &str, headers: &[(&str, &str)]) -> http::Answer {
    let response = http::send(&node.http(), method, host, path, headers, http::empty()).await.unwrap();
    http::whole(response).await.unwrap()
}

async fn get(node: &Node, host: &str, path: &str, headers: &[(&str, &str)]) -> http::Answer {
    send(node, Method::GET, host, path, headers).await
}

#[tokio::test]
async fn the_most_telling_route_answers() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let host = "telling.test";
    deploy(&api, "telling-all", "hello-c", json!([{ "host": host }])).await;
    let routes = json!([
        { "host": host, "path": { "exact": "/status" } },
        { "host": host, "path": "/api", "methods": ["PUT", "DELETE"] },
        { "host": host, "headers": { "x-version": { "prefix": "2." } }, "query": { "beta": { "present": true } } },
    ]);
    let holder = deploy(&api, "telling-some", "echo", routes).await;
    lattice.serving(host, "/").await;
    lattice.serving(host, "/status").await;
    let beta = [("x-version", "2.1")];
    for node in both(&lattice, &holder) {
        for (method, path, headers, is_echo) in [
            (Method::GET, "/status", &[][..], true),
            (Method::GET, "/status/", &[], false),
            (Method::PUT, "/api/x", &[], true),
            (Method::GET, "/api/x", &[], false),
            (Method::GET, "/?beta", &beta[..], true),
            (Method::GET, "/?alpha", &beta[..], false),
            (Method::GET, "/?beta", &[("x-version", "1.0")], false),
        ] {
            let answer = send(node, method.clone(), host, path, headers).await.ok();
            // Only this guest says what it was asked for.
            assert_eq!(!answer.header("x-method").is_empty(), is_echo, "{method} {path} {headers:?}: {answer:?}");
        }
    }

    let mut thief = spec("telling-thief", api.upload("echo").await, 1);
    thief["http"]["routes"] = json!([{ "host": host, "path": "/api", "methods": ["GET", "PUT"] }]);
    let error = eventually("the route is known to be taken", PATIENCE, async || match api.put(&thief).await {
        Err(error) => Ok(error),
        Ok(_) => Err(format!("{:?}", api.delete("telling-thief").await)),
    })
    .await;
    assert_eq!((error.code, error.field.as_deref()), (ErrorCode::Conflict, Some("http.routes[0]")));
    assert!(error.message.contains("telling-some"), "{error:?}");

    let list: RouteList = api.ask(Topic::RouteList, Headers::new(), b"").await.unwrap();
    let shown: Vec<String> =
        list.routes.iter().map(|item| item.route.to_string()).filter(|route| route.starts_with(host)).collect();
    let expect =
        ["/status{exact}", "/api{PUT,DELETE}", "/{x-version=2.*,?beta}", "/"].map(|path| format!("{host}{path}"));
    assert_eq!(shown, expect);
    let table = lattice.cli_ok(&["routes", host]).await;
    assert!(table.lines().any(|line| line.contains("/status (exact)") && line.contains("telling-some")), "{table}");
    assert_eq!(table.lines().count(), 5, "{table}");
    for name in ["telling-all", "telling-some"] {
        api.delete(name).await.unwrap();
    }
}

#[tokio::test]
async fn paths_are_rewritten_and_clients_redirected() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let routes = json!([
        { "host": "moved.test", "path": "/api", "rewrite": { "prefix": "/" } },
        { "host": "moved.test", "path": "/old", "redirect": { "status": 308, "prefix": "/api/new" } },
        { "host": "secure.test", "redirect": { "scheme": "https" } },
    ]);
    let holder = deploy(&api, "moved", "echo", routes).await;
    lattice.serving("moved.test", "/api").await;
    for node in both(&lattice, &holder) {
        let answer = get(node, "moved.test", "/api/headers?a=%20", &[("x-forwarded-prefix", "/forged")]).await.ok();
        assert_eq!(answer.header("x-path"), "/headers?a=%20");
        let seen = answer.text();
        assert!(seen.contains("x-forwarded-prefix: /api\n"), "{seen}");
        assert!(seen.contains("x-forwarded-uri: /api/headers?a=%20\n"), "{seen}");
        let answer = get(node, "moved.test:8080", "/old/x?y", &[]).await;
        assert_eq!((answer.status, answer.header("location")), (308, "http://moved.test:8080/api/new/x?y"));
        assert_eq!((answer.header("lattice-router"), answer.node(), answer.error()), (node.id.as_str(), "", ""));
        let answer = get(node, "secure.test:8080", "/x", &[("x-forwarded-proto", "https")]).await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (302, "https://secure.test/x"),
            "strangers are not believed"
        );
    }
    api.delete("moved").await.unwrap();
}

#[tokio::test]
async fn pages_of_other_origins_are_told_what_they_may() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let cors =
        json!({ "origins": ["https://app.test"], "methods": ["GET", "PUT"], "headers": ["x-a"], "max-age": "1m" });
    let holder =
        deploy(&api, "shared-with", "echo", json!([{ "host": "cors.test", "body-limit": "1KiB", "cors": cors }])).await;
    lattice.serving("cors.test", "/").await;
    let ask = [
        ("origin", "https://app.test"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-a"),
    ];
    for node in both(&lattice, &holder) {
        let answer = send(node, Method::OPTIONS, "cors.test", "/", &ask).await;
        assert_eq!((answer.status, answer.node()), (204, ""));
        assert_eq!(answer.header("access-control-allow-origin"), "https://app.test");
        assert_eq!(
            (answer.header("access-control-allow-methods"), answer.header("access-control-allow-headers")),
            ("GET, PUT", "x-a")
        );
        let evil = [("origin", "https://evil.test"), ask[1]];
        let answer = send(node, Method::OPTIONS, "cors.test", "/", &evil).await;
        assert_eq!((answer.status, answer.error()), (403, "cors-denied"));
        let answer = get(node, "cors.test", "/", &ask[..1]).await.ok();
        assert_eq!(
            (answer.header("access-control-allow-origin"), answer.header("vary")),
            ("https://app.test", "origin")
        );
        let body = http::full(vec![1; 1025]);
        let response = http::send(&node.http(), Method::POST, "cors.test", "/", &ask[..1], body).await.unwrap();
        let answer = http::whole(response).await.unwrap();
        assert_eq!((answer.status, answer.error()), (413, "body-too-large"));
        assert_eq!(answer.header("access-control-allow-origin"), "https://app.test");
    }
    api.delete("shared-with").await.unwrap();
}

#[tokio::test]
async fn a_bad_answer_is_asked_for_again_where_the_route_says_so() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let retry = json!({ "attempts": 2, "on": [503] });
    let routes = json!([{ "host": "flaky.test", "retry": retry }, { "host": "as-it-is.test" }]);
    let holder = deploy(&api, "flaky", "faults", routes).await;
    lattice.serving("flaky.test", "/").await;
    // Its only instance answers every other request with what it is asked for.
    for node in both(&lattice, &holder) {
        for _ in 0..3 {
            assert_eq!(get(node, "flaky.test", "/flaky/503", &[]).await.ok().text(), "ok\n");
        }
        let not_listed = get(node, "flaky.test", "/flaky/500", &[]).await;
        assert_eq!((not_listed.status, not_listed.error()), (500, ""));
        get(node, "flaky.test", "/flaky/500", &[]).await.ok();
        let posted = send(node, Method::POST, "flaky.test", "/flaky/503", &[]).await;
        assert_eq!((posted.status, posted.error()), (503, ""));
        get(node, "flaky.test", "/flaky/503", &[]).await.ok();
        assert_eq!(get(node, "as-it-is.test", "/flaky/503", &[]).await.status, 503);
        get(node, "as-it-is.test", "/flaky/503", &[]).await.ok();
    }
    api.delete("flaky").await.unwrap();
}

#[tokio::test]
async fn a_canary_gets_its_part_and_leaves_it_when_it_is_gone() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let split = json!([{ "workload": "canary", "percent": 30 }]);
    let routes = json!([
        { "host": "split.test", "split": split },
        { "host": "split-by.test", "split": split, "split-by": { "cookie": "session" } },
    ]);
    deploy(&api, "stable", "hello-c", routes).await;
    let node = &lattice.nodes[0];
    let is_canary = async |node: &Node, host: &str, headers: &[(&str, &str)]| {
        !get(node, host, "/", headers).await.ok().header("x-method").is_empty()
    };
    lattice.serving("split.test", "/").await;
    for _ in 0..20 {
        assert!(!is_canary(node, "split.test", &[]).await, "nobody is sent to who is not there");
    }
    let table = lattice.cli_ok(&["routes", "split.test"]).await;
    assert!(table.contains("stable 70%, canary 30%") && table.contains("1/1, missing"), "{table}");

    deploy(&api, "canary", "echo", json!([])).await;
    for node in &lattice.nodes {
        eventually("the canary gets requests", PATIENCE, async || match is_canary(node, "split.test", &[]).await {
            true => Ok(()),
            false => Err("none"),
        })
        .await;
    }
    let mut canary = 0;
    for _ in 0..200 {
        canary += u32::from(is_canary(node, "split.test", &[]).await);
    }
    // Five standard deviations of chance.
    assert!((28..=92).contains(&canary), "{canary} of 200");
    // Every node sends a session the same way.
    let mut ways = BTreeMap::new();
    for session in 0..30 {
        let cookie = format!("theme=dark; session=s{session}");
        for node in &lattice.nodes {
            let way = is_canary(node, "split-by.test", &[("cookie", &cookie)]).await;
            assert_eq!(*ways.entry(session).or_insert(way), way, "session {session} through {}", node.id);
        }
    }
    assert!(ways.values().any(|way| *way) && ways.values().any(|way| !*way), "{ways:?}");

    api.delete("canary").await.unwrap();
    // Until the node has heard of it, it still answers; nobody sees an error.
    eventually("the canary gets nothing more", PATIENCE, async || {
        for _ in 0..30 {
            if is_canary(node, "split.test", &[]).await {
                return Err("it still answers");
            }
        }
        Ok(())
    })
    .await;
    api.delete("stable").await.unwrap();
}
