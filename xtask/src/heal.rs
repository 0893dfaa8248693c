//! `cargo xtask heal`: how long it takes until what a node ran answers elsewhere, when that node is killed with -9. Real
//! nodes, a real server; the time is a client's, who asks another node all the while. Start at [`run`].

#![allow(clippy::indexing_slicing, reason = "all indexes are below the lengths that are set here")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::workspace::{self, Metadata};
use crate::{guests, nats};

const NODES: usize = 3;
const WORKLOADS: usize = 6;
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    tries: usize,
    timing: String,
    release: bool,
    /// Instead of one that is built.
    program: Option<PathBuf>,
}

impl Options {
    /// `None`: not understood.
    pub(crate) fn parse(arguments: &[&str]) -> Option<Self> {
        let mut options = Options { tries: 10, timing: "production".into(), release: false, program: None };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match *argument {
                "--tries" => options.tries = rest.next()?.parse().ok().filter(|tries| *tries > 0)?,
                "--timing" => options.timing = (*rest.next()?).to_owned(),
                "--release" => options.release = true,
                "--program" => options.program = Some(PathBuf::from(rest.next()?)),
                _ => return None,
            }
        }
        Some(options)
    }

    /// After how long without a sign of life a node counts as dead.
    fn detection(&self) -> Result<Duration> {
        match self.timing.as_str() {
            "dev" => Ok(Duration::from_secs(5)),
            "production" => Ok(Duration::from_secs(15)),
            other => anyhow::bail!("there is no timing {other:?}: dev, production"),
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let detection = options.detection()?;
    let program = match &options.program {
        Some(program) => program.clone(),
        None => build(options.release)?,
    };
    let dir = tempfile::tempdir()?;
    let server = Server::start(&nats::find()?, dir.path())?;
    let mut nodes = Vec::new();
    for i in 1..=NODES {
        nodes.push(Node::start(&program, &server.url, &options.timing, format!("n{i}"), dir.path())?);
    }
    for node in &nodes {
        node.ready()?;
    }
    deploy(&program, &server.url, dir.path())?;
    for i in 0..WORKLOADS {
        answered_by(&nodes[0].http, i, None)?;
    }

    let (mut times, mut lost) = (Vec::new(), 0);
    for attempt in 0..options.tries {
        let victim = attempt % NODES;
        let witness = nodes[(victim + 1) % NODES].http.clone();
        let held: Vec<usize> = (0..WORKLOADS)
            .filter(|i| answered_by(&witness, *i, None).is_ok_and(|(node, _)| node == nodes[victim].id))
            .collect();
        let killed = Instant::now();
        nodes[victim].kill();
        let clients: Vec<_> = held
            .iter()
            .map(|i| {
                let (witness, i, gone) = (witness.clone(), *i, nodes[victim].id.clone());
                thread::spawn(move || {
                    answered_by(&witness, i, Some(&gone)).map(|(_, failed)| (killed.elapsed(), failed))
                })
            })
            .collect();
        for client in clients {
            let (healed, failed) = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            times.push(healed);
            lost += failed;
        }
        eprintln!("try {}: {} held {} workloads", attempt + 1, nodes[victim].id, held.len());
        nodes[victim].launch()?;
        nodes[victim].ready()?;
        // What it may hold again is not at rest before it is there.
        thread::sleep(Duration::from_secs(1));
    }
    times.sort();
    ensure!(!times.is_empty(), "no node held anything when it was killed");
    let at = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize].as_secs_f64();
    println!(
        "{} kills, {} workloads healed: p50 {:.2} s, p99 {:.2} s, longest {:.2} s; a node counts as dead after {:.0} s; {lost} \
         requests failed meanwhile",
        options.tries,
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0),
        detection.as_secs_f64(),
    );
    Ok(())
}

fn build(release: bool) -> Result<PathBuf> {
    guests::run(&guests::Options { rust_only: true })?;
    workspace::timed("building lattice", || {
        let mut build = workspace::cargo();
        build.args(["build", "--locked", "--package", "lattice-cli"]).args(release.then_some("--release"));
        workspace::run(&mut build)
    })?;
    let profile = if release { "release" } else { "debug" };
    Ok(Metadata::read()?.target_directory.join(profile).join("lattice"))
}

