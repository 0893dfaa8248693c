//! Parts that are not composed: services, lazy and isolated components, from the spec to the answer.

use crate::harness::{
    Lattice, PATIENCE,
    api::{Api, holders},
    cluster::Node,
    eventually, shared, workspace,
};
use futures_util::StreamExt as _;
use lattice::{
    ctl::{ErrorCode, StatusReply},
    event::CloudEvent,
    report::PartReport,
};
use serde_json::{Value, json};

/// The example `visits` under a name of its own: each request has a fresh instance, all call the one service `tally`.
async fn visits(api: &Api, name: &str, restart: Value) -> Value {
    let (visits, tally) = (api.upload("visits").await, api.upload("tally").await);
    json!({
        "name": name,
        "components": [{ "name": "visits", "source": visits.to_string() }],
        "services": [{ "name": "tally", "source": tally.to_string(), "restart": restart }],
        "reuse": "off",
        "http": { "routes": [{ "host": format!("{name}.test") }] },
    })
}

async fn text(node: &Node, host: &str, path: &str) -> String {
    node.get(host, path).await.ok().text().trim_end().to_owned()
}

/// Wait until the holder reported of the part what `is` asks for.
async fn part(api: &Api, workload: &str, name: &str, is: impl Fn(&PartReport) -> bool) -> PartReport {
    let find = |status: &StatusReply| -> Option<PartReport> {
        let report = status.slots.first()?.report.as_ref()?;
        report.parts.iter().find(|part| part.name.as_str() == name).cloned()
    };
    eventually(&format!("{name} of {workload} is reported"), PATIENCE, async || {
        let status = api.status(workload).await.map_err(|error| error.to_string())?;
        find(&status).filter(&is).ok_or_else(|| format!("{status:?}"))
    })
    .await
}

#[tokio::test]
async fn a_service_keeps_what_requests_leave_behind_and_is_started_again_when_it_traps() {
    let lattice = shared().await;
    let api = lattice.api().await;
    api.put(&visits(&api, "kept", json!({})).await).await.unwrap();
    api.ready("kept").await;
    lattice.serving("kept.test", "/").await;
    for (count, node) in lattice.nodes.iter().cycle().take(6).enumerate() {
        assert_eq!(text(node, "kept.test", "/ann").await, format!("ann: {}", count + 1), "through {}", node.id);
    }
    let n1 = lattice.node("n1");
    assert_eq!(text(n1, "kept.test", "/bob").await, "bob: 1");
    assert_eq!(text(n1, "kept.test", "/").await, "2 names");
    let report = part(&api, "kept", "tally", |part| part.calls >= 8).await;
    assert_eq!((report.restarts, report.failures, report.last_error), (0, 0, None));

    // The trap costs the request that caused it, and what the service remembered.
    let answer = n1.get("kept.test", "/-/reset").await;
    assert_eq!((answer.status, answer.error()), (502, "component-failed"), "{answer:?}");
    let first = eventually("the service counts again", PATIENCE, async || {
        let answer = n1.get("kept.test", "/ann").await;
        if answer.status == 200 { Ok(answer.text()) } else { Err(format!("{answer:?}")) }
    });
    assert_eq!(first.await.trim_end(), "ann: 1");
    let report = part(&api, "kept", "tally", |part| part.restarts == 1).await;
    assert!(report.last_error.as_ref().is_some_and(|why| why.contains("trap")), "{report:?}");
    // Any node may answer, also one that has an older report.
    eventually("people are told", PATIENCE, async || {
        let shown = lattice.cli_ok(&["status", "kept"]).await;
        if shown.contains("tally was restarted") { Ok(()) } else { Err(shown) }
    })
    .await;
}

#[tokio::test]
async fn a_service_goes_with_its_replica_to_another_node() {
    let mut lattice = Lattice::start(2).await;
    let api = lattice.api().await;
    api.put(&visits(&api, "moved", json!({})).await).await.unwrap();
    let holder = holders(&api.ready("moved").await)[0].to_string();
    lattice.serving("moved.test", "/").await;
    let other = lattice.other_than(&holder).id.clone();
    for count in 1..=3 {
        assert_eq!(text(lattice.node(&other), "moved.test", "/ann").await, format!("ann: {count}"));
    }
    lattice.node_mut(&holder).kill9().await;
    let first = eventually("the other node counts", PATIENCE, async || {
        let answer = lattice.node(&other).get("moved.test", "/ann").await;
        if answer.status == 200 { Ok(answer.text()) } else { Err(format!("{answer:?}")) }
    });
    assert_eq!(first.await.trim_end(), "ann: 1", "what it counted was in the memory of the node that is gone");
    assert_eq!(text(lattice.node(&other), "moved.test", "/ann").await, "ann: 2");
}

