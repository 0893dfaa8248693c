//! Fair shares of the processors. A guest that answers at once is polled like any other future and never comes here. One
//! that is interrupted by the epoch, because it computes, goes on only with a *slice*, of which there is one a processor;
//! workloads take turns for them by the time that they have had (`fair_queue.rs`). Guests of a workload whose requests
//! mostly compute need one from their start: else the first tick of each of many requests would come before everybody
//! else's. Who waited meets an epoch, too, at the first look after it, and has computed nothing: only a tick that came
//! within the poll tells.
//!
//! A slice is computed beside tokio's workers, on a thread of its own (`block_in_place`): as many workers as there are
//! processors go on looking at sockets and serving short requests meanwhile, and the system divides the processors between
//! them and those who compute.
//!
//! Start at [`Claim::poll`], through which each poll of a guest goes. It must not wait for a slice while it holds one: a
//! guest that is polled within another's poll (a part within its caller) computes in that one's slice.

mod fair_queue;

use crate::{engine::TICK, lock};
use fair_queue::{Answer, FairQueue, ShareId, Ticket};
use std::{
    cell::Cell,
    collections::BTreeMap,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    thread,
    time::Instant,
};
use tokio::runtime::{Handle, RuntimeFlavor};

/// A workload with fewer requests for each tick that meets one of its guests computes mostly: 1 ms a request or more. What
/// a slice costs beside the computing, some 20 µs, is then little.
const REQUESTS_PER_TICK: u32 = 10;
/// What is assumed of a workload of which nothing is known. Some ticks in a row show that it is wrong.
const REQUESTS_PER_TICK_AT_FIRST: u32 = 32;
/// For how long that counts after the last tick that met one of its guests.
const COMPUTES_TICKS: u64 = 25;

/// The processors of the node.
pub(crate) struct Processors {
    queue: Mutex<Queue>,
    /// Grants are out, so time matters.
    has_grants: AtomicBool,
    ticks: AtomicU64,
    shares: AtomicU64,
}

struct Queue {
    fair: FairQueue,
    wakers: BTreeMap<Ticket, Waker>,
}

/// What one workload has of them.
pub(crate) struct Share {
    id: ShareId,
    processors: Arc<Processors>,
    /// Since the last tick that met one of its guests.
    requests: AtomicU32,
    /// Smoothed.
    requests_per_tick: AtomicU32,
    computes_until: AtomicU64,
    /// Ticks that met one of its guests, each for itself.
    met: AtomicU64,
}

impl Processors {
    pub(crate) fn new() -> Arc<Self> {
        Self::with_slices(thread::available_parallelism().map_or(1, usize::from))
    }

    fn with_slices(slices: usize) -> Arc<Self> {
        let fair = FairQueue::new(slices, TICK.as_nanos() as u64);
        Arc::new(Self {
            queue: Mutex::new(Queue { fair, wakers: BTreeMap::new() }),
            has_grants: false.into(),
            ticks: 0.into(),
            shares: 0.into(),
        })
    }

    pub(crate) fn share(self: &Arc<Self>) -> Arc<Share> {
        Arc::new(Share {
            id: self.shares.fetch_add(1, Relaxed),
            processors: self.clone(),
            requests: 0.into(),
            requests_per_tick: REQUESTS_PER_TICK_AT_FIRST.into(),
            computes_until: 0.into(),
            met: 0.into(),
        })
    }

    /// With each epoch.
    pub(crate) fn tick(&self) {
        self.ticks.fetch_add(1, Relaxed);
        if !self.has_grants.load(Relaxed) {
            return;
        }
        let wakers: Vec<_> = self.with_queue(|queue| {
            let granted = queue.fair.tick();
            granted.into_iter().filter_map(|ticket| queue.wakers.remove(&ticket)).collect()
        });
        wakers.into_iter().for_each(Waker::wake);
    }

    fn with_queue<T>(&self, work: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = lock(&self.queue);
        let result = work(&mut queue);
        self.has_grants.store(queue.fair.has_grants(), Relaxed);
        result
    }

