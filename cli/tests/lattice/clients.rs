//! Clients that are not ours: the control interface is NATS and nothing else, and so is HTTP between nodes.

use crate::harness::{PATIENCE, SharedLattice, api::holders, shared, workspace};
use std::{
    io::{Seek as _, Write as _},
    path::PathBuf,
    process::Output,
};

/// A Python with the clients of one set: named, or the one that `cargo xtask clients` set up.
pub fn python_with(set: &str) -> PathBuf {
    let variable = format!("LATTICE_{}", set.replace('-', "_").to_uppercase());
    let named = std::env::var_os(variable).map(PathBuf::from);
    let path = named.unwrap_or_else(|| workspace().join("target/toolchains").join(set).join("bin/python"));
    assert!(path.is_file(), "{} is missing: run `cargo xtask clients`", path.display());
    path
}

/// Puts a workload of this name with a client, twice, and a broken one; then it answers.
async fn put_with(name: &str, client: impl AsyncFn(&SharedLattice, &str) -> Output) {
    let lattice = shared().await;
    let api = lattice.api().await;
    let digest = api.upload("hello-http03").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("spec.yaml");
    let yaml = format!(
        "# written by a person\nname: {name}\ncomponents:\n  - name: hello\n    source: {digest}\nhttp:\n  routes:\n    - host: {name}.test\n"
    );
    let put = async |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = client(&lattice, file.to_str().unwrap()).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        serde_json::from_str::<serde_json::Value>(&out).unwrap_or_else(|error| panic!("{error}: {out} {err}"))
    };
    let first = put(&yaml).await;
    assert_eq!((&first["ok"]["workload"], &first["ok"]["changed"]), (&name.into(), &true.into()), "{first}");
    let second = put(&yaml).await;
    assert_eq!(
        (&second["ok"]["revision"], &second["ok"]["changed"]),
        (&first["ok"]["revision"], &false.into()),
        "{second}"
    );
    let wrong = put(&yaml.replace("host:", "hots:")).await;
    assert_eq!(
        (&wrong["error"]["code"], &wrong["error"]["field"]),
        (&"invalid".into(), &"http.routes[0].hots".into()),
        "{wrong}"
    );

    api.ready(name).await;
    lattice.serving(&format!("{name}.test"), "/").await;
}

pub async fn run(program: PathBuf, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(&program);
    command.args(arguments).kill_on_drop(true).stdin(std::process::Stdio::null());
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    output.unwrap_or_else(|_| panic!("{} did not end", program.display())).unwrap()
}

pub fn script(name: &str) -> String {
    workspace().join("cli/tests/clients").join(name).to_str().unwrap().to_owned()
}

#[tokio::test]
async fn nats_py_submits_a_workload() {
    let python = python_with("nats-py");
    put_with("from-python", async |lattice, file| {
        run(python.clone(), &[&script("put.py"), &lattice.server.url(), "default", file]).await
    })
    .await;
}

#[tokio::test]
async fn a_shell_submits_a_workload_without_any_client() {
    put_with("from-shell", async |lattice, file| {
        let port = lattice.server.port().to_string();
        run("bash".into(), &[&script("put.sh"), "127.0.0.1", &port, "default", file]).await
    })
    .await;
}

/// Written by what docs/protocol-http.md says, in another language: whoever can't do the same from it finds a fault of it.
#[tokio::test]
async fn a_second_implementation_of_the_protocol_asks_a_node() {
    let lattice = shared().await;
    let api = lattice.api().await;
    let status = api.deploy("asked-from-python", "echo", 1).await;
    let holder = holders(&status)[0].to_string();
    lattice.serving("asked-from-python.test", "/bytes/1").await;
    let ask = async |node: &str, workload: &str, method: &str, path: &str, body: &[u8]| {
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(body).unwrap();
        input.rewind().unwrap();
        let mut command = tokio::process::Command::new(python_with("nats-py"));
        command.args([&script("request.py"), &lattice.server.url(), "default", node, workload, method]);
        command.args(["asked-from-python.test", path]).kill_on_drop(true).stdin(input);
        tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap()
    };
    // More than a window each way, so that both sides need credit; and what fits one message.
    let large: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    for (method, path, body, answer) in [
        ("POST", "/", &large[..], &large[..]),
        ("POST", "/", b"small", b"small"),
        ("GET", "/bytes/70000", b"", &large[..70_000]),
    ] {
        let output = ask(&holder, "asked-from-python", method, path, body).await;
        let said = String::from_utf8_lossy(&output.stderr);
        let split = output.stdout.iter().position(|byte| *byte == b'\n').unwrap_or_else(|| panic!("{said}"));
        let meta: serde_json::Value = serde_json::from_slice(&output.stdout[..split]).unwrap();
        assert_eq!(meta["status"], 200, "{meta} {said}");
        assert!(output.stdout[split + 1..] == *answer, "{method} {path}: {} bytes", output.stdout.len() - split - 1);
    }
    let refused = ask(&holder, "nobody", "GET", "/", b"").await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("reset 2, flags 4"), "{said}");
    let absent = ask("no-such-node", "nobody", "GET", "/", b"").await;
    let said = String::from_utf8_lossy(&absent.stderr).into_owned();
    assert!(said.contains("the node is not there"), "{said}");
}
