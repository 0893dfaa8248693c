//! `cargo xtask conformance`: curl, h2load and h2spec, which we did not write, against a node that does not run the
//! replica. It starts a lattice for that and ends it. Start at [`run`]; what is asked and expected is in [`CURL`],
//! [`CURL_TLS`], [`H2LOAD`] and [`H2SPEC`].

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::workspace::{self, Metadata};
use crate::{guests, nats};

/// The host of the deployed workload, and its other one, which the certificate is for.
const HOST: &str = "echo.test";
const TLS_HOST: &str = "localhost";
const SPEC: &str = "cli/tests/clients/conformance.yaml";
const CERTIFICATES: &str = "cli/tests/lattice/certificates";

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

/// The same over TLS, where the version is agreed upon in the handshake.
const CURL_TLS: &[(&[&str], &str, &str)] = &[
    (&[], "/bytes/100000", "200 2 100000 "),
    (&["--http2"], "/bytes/100000", "200 2 100000 "),
    (&["--http1.1"], "/bytes/100000", "200 1.1 100000 "),
    (&["--http1.0"], "/bytes/100000", "200 * 100000 "),
    (&["--no-alpn"], "/bytes/100000", "200 1.1 100000 "),
    (&["--tls-max", "1.2"], "/bytes/100000", "200 2 100000 "),
    (&["--tlsv1.3"], "/bytes/100000", "200 2 100000 "),
    (&["--tls-max", "1.1"], "/bytes/7", "000 0 0 "),
    (&["--upload-file", "-"], "@/", "200 2 3000000 "),
    (&["--http1.1", "--upload-file", "-"], "@/", "200 1.1 3000000 "),
    (&["--http1.1", "--header", "expect: 100-continue", "--data-binary", "@-"], "@/", "200 1.1 3000000 "),
    (&["--limit-rate", "100K"], "/bytes/100000", "200 2 100000 "),
    (&["--compressed"], "/bytes/100000", "200 2 100000 "),
    (&["--head"], "/bytes/100000", "200 2 0 "),
    (&["--cookie", "a=b; c=d"], "/bytes/7", "200 2 7 "),
    (&["--retry", "2"], "/bytes/7", "200 2 7 "),
    (&["--header", "host: echo.test"], "/bytes/7", "421 2 * misdirected"),
    (&["--request", "TRACE"], "/", "501 2 * not-implemented"),
];

const BODY_BYTES: usize = 3_000_000;

/// Arguments of h2load. Each request must succeed.
const H2LOAD: &[&[&str]] = &[
    &["--requests=2000", "--clients=10", "--max-concurrent-streams=100"],
    &["--requests=2000", "--clients=10", "--max-concurrent-streams=10", "--window-bits=10"],
    &["--requests=2000", "--clients=10", "--h1"],
    &["--requests=100", "--clients=100", "--max-concurrent-streams=1"],
];

/// Arguments of h2spec, in its strict mode, and its last line. Without TLS the port speaks HTTP/1.1 as well, and answers
/// what is no preface of HTTP/2 in that: one case wants it otherwise.
const H2SPEC: &[(&[&str], &str)] = &[
    (&["--tls", "--insecure"], "147 tests, 147 passed, 0 skipped, 0 failed"),
    (&[], "147 tests, 146 passed, 0 skipped, 1 failed"),
];