    /// Does what may be the turn of somebody else, who is woken then.
    fn pass_on(&self, work: impl FnOnce(&mut Queue) -> Option<Ticket>) {
        let waker = self.with_queue(|queue| work(queue).and_then(|ticket| queue.wakers.remove(&ticket)));
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Share {
    /// One more request goes to a guest.
    pub(crate) fn count_request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// A guest was interrupted. That happens by chance to each, the more often the more it computes: ticks are samples.
    fn count_tick(&self) {
        self.met.fetch_add(1, Relaxed);
        let requests = self.requests.swap(0, Relaxed);
        let so_far = self.requests_per_tick.load(Relaxed);
        let smoothed = (u64::from(so_far) * 3 + u64::from(requests)) / 4;
        let smoothed = u32::try_from(smoothed).unwrap_or(u32::MAX);
        self.requests_per_tick.store(smoothed, Relaxed);
        if smoothed < REQUESTS_PER_TICK {
            self.computes_until.store(self.now() + COMPUTES_TICKS, Relaxed);
        }
    }

    /// Ticks that met one of its guests, two that were met at once twice, and all ticks there were. The one by the other is
    /// how many processors it had, the more exactly the more ticks there were.
    pub(crate) fn ticks(&self) -> (u64, u64) {
        (self.met.load(Relaxed), self.now())
    }

    fn mostly_computes(&self) -> bool {
        self.now() < self.computes_until.load(Relaxed)
    }

    /// From the epoch's callback of one of its guests. True where it gives way; else the epoch is one that went by while
    /// the guest waited, and nobody polled it.
    pub(crate) fn interrupts(&self) -> bool {
        match TURN.get() {
            Turn::Guest { since } if since == self.now() => return false,
            Turn::Guest { .. } => TURN.set(Turn::Interrupted),
            Turn::Nobody | Turn::Interrupted => {}
        }
        true
    }

    fn now(&self) -> u64 {
        self.processors.ticks.load(Relaxed)
    }
}

/// What one guest has to do with slices, from its start to its end.
#[derive(Default)]
pub(crate) struct Claim {
    /// It waits for a slice, or has been granted one.
    waits: Option<(Ticket, Arc<Share>)>,
    /// It computes, and goes on with a slice.
    interrupted: bool,
}

impl Claim {
    /// Polls a guest, or does not where it must wait for a slice; it is woken then when it has one.
    pub(crate) fn poll<T>(
        &mut self,
        share: &Arc<Share>,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if TURN.get() != Turn::Nobody {
            return poll(cx);
        }
        let (polled, interrupted) = if self.is_short_of_time() || share.mostly_computes() {
            if !self.ask(share, cx.waker()) {
                return Poll::Pending;
            }
            let slice = Slice { share, began: Instant::now(), is_back: false };
            beside_workers(|| {
                let (polled, interrupted) = in_turn(share, cx, poll);
                if interrupted {
                    self.waits = Some((slice.give_way(cx.waker()), share.clone()));
                }
                (polled, interrupted)
            })
        } else {
            in_turn(share, cx, poll)
        };
        self.interrupted = interrupted;
        if interrupted {
            share.count_tick();
        }
        polled
    }

    /// True where the guest would compute, had it the time.
    pub(crate) fn is_short_of_time(&self) -> bool {
        self.interrupted || self.waits.is_some()
    }

    /// True where the guest was not polled, since it is not its turn.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waits.is_some() && !self.interrupted
    }

    fn ask(&mut self, share: &Arc<Share>, waker: &Waker) -> bool {
        let old = self.waits.as_ref().map(|(ticket, _)| *ticket);
        let answer = share.processors.with_queue(|queue| {
            let answer = queue.fair.ask(share.id, old);
            if let Answer::Wait(ticket) = answer {
                queue.wakers.insert(ticket, waker.clone());
            }
            answer
        });
        match answer {
            Answer::Compute => self.waits = None,
            Answer::Wait(ticket) if old != Some(ticket) => self.waits = Some((ticket, share.clone())),
            Answer::Wait(_) => {}
        }
        self.interrupted = false;
        self.waits.is_none()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some((ticket, share)) = self.waits.take() else { return };
        share.processors.pass_on(|queue| {
            queue.wakers.remove(&ticket);
            queue.fair.leave(share.id, ticket)
        });
    }
}

/// A future that computes in slices of that share.
pub(crate) async fn in_slices<F: Future>(share: &Arc<Share>, future: F) -> F::Output {
    let mut future = pin!(future);
    let mut claim = Claim::default();
    poll_fn(|cx| claim.poll(share, cx, |cx| future.as_mut().poll(cx))).await
}

/// Given back however the poll ends.
struct Slice<'a> {
    share: &'a Share,
    began: Instant,
    is_back: bool,
}

