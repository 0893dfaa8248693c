//! Workloads beside each other: what a flood of one does to another.

use super::*;
use rustix::time::{ClockId, clock_gettime};

/// Processor time of this process so far.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A node of its own: other tests compute as well.
struct Node {
    runtime: Runtime,
    _dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new(RuntimeOptions::new(dir.path().join("code"))).unwrap();
        Self { runtime, _dir: dir }
    }

    async fn start(&self, name: &str, workload: &str, change: impl FnOnce(&mut UnitConfig)) -> Arc<Unit> {
        let bytes = guest(name);
        let component = self.runtime.load(Digest::of(&bytes), bytes).await.unwrap();
        let mut config = UnitConfig { workload: WorkloadName::new(workload).unwrap(), ..config() };
        change(&mut config);
        Arc::new(Unit::start(&self.runtime, alone(&self.runtime, component), config).await.unwrap())
    }
}

/// Requests that compute without end, always so many of them.
fn flood(unit: &Arc<Unit>, requests: usize) -> Vec<tokio::task::JoinHandle<()>> {
    let one = |unit: Arc<Unit>| async move {
        loop {
            let _ = unit.call(get("/loop")).await;
        }
    };
    (0..requests).map(|_| tokio::spawn(one(unit.clone()))).collect()
}

/// In turns of 10 ms for each request, as they come, one short request would wait for 0.6 s of processor time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_computations_lets_others_answer_at_once() {
    const FLOOD: usize = 60;
    for version in BOTH {
        let node = Node::new();
        let flooded = node.start(faults(version), "flooded", |_| ()).await;
        let victim = node.start(&hello(version), "victim", |_| ()).await;
        let flood = flood(&flooded, FLOOD);
        until("the flood is there", || flooded.stats().in_flight as usize == FLOOD).await;
        let mut meanwhile = Vec::new();
        for _ in 0..21 {
            let (victim, before) = (victim.clone(), spent());
            // A task of its own, as a connection is.
            tokio::spawn(async move { text(&victim, get("/")).await.unwrap() }).await.unwrap();
            meanwhile.push(spent() - before);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        meanwhile.sort();
        let median = meanwhile[meanwhile.len() / 2];
        assert!(median < Duration::from_millis(200), "{version}: {meanwhile:?}");
        assert_eq!(flooded.stats().in_flight as usize, FLOOD, "{version}: nobody was turned away");
        flood.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Two workloads that both compute share alike, however many requests each has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn computations_of_two_workloads_share_alike() {
    let node = Node::new();
    let limit = |config: &mut UnitConfig| config.limits.cpu = Duration::from_millis(300);
    let (many, few) = (node.start("faults", "many", limit).await, node.start("faults", "few", limit).await);
    let (one, other) = (flood(&many, 40), flood(&few, 4));
    // Each ends after 0.3 s of processor time, so what ended tells what was had.
    let ended = |unit: &Unit| unit.stats().failures;
    until("the few have had their part", || ended(&few) >= 10).await;
    let (many, few) = (ended(&many), ended(&few));
    assert!(many < 30, "{many} against {few}");
    one.iter().chain(&other).for_each(tokio::task::JoinHandle::abort);
}

/// What a flood can take of the node's instances leaves others theirs.
#[tokio::test]
async fn a_flood_of_instances_leaves_others_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = RuntimeOptions::new(dir.path().join("code"));
    options.max_instances = 12;
    let node = Node { runtime: Runtime::new(options).unwrap(), _dir: dir };
    let flooded = node.start("faults", "flooded", |_| ()).await;
    let victim = node.start("faults", "victim", |config| config.reuse.min_warm = 0).await;
    let calls: Vec<_> = (0..20).map(|_| tokio::spawn(flooded.call(get("/sleep/60000")))).collect();
    until("it has all that it gets", || calls.iter().filter(|call| call.is_finished()).count() == 11).await;
    assert_eq!(flooded.stats().instances_live, 9, "of twelve three are the other's");
    let answers = futures_util::future::join_all((0..3).map(|_| text(&victim, get("/sleep/50")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!((victim.stats().instances_live, flooded.stats().instances_live), (3, 9));
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}
