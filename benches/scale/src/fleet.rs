//! The processes of all nodes, and what each sees.

use crate::{
    Args,
    node::Seen,
    report::{processor_time, resident},
};
use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    sync::watch,
};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(600);

/// Dropping it kills them all.
pub(crate) struct Fleet {
    nodes: Vec<Node>,
}

struct Node {
    process: Child,
    /// It ends when this is dropped.
    _input: ChildStdin,
    seen: watch::Receiver<Seen>,
}

impl Fleet {
    /// All of them at the same moment. What they keep is below `dir`.
    pub(crate) fn start(args: &Args, nats: &str, dir: &Path) -> Result<Self> {
        let nodes = (0..args.nodes).map(|number| Node::start(args, nats, number, dir));
        Ok(Self { nodes: nodes.collect::<Result<_>>()? })
    }

    /// Until every node sees it so.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Seen) -> bool + Copy) -> Result<()> {
        let begin = Instant::now();
        for (number, node) in self.nodes.iter().enumerate() {
            let mut seen = node.seen.clone();
            let left = PATIENCE.saturating_sub(begin.elapsed());
            let found = tokio::time::timeout(left, seen.wait_for(is_so)).await;
            let last = *node.seen.borrow();
            ensure!(matches!(found, Ok(Ok(_))), "{what}: n{number} sees {last:?}");
        }
        Ok(())
    }

    /// The newest revision that any node saw.
    pub(crate) fn head(&self) -> u64 {
        self.nodes.iter().map(|node| node.seen.borrow().head).max().unwrap_or(0)
    }

    /// kill -9 of all.
    pub(crate) async fn kill(&mut self) {
        let killed = self.nodes.iter_mut().map(|node| node.process.kill());
        // One that was gone before is gone.
        join_all(killed).await.into_iter().for_each(drop);
    }

    fn processes(&self) -> impl Iterator<Item = u32> {
        self.nodes.iter().filter_map(|node| node.process.id())
    }

    pub(crate) fn processor_time(&self) -> Duration {
        self.processes().map(processor_time).sum()
    }

    /// Bytes of their memory.
    pub(crate) fn resident(&self) -> u64 {
        self.processes().map(resident).sum()
    }
}

impl Node {
    fn start(args: &Args, nats: &str, number: u32, dir: &Path) -> Result<Self> {
        let data = dir.join(format!("n{number}"));
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["node", "--nats", nats, "--number", &number.to_string()]);
        command.args(["--slots", &(args.workloads * args.replicas).to_string()]).arg("--data").arg(data);
        command.args(args.dev.then_some("--dev"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().context("a node does not start")?;
        let input = process.stdin.take().context("its input is piped")?;
        let mut lines = BufReader::new(process.stdout.take().context("its output is piped")?).lines();
        let (tell, seen) = watch::channel(Seen::default());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(seen) = line.parse() {
                    tell.send_replace(seen);
                }
            }
        });
        Ok(Self { process, _input: input, seen })
    }
}