/// Whether those are installed that it does not do without.
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
    let certificate = |name: &str| workspace::root().join(CERTIFICATES).join(name);
    let mut up = Command::new(&lattice);
    up.current_dir(workspace::root()).args(["up", "--nodes", "2", "--output", "json", "--nats-server"]).arg(server);
    up.args(["--https", "127.0.0.1:0", "--https-cert"]).arg(certificate("server.pem"));
    up.arg("--https-key").arg(certificate("server.key"));
    let mut up = Running(up.args(["--deploy", SPEC]).stdout(Stdio::piped()).spawn()?);
    let summary = up.summary().context("the lattice did not start")?;
    let other = the_other(&summary).context("no node is without the replica")?;

    let mut failures = Vec::new();
    for (arguments, path, expected) in CURL {
        let found = curl(&other.http, &format!("http://{HOST}"), arguments, path)?;
        if !is_as_expected(&found, expected) {
            failures.push(format!("curl {} {path}: {found:?} instead of {expected:?}", arguments.join(" ")));
        }
    }
    let authority = certificate("authority.pem").display().to_string();
    for (arguments, path, expected) in CURL_TLS {
        let arguments = [&["--cacert", authority.as_str()][..], *arguments].concat();
        let found = curl(&other.https, &format!("https://{TLS_HOST}"), &arguments, path)?;
        if !is_as_expected(&found, expected) {
            failures.push(format!("curl {} {path}, TLS: {found:?} instead of {expected:?}", arguments.join(" ")));
        }
    }
    for arguments in H2LOAD {
        let mut h2load = Command::new("h2load");
        h2load.args(*arguments).arg(format!("--connect-to={}", other.http)).arg(format!("http://{HOST}/bytes/1000"));
        let report = workspace::output(&mut h2load)?;
        if !report.contains(" 0 failed, 0 errored, 0 timeout") {
            failures.push(format!("h2load {}: {report}", arguments.join(" ")));
        }
    }
    let h2spec = if has_h2spec() { H2SPEC } else { &[] };
    for (arguments, expected) in h2spec {
        let address = if arguments.contains(&"--tls") { &other.https } else { &other.http };
        let report = h2spec_at(address, arguments)?;
        if !report.contains(expected) {
            failures.push(format!("h2spec {}: instead of {expected:?}\n{report}", arguments.join(" ")));
        }
    }
    for failure in &failures {
        eprintln!("{failure}");
    }
    let curls = CURL.len() + CURL_TLS.len();
    ensure!(failures.is_empty(), "{} of {} cases failed", failures.len(), curls + H2LOAD.len() + h2spec.len());
    match h2spec {
        [] => eprintln!("h2spec is not installed: skipped"),
        _ => eprintln!("h2spec: as expected, with TLS and without"),
    }
    eprintln!("conformance: {curls} cases of curl, {} of h2load, as expected", H2LOAD.len());
    Ok(())
}

fn has_h2spec() -> bool {
    Command::new("h2spec").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// What it says at its end: it fails where a case does.
fn h2spec_at(address: &str, arguments: &[&str]) -> Result<String> {
    let port = address.rsplit(':').next().context("an address has a port")?;
    let mut h2spec = Command::new("h2spec");
    h2spec.args(["--strict", "--host", TLS_HOST, "--port", port, "--path", "/bytes/100"]).args(arguments);
    let output = h2spec.output().context("cannot run h2spec")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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

/// Where a node takes HTTP and HTTPS.
#[derive(Debug, PartialEq, Eq)]
struct Addresses {
    http: String,
    https: String,
}

/// Of a node that did not answer by itself when it was asked first.
fn the_other(summary: &Value) -> Option<Addresses> {
    let holder = summary.get("probes")?.get(0)?.get("answered-by")?.as_str()?;
    let nodes = summary.get("nodes")?.as_array()?;
    let other = nodes.iter().find(|node| node.get("node").and_then(Value::as_str) != Some(holder))?;
    let address = |key: &str| other.get(key)?.as_str().map(str::to_owned);
    Some(Addresses { http: address("http")?, https: address("https")? })
}

fn curl(address: &str, origin: &str, arguments: &[&str], path: &str) -> Result<String> {
    const WRITTEN: &str = "%{http_code} %{http_version} %{size_download} %header{lattice-error}";
    let mut curl = Command::new("curl");
    // Nothing of the developer's own surroundings.
    curl.args(["--disable", "--noproxy", "*", "--silent", "--show-error", "--max-time", "30", "--output", "/dev/null"]);
    curl.args(["--write-out", WRITTEN, "--connect-to", &format!("::{address}")]).args(arguments);
    curl.arg(format!("{origin}{}", path.trim_start_matches('@')));
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
            "nodes": [
                { "node": "n1", "http": "a:1", "https": "a:2" },
                { "node": "n2", "http": "b:1", "https": "b:2" },
            ],
        });
        let expect = Addresses { http: "b:1".to_owned(), https: "b:2".to_owned() };
        assert_eq!(the_other(&summary), Some(expect));
    }
}
