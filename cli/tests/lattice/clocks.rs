//! The wall clock of a node leaps, while others keep theirs. By libfaketime, which shows a process another time than the
//! machine's: where it is not installed, these tests are skipped, and say so.
#![cfg(target_os = "linux")]

use crate::harness::{
    Api, Lattice, Node, PATIENCE, Server,
    api::{holders, spec},
    eventually, free_port,
    http::{self, Body, Error},
    workspace,
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Method,
    body::{Frame, Incoming},
};
use lattice::store::Bucket;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// The library, where the packages of distributions put it.
fn faketime() -> Option<PathBuf> {
    let multiarch = format!("/usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH);
    let folders = [&*multiarch, "/usr/lib64/faketime", "/usr/lib/faketime", "/usr/local/lib/faketime"];
    folders.into_iter().map(|folder| Path::new(folder).join("libfaketimeMT.so.1")).find(|file| file.is_file())
}

/// What a process is told of the time: `+0` is the machine's, `+2h` and `-2h` beside it, `@2020-06-01 00:00:00` goes on
/// from then.
struct Clock(PathBuf);

impl Clock {
    fn set(&self, time: &str) {
        // In one step: it may be read at any moment.
        let new = self.0.with_extension("new");
        std::fs::write(&new, time).unwrap();
        std::fs::rename(new, &self.0).unwrap();
    }
}

const PIECE: &[u8] = b"0123456789";

/// A request that is echoed as it comes, and so is under way until its body ends.
struct Echo {
    pieces: mpsc::UnboundedSender<Bytes>,
    body: Incoming,
}

impl Echo {
    async fn begin(node: &Node, host: &str) -> Self {
        let (pieces, rest) = mpsc::unbounded_channel();
        let rest = stream::unfold(rest, |mut rest| async move {
            let piece: Bytes = rest.recv().await?;
            Some((Ok::<_, Error>(Frame::data(piece)), rest))
        });
        let rest: Body = StreamBody::new(rest).boxed_unsync();
        pieces.send(Bytes::from_static(PIECE)).unwrap();
        let answer = http::send(&node.http(), Method::POST, host, "/", &[], rest).await.unwrap();
        assert_eq!(answer.status(), 200, "{answer:?}");
        let mut echo = Self { pieces, body: answer.into_body() };
        echo.comes_back().await;
        echo
    }

    /// A piece goes there and back.
    async fn goes_on(&mut self) {
        self.pieces.send(Bytes::from_static(PIECE)).unwrap();
        self.comes_back().await;
    }

    async fn comes_back(&mut self) {
        let mut back = Vec::new();
        while back.len() < PIECE.len() {
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("nothing comes back");
            back.extend_from_slice(frame.expect("it ended").unwrap().data_ref().unwrap());
        }
        assert_eq!(back, PIECE);
    }

    /// It ends as it should.
    async fn ends(self) {
        drop(self.pieces);
        assert!(self.body.collect().await.unwrap().to_bytes().is_empty());
    }
}

/// What the store has of a node: which life it is in, and how often it has renewed its session.
async fn session(api: &Api, node: &str) -> (String, u64) {
    let entries = api.snapshot(Bucket::State).await.entries;
    let entry = entries.iter().find(|entry| entry.key == format!("session.{node}")).expect("it has a session");
    let session: Value = serde_json::from_slice(&entry.value).unwrap();
    (session["incarnation"].as_str().unwrap().to_owned(), session["renewals"].as_u64().unwrap())
}

/// The status that a client with this certificate gets, 0 where there is no connection.
async fn status_for(port: u16, own: &str) -> u16 {
    let certificate = |name: &str| workspace().join("cli/tests/lattice/certificates").join(name);
    let mut command = tokio::process::Command::new("curl");
    command.args(["--disable", "--silent", "--noproxy", "*", "--max-time", "30", "--output", "/dev/null"]);
    command.arg("--cacert").arg(certificate("authority.pem"));
    command.arg("--cert").arg(certificate(&format!("{own}.pem")));
    command.arg("--key").arg(certificate(&format!("{own}.key")));
    command.args(["--write-out", "%{http_code}", &format!("https://localhost:{port}/")]).kill_on_drop(true);
    String::from_utf8(command.output().await.unwrap().stdout).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_leaps_ends_nothing_but_certificates() {
    let Some(library) = faketime() else {
        eprintln!("skipped: libfaketime is not installed (apt-get install faketime)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (clock, access) = (Clock(dir.path().join("time")), dir.path().join("access.log"));
    clock.set("+0");
    let environment = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", clock.0.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    let certificates = workspace().join("cli/tests/lattice/certificates");
    let file = |name: &str| certificates.join(name).display().to_string();
    let (port, chain, key, authority) =
        (free_port(), file("server.pem"), file("server.key"), file("https-clients-authority.pem"));
    let address = format!("127.0.0.1:{port}");
    let https = ["--https", &address, "--https-cert", &chain, "--https-key", &key, "--https-client-ca", &authority];
    let mut lattice = Lattice::start_on(Server::start().await, "default", 0).await;
    let log = ["--label", "pin=a", "--access-log-file", access.to_str().unwrap()];
    lattice.launch_node_with("n1", &[&log[..], &https].concat(), &environment);
    lattice.launch_node("default", "n2", &["--label", "pin=b"]);
    lattice.all_ready().await;
    let api = lattice.api().await;
    let digest = api.upload("echo").await;
    for (name, pin) in [("here", "a"), ("there", "b")] {
        let mut asked = spec(name, digest, 1);
        asked["placement"] = json!({ "require": [format!("pin == {pin}")] });
        // Longer than this test is silent, on a busy machine.
        asked["limits"] = json!({ "wall": "5m" });
        api.put(&asked).await.unwrap();
        api.ready(name).await;
    }
    let [n1, n2] = [lattice.node("n1"), lattice.node("n2")];
    // Its own instance, one of another node, and its own for another node's client.
    let ways = [(n1, "here.test"), (n1, "there.test"), (n2, "here.test")];
    let mut under_way = Vec::new();
    for (node, host) in ways {
        node.answers(host, "/bytes/1", (200, "")).await;
        under_way.push(Echo::begin(node, host).await);
    }
    let (life, _) = session(&api, "n1").await;
    let slots = api.slots("here").await;

    for (time, year) in [("+2h", None), ("-2h", None), ("@2020-06-01 00:00:00", Some("2020-")), ("+400d", None)] {
        clock.set(time);
        let (_, renewals) = session(&api, "n1").await;
        for echo in &mut under_way {
            echo.goes_on().await;
        }
        for (node, host) in ways {
            assert_eq!(node.get(host, "/bytes/1").await.ok().body.len(), 1, "{host} after {time}");
        }
        // Longer than a session lasts that is not renewed.
        eventually("the session is renewed", PATIENCE, async || {
            let (now, count) = session(&api, "n1").await;
            assert_eq!(now, life, "after {time}");
            if count >= renewals + 7 { Ok(()) } else { Err(count - renewals) }
        })
        .await;
        for echo in &mut under_way {
            echo.goes_on().await;
        }
        // What its clock says decides which certificates are valid: one that was so in 2020 alone, and one that is now.
        let expired = status_for(port, "https-client-expired").await;
        assert_eq!(expired, if year.is_some() { 404 } else { 0 }, "after {time}");
        assert_eq!(status_for(port, "https-client-right").await, 404, "after {time}");
        if let Some(year) = year {
            let lines = std::fs::read_to_string(&access).unwrap();
            assert!(lines.contains(&format!("\"time\":\"{year}")), "its clock was not set: {lines}");
        }
    }
    for echo in under_way {
        echo.ends().await;
    }
    assert_eq!(api.slots("here").await.keys().collect::<Vec<_>>(), slots.keys().collect::<Vec<_>>());
    assert_eq!(holders(&api.ready("here").await)[0].as_str(), "n1");
    assert_eq!(session(&api, "n1").await.0, life);
}