#[tokio::test]
async fn a_service_that_gives_up_fails_its_replica_which_is_started_again() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let restart = json!({ "backoff": "1ms", "give-up-after": 1 });
    api.put(&visits(&api, "hopeless", restart).await).await.unwrap();
    api.ready("hopeless").await;
    lattice.serving("hopeless.test", "/").await;
    let n1 = lattice.node("n1");
    let failed = eventually("the replica has failed", PATIENCE, async || {
        let _ = n1.get("hopeless.test", "/-/reset").await;
        let events = api.nats.events(&api.lattice, 1000, false).await.map_err(|error| error.to_string())?;
        let mut events = events.map(|event| serde_json::from_slice::<CloudEvent>(&event).unwrap()).boxed();
        while let Some(event) = events.next().await {
            if event.subject.starts_with("hopeless") && event.kind.ends_with("slot-failed") {
                return Ok(serde_json::to_string(&event).unwrap());
            }
        }
        Err("no such event".to_owned())
    })
    .await;
    assert!(failed.contains("the service tally was started 1 times again"), "{failed}");
    api.ready("hopeless").await;
    n1.answers("hopeless.test", "/ann", (200, "")).await;
}

/// `part-caller` with `part` beside it.
async fn caller(api: &Api, name: &str, part: Value) -> Value {
    let (main, called) = (api.upload("part-caller").await, api.upload("part").await);
    let mut component = json!({ "name": "part", "source": called.to_string(), "env": { "WHO": "part" } });
    component.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
    json!({
        "name": name,
        "components": [{ "name": "main", "source": main.to_string(), "env": { "WHO": "main" } }, component],
        "http": { "routes": [{ "host": format!("{name}.test") }] },
    })
}

#[tokio::test]
async fn lazy_and_isolated_components_are_called_like_others_and_fail_alone() {
    let lattice = shared().await;
    let api = lattice.api().await;
    for (name, settings) in [("lazy", json!({ "lazy": true, "idle": "1s" })), ("apart", json!({ "isolate": true }))] {
        let host = format!("{name}.test");
        let reply = api.put(&caller(&api, name, settings).await).await.unwrap();
        let [warning] = reply.warnings.as_slice() else { panic!("{reply:?}") };
        assert!(warning.field.starts_with("components[1]."), "{warning:?}");
        assert!(warning.message.contains("main calls turn of example:parts/values@0.1.0 in part"), "{warning:?}");
        api.ready(name).await;
        lattice.serving(&host, "/").await;
        for node in &lattice.nodes {
            assert_eq!(text(node, &host, "/upper/word").await, "WORD", "{name}");
            assert_eq!(text(node, &host, "/values").await, "whole", "{name}");
            // An environment of its own, though both set the same variable.
            assert_eq!(text(node, &host, "/variable/WHO").await, "ok part", "{name}");
        }
        let n1 = lattice.node("n1");
        let answer = n1.get(&host, "/trap").await;
        assert_eq!((answer.status, answer.error()), (502, "component-failed"), "{name}: {answer:?}");
        assert_eq!(text(n1, &host, "/flip/abc").await, "cba", "{name}");
        let report = part(&api, name, "part", |part| part.failures == 1).await;
        assert!(report.calls >= 10, "{report:?}");
    }
    // Nobody calls it any more.
    part(&api, "lazy", "part", |part| part.instances == 0).await;
    assert_eq!(text(lattice.node("n1"), "lazy.test", "/upper/again").await, "AGAIN");
}

/// `flow-caller` with `flow` in that role.
async fn flow(api: &Api, role: &str) -> Value {
    let (main, called) = (api.upload("flow-caller").await, api.upload("flow").await);
    let mut spec = json!({
        "name": "flow",
        "components": [{ "name": "main", "source": main.to_string() }],
        "http": { "routes": [{ "host": "flow.test" }] },
    });
    let called = json!({ "name": "flow", "source": called.to_string() });
    match role {
        "service" => spec["services"] = json!([called]),
        role => {
            let components = spec["components"].as_array_mut().unwrap();
            components.push(called);
            components[1][role] = true.into();
        }
    }
    spec
}

