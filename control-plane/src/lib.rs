//! The control plane of one node: admission, the view, the session, and the loop that makes this node's part of the
//! lattice match what was asked. There is no leader: every node runs this, and compare-and-set picks one winner.
//!
//! Decisions are in `lattice-planner`; here is what carries them out. It must not know what a component is (that is the
//! host's, behind [`lattice::host::Host`]) nor how HTTP travels.
//!
//! Start at [`ControlPlane::run`]; then `feed.rs` (how the view is kept), `session.rs` (being alive), `reconcile.rs`
//! (claims), `gpus.rs` (what runs here on GPUs), `rollouts.rs` (changes of what replicas run), `given.rs` and `roller.rs` (configuration by name),
//! `rebalancer.rs` (better places), `scheduler.rs` (ticks), `autoscaler.rs` (how many replicas), `backlogs.rs` (what waits at consumers), `vigils.rs` (messages for what rests), `admission/` (what people ask),
//! `reports.rs` (what nodes observe).

mod abort;
mod admission;
mod autoscaler;
mod backlogs;
mod cut_off;
mod demand;
mod events;
mod feed;
mod given;
mod gpus;
mod memory;
mod notices;
mod pace;
mod rebalancer;
mod reconcile;
mod reports;
mod roller;
mod rollouts;
mod scheduler;
mod session;
mod stored;
mod this_node;
mod vigils;

use admission::Admission;
use autoscaler::Autoscaler;
use demand::Awaited;
use events::Events;
use feed::Feed;
use lattice::{
    demand::Demand,
    event::EventKind,
    host::{Host, Providers, Role, SlowCall, Unfit},
    id::{LatticeId, NodeId},
    interface::Offers,
    messaging::{Messaging, NoMessaging},
    record::{Capacity, VolumeOffer},
    spec::Taint,
    store::{Connection, Platform},
    trigger::Trigger,
    view::LatticeView,
};
use memory::Memory;
use rebalancer::Rebalancer;
use reconcile::Reconciler;
use reports::{Reporter, Reports};
use roller::Roller;
use rollouts::Rollouts;
use scheduler::Scheduler;
use session::Member;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use this_node::ThisNode;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vigils::Vigils;

/// Says whether bytes are a component that some node could use in this role, where these provide some of its imports, and
/// which calls of those are slow.
pub type Inspector = Arc<dyn Fn(&[u8], Role, &Providers<'_>) -> Result<Vec<SlowCall>, Unfit> + Send + Sync>;

/// How fast a lattice notices and how much it writes at rest. All nodes of a lattice use the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two renewals of a session.
    pub renew: Duration,
    /// A node without an acknowledged renewal for this long (by its own monotonic clock, from the send) gives up its
    /// strict replicas.
    pub fence: Duration,
    /// A session that did not change for this long (by an observer's own monotonic clock) is removed. Longer than
    /// `fence`, with room for clocks that run at different rates.
    pub kill: Duration,
    /// Between two full snapshots, give or take half.
    pub resync: Duration,
    /// How much longer each next node of the ranking waits before it claims.
    pub claim_delay: Duration,
}

impl Timing {
    /// One server on the same machine.
    pub const DEV: Timing = Timing {
        renew: Duration::from_secs(1),
        fence: Duration::from_secs(4),
        kill: Duration::from_secs(5),
        resync: Duration::from_secs(30),
        claim_delay: Duration::from_millis(150),
    };
    /// Three servers: an unplanned change of the JetStream leader stops writes for 4 to 9 s.
    pub const PRODUCTION: Timing = Timing {
        renew: Duration::from_secs(3),
        fence: Duration::from_secs(12),
        kill: Duration::from_secs(15),
        resync: Duration::from_secs(60),
        claim_delay: Duration::from_millis(150),
    };
}

const _: () = assert!(Timing::DEV.fence.as_millis() * 5 / 4 <= Timing::DEV.kill.as_millis());
const _: () = assert!(Timing::PRODUCTION.fence.as_millis() * 5 / 4 <= Timing::PRODUCTION.kill.as_millis());

/// Who this node is and what it offers.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    pub lattice: LatticeId,
    pub node: NodeId,
    pub labels: BTreeMap<String, String>,
    pub version: String,
    pub capacity: Capacity,
    pub volumes: VolumeOffer,
    /// What keeps workloads away that do not tolerate it.
    pub taints: Vec<Taint>,
    /// The interfaces that components may import here; unknown where nothing is said, as by a node of an older version.
    pub offers: Option<Offers>,
    /// Where it takes HTTP, for people.
    pub http: Option<String>,
    pub timing: Timing,
    /// Longest time that leaving may take.
    pub drain: Duration,
    /// Where copies of the specs are kept, so that a store that lost them can be repaired. `None` keeps them in memory.
    pub data_dir: Option<PathBuf>,
}

/// Why a node stopped other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// Two processes use one node id.
    #[error(
        "another process joined lattice {lattice} as node {node}: give each node an id of its own (--id), or its own data directory (--data)"
    )]
    Displaced { lattice: LatticeId, node: NodeId },
    #[error("cannot keep state in {}: {source}", path.display())]
    DataDir { path: PathBuf, source: std::io::Error },
}

/// What `/readyz` asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    pub connected: bool,
    /// The view was loaded at least once.
    pub loaded: bool,
    /// The session is registered and was renewed within the fence time.
    pub member: bool,
    pub draining: bool,
}

impl Health {
    pub fn is_ready(&self) -> bool {
        self.connected && self.loaded && self.member && !self.draining
    }
}

