//! The processes that `up` starts. Each dies with this one, even by `kill -9`; each has a process group of its own, so
//! that Ctrl-C reaches this process only and the order of stopping is ours: nodes first, then their NATS.

use crate::{commands::with_parent, error::Failure, output::Paint};
use anyhow::Context as _;
use futures_util::future;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::Write as _,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::Command,
};

/// Run a program through the shim that ties its life to ours. To be spawned from the main thread: the kernel ties it to
/// the thread.
pub(super) fn command(program: &Path) -> Command {
    // Where this program's file was replaced while it runs, the one of the running process is still there.
    let own = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let mut command = Command::new(own);
    command.args([with_parent::NAME, &std::process::id().to_string(), "--"]).arg(program);
    command
}

pub(super) struct Child {
    pub(super) name: String,
    pub(super) pid: u32,
    process: tokio::process::Child,
}

impl Child {
    /// Start it. Its output goes to standard error with its name in front, in the colour of that index, or nowhere.
    pub(super) fn spawn(name: &str, mut command: Command, show: Option<(usize, Paint)>) -> anyhow::Result<Self> {
        let output = || if show.is_some() { Stdio::piped() } else { Stdio::null() };
        command.stdin(Stdio::null()).stdout(output()).stderr(output()).process_group(0).kill_on_drop(true);
        let mut process = command.spawn().with_context(|| Failure::failed(format!("can't start {name}")))?;
        let pid = process.id().with_context(|| format!("{name} ended at once"))?;
        if let Some((index, paint)) = show {
            let prefix = paint.nth(index, format!("{name} |"));
            if let Some(stdout) = process.stdout.take() {
                tokio::spawn(pass_on(stdout, prefix.clone()));
            }
            if let Some(stderr) = process.stderr.take() {
                tokio::spawn(pass_on(stderr, prefix));
            }
        }
        Ok(Self { name: name.to_owned(), pid, process })
    }

    fn signal(&self, signal: Signal) {
        // Not if it ended already: its number may be another's by now.
        if self.process.id().is_some()
            && let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, signal);
        }
    }
}

async fn pass_on(from: impl AsyncRead + Unpin, prefix: String) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let _ = writeln!(std::io::stderr().lock(), "{prefix} {line}");
    }
}

/// All of them, in the order in which they were started.
#[derive(Default)]
pub(super) struct Children {
    running: Vec<Child>,
}

impl Children {
    pub(super) fn add(&mut self, child: Child) {
        self.running.push(child);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Wait until one ends, and forget it. Never resolves if there is none. Cancel-safe.
    pub(super) async fn next_exit(&mut self) -> (String, String) {
        if self.running.is_empty() {
            return future::pending().await;
        }
        let waits = self.running.iter_mut().map(|child| Box::pin(child.process.wait()));
        let (status, index, _) = future::select_all(waits).await;
        let child = self.running.remove(index);
        let status = status.map_or_else(|error| error.to_string(), describe);
        (format!("{} (pid {})", child.name, child.pid), status)
    }

    /// Ask the last started ones first: each kind may need those before it to stop in order. Whoever is still there
    /// after `timeout` is killed.
    pub(super) async fn stop(&mut self, timeout: Duration) {
        let (first, rest): (Vec<Child>, Vec<Child>) =
            self.running.drain(..).partition(|child| child.name == "nats-server");
        self.running = rest;
        self.stop_all(timeout).await;
        self.running = first;
        self.stop_all(timeout).await;
    }

    async fn stop_all(&mut self, timeout: Duration) {
        for child in &self.running {
            child.signal(Signal::TERM);
        }
        let all = future::join_all(self.running.iter_mut().map(|child| child.process.wait()));
        let _ = tokio::time::timeout(timeout, all).await;
        self.kill().await;
    }

    /// End all that are left, at once.
    pub(super) async fn kill(&mut self) {
        for child in &mut self.running {
            let _ = child.process.kill().await;
        }
        self.running.clear();
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(9)) => "killed (signal 9)".to_owned(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
