//! `cargo xtask conformance`: curl and h2load, which we did not write, against a node that does not run the replica. It
//! starts a lattice for that and ends it. Start at [`run`]; what is asked and expected is in [`CURL`] and [`H2LOAD`].

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::workspace::{self, Metadata};
use crate::{guests, nats};

/// The host of the deployed workload.
const HOST: &str = "echo.test";
const SPEC: &str = "guests/echo/lattice.yaml";

/// Arguments of curl, the path, and what comes of it: status, version of HTTP, bytes, `lattice-error`. `@` in front of a
/// path: the request's body is [`BODY_BYTES`] zeros.
const CURL: &[(&[&str], &str, &str)] = &[
    (&["--http1.0"], "/bytes/100000", "200 * 100000 "),
    (&["--http1.1"], "/bytes/100000", "200 1.1 100000 "),
    (&["--http2"], "/bytes/100000", "200 1.1 100000 "),
    (&["--http2-prior-knowledge"], "/bytes/100000", "200 2 100000 "),
    (&["--http1.1", "--upload-file", "-"], "@/", "200 1.1 3000000 "),
    (&["--http2-prior-knowledge", "--upload-file", "-"], "@/", "200 2 3000000 "),
    (&["--http1.1", "--data-binary", "@-"], "@/", "200 1.1 3000000 "),
    (&["--http1.1", "--header", "expect: 100-continue", "--data-binary", "@-"], "@/", "200 1.1 3000000 "),
    (&["--http1.0", "--data-binary", "@-"], "@/count", "200 * 10 "),
    (&["--http1.1", "--form", "part=@-"], "@/bytes/7", "200 1.1 7 "),
    (&["--head"], "/bytes/100000", "200 1.1 0 "),
    (&["--range", "0-9"], "/bytes/100000", "200 1.1 100000 "),
    (&["--compressed", "--tr-encoding"], "/bytes/100000", "200 1.1 100000 "),
    (&["--request", "MADE-UP"], "/bytes/7", "200 1.1 7 "),
    (&["--request-target", "http://echo.test/bytes/7"], "/", "200 1.1 7 "),
    (&["--header", "connection: upgrade", "--header", "upgrade: websocket"], "/", "501 1.1 * not-implemented"),
    (&["--request", "TRACE"], "/", "501 1.1 * not-implemented"),
    (&["--request", "OPTIONS", "--request-target", "*"], "/", "400 1.1 * bad-request"),
    (&["--path-as-is"], "/a/../b", "400 1.1 * bad-request"),
    (&["--http2-prior-knowledge", "--path-as-is"], "/a/../b", "400 2 * bad-request"),
    (&["--header", "host:"], "/", "400 1.1 * bad-request"),
    (&["--header", "host: nobody.test"], "/", "404 1.1 * no-route"),
    (&["--haproxy-protocol"], "/", "400 1.1 * bad-request"),
];

const BODY_BYTES: usize = 3_000_000;

/// Arguments of h2load. Each request must succeed.
const H2LOAD: &[&[&str]] = &[
    &["--requests=2000", "--clients=10", "--max-concurrent-streams=100"],
    &["--requests=2000", "--clients=10", "--max-concurrent-streams=10", "--window-bits=10"],
    &["--requests=2000", "--clients=10", "--h1"],
    &["--requests=100", "--clients=100", "--max-concurrent-streams=1"],
];

/// Whether both are installed.
pub(crate) fn is_possible() -> bool {
    ["curl", "h2load"].iter().all(|name| Command::new(name).arg("--version").output().is_ok())
}

