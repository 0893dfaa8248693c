//! The loop of a service of WASI 0.3, which more than one may drive: its home, a task that has nothing else to do, and
//! whoever calls the service, on the thread that has the call. So a call that is answered at once costs no wake-up, and no
//! other thread.
//!
//! One at a time drives. A wake that comes meanwhile is held back until whoever drives is done, and passed on to the home
//! if there is still something to do: nobody else may be relied upon, since a caller can go away at any time.

use crate::{computing, lock};
use futures_util::task::AtomicWaker;
use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, TryLockError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

/// Polls in a row by a caller. A guest's loop yields between its callbacks, and is mostly done a turn or two later.
const POLLS_MAX: u32 = 4;

pub(super) struct Driven<T> {
    work: Mutex<Work<T>>,
    bell: Arc<Bell>,
    waker: Waker,
}

enum Work<T> {
    /// There is none, or its output was taken.
    Nothing,
    UnderWay(Pin<Box<dyn Future<Output = T> + Send>>),
    /// A caller drove it to its end.
    Over(T),
}

impl<T> Default for Driven<T> {
    fn default() -> Self {
        let bell = Arc::<Bell>::default();
        Self { work: Mutex::new(Work::Nothing), waker: bell.clone().into(), bell }
    }
}

impl<T> Driven<T> {
    /// For its home: drives `work` to its end, and drops it with this. Until the first poll nobody else can drive it.
    pub(super) async fn at_home(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        struct End<'a, T>(&'a Driven<T>);
        impl<T> Drop for End<'_, T> {
            fn drop(&mut self) {
                // Waits for a caller that drives it, which takes no longer than until the next epochs.
                drop(std::mem::replace(&mut *lock(&self.0.work), Work::Nothing));
            }
        }
        let _end = End(self);
        let mut work = Some(Box::pin(work));
        std::future::poll_fn(|cx| {
            self.bell.home.register(cx.waker());
            let mut place = match self.try_lock() {
                Some(place) => place,
                None => {
                    self.bell.missed.store(true, SeqCst);
                    // Once more: who drove it may have been done before that could be seen.
                    let Some(place) = self.try_lock() else { return Poll::Pending };
                    place
                }
            };
            if let Some(work) = work.take() {
                *place = Work::UnderWay(work);
            }
            self.poll(&mut place);
            match std::mem::replace(&mut *place, Work::Nothing) {
                Work::Over(output) => Poll::Ready(output),
                other => {
                    *place = other;
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// For a caller: gives the loop something to do with `order`, and drives it for a moment, unless somebody else does.
    pub(super) fn drive<R>(&self, order: impl FnOnce() -> R) -> R {
        let Some(mut place) = self.try_lock() else { return order() };
        if !matches!(*place, Work::UnderWay(_)) {
            self.leave(place, false);
            return order();
        }
        self.bell.held.store(true, SeqCst);
        let result = order();
        for _ in 0..POLLS_MAX {
            self.bell.rung.store(false, SeqCst);
            self.poll(&mut place);
            // What computes goes on at home, where it waits for its slices.
            if !self.bell.rung.load(SeqCst) || computing::is_interrupted() {
                break;
            }
        }
        self.bell.held.store(false, SeqCst);
        let is_over = matches!(*place, Work::Over(_));
        self.leave(place, is_over);
        result
    }

    /// A caller is done. The home may have come meanwhile, be it only to begin, and nobody else would tell it.
    fn leave(&self, place: MutexGuard<'_, Work<T>>, is_over: bool) {
        drop(place);
        if self.bell.missed.swap(false, SeqCst) || is_over || self.bell.rung.load(SeqCst) {
            self.bell.home.wake();
        }
    }

    fn poll(&self, place: &mut Work<T>) {
        if let Work::UnderWay(work) = place
            && let Poll::Ready(output) = work.as_mut().poll(&mut Context::from_waker(&self.waker))
        {
            *place = Work::Over(output);
        }
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Work<T>>> {
        match self.work.try_lock() {
            Ok(place) => Some(place),
            Err(TryLockError::Poisoned(place)) => Some(place.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Takes the wakes of the work.
#[derive(Default)]
struct Bell {
    home: AtomicWaker,
    /// A caller drives.
    held: AtomicBool,
    rung: AtomicBool,
    /// The home wanted to drive, and could not.
    missed: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, SeqCst);
        if !self.held.load(SeqCst) {
            self.home.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt as _, poll};
    use std::{pin::pin, sync::atomic::AtomicUsize};
    use tokio::sync::mpsc;

    /// Counts what it is told, and ends when nobody can tell it more.
    fn counts(
        counted: &Arc<AtomicUsize>,
    ) -> (mpsc::UnboundedSender<usize>, impl Future<Output = &'static str> + use<>) {
        let (tell, mut told) = mpsc::unbounded_channel();
        let counted = counted.clone();
        let work = async move {
            while let Some(more) = told.recv().await {
                yield_once().await;
                counted.fetch_add(more, SeqCst);
            }
            "over"
        };
        (tell, work)
    }

    /// As a guest's loop does: woken at once, whoever polls.
    async fn yield_once() {
        let mut is_done = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut is_done, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[tokio::test]
    async fn a_caller_drives_and_the_home_is_left_alone() {
        let (driven, counted) = (Driven::default(), Arc::default());
        let (tell, work) = counts(&counted);
        driven.drive(|| tell.send(1).unwrap());
        assert_eq!(counted.load(SeqCst), 0, "there is nothing to drive yet");
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut home = pin!(driven.at_home(work));
        let mut poll_home = || home.as_mut().poll(&mut Context::from_waker(&waker));
        while counted.load(SeqCst) == 0 {
            assert!(poll_home().is_pending());
        }
        let before = woken.0.load(SeqCst);
        for turn in 1..=3 {
            driven.drive(|| tell.send(1).unwrap());
            assert_eq!((counted.load(SeqCst), woken.0.load(SeqCst)), (1 + turn, before));
        }
        tell.send(1).unwrap();
        assert!(woken.0.load(SeqCst) > before, "nobody drives");
        while counted.load(SeqCst) < 5 {
            assert!(poll_home().is_pending());
        }
        let before = woken.0.load(SeqCst);
        driven.drive(|| drop(tell));
        assert!(woken.0.load(SeqCst) > before, "it is over");
        assert_eq!(poll_home(), Poll::Ready("over"));
    }

    #[tokio::test]
    async fn work_is_dropped_with_its_home() {
        let driven = Driven::<()>::default();
        let held = Arc::new(());
        let work = {
            let held = held.clone();
            async move {
                let _held = held;
                std::future::pending().await
            }
        };
        {
            let mut home = pin!(driven.at_home(work));
            assert!(poll!(home.as_mut()).is_pending());
            driven.drive(|| ());
            assert_eq!(Arc::strong_count(&held), 2);
        }
        assert_eq!(Arc::strong_count(&held), 1);
    }

    /// No order is forgotten, whoever drives when it comes.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_drive_at_a_time() {
        const CALLERS: usize = 8;
        const ORDERS: usize = 500;
        let (driven, counted) = (Arc::new(Driven::default()), Arc::default());
        let (tell, work) = counts(&counted);
        let home = tokio::spawn({
            let driven = driven.clone();
            async move { driven.at_home(work).await }
        });
        let callers = (0..CALLERS).map(|_| {
            let (driven, tell) = (driven.clone(), tell.clone());
            tokio::spawn(async move {
                for order in 0..ORDERS {
                    match order % 3 {
                        0 => tell.send(1).unwrap(),
                        _ => driven.drive(|| tell.send(1).unwrap()),
                    }
                    if order % 7 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            })
        });
        futures_util::future::join_all(callers.collect::<Vec<_>>()).await.into_iter().for_each(|done| done.unwrap());
        drop(tell);
        assert_eq!(home.await.unwrap(), "over");
        assert_eq!(counted.load(SeqCst), CALLERS * ORDERS);
        assert!(driven.at_home(async {}.map(|()| "again")).await == "again");
    }

    /// Who has nothing to drive may be in its way for a moment.
    #[test]
    fn a_home_that_can_not_begin_among_callers_is_told_when_it_can() {
        let began = std::time::Instant::now();
        let mut is_missed = false;
        while !is_missed && began.elapsed() < std::time::Duration::from_secs(30) {
            let (driven, is_over) = (Driven::default(), AtomicBool::new(false));
            let (woken, begun) = (Arc::new(Woken::default()), Arc::new(AtomicBool::new(false)));
            let work = {
                let begun = begun.clone();
                async move { begun.store(true, SeqCst) }
            };
            let mut home = pin!(driven.at_home(work));
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        while !is_over.load(SeqCst) {
                            driven.drive(|| ());
                        }
                    });
                }
                let waker = Waker::from(woken.clone());
                let _ = home.as_mut().poll(&mut Context::from_waker(&waker));
                is_over.store(true, SeqCst);
            });
            is_missed = !begun.load(SeqCst);
            assert!(!is_missed || woken.0.load(SeqCst) > 0, "nobody told it");
        }
        assert!(is_missed, "nobody was ever in its way");
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }
}
