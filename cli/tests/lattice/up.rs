//! `lattice up`: everything in one terminal, and nothing left of it.

use crate::harness::{
    PATIENCE,
    cluster::lattice_program,
    eventually, guest, http,
    process::{Process, is_alive},
    server, workspace,
};
use rustix::process::Signal;
use serde_json::Value;

/// What `up -o json` prints once everything runs: one document.
async fn summary(up: &Process) -> Value {
    eventually("the summary is printed", PATIENCE, async || {
        assert!(up.is_running(), "{}", up.log());
        serde_json::from_str(&up.output())
    })
    .await
}

#[tokio::test]
async fn up_starts_deploys_shows_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let spec = dir.path().join("hello.yaml");
    let wasm = guest("hello-http02");
    let yaml = format!(
        "name: hello\nreplicas: 2\ncomponents: [{{name: hello, source: 'file:{}'}}]\nhttp: {{routes: [{{host: hello.test}}]}}\n",
        wasm.display()
    );
    std::fs::write(&spec, yaml).unwrap();
    // Its own directory for temporary files: what is left there is its fault.
    let temporary = dir.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let nats = server::program();
    let arguments = [
        "up",
        "--nodes",
        "3",
        "-o",
        "json",
        "--deploy",
        spec.to_str().unwrap(),
        "--nats-server",
        nats.to_str().unwrap(),
    ];
    let up = Process::start_with("up", lattice_program(), arguments, |command| {
        command.env("TMPDIR", &temporary);
    });

    let summary = summary(&up).await;
    let nodes = summary["nodes"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    assert_eq!(nodes.iter().map(|node| text(&node["node"])).collect::<Vec<_>>(), ["n1", "n2", "n3"]);
    for node in nodes {
        http::get(&text(&node["http"]), "hello.test", "/").await.ok();
    }
    let probes = summary["probes"].as_array().unwrap();
    assert!(probes.len() == 3 && probes.iter().all(|probe| probe["status"] == 200), "{summary}");

    let pid = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let mut pids: Vec<u32> = nodes.iter().map(|node| pid(&node["pid"])).collect();
    pids.push(pid(&summary["nats-pid"]));
    assert!(pids.iter().all(|pid| is_alive(*pid)), "{summary}");
    assert!(std::fs::read_dir(&temporary).unwrap().count() > 0, "it keeps its data elsewhere");
    up.signal(Signal::TERM);
    let status = up.wait_exit(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{}", up.log());
    let alive: Vec<&u32> = pids.iter().filter(|pid| is_alive(**pid)).collect();
    assert_eq!(alive, Vec::<&u32>::new(), "still running");
    let left: Vec<_> = std::fs::read_dir(&temporary).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new(), "left behind");
}

#[tokio::test]
async fn every_node_takes_https_with_the_certificates_that_are_given() {
    let temporary = tempfile::tempdir().unwrap();
    let nats = server::program();
    let certificate = |name: &str| workspace().join("cli/tests/lattice/certificates").join(name).display().to_string();
    let (chain, key) = (certificate("server.pem"), certificate("server.key"));
    let https = ["--https", "127.0.0.1:0", "--https-cert", &chain, "--https-key", &key];
    let arguments = ["up", "--nodes", "2", "-o", "json", "--nats-server", nats.to_str().unwrap()];
    let up = Process::start_with("up", lattice_program(), arguments.into_iter().chain(https), |command| {
        command.env("TMPDIR", temporary.path());
    });
    let summary = summary(&up).await;
    for node in summary["nodes"].as_array().unwrap() {
        let port = node["https"].as_str().unwrap().rsplit(':').next().unwrap();
        let url = format!("https://localhost:{port}/");
        let authority = certificate("authority.pem");
        let curl = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", &authority, &url];
        let asked = tokio::process::Command::new("curl").args(curl).output().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&asked.stdout), "404", "{url}: {asked:?}");
    }
    up.signal(Signal::TERM);
    assert_eq!(up.wait_exit(PATIENCE).await.code(), Some(0), "{}", up.log());
}

#[tokio::test]
async fn killing_up_takes_everything_with_it() {
    let temporary = tempfile::tempdir().unwrap();
    let nats = server::program();
    let arguments = ["up", "--nodes", "1", "-o", "json", "--nats-server", nats.to_str().unwrap()];
    let up = Process::start_with("up", lattice_program(), arguments, |command| {
        command.env("TMPDIR", temporary.path());
    });
    let summary = summary(&up).await;
    let pid = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let pids = [pid(&summary["nats-pid"]), pid(&summary["nodes"][0]["pid"])];
    up.kill9().await;
    eventually("its children are gone", PATIENCE, async || match pids.iter().filter(|pid| is_alive(**pid)).count() {
        0 => Ok(()),
        count => Err(format!("{count} of {pids:?} are alive")),
    })
    .await;
}
