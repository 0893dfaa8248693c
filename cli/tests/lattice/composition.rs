//! Workloads of several components, as the examples of `guests/` have them: deployed from their specs, asked over HTTP,
//! and inspected.

use super::harness::{http, shared, workspace};
use hyper::Method;
use serde_json::{Value, json};

/// The spec of an example.
fn example(name: &str) -> String {
    workspace().join("guests").join(name).join("lattice.yaml").display().to_string()
}

#[tokio::test]
async fn a_composed_workload_is_deployed_told_about_and_inspected() {
    let lattice = shared().await;
    let deployed = lattice.cli(&["deploy", &example("hello-composed")]).await;
    let notes = String::from_utf8_lossy(&deployed.stderr).into_owned();
    assert!(deployed.status.success(), "{notes}");
    assert!(notes.contains("hello gets example:greeter/greet@0.1.0 from greeter"), "{notes}");
    lattice.serving("hello-composed.test", "/").await;
    let answer = lattice.node("n1").get("hello-composed.test", "/lattice").await;
    assert_eq!(answer.text().trim_end(), "Good day, lattice");

    let shown = lattice.cli_ok(&["inspect", "hello-composed"]).await;
    for part in ["hello-composed, generation 1", "1 of 1 replicas are ready", "greeter", "wasi:http/types@0.2"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    // What is deployed is what the spec's files would be composed into.
    let json = async |target: &str| -> Value {
        serde_json::from_str(&lattice.cli_ok(&["inspect", target, "-o", "json"]).await).unwrap()
    };
    let (there, here) = (json("hello-composed").await, json(&example("hello-composed")).await);
    assert_eq!(there.pointer("/whole"), here.pointer("/whole"));
    assert_eq!(there.pointer("/status/ready").unwrap(), 1);
    let nowhere = lattice.cli(&["inspect", "not-there"]).await;
    assert_eq!(nowhere.status.code(), Some(3));
}

/// A script of `wac`, in a file beside the spec and within it; and what is said of one that asks for what is not there.
#[tokio::test]
async fn a_script_says_what_is_composed() {
    let lattice = shared().await;
    let guests = super::harness::guest("greeter").parent().unwrap().display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let script = "package example:scripted;\nlet one = new component:greeter { ... };\n\
                  let main = new component:hello { ...one, ... };\nexport main...;\n";
    std::fs::write(dir.path().join("shop.wac"), script).unwrap();
    let spec = |name: &str, wac: &str| {
        let component =
            |name: &str, file: &str| json!({ "name": name, "source": format!("file:{guests}/{file}.wasm") });
        let spec = json!({
            "name": name,
            "components": [component("hello", "hello-composed"), component("greeter", "greeter")],
            "compose": { "wac": wac },
            "http": { "routes": [{ "host": format!("{name}.test") }] },
        });
        let path = dir.path().join(format!("{name}.json"));
        std::fs::write(&path, spec.to_string()).unwrap();
        path.display().to_string()
    };
    for (name, wac) in [("scripted-file", "file:./shop.wac"), ("scripted-text", script)] {
        lattice.cli_ok(&["deploy", &spec(name, wac)]).await;
        let host = format!("{name}.test");
        lattice.serving(&host, "/").await;
        for node in &lattice.nodes {
            assert_eq!(node.get(&host, "/script").await.text().trim_end(), "Hello, script", "{name}");
        }
    }
    let wrong = script.replace("component:greeter", "component:greater");
    let refused = lattice.cli(&["deploy", &spec("scripted-wrong", &wrong)]).await;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("greater") && told.contains('2'), "{told}");
}