impl Slice<'_> {
    /// Gives it back, and asks for another one in the same breath: who asks only when it is polled next finds that the
    /// turn went to another, however little it has had itself.
    fn give_way(mut self, waker: &Waker) -> Ticket {
        self.is_back = true;
        let mut own = 0;
        self.share.processors.pass_on(|queue| {
            let (ticket, next) = queue.fair.give_way(self.share.id, self.took());
            queue.wakers.insert(ticket, waker.clone());
            own = ticket;
            next
        });
        own
    }

    fn took(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Drop for Slice<'_> {
    fn drop(&mut self) {
        if !self.is_back {
            self.share.processors.pass_on(|queue| queue.fair.give_back(self.share.id, self.took()));
        }
    }
}

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(Turn::Nobody) };
}

/// What this thread does.
#[derive(Clone, Copy, PartialEq)]
enum Turn {
    Nobody,
    /// A guest, polled since that tick.
    Guest {
        since: u64,
    },
    /// A guest, which met an epoch.
    Interrupted,
}

/// Whether a guest that this thread polls met an epoch, and is to give way.
pub(crate) fn is_interrupted() -> bool {
    TURN.get() == Turn::Interrupted
}

/// Polls the outermost guest of this thread. Answers whether it was interrupted as well.
fn in_turn<T>(share: &Share, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> (Poll<T>, bool) {
    struct Over;
    impl Drop for Over {
        fn drop(&mut self) {
            TURN.set(Turn::Nobody);
        }
    }
    TURN.set(Turn::Guest { since: share.now() });
    let _over = Over;
    let polled = poll(cx);
    let interrupted = polled.is_pending() && TURN.get() == Turn::Interrupted;
    (polled, interrupted)
}

/// Only a runtime with several threads can do without one of them.
fn beside_workers<T>(compute: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(compute),
        _ => compute(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker;
    use std::sync::atomic::AtomicUsize;

    /// A guest that computes in so many slices, and is interrupted between them.
    struct Guest {
        slices: usize,
        claim: Claim,
        share: Arc<Share>,
    }

    impl Guest {
        fn new(share: &Arc<Share>, slices: usize) -> Self {
            Self { slices, claim: Claim::default(), share: share.clone() }
        }

        /// Answers whether it computed.
        fn poll(&mut self, waker: &Waker) -> (Poll<()>, bool) {
            let mut computed = false;
            let left = &mut self.slices;
            let polled = self.claim.poll(&self.share, &mut Context::from_waker(waker), |_| {
                computed = true;
                *left -= 1;
                if *left == 0 {
                    return Poll::Ready(());
                }
                self.share.processors.ticks.fetch_add(1, Relaxed);
                assert!(self.share.interrupts());
                Poll::Pending
            });
            (polled, computed)
        }
    }

    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a_first_poll_is_free_and_a_second_takes_turns() {
        let processors = Processors::with_slices(1);
        let (one, other) = (processors.share(), processors.share());
        let mut long = [Guest::new(&one, 3), Guest::new(&one, 3)];
        let waker = noop_waker();
        assert!(long.iter_mut().all(|guest| guest.poll(&waker).1), "nobody knew yet that they compute");
        // Within a slice of the first one, as seen from another thread.
        let slice = Guest::new(&one, 1);
        let mut held = slice.claim;
        assert!(held.ask(&one, &waker));
        assert!(!long[0].poll(&waker).1 && long[0].claim.is_short_of_time());
        assert_eq!(Guest::new(&other, 1).poll(&waker), (Poll::Ready(()), true), "a short one waits for nobody");
        processors.pass_on(|queue| queue.fair.give_back(one.id, 1));
        assert!(long[0].poll(&waker).1);
    }

    #[test]
    fn who_waits_is_woken_when_its_turn_comes() {
        let processors = Processors::with_slices(1);
        let share = processors.share();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut holder = Claim::default();
        assert!(holder.ask(&share, &noop_waker()));
        let (mut first, mut second) = (Claim::default(), Claim::default());
        assert!(!first.ask(&share, &waker) && !first.ask(&share, &waker) && !second.ask(&share, &waker));
        processors.pass_on(|queue| queue.fair.give_back(share.id, 1));
        assert_eq!(count.0.load(Relaxed), 1, "one slice, one guest");
        drop(first);
        assert_eq!(count.0.load(Relaxed), 2, "it is passed on");
        // The second one is polled by nobody. Who comes later waits for two ticks, and not for ever.
        let mut third = Claim::default();
        assert!(!third.ask(&share, &waker));
        processors.tick();
        assert_eq!(count.0.load(Relaxed), 2);
        processors.tick();
        assert_eq!(count.0.load(Relaxed), 3);
        assert!(third.ask(&share, &waker));
        assert!(!second.ask(&share, &waker));
        drop((second, third));
        assert!(lock(&processors.queue).wakers.is_empty());
    }

    #[test]
    fn a_guest_within_another_computes_in_its_slice() {
        let processors = Processors::with_slices(1);
        let share = processors.share();
        let waker = noop_waker();
        let (mut outer, mut inner) = (Claim::default(), Claim::default());
        for turn in 0..3 {
            let polled = outer.poll(&share, &mut Context::from_waker(&waker), |cx| {
                inner.poll(&share, cx, |_| {
                    processors.ticks.fetch_add(1, Relaxed);
                    assert!(share.interrupts());
                    Poll::<()>::Pending
                })
            });
            assert!(polled.is_pending() && outer.is_short_of_time() && !inner.is_short_of_time(), "turn {turn}");
        }
    }

    /// What went by while it waited is no time that it computed.
    #[test]
    fn an_epoch_that_came_before_the_poll_interrupts_nobody() {
        let processors = Processors::with_slices(1);
        let share = processors.share();
        let mut claim = Claim::default();
        let mut poll = |tick: &dyn Fn()| {
            let polled = claim.poll(&share, &mut Context::from_waker(&noop_waker()), |_| {
                assert!(!share.interrupts());
                tick();
                share.interrupts();
                Poll::<()>::Pending
            });
            assert!(polled.is_pending());
            claim.is_short_of_time()
        };
        for _ in 0..3 {
            processors.tick();
            assert!(!poll(&|| ()));
        }
        assert_eq!(share.requests_per_tick.load(Relaxed), REQUESTS_PER_TICK_AT_FIRST);
        assert!(poll(&|| processors.tick()), "the next one does");
    }

    /// A guest that only waits, and one that computes as long, in a real unit.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_workload_that_waits_does_not_count_as_one_that_computes() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests");
        let dir = std::env::var_os("LATTICE_GUESTS").map_or(path, Into::into);
        let bytes = bytes::Bytes::from(std::fs::read(dir.join("faults.wasm")).expect("run `cargo xtask guests` first"));
        let code = tempfile::tempdir().unwrap();
        let runtime = crate::Runtime::new(crate::RuntimeOptions::new(code.path())).unwrap();
        let component = runtime.load(lattice::id::Digest::of(&bytes), bytes).await.unwrap();
        let assembly = runtime.assemble(component, Vec::new(), Vec::new()).unwrap();
        let config = crate::UnitConfig {
            workload: lattice::id::WorkloadName::new("waits").unwrap(),
            replica: 0,
            generation: lattice::id::Generation::FIRST,
            env: BTreeMap::new(),
            config: BTreeMap::new(),
            secrets: Arc::default(),
            reuse: crate::Reuse::default(),
            limits: crate::Limits { cpu: std::time::Duration::from_millis(200), ..crate::Limits::default() },
            grants: lattice::spec::Grants::default(),
            account: None,
            volumes: Vec::new(),
            by_function: false,
            logs: Arc::new(Silent),
        };
        let unit = crate::Unit::start(&runtime, assembly, config).await.unwrap();
        let share = unit.0.blueprint.node.processors.clone();
        let get = |path: &str| http::Request::get(path).header("host", "a.test").body(lattice::http::empty()).unwrap();
        for _ in 0..20 {
            let answer = unit.call(get("/sleep/25")).await.unwrap();
            assert!(answer.status().is_success());
        }
        assert!(!share.mostly_computes(), "{:?}", share.requests_per_tick);
        for _ in 0..8 {
            assert!(unit.call(get("/loop")).await.is_err(), "it ends with its processor time");
        }
        assert!(share.mostly_computes());
    }

    struct Silent;

    impl crate::LogSink for Silent {
        fn line(&self, _: Option<u64>, _: crate::LogStream, _: Option<lattice::trace::TraceContext>, _: &str) {}
    }

    /// One sample tells nothing, some in a row do, and a while without any makes up for it.
    #[test]
    fn a_workload_that_mostly_computes_waits_before_it_starts() {
        let processors = Processors::with_slices(1);
        let (short, long) = (processors.share(), processors.share());
        for _ in 0..20 {
            (0..500).for_each(|_| short.count_request());
            short.count_tick();
            long.count_request();
            long.count_tick();
        }
        assert!(!short.mostly_computes() && long.mostly_computes());
        (0..COMPUTES_TICKS).for_each(|_| processors.tick());
        assert!(!long.mostly_computes());
    }
}