#[tokio::test]
async fn streams_and_futures_cross_to_services_and_to_nothing_else() {
    let lattice = shared().await;
    let api = lattice.api().await;
    for (role, field) in [("isolate", "components[1].isolate"), ("lazy", "components[1].lazy")] {
        let error = api.put(&flow(&api, role).await).await.unwrap_err();
        assert_eq!((error.code, error.field.as_deref()), (ErrorCode::BadComponent, Some(field)), "{error:?}");
        let refusal = [": make passes a stream,", ": later passes a future,"];
        assert!(refusal.iter().any(|refusal| error.message.contains(refusal)), "{error:?}");
    }
    let reply = api.put(&flow(&api, "service").await).await.unwrap();
    assert!(reply.warnings.is_empty(), "bytes in a future go as a whole: {reply:?}");
    api.ready("flow").await;
    lattice.serving("flow.test", "/").await;
    for node in &lattice.nodes {
        for (path, answer) in [
            ("/sum/200000", "200000"),
            ("/upper/word", "WORD"),
            ("/later/42/2", "42"),
            ("/hear/42", "number 42"),
            ("/pass/word", "word"),
            ("/parcel/100000", "7: 100000 bytes"),
        ] {
            assert_eq!(text(node, "flow.test", path).await, answer, "{path}");
        }
    }
    let answer = lattice.node("n1").get("flow.test", "/never/3").await;
    assert_eq!((answer.status, answer.error()), (502, "component-failed"), "{answer:?}");
    let report = part(&api, "flow", "flow", |part| part.restarts == 1).await;
    assert!(report.last_error.is_some(), "{report:?}");
}

#[tokio::test]
async fn what_can_not_be_linked_is_refused_with_field_and_function() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let mut refused = Vec::new();
    let mut refuse = async |spec: Value| {
        let error = api.put(&spec).await.unwrap_err();
        assert!(error.hint.is_some(), "{error:?}");
        refused.push((error.code, error.field.unwrap_or_default(), error.message));
    };
    // The component that answers requests is not lazy.
    let mut spec = caller(&api, "refused", json!({})).await;
    spec["components"][0]["lazy"] = true.into();
    refuse(spec).await;
    // A service has something to do.
    let mut spec = caller(&api, "refused", json!({ "isolate": true })).await;
    let idle = api.upload("tally").await;
    spec["services"] = json!([{ "name": "idle", "source": idle.to_string() }]);
    refuse(spec).await;
    // Resources stay in their store.
    let (caller02, border) = (api.upload("border02").await, api.upload("border").await);
    refuse(json!({
        "name": "refused",
        "components": [{ "name": "main", "source": caller02.to_string() }],
        "services": [{ "name": "border", "source": border.to_string() }],
    }))
    .await;
    // What the spec itself says.
    let mut spec = visits(&api, "refused", json!({ "give-up-after": 0 })).await;
    refuse(spec.clone()).await;
    spec["services"][0]["restart"] = json!({ "backof": "1s" });
    refuse(spec).await;

    let fields: Vec<(ErrorCode, &str)> = refused.iter().map(|(code, field, _)| (*code, field.as_str())).collect();
    assert_eq!(
        fields,
        [
            (ErrorCode::BadComponent, "components[0].lazy"),
            (ErrorCode::BadComponent, "services[0].source"),
            (ErrorCode::BadComponent, "services[0]"),
            (ErrorCode::Invalid, "services[0].restart.give-up-after"),
            (ErrorCode::Invalid, "services[0].restart.backof"),
        ]
    );
    let message = &refused[2].2;
    assert!(
        message.starts_with("main can't call border, which is a service: example:border/plain@0.1.0: "),
        "{message}"
    );
    assert!(message.contains("passes a resource"), "{message}");
}

#[tokio::test]
async fn the_example_of_a_service_is_deployed_and_inspected() {
    let lattice = shared().await;
    let example = workspace().join("guests/visits/lattice.yaml").display().to_string();
    lattice.cli_ok(&["deploy", &example]).await;
    lattice.serving("visits.test", "/").await;
    assert_eq!(text(lattice.node("n1"), "visits.test", "/ann").await, "ann: 1");
    assert_eq!(text(lattice.node("n2"), "visits.test", "/ann").await, "ann: 2");
    let shown: Value = serde_json::from_str(&lattice.cli_ok(&["inspect", "visits", "-o", "json"]).await).unwrap();
    assert_eq!(shown.pointer("/problem"), None, "{shown}");
    let roles: Vec<&str> =
        shown["components"].as_array().unwrap().iter().map(|part| part["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["service", "entry"]);
}