#[tokio::test]
async fn a_component_that_virtualizes_an_interface_shows_a_part_of_it() {
    let lattice = shared().await;
    lattice.cli_ok(&["deploy", &example("config-view")]).await;
    lattice.serving("config-view.test", "/").await;
    let n1 = lattice.node("n1");
    assert_eq!(n1.get("config-view.test", "/").await.text(), "currency=eur\ngreeting=hello\n");
    assert_eq!(n1.get("config-view.test", "/currency").await.text(), "eur\n");
    for hidden in ["/payments.account", "/shop.currency"] {
        assert_eq!(n1.get("config-view.test", hidden).await.status, 404, "{hidden}");
    }
}

#[tokio::test]
async fn resources_streams_futures_and_async_functions_cross_the_border() {
    let lattice = shared().await;
    lattice.cli_ok(&["deploy", &example("border03")]).await;
    lattice.serving("border03.test", "/").await;
    let n1 = lattice.node("n1");
    let expected = "sum 5\npage one two, 7 bytes\nread three\nupper ASYNC\nstream A STREAM OF BYTES\nfuture 42\n\
                    greeting Hello, border\n";
    // Twice: what one request left behind would disturb the next.
    for _ in 0..2 {
        assert_eq!(n1.get("border03.test", "/").await.text(), expected);
    }
}

#[tokio::test]
async fn a_body_streams_through_two_components() {
    let lattice = shared().await;
    lattice.cli_ok(&["deploy", &example("border03"), "--name", "border-stream", "--host", "border-stream.test"]).await;
    lattice.serving("border-stream.test", "/").await;
    let body: Vec<u8> = (0..3 << 20).map(|i: u32| b'a' + (i % 26) as u8).collect();
    let address = lattice.node("n1").http();
    let sent = http::send(&address, Method::POST, "border-stream.test", "/upper", &[], http::full(body.clone())).await;
    let answer = http::whole(sent.unwrap()).await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.body == body.to_ascii_uppercase(), "{} bytes came back", answer.body.len());
}

#[tokio::test]
async fn a_component_of_0_2_calls_one_of_0_3() {
    let lattice = shared().await;
    lattice.cli_ok(&["deploy", &example("border02")]).await;
    lattice.serving("border02.test", "/").await;
    let answer = lattice.node("n1").get("border02.test", "/").await;
    assert_eq!(answer.text(), "sum 5\npage one two, 7 bytes\n");
    let shown = lattice.cli_ok(&["inspect", "border02"]).await;
    assert!(shown.contains("wasi:http 0.2") && shown.contains("concurrent engine"), "{shown}");
}

/// Prints what a call costs either way: `--nocapture`.
#[tokio::test]
async fn calls_between_components_can_be_inlined() {
    const CALLS: u32 = 10_000_000;
    let lattice = shared().await;
    let spec = std::fs::read_to_string(example("border02")).unwrap();
    let guests = super::harness::guest("border02").parent().unwrap().display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let mut nanos = Vec::new();
    for (name, optimize) in [("calls-plain", "default"), ("calls-inlined", "max")] {
        let spec = spec.replace("../../target/guests", &guests).replace("border02.test", &format!("{name}.test"));
        let spec = spec.replace("name: border02", &format!("name: {name}")) + "compose: {optimize: " + optimize + "}\n";
        let path = dir.path().join(format!("{name}.yaml"));
        std::fs::write(&path, spec).unwrap();
        lattice.cli_ok(&["deploy", &path.display().to_string()]).await;
        let host = format!("{name}.test");
        lattice.serving(&host, "/").await;
        let mut best = f64::MAX;
        for _ in 0..5 {
            let begin = std::time::Instant::now();
            let answer = lattice.node("n1").get(&host, &format!("/sum/{CALLS}")).await.ok();
            best = best.min(begin.elapsed().as_nanos() as f64 / f64::from(CALLS));
            let expected = (0..CALLS).fold(0, u32::wrapping_add);
            assert_eq!(answer.text(), format!("{expected}\n"));
        }
        nanos.push(best);
    }
    println!("a call from component to component: {:.2} ns, {:.2} ns with optimize: max", nanos[0], nanos[1]);
}
