//! What routes ask for and do, through routers that answer themselves and through others.

use super::table_knows;
use crate::world::*;
use http::{HeaderName, HeaderValue};
use http_body_util::BodyExt as _;
use lattice::http::{Body, Request, Response, empty, full};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Answers which path it was asked for, and by which headers of proxies.
fn tells_what_it_sees(guests: &Guests, workload: &str) {
    guests.run(workload, |request| async move {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes().len();
        let header = |name: &str| head.headers.get(name).map_or("-", |value| value.to_str().unwrap());
        let seen = [header("x-forwarded-prefix"), header("x-forwarded-uri")].join(" ");
        let path = head.uri.path_and_query().unwrap();
        ok(format!("{path} {seen} {body}"))
    });
}

fn with(method: &str, url: &str, headers: &[(&'static str, &str)], body: Body) -> Request {
    let mut request = request(method, url, body);
    for (name, value) in headers {
        request.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    request
}

/// Wait until the table has what the world has now: it is always built as a whole.
async fn settled(world: &World, node: &Node) {
    static MARKERS: AtomicUsize = AtomicUsize::new(0);
    let marker = format!("marker-{}", MARKERS.fetch_add(1, Ordering::SeqCst));
    world.ready(&marker, &[]);
    table_knows(node, &marker).await;
}

/// `a` takes the requests; `b` runs the workload too, or instead.
async fn two(world: &World) -> (Node, Node) {
    (world.node("a").await, world.node("b").await)
}

#[tokio::test]
async fn a_path_is_rewritten_wherever_the_component_runs() {
    let world = World::new();
    let (a, b) = two(&world).await;
    for (workload, node) in [("here", &a), ("there", &b)] {
        let ready_on = if workload == "here" { "a" } else { "b" };
        world.workload(workload, &[ready_on], ", path: /api, rewrite: {prefix: /v2}", "");
        tells_what_it_sees(&node.guests, workload);
    }
    settled(&world, &a).await;
    for workload in ["here", "there"] {
        let url = |path: &str| format!("http://{workload}.test{path}");
        let forged = [("x-forwarded-prefix", "/forged"), ("x-forwarded-uri", "/forged")];
        let response = a.send(with("POST", &url("/api/x?q=%20"), &forged, full("12345"))).await;
        assert_eq!(response.status(), 200);
        assert_eq!(text(response).await, "/v2/x?q=%20 /api /api/x?q=%20 5", "{workload}");
        assert_eq!(text(a.get(&url("/api")).await).await, "/v2 /api /api 0");
        assert_eq!(a.get(&url("/apis")).await.status(), 404);
    }
}

#[tokio::test]
async fn a_redirect_is_answered_without_a_component_until_it_was_followed() {
    let world = World::new();
    let node = world.node_with("a", |options| options.trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()]).await;
    world.workload("w", &["a"], ", redirect: {status: 308, scheme: https}, cors: {origins: ['https://a.test']}", "");
    tells_what_it_sees(&node.guests, "w");
    settled(&world, &node).await;
    let origin = ("origin", "https://a.test");
    let response = node.send(with("POST", "http://w.test/a?b", &[origin], full("x"))).await;
    assert_eq!((response.status().as_u16(), header(&response, "location")), (308, Some("https://w.test/a?b")));
    assert_eq!((header(&response, "lattice-router"), header(&response, "lattice-error")), (Some("a"), None));
    assert_eq!(header(&response, "access-control-allow-origin"), Some("https://a.test"));
    assert_eq!(node.guests.calls.load(Ordering::SeqCst), 0);
    let response = node.send(with("GET", "http://w.test/a", &[("x-forwarded-proto", "https")], empty())).await;
    assert_eq!((response.status().as_u16(), header(&response, "lattice-node")), (200, Some("a")));
}

#[tokio::test]
async fn preflights_are_answered_and_responses_say_who_may_read_them() {
    let world = World::new();
    let node = world.node("a").await;
    let cors = "cors: {origins: ['https://a.test'], methods: [PUT], headers: [x-b], expose: [x-c], max-age: 1m}";
    world.workload("w", &["a"], &format!(", methods: [PUT], {cors}}}, {{host: plain.test"), "");
    node.guests.run("w", |request| async move {
        let response = http::Response::builder().header("access-control-allow-origin", "*");
        Ok(response.header("vary", "accept").body(full(request.method().to_string())).unwrap())
    });
    settled(&world, &node).await;
    let allowed = |response: &Response| header(response, "access-control-allow-origin").map(str::to_owned);
    let preflight = |host: &str, origin: &str, method: &str| {
        let headers = [("origin", origin), ("access-control-request-method", method)];
        with("OPTIONS", &format!("http://{host}/x"), &headers, empty())
    };
    let response = node.send(preflight("w.test", "https://a.test", "PUT")).await;
    assert_eq!((response.status().as_u16(), allowed(&response).as_deref()), (204, Some("https://a.test")));
    assert_eq!(header(&response, "access-control-allow-methods"), Some("PUT"));
    assert_eq!(header(&response, "access-control-max-age"), Some("60"));
    let response = node.send(preflight("w.test", "https://evil.test", "PUT")).await;
    assert_eq!((response.status().as_u16(), header(&response, "lattice-error")), (403, Some("cors-denied")));
    assert_eq!(allowed(&response), None);
    // What the route does not take is not for it to answer.
    assert_eq!(node.send(preflight("w.test", "https://a.test", "DELETE")).await.status(), 404);
    assert_eq!(node.guests.calls.load(Ordering::SeqCst), 0);

    let send = |origin: &'static str| node.send(with("PUT", "http://w.test/", &[("origin", origin)], empty()));
    let response = send("https://a.test").await;
    assert_eq!((response.status().as_u16(), allowed(&response).as_deref()), (200, Some("https://a.test")));
    assert_eq!(header(&response, "access-control-expose-headers"), Some("x-c"));
    let varies: Vec<_> = response.headers().get_all("vary").iter().collect();
    assert_eq!(varies, ["accept", "origin"]);
    assert_eq!(allowed(&send("https://evil.test").await), None, "the component's own word does not count");

    // A route without `cors` leaves it to the component, preflights too.
    let response = node.send(preflight("plain.test", "https://a.test", "PUT")).await;
    assert_eq!(allowed(&response).as_deref(), Some("*"));
    assert_eq!(text(response).await, "OPTIONS");
}

#[tokio::test]
async fn an_error_of_the_router_can_be_read_by_who_may_read_the_route() {
    let world = World::new();
    let node = world.node("a").await;
    world.workload("w", &["a"], ", body-limit: 4B, cors: {origins: ['*']}", "");
    tells_what_it_sees(&node.guests, "w");
    settled(&world, &node).await;
    let send =
        |body: &'static str| node.send(with("POST", "http://w.test/", &[("origin", "https://a.test")], full(body)));
    let response = send("12345").await;
    assert_eq!((response.status().as_u16(), header(&response, "lattice-error")), (413, Some("body-too-large")));
    assert_eq!(header(&response, "access-control-allow-origin"), Some("*"));
    assert_eq!(send("1234").await.status(), 200);
}

/// Reads the body, answers 503 so many times, then 200 with the body; counts.
fn fails_first(guests: &Guests, workload: &str, failures: usize) -> Arc<AtomicUsize> {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    guests.run(workload, move |request| {
        let call = count.fetch_add(1, Ordering::SeqCst);
        let status = if call < failures { 503 } else { 200 };
        async move {
            let body = request.into_body().collect().await?.to_bytes();
            Ok(http::Response::builder().status(status).body(full(body)).unwrap())
        }
    });
    calls
}

#[tokio::test]
async fn a_listed_status_is_set_aside_where_the_request_can_be_repeated() {
    let world = World::new();
    let (a, b) = two(&world).await;
    let put = |retry: &str, ready_on: &[&str]| world.workload("w", ready_on, &format!(", retry: {retry}"), "");
    let listed = "{attempts: 2, on: [503]}";
    for (case, retry, ready_on, method, here, there, expect, tries) in [
        ("another node is asked", listed, &["a", "b"][..], "GET", 9, 0, 200, (1, 1)),
        ("the same one where there is no other", listed, &["a"], "GET", 1, 0, 200, (2, 0)),
        ("no more often than that", listed, &["a"], "GET", 9, 0, 503, (2, 0)),
        ("with its body", listed, &["a", "b"], "PUT", 9, 0, 200, (1, 1)),
        ("not what is not idempotent", listed, &["a", "b"], "POST", 9, 0, 503, (1, 0)),
        ("not what is not listed", "{on: [502]}", &["a", "b"], "GET", 9, 0, 503, (1, 0)),
        ("nor without being asked to", "{}", &["a", "b"], "GET", 9, 0, 503, (1, 0)),
    ] {
        put(retry, ready_on);
        let calls = (fails_first(&a.guests, "w", here), fails_first(&b.guests, "w", there));
        settled(&world, &a).await;
        let response = a.send(request(method, "http://w.test/", full("body"))).await;
        let tried = (calls.0.load(Ordering::SeqCst), calls.1.load(Ordering::SeqCst));
        assert_eq!((response.status().as_u16(), tried), (expect, tries), "{case}");
        assert_eq!(text(response).await, "body", "{case}");
    }
}

#[tokio::test]
async fn one_attempt_is_one_attempt() {
    let world = World::new();
    let (a, b) = two(&world).await;
    world.workload("w", &["a", "b"], ", retry: {attempts: 1}", "");
    for node in [&a, &b] {
        node.guests.run("w", |_| async { Err(lattice::http::CallError::Failed { message: "trap".into() }) });
    }
    settled(&world, &a).await;
    let before = (a.guests.calls.load(Ordering::SeqCst), b.guests.calls.load(Ordering::SeqCst));
    let response = a.get("http://w.test/").await;
    assert_eq!((response.status().as_u16(), header(&response, "lattice-error")), (502, Some("component-failed")));
    assert_eq!(
        (a.guests.calls.load(Ordering::SeqCst), b.guests.calls.load(Ordering::SeqCst)),
        (before.0 + 1, before.1)
    );
}

#[tokio::test]
async fn a_split_gives_each_workload_its_part() {
    let world = World::new();
    let (a, b) = two(&world).await;
    let split = ", split: [{workload: next, percent: 30}]}, {host: user.test, split-by: {header: x-user}, \
                 split: [{workload: next, percent: 30}]";
    world.workload("now", &["a"], split, "");
    world.workload("next", &["b"], "", "");
    a.guests.run("now", |_| async { ok("now") });
    b.guests.run("next", |_| async { ok("next") });
    settled(&world, &a).await;
    let mut by_chance = 0;
    for _ in 0..400 {
        by_chance += usize::from(text(a.get("http://now.test/").await).await == "next");
    }
    assert!((80..160).contains(&by_chance), "{by_chance} of 400");

    let ask = |user: u32| {
        let request = with("GET", "http://user.test/", &[("x-user", &format!("user-{user}"))], empty());
        async { text(a.send(request).await).await }
    };
    let mut of_next = 0;
    for user in 0..200 {
        let first = ask(user).await;
        assert_eq!(ask(user).await, first, "user {user}");
        of_next += usize::from(first == "next");
    }
    assert!((35..90).contains(&of_next), "{of_next} of 200");
    let metrics = a.metrics();
    assert!(metrics.contains("workload=\"next\"") && metrics.contains("workload=\"now\""), "{metrics}");
}

#[tokio::test]
async fn a_share_that_is_not_there_leaves_its_requests_to_the_others() {
    let world = World::new();
    let (a, mut b) = two(&world).await;
    let split = ", split: [{workload: next, percent: 100}]}, \
                 {host: most.test, split-by: {header: x-user}, split: [{workload: next, percent: 99}]";
    world.workload("now", &["a"], split, "");
    world.workload("next", &["b"], "", "");
    a.guests.run("now", |_| async { ok("now") });
    b.guests.run("next", |_| async { ok("next") });
    settled(&world, &a).await;
    let most = || with("GET", "http://most.test/", &[("x-user", "u1")], empty());
    assert_eq!(text(a.send(most()).await).await, "next");
    // The records still say that it is ready; nobody answers any more.
    b.kill().await;
    for _ in 0..10 {
        assert_eq!(text(a.send(most()).await).await, "now");
    }
    world.workload("next", &[], "", "");
    settled(&world, &a).await;
    assert_eq!(text(a.send(most()).await).await, "now");
    // Nothing is what the holder kept for itself there, and nothing is what it gets.
    world.workload("next", &["a"], "", "");
    a.guests.run("next", |_| async { ok("next again") });
    settled(&world, &a).await;
    assert_eq!(text(a.get("http://now.test/").await).await, "next again");
}

#[tokio::test]
async fn a_share_that_is_refused_stays_with_the_holder_whoever_is_ready() {
    let world = World::new();
    let a = world.node_with("a", |options| options.start_wait = Duration::from_millis(50)).await;
    let split = |percent: u32| format!("routes: [{{host: now.test, split: [{{workload: next, percent: {percent}}}]}}]");
    let next = "routes: [{host: next.test}], callers: [other]";
    a.guests.run("now", |_| async { ok("now") });
    a.guests.run("next", |_| async { ok("next") });
    world.workload_with("next", &["a"], next, "");
    for (percent, ready_on, expect) in
        [(50, &["a"][..], Some("now")), (100, &["a"], Some("now")), (100, &[], None), (50, &[], None)]
    {
        if ready_on.is_empty() {
            a.guests.stop("now");
        }
        world.workload_with("now", ready_on, &split(percent), "");
        settled(&world, &a).await;
        for _ in 0..8 {
            let response = a.get("http://now.test/").await;
            match expect {
                Some(expect) => assert_eq!(text(response).await, expect, "{percent}"),
                None => assert_eq!(response.status(), 503, "{percent}"),
            }
        }
    }
    assert_eq!(text(a.get("http://next.test/").await).await, "next", "its own route is not a call");
}

#[tokio::test]
async fn routes_of_one_path_are_told_apart_by_what_is_sent() {
    let world = World::new();
    let node = world.node("a").await;
    for (workload, more) in [
        ("all", ""),
        ("gets", "}, {host: all.test, methods: [GET]"),
        ("betas", "}, {host: all.test, query: {beta: {present: true}}"),
        ("tenants", "}, {host: all.test, headers: {x-tenant: acme}"),
    ] {
        world.workload(workload, &["a"], more, "");
        let name = workload.to_owned();
        node.guests.run(workload, move |_| std::future::ready(ok(name.clone())));
    }
    settled(&world, &node).await;
    for (method, path, headers, workload) in [
        ("POST", "/", &[][..], "all"),
        ("GET", "/?beta=1", &[("x-tenant", "acme")], "gets"),
        ("POST", "/?beta", &[], "betas"),
        ("POST", "/?beta", &[("x-tenant", "acme")], "tenants"),
        ("POST", "/", &[("x-tenant", "other")], "all"),
    ] {
        let response = node.send(with(method, &format!("http://all.test{path}"), headers, empty())).await;
        assert_eq!(text(response).await, workload, "{method} {path} {headers:?}");
    }
}
