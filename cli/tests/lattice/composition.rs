//! Workloads of several components, as the examples of `guests/` have them: deployed from their specs, asked over HTTP,
//! and inspected.

use super::harness::{shared, workspace};
use serde_json::Value;

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