/// The control plane of one node.
pub struct ControlPlane {
    options: Arc<NodeOptions>,
    platform: Platform,
    host: Arc<dyn Host>,
    inspect: Inspector,
    messaging: Arc<dyn Messaging>,
    view: watch::Sender<Arc<LatticeView>>,
    health: watch::Sender<Health>,
    reports: Reports,
    awaited: Awaited,
}

impl ControlPlane {
    pub fn new(options: NodeOptions, platform: Platform, host: Arc<dyn Host>, inspect: Inspector) -> Self {
        let view = watch::Sender::new(Arc::default());
        Self {
            options: Arc::new(options),
            host,
            inspect,
            messaging: Arc::new(NoMessaging),
            awaited: Awaited::new(&platform, view.subscribe()),
            view,
            health: watch::Sender::default(),
            reports: Reports::new(&platform),
            platform,
        }
    }

    /// With a way to the messages of workloads: without one it is not known how many wait.
    pub fn with_messaging(self, messaging: Arc<dyn Messaging>) -> Self {
        Self { messaging, ..self }
    }

    /// All records as this node last saw them.
    pub fn view(&self) -> watch::Receiver<Arc<LatticeView>> {
        self.view.subscribe()
    }

    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// What nodes said last of their replicas.
    pub fn reports(&self) -> Arc<dyn lattice::report::Reports> {
        Arc::new(self.reports.clone())
    }

    /// Who is to hear of requests that wait for a workload.
    pub fn demand(&self) -> Arc<dyn Demand> {
        Arc::new(self.awaited.clone())
    }

    /// Be a node until `stop`, then hand over, drain and leave. `trigger` delivers the ticks of schedules. Returns when
    /// nothing of this node runs any more.
    pub async fn run(self, trigger: Arc<dyn Trigger>, stop: CancellationToken) -> Result<(), ControlPlaneError> {
        let Self { options, platform, host, inspect, messaging, view, health, reports, awaited } = self;
        let events = Events::new(&options, &platform);
        let memory = Memory::open(options.data_dir.as_deref()).await?;
        // What runs until the very end, so that leaving is seen and answered.
        let ended = CancellationToken::new();
        let (member, mut keeper) = session::new(options.clone(), platform.clone(), events.clone(), host.clone());

        let feed = Feed::new(&options, &platform, &events, memory, host.clone(), member.clone(), view.clone());
        let resync = feed.resync_requests();
        let admission = Admission::new(
            options.clone(),
            platform.clone(),
            events.clone(),
            inspect,
            view.subscribe(),
            (reports.clone(), messaging.clone()),
        );
        let reporter = Reporter::new(
            options.clone(),
            platform.clone(),
            events.clone(),
            host.clone(),
            member.clone(),
            view.subscribe(),
            (reports.clone(), awaited.clone()),
        );
        let node = ThisNode {
            options: options.clone(),
            platform: platform.clone(),
            events: events.clone(),
            member: member.clone(),
            view: view.subscribe(),
        };
        let autoscaler = Autoscaler::new(node.clone(), reports.clone(), awaited.clone(), messaging.clone());
        let vigils = Vigils::new(node.clone(), awaited.clone(), messaging);
        let scheduler = Scheduler::new(node.clone(), trigger, awaited);
        let rollouts = Rollouts::new(node.clone(), reports);
        let roller = Roller::new(node.clone());
        let rebalancer = Rebalancer::new(node);
        let reconciler = Reconciler::new(
            options.clone(),
            platform.clone(),
            events.clone(),
            host.clone(),
            member.clone(),
            view.subscribe(),
            resync,
        );

        let work = async {
            tokio::select! { // each ends only with `ended`, which this block cancels last
                biased;
                result = keeper.run(view.subscribe(), ended.clone()) => result,
                () = feed.run() => Ok(()),
                () = admission.run() => Ok(()),
                () = reporter.run() => Ok(()),
                () = Box::pin(roller.run()) => Ok(()),
                () = Box::pin(rebalancer.run()) => Ok(()),
                () = report_health(&platform, &member, view.subscribe(), &health) => Ok(()),
                ((), (), (), (), ()) = async {
                    tokio::join!(
                        reconciler.run(stop.clone()),
                        scheduler.run(stop.clone()),
                        rollouts.run(stop.clone()),
                        autoscaler.run(stop.clone()),
                        vigils.run(stop.clone()),
                    )
                } => Ok(()),
            }
        };
        let result = Box::pin(work).await;
        health.send_modify(|health| health.member = false);
        ended.cancel();
        if result.is_err() {
            // Another process is this node now.
            host.apply(BTreeMap::new());
        }
        // While something runs on beyond the limit, the session stays: others must wait for the kill time.
        if result.is_ok() && host.observed().is_empty() {
            keeper.leave().await;
            events.send(EventKind::NodeLeft, &options.node, "stopped").await;
            if let Err(error) = platform.bus.flush().await {
                tracing::debug!(%error, "left without a last flush");
            }
        }
        result
    }
}

async fn report_health(
    platform: &Platform,
    member: &Member,
    view: watch::Receiver<Arc<LatticeView>>,
    health: &watch::Sender<Health>,
) {
    loop {
        let now = Health {
            connected: platform.bus.connection() == Connection::Up,
            loaded: view.borrow().is_loaded(),
            member: member.is_current(platform.clock.now()),
            draining: member.is_draining(),
        };
        health.send_if_modified(|health| std::mem::replace(health, now) != now);
        platform.clock.sleep(Duration::from_millis(100)).await;
    }
}