fn deploy(program: &Path, url: &str, dir: &Path) -> Result<()> {
    let guest = workspace::root().join("target/guests/hello-http02.wasm");
    for i in 0..WORKLOADS {
        let spec = format!(
            "name: w{i}\ncomponents: [{{name: main, source: 'file:{}'}}]\nhttp: {{routes: [{{host: w{i}.test}}]}}\n",
            guest.display()
        );
        let file = dir.join("spec.yaml");
        std::fs::write(&file, spec)?;
        let mut deploy = Command::new(program);
        workspace::run(deploy.env("NATS_URL", url).args(["deploy", "--no-wait"]).arg(&file).stdout(Stdio::null()))?;
    }
    Ok(())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Asks until a node other than `gone` answers with 200: which one, and how many requests before it failed.
fn answered_by(address: &str, workload: usize, gone: Option<&str>) -> Result<(String, usize)> {
    let (begin, mut failed) = (Instant::now(), 0);
    loop {
        match get(address, &format!("w{workload}.test"), "/quiet") {
            Ok((200, node)) if Some(node.as_str()) != gone => return Ok((node, failed)),
            // What was on its way when the node died was answered all the same.
            Ok((200, _)) => {}
            Ok(_) | Err(_) => failed += 1,
        }
        ensure!(begin.elapsed() < PATIENCE, "w{workload} is not answered");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Status of one GET, and the node that ran the component.
fn get(address: &str, host: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    let node = text.lines().find_map(|line| line.strip_prefix("lattice-node: ")).unwrap_or_default();
    Ok((status, node.trim().to_owned()))
}

struct Server {
    url: String,
    process: Child,
}

impl Server {
    fn start(program: &Path, dir: &Path) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(program);
        command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]).arg(dir.join("nats"));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot run nats-server")?;
        let server = Self { url: format!("nats://127.0.0.1:{port}"), process };
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(begin.elapsed() < PATIENCE, "nats-server does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Node {
    id: String,
    http: String,
    admin: String,
    program: PathBuf,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Node {
    fn start(program: &Path, url: &str, timing: &str, id: String, dir: &Path) -> Result<Self> {
        let address = || Ok::<_, anyhow::Error>(format!("127.0.0.1:{}", free_port()?));
        let (http, admin, data) = (address()?, address()?, dir.join(&id).display().to_string());
        let arguments = ["node", "--nats", url, "--id", &id, "--timing", timing, "--data", &data, "--http", &http];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
        arguments.extend(["--admin", &admin, "--slots", "64", "--memory", "8GiB", "--log", "error"].map(str::to_owned));
        let mut node = Self { id, http, admin, program: program.to_owned(), arguments, process: None };
        node.launch()?;
        Ok(node)
    }

    fn launch(&mut self) -> Result<()> {
        let mut command = Command::new(&self.program);
        self.process = Some(command.args(&self.arguments).stdout(Stdio::null()).spawn().context("cannot run lattice")?);
        Ok(())
    }

    fn ready(&self) -> Result<()> {
        let begin = Instant::now();
        while !get(&self.admin, "localhost", "/readyz").is_ok_and(|(status, _)| status == 200) {
            ensure!(begin.elapsed() < PATIENCE, "{} is not ready", self.id);
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// kill -9.
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::Options;

    #[test]
    fn options() {
        let parse = |line: &str| Options::parse(&line.split_whitespace().collect::<Vec<_>>());
        let default = Options { tries: 10, timing: "production".into(), release: false, program: None };
        assert_eq!(parse(""), Some(default));
        let given = Options { tries: 3, timing: "dev".into(), release: true, program: Some("lattice".into()) };
        assert_eq!(parse("--tries 3 --timing dev --release --program lattice"), Some(given));
        for wrong in ["--tries", "--tries 0", "--often"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