pub(crate) fn run() -> Result<()> {
    ensure!(is_possible(), "curl or h2load is not installed: apt-get install curl nghttp2-client");
    guests::run(&guests::Options { rust_only: true })?;
    let server = nats::find()?;
    workspace::timed("building lattice", || {
        workspace::run(workspace::cargo().args(["build", "--locked", "--package", "lattice-cli"]))
    })?;
    let lattice = Metadata::read()?.target_directory.join("debug/lattice");
    let mut up = Command::new(&lattice);
    up.current_dir(workspace::root()).args(["up", "--nodes", "2", "--output", "json", "--nats-server"]);
    let mut up = Running(up.arg(server).args(["--deploy", SPEC]).stdout(Stdio::piped()).spawn()?);
    let summary = up.summary().context("the lattice did not start")?;
    let address = address_of_the_other(&summary).context("no node is without the replica")?;

    let mut failures = Vec::new();
    for (arguments, path, expected) in CURL {
        let found = curl(&address, arguments, path)?;
        if !is_as_expected(&found, expected) {
            failures.push(format!("curl {} {path}: {found:?} instead of {expected:?}", arguments.join(" ")));
        }
    }
    for arguments in H2LOAD {
        let mut h2load = Command::new("h2load");
        h2load.args(*arguments).arg(format!("--connect-to={address}")).arg(format!("http://{HOST}/bytes/1000"));
        let report = workspace::output(&mut h2load)?;
        if !report.contains(" 0 failed, 0 errored, 0 timeout") {
            failures.push(format!("h2load {}: {report}", arguments.join(" ")));
        }
    }
    for failure in &failures {
        eprintln!("{failure}");
    }
    ensure!(failures.is_empty(), "{} of {} cases failed", failures.len(), CURL.len() + H2LOAD.len());
    eprintln!("conformance: {} cases of curl, {} of h2load, as expected", CURL.len(), H2LOAD.len());
    Ok(())
}

/// `lattice up`, which takes its nodes with it when it ends.
struct Running(Child);

impl Running {
    /// What it prints once all is ready.
    fn summary(&mut self) -> Result<Value> {
        let output = self.0.stdout.take().context("its output is not there")?;
        let mut text = String::new();
        for line in BufReader::new(output).lines() {
            text.push_str(&line?);
            if let Ok(summary) = serde_json::from_str(&text) {
                return Ok(summary);
            }
        }
        bail!("it ended");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // So that it removes what it made. By a command, since std can only kill.
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// Where a node takes HTTP that did not answer by itself when it was asked first.
fn address_of_the_other(summary: &Value) -> Option<String> {
    let holder = summary.get("probes")?.get(0)?.get("answered-by")?.as_str()?;
    let nodes = summary.get("nodes")?.as_array()?;
    let other = nodes.iter().find(|node| node.get("node").and_then(Value::as_str) != Some(holder))?;
    other.get("http")?.as_str().map(str::to_owned)
}

fn curl(address: &str, arguments: &[&str], path: &str) -> Result<String> {
    const WRITTEN: &str = "%{http_code} %{http_version} %{size_download} %header{lattice-error}";
    let mut curl = Command::new("curl");
    // Nothing of the developer's own surroundings.
    curl.args(["--disable", "--noproxy", "*", "--silent", "--show-error", "--max-time", "30", "--output", "/dev/null"]);
    curl.args(["--write-out", WRITTEN, "--connect-to", &format!("::{address}")]).args(arguments);
    curl.arg(format!("http://{HOST}{}", path.trim_start_matches('@')));
    if path.starts_with('@') {
        let zeros = tempfile()?;
        zeros.set_len(BODY_BYTES as u64)?;
        curl.stdin(zeros);
    }
    // It fails on what it does not understand, which may be what is expected: what it saw counts.
    let output = curl.output().context("cannot run curl")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A file that is gone when it is closed.
fn tempfile() -> Result<std::fs::File> {
    let path = std::env::temp_dir().join(format!("lattice-conformance-{}", std::process::id()));
    let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

/// `*` stands for one word of any kind.
fn is_as_expected(found: &str, expected: &str) -> bool {
    let (mut found, mut expected) = (found.split(' '), expected.split(' '));
    loop {
        match (found.next(), expected.next()) {
            (None, None) => return true,
            (Some(_), Some("*")) => {}
            (found, expected) if found == expected => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_any_kind() {
        for (found, expected, is_as) in [
            ("200 2 7 ", "200 2 7 ", true),
            ("400 2 71 bad-request", "400 2 * bad-request", true),
            ("400 2 71 ", "400 2 * bad-request", false),
            ("400 2 71", "400 2 * bad-request", false),
            ("400 2 71 bad-request more", "400 2 * bad-request", false),
        ] {
            assert_eq!(is_as_expected(found, expected), is_as, "{found:?} {expected:?}");
        }
    }

    #[test]
    fn the_other_node() {
        let summary = serde_json::json!({
            "probes": [{ "answered-by": "n1" }],
            "nodes": [{ "node": "n1", "http": "a:1" }, { "node": "n2", "http": "b:2" }],
        });
        assert_eq!(address_of_the_other(&summary).as_deref(), Some("b:2"));
    }
}
