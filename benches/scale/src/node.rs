//! One node: a real control plane over a host that has everything ready as soon as it is asked for. What it sees it says on its
//! standard output, a line for each change.

use crate::{connect, lattice_id};
use anyhow::{Result, bail};
use clap::Args;
use lattice::{
    Fut,
    host::{Assignment, Host, Observed},
    id::{NodeId, SlotId},
    record::{Capacity, Phase},
    store::Bucket,
    trigger::{Tick, Trigger},
    view::LatticeView,
};
use lattice_control_plane::{ControlPlane, NodeOptions, Timing};
use std::{
    collections::BTreeMap,
    fmt,
    io::Read as _,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Between two looks at the view. What is timed is no better known than this.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Args)]
pub(crate) struct NodeArgs {
    #[arg(long)]
    pub(crate) nats: String,
    #[arg(long)]
    pub(crate) number: u32,
    #[arg(long)]
    pub(crate) slots: u32,
    #[arg(long)]
    pub(crate) dev: bool,
    #[arg(long)]
    pub(crate) data: PathBuf,
}

/// What a node's view shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) sessions: usize,
    /// Replicas that are ready and whose holders live.
    pub(crate) ready: usize,
    /// The oldest revision of a slot.
    pub(crate) oldest: u64,
    /// The newest revision of the bucket of states.
    pub(crate) head: u64,
}

impl Seen {
    fn of(view: &LatticeView) -> Self {
        let ready = view.slots.values().filter(|slot| slot.record.phase == Phase::Ready);
        Self {
            sessions: view.sessions.len(),
            ready: ready.filter(|slot| view.live(&slot.record.holder).is_some()).count(),
            oldest: view.slots.values().map(|slot| slot.revision.0).min().unwrap_or(0),
            head: view.seen.get(&Bucket::State).map_or(0, |seen| seen.head),
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, ready, oldest, head } = self;
        write!(f, "{sessions} {ready} {oldest} {head}")
    }
}

impl FromStr for Seen {
    type Err = anyhow::Error;
    fn from_str(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[sessions, ready, oldest, head] = words.as_slice() else { bail!("{line:?} is no line of a node") };
        Ok(Self { sessions: sessions.parse()?, ready: ready.parse()?, oldest: oldest.parse()?, head: head.parse()? })
    }
}

/// Until its standard input ends: with the process that started it.
pub(crate) async fn run(args: &NodeArgs) -> Result<()> {
    let nats = connect(&args.nats).await?;
    let platform = nats.open(&lattice_id()?, true).await?;
    let zone = if args.number.is_multiple_of(2) { "a" } else { "b" };
    let options = NodeOptions {
        lattice: lattice_id()?,
        node: NodeId::new(format!("n{}", args.number))?,
        labels: BTreeMap::from([("zone".to_owned(), zone.to_owned())]),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capacity: Capacity { memory: 1 << 42, slots: args.slots, millicores: 0 },
        volumes: Default::default(),
        taints: Vec::new(),
        offers: None,
        http: None,
        timing: if args.dev { Timing::DEV } else { Timing::PRODUCTION },
        drain: Duration::from_secs(30),
        data_dir: Some(args.data.clone()),
    };
    let control = ControlPlane::new(options, platform, Arc::<StubHost>::default(), Arc::new(|_, _, _| Ok(Vec::new())));
    let mut view = control.view();
    std::thread::spawn(|| {
        // It ends, or fails, when nobody holds the other side.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let tell = async {
        let mut last = Seen::default();
        while view.changed().await.is_ok() {
            let seen = Seen::of(&view.borrow_and_update());
            if (seen.sessions, seen.ready, seen.oldest) != (last.sessions, last.ready, last.oldest) {
                println!("{seen}");
                last = seen;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! { // neither ends while the process is to live
        ended = control.run(Arc::new(StubTrigger), CancellationToken::new()) => Ok(ended?),
        () = tell => Ok(()),
    }
}

/// Has everything ready as soon as it is asked for.
#[derive(Default)]
struct StubHost {
    wanted: Mutex<BTreeMap<SlotId, Assignment>>,
    changed: Notify,
}

impl Host for StubHost {
    fn apply(&self, wanted: BTreeMap<SlotId, Assignment>) {
        let mut there = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if *there != wanted {
            *there = wanted;
            self.changed.notify_one();
        }
    }

    fn observed(&self) -> BTreeMap<SlotId, Observed> {
        let observed = |wanted: &Assignment| Observed {
            uid: wanted.uid,
            generation: wanted.generation,
            phase: Phase::Ready,
            message: None,
            failures: 0,
            configs: wanted.configs.clone(),
        };
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().map(|(slot, wanted)| (slot.clone(), observed(wanted))).collect()
    }

    fn changed(&self) -> Fut<'_, ()> {
        Box::pin(self.changed.notified())
    }
}

struct StubTrigger;

impl Trigger for StubTrigger {
    fn fire(&self, _: Tick) -> Fut<'static, Result<u16, String>> {
        Box::pin(std::future::ready(Ok(200)))
    }
}
