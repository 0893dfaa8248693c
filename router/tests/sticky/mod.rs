//! Clients that are bound to a node, through several routers.

use super::*;

/// A node that answers with its name.
async fn serving(world: &World, name: &'static str) -> Node {
    let node = world.node(name).await;
    node.guests.run("w", move |_| async move { ok(name) });
    node
}

async fn ask(node: &Node, header: (&str, &str)) -> (String, Option<String>) {
    let mut request = request("GET", "http://w.test/", empty());
    request.headers_mut().insert(http::HeaderName::try_from(header.0).unwrap(), header.1.parse().unwrap());
    let response = node.send(request).await;
    assert_eq!(response.status(), 200);
    let cookie = crate::header(&response, "set-cookie").map(str::to_owned);
    (text(response).await, cookie)
}

#[tokio::test]
async fn a_cookie_leads_to_one_node_through_every_router_and_to_another_when_it_goes() {
    let world = World::new();
    let routers = [world.node("r1").await, world.node("r2").await, serving(&world, "b").await];
    let _others = [serving(&world, "c").await, serving(&world, "d").await];
    world.workload("w", &["b", "c", "d"], ", sticky: {cookie: node}", "");
    for router in &routers {
        table_knows(router, "w").await;
    }
    let mut answered = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let (first, cookie) = ask(&routers[0], ("cookie", "theme=dark")).await;
        let cookie = cookie.unwrap();
        let pair = cookie.split(';').next().unwrap();
        for router in &routers {
            assert_eq!(ask(router, ("cookie", pair)).await, (first.clone(), None), "{pair}");
        }
        answered.insert(first);
    }
    assert_eq!(answered.len(), 3, "clients are spread");

    let (first, cookie) = loop {
        let (first, cookie) = ask(&routers[0], ("cookie", "a=b")).await;
        if first == "d" {
            break (first, cookie.unwrap());
        }
    };
    let pair = cookie.split(';').next().unwrap();
    world.workload("w", &["b", "c"], ", sticky: {cookie: node}", "");
    let moved = async {
        loop {
            let (now, again) = ask(&routers[1], ("cookie", pair)).await;
            if now != first {
                return (now, again);
            }
        }
    };
    let (now, again) = timeout(SOON, moved).await.unwrap();
    assert_eq!(again, None, "the cookie stays");
    let (same, _) = ask(&routers[1], ("cookie", pair)).await;
    assert_eq!(same, now);
}

#[tokio::test]
async fn a_header_does_the_same_for_those_who_send_it() {
    let world = World::new();
    let router = world.node("r").await;
    let _nodes = [serving(&world, "b").await, serving(&world, "c").await];
    world.workload("w", &["b", "c"], ", sticky: {header: x-user}", "");
    table_knows(&router, "w").await;
    let mut of_users = std::collections::BTreeSet::new();
    for user in ["u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8"] {
        let first = ask(&router, ("x-user", user)).await;
        assert_eq!(first.1, None);
        for _ in 0..5 {
            assert_eq!(ask(&router, ("x-user", user)).await, first, "{user}");
        }
        of_users.insert(first.0);
    }
    assert_eq!(of_users.len(), 2, "users are spread");
}
