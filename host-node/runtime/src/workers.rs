//! Instances that serve several requests at a time: `wasi:http/handler@0.3` with [`Reuse::concurrency`] above 1.
//!
//! Such an instance is idle in the pool like any other, or at work: from its first request until its guest has nothing
//! left to do. Meanwhile it is a [`Worker`] that further requests may join. `session.rs` is what it does, `call.rs` the
//! way of a request through it, `cpu.rs` tells who uses its processor time.
//!
//! What one request can do to its neighbours: a trap or a spent processor time ends the instance for all of them, since
//! they share one memory; those that can be are repeated on an instance of their own. Silence ends nobody else: the
//! instance takes no more requests, and goes when the others are done. A single guest task cannot be ended from outside.
//!
//! [`Reuse::concurrency`]: crate::Reuse::concurrency

mod call;
mod cpu;
mod session;

pub(crate) use call::call;

use crate::{
    body::RequestBody,
    exchange::{Shared, has_no_body_by_status},
    failure::{Failure, NoRoom},
    lock,
    pool::{Instance, Pool, Retirement},
    terms::Terms,
    unit::Inner,
};
use http::StatusCode;
use std::{
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    time::Instant,
};

/// Requests that an instance takes before it must have been without work once: tasks that guests leave behind pile up
/// to this many at most, and what can only be looked at in an idle instance is looked at.
const REQUESTS_BEFORE_REST: u32 = 1024;

/// The instances of one unit that are at work.
pub(crate) struct Workers {
    /// Requests at a time in one instance.
    seats: u32,
    instances_max: u32,
    all: Mutex<Vec<Arc<Worker>>>,
    /// There is one worker less, or one less that counts.
    freed: Arc<Notify>,
}

/// Where a request goes.
enum Place {
    /// To a worker that was there.
    Joined(Arc<Worker>),
    /// It is the first one of a worker, whose session is yet to be run, with a kept instance or a fresh one.
    Begun(Arc<Worker>, Option<Instance>),
}

impl Workers {
    pub(crate) fn new(seats: u32, instances_max: u32) -> Self {
        Self { seats, instances_max, all: Mutex::default(), freed: Arc::default() }
    }

    /// True if instances serve more than one request at a time.
    pub(crate) fn share(&self) -> bool {
        self.seats > 1
    }

    /// A place for the request: beside others if there is one, so that instances which wait do so for many; else in a
    /// kept instance, else in a fresh one, else in line before an instance that computes. None for one that may enter
    /// fresh instances only, where there are as many instances as may be.
    fn place(&self, pool: &Pool, ticket: &Arc<Ticket>) -> Option<Place> {
        let mut all = lock(&self.all);
        let proved = pool.standing().is_proved();
        let join = |all: &[Arc<Worker>], in_line: bool| {
            let mut able: Vec<_> =
                all.iter().filter_map(|worker| Some((worker.seats_taken(self.seats, in_line)?, worker))).collect();
            // The fullest one that waits, and of lines the shortest.
            able.sort_by_key(|(taken, _)| if in_line { *taken } else { u32::MAX - *taken });
            able.into_iter().map(|(_, worker)| worker).find(|worker| worker.join(ticket, in_line, proved)).cloned()
        };
        if let Some(worker) = join(&all, false) {
            return Some(Place::Joined(worker));
        }
        let kept = pool.take(ticket.terms.tries);
        // Those on their way out do not count, within bounds.
        let serving = all.iter().filter(|worker| worker.is_serving()).count() + pool.idle() as usize;
        let most = self.instances_max as usize;
        // What is idle then is of no use to this request, and makes room: nobody might ever tell it that it is gone.
        if kept.is_none() && (all.len() >= 2 * most || serving >= most && !pool.evict()) {
            return join(&all, true).map(Place::Joined);
        }
        let uses = kept.as_ref().map_or(0, |instance| instance.uses);
        let worker = Arc::new(Worker::new(uses, pool.requests_max(), self.freed.clone()));
        worker.join(ticket, false, proved);
        all.push(worker.clone());
        Some(Place::Begun(worker, kept))
    }

    /// Every worker takes no more requests.
    pub(crate) fn retire_all(&self, reason: Retirement) {
        for worker in lock(&self.all).iter() {
            worker.retire(reason);
        }
    }

    fn remove(&self, worker: &Arc<Worker>) {
        lock(&self.all).retain(|other| !Arc::ptr_eq(other, worker));
        self.freed.notify_waiters();
    }

    /// True if more instances than are serving wait for the end of their last requests.
    fn is_retiring_too_many(&self) -> bool {
        let all = lock(&self.all);
        all.iter().filter(|worker| worker.is_on_its_way_out()).count() > self.instances_max as usize
    }
}

/// A request on its way through a worker.
struct Ticket {
    terms: Terms,
    exchange: Arc<Shared>,
    /// No body is to be answered, whatever the status.
    is_head: bool,
    deadline: Instant,
    /// Until it enters the guest.
    request: Mutex<Option<http::Request<RequestBody>>>,
    /// Its place in the unit, kept for as long as the guest is at work on it.
    turn: Mutex<Option<OwnedSemaphorePermit>>,
    /// It did not enter the guest and is to go elsewhere.
    bounced: AtomicBool,
    /// The instance had served others before.
    reused: AtomicBool,
    /// The caller went away.
    abandoned: AtomicBool,
}

impl Ticket {
    fn has_no_body(&self, status: StatusCode) -> bool {
        self.is_head || has_no_body_by_status(status)
    }

    fn bounce(&self) {
        self.bounced.store(true, Relaxed);
        self.exchange.wake_caller();
    }

    fn may_be_reuse(&self, failure: &Failure) -> bool {
        self.reused.load(Relaxed) && failure.may_be_reuse(self.exchange.request_is_read())
    }
}

/// An instance at work, as others see it.
pub(crate) struct Worker {
    uses_before: u32,
    requests_max: u32,
    state: Mutex<State>,
    /// To be told when it no longer counts among those that serve.
    freed: Arc<Notify>,
}

struct State {
    /// Not yet in the guest, and whether they wait however long it takes.
    line: Vec<(Arc<Ticket>, bool)>,
    inside: Vec<Inside>,
    /// Requests that have entered the guest since it was idle.
    entered: u32,
    /// Whoever joins now is soon served: the guest waits, or has not been asked yet.
    is_open: bool,
    /// It takes no more requests, for this reason.
    retiring: Option<Retirement>,
    /// A task of the guest goes on past its time, and nothing ends it but the end of the instance.
    timed_out: bool,
    /// It ends now, whoever is inside.
    cut: Option<Failure>,
    /// Heads that their callers do not know of yet.
    answered: Vec<Arc<Shared>>,
    /// Nobody is inside since.
    empty_since: Instant,
    /// Of the last one that left, while the guest goes on: a drain waits for that.
    last_turn: Option<OwnedSemaphorePermit>,
    session: Option<Waker>,
}

struct Inside {
    ticket: Arc<Ticket>,
    /// For the head; after it, the end of the longest silence.
    deadline: Instant,
}

impl Worker {
    fn new(uses_before: u32, requests_max: u32, freed: Arc<Notify>) -> Self {
        let state = State {
            line: Vec::new(),
            inside: Vec::new(),
            entered: 0,
            is_open: true,
            retiring: None,
            timed_out: false,
            cut: None,
            answered: Vec::new(),
            empty_since: Instant::now(),
            last_turn: None,
            session: None,
        };
        let requests_max = requests_max.saturating_sub(uses_before).clamp(1, REQUESTS_BEFORE_REST);
        Self { uses_before, requests_max, state: Mutex::new(state), freed }
    }

    /// Seats that are taken, if another one may be; `in_line` also where the guest computes.
    fn seats_taken(&self, seats: u32, in_line: bool) -> Option<u32> {
        let state = lock(&self.state);
        let taken = (state.line.len() + state.inside.len()) as u32;
        let requests = state.entered + state.line.len() as u32;
        let free = taken < seats && requests < self.requests_max && state.retiring.is_none();
        (free && (in_line || state.is_open)).then_some(taken)
    }

    /// False for one that may not enter, in line or not: it would wait until the guest has no work left, which takes as long
    /// as the longest exchange of another, and nobody behind it could enter either.
    fn join(&self, ticket: &Arc<Ticket>, in_line: bool, proved: bool) -> bool {
        let mut state = lock(&self.state);
        let is_first = self.uses_before + state.entered == 0 && state.line.is_empty();
        let fits = is_first || proved || ticket.terms.tries;
        if !fits || state.retiring.is_some() {
            return false;
        }
        ticket.bounced.store(false, Relaxed);
        state.line.push((ticket.clone(), in_line));
        if let Some(session) = state.session.take() {
            session.wake();
        }
        true
    }

    /// It takes requests, now or when others are done; or it has none, and is in the pool in a moment.
    fn is_serving(&self) -> bool {
        let state = lock(&self.state);
        match state.retiring {
            None => state.entered + (state.line.len() as u32) < self.requests_max,
            Some(reason) => reason == Retirement::Idle,
        }
    }

    fn is_retiring(&self) -> bool {
        lock(&self.state).retiring.is_some()
    }

    /// It takes no more requests and waits for its last ones. One that has none goes back to the pool in a moment.
    fn is_on_its_way_out(&self) -> bool {
        lock(&self.state).retiring.is_some_and(|reason| reason != Retirement::Idle)
    }

    /// It takes no more requests. Those in line go elsewhere.
    fn retire(&self, reason: Retirement) {
        let line = {
            let mut state = lock(&self.state);
            state.retiring.get_or_insert(reason);
            if let Some(session) = state.session.take() {
                session.wake();
            }
            mem::take(&mut state.line)
        };
        self.freed.notify_waiters();
        line.iter().for_each(|(ticket, _)| ticket.bounce());
    }

    /// From inside: the next request, if it may enter. What its caller took back is left out.
    fn enter(&self, proved: bool) -> Option<(Arc<Ticket>, http::Request<RequestBody>)> {
        let mut state = lock(&self.state);
        loop {
            let (ticket, _) = state.line.first()?;
            if !proved && !ticket.terms.tries && self.uses_before + state.entered > 0 {
                return None;
            }
            let ticket = ticket.clone();
            state.line.remove(0); // a line is short
            let Some(request) = lock(&ticket.request).take() else { continue };
            ticket.reused.store(self.uses_before + state.entered > 0, Relaxed);
            state.entered += 1;
            state.last_turn = None;
            state.inside.push(Inside { deadline: ticket.deadline, ticket: ticket.clone() });
            if state.entered == self.requests_max {
                self.freed.notify_waiters();
            }
            return Some((ticket, request));
        }
    }

    /// From inside: there is a head.
    fn answered(&self, ticket: &Ticket) {
        lock(&self.state).answered.push(ticket.exchange.clone());
    }

    /// Somebody is no longer inside. False if that was known.
    fn left(&self, ticket: &Arc<Ticket>) -> bool {
        let mut state = lock(&self.state);
        let Some(at) = state.inside.iter().position(|inside| Arc::ptr_eq(&inside.ticket, ticket)) else { return false };
        state.inside.swap_remove(at);
        if state.inside.is_empty() {
            state.empty_since = Instant::now();
        }
        true
    }

    /// The turn of one that went well is free again, unless the guest may have work left and this was the last one.
    fn give_back_turn(&self, ticket: &Ticket) {
        let turn = lock(&ticket.turn).take();
        let mut state = lock(&self.state);
        if state.inside.is_empty() {
            state.last_turn = turn;
        }
    }

    /// From inside: true if nobody is there or in line, and then nobody joins any more. Who cannot enter this instance is
    /// sent elsewhere.
    fn close(&self) -> bool {
        let line = {
            let mut state = lock(&self.state);
            if !state.inside.is_empty() {
                return false;
            }
            state.retiring.get_or_insert(Retirement::Idle);
            mem::take(&mut state.line)
        };
        line.iter().for_each(|(ticket, _)| ticket.bounce());
        true
    }

    /// The caller of a request went away. Nothing can end the guest's task but the end of the instance, so that happens
    /// only where it was for this request alone; else the guest goes on, until the deadline at most.
    fn abandon(&self, ticket: &Arc<Ticket>) {
        ticket.abandoned.store(true, Relaxed);
        let mut state = lock(&self.state);
        if lock(&ticket.request).take().is_some() {
            state.line.retain(|(other, _)| !Arc::ptr_eq(other, ticket));
            return;
        }
        let is_alone =
            state.line.is_empty() && matches!(state.inside.as_slice(), [inside] if Arc::ptr_eq(&inside.ticket, ticket));
        if is_alone {
            state.retiring.get_or_insert(Retirement::Cancelled);
            state.cut = Some(Failure::Cancelled);
        }
        let session = state.session.take();
        drop(state);
        ticket.exchange.body_was_read();
        if let Some(session) = session {
            session.wake();
        }
    }
}

/// What the session does about time. All of it from outside of the guest, which may compute.
impl Worker {
    /// Before the guest runs.
    fn runs(&self, session: &Waker) -> Option<Failure> {
        let mut state = lock(&self.state);
        state.is_open = false;
        state.session = Some(session.clone());
        state.cut.take()
    }

    fn is_cut(&self) -> bool {
        lock(&self.state).cut.is_some()
    }

    /// A task of the guest goes on past its time, and nobody else is inside.
    fn has_timed_out(&self) -> bool {
        let state = lock(&self.state);
        state.timed_out && state.inside.is_empty()
    }

    fn has_answered(&self) -> bool {
        !lock(&self.state).answered.is_empty()
    }

    /// After the guest ran: it waits, or it computes and has to let others run. Callers hear of their heads, and who
    /// could not enter goes elsewhere.
    fn waits(&self, computes: bool) {
        let (answered, line) = {
            let mut state = lock(&self.state);
            state.is_open = !computes && state.line.is_empty();
            let go: Vec<_> = state.line.extract_if(.., |(_, in_line)| !*in_line).collect();
            (mem::take(&mut state.answered), go)
        };
        answered.iter().for_each(|exchange| exchange.announce());
        line.iter().for_each(|(ticket, _)| ticket.bounce());
    }

    /// The guest is in nobody's task, and has yet to get a processor. Whoever is there or joins gets it as well.
    fn waits_for_its_turn(&self) {
        lock(&self.state).is_open = true;
    }

    /// When somebody's time is up next.
    fn alarm(&self, wall: Duration) -> Instant {
        let state = lock(&self.state);
        let inside = state.inside.iter().map(|inside| inside.deadline);
        let line = state.line.iter().map(|(ticket, _)| ticket.deadline);
        inside.chain(line).min().unwrap_or(state.empty_since + wall)
    }

    /// Ends the wait of those whose time is up, and that for a guest that has nobody's request left.
    fn expire(&self, unit: &Inner, now: Instant) {
        let wall = unit.blueprint.limits.wall;
        let timeout = Failure::Wall { limit: wall };
        let (late, unserved, lingers) = {
            let mut state = lock(&self.state);
            let mut late = Vec::new();
            state.inside.retain_mut(|inside| {
                let exchange = &inside.ticket.exchange;
                if now < inside.deadline {
                    return true;
                }
                if exchange.has_head() && exchange.moved.swap(false, Relaxed) {
                    inside.deadline = now + wall;
                    return true;
                }
                late.push(inside.ticket.clone());
                false
            });
            let unserved: Vec<_> = state.line.extract_if(.., |(ticket, _)| now >= ticket.deadline).collect();
            let is_empty = state.inside.is_empty() && state.line.is_empty();
            let lingers = is_empty && late.is_empty() && now >= state.empty_since + wall;
            state.timed_out |= lingers || !late.is_empty();
            (late, unserved, lingers)
        };
        // Before a caller hears of it, who may have more to ask.
        if lingers || !late.is_empty() {
            self.retire(Retirement::Timeout);
        }
        for ticket in &late {
            let gone = ticket.abandoned.load(Relaxed);
            self.failed(unit, ticket, if gone { Failure::Cancelled } else { timeout.clone() });
        }
        if lingers {
            unit.note_failure(&timeout);
        }
        for (ticket, _) in unserved {
            let _ = ticket.exchange.conclude(Err(Failure::NoRoom(NoRoom::Unit)));
        }
    }

    /// One request failed. Before its head its caller decides what follows from it, after it nobody else is there to.
    fn failed(&self, unit: &Inner, ticket: &Ticket, failure: Failure) {
        let has_head = ticket.exchange.has_head();
        let Err(failure) = ticket.exchange.conclude(Err(failure)) else { return };
        unit.note_failure(&failure);
        if has_head && ticket.may_be_reuse(&failure) {
            unit.strike(&failure);
        }
    }

    /// The instance failed with all that are inside, perhaps because of a known one of them.
    fn all_failed(&self, unit: &Inner, failure: &Failure, guilty: Option<&Arc<Shared>>) {
        let inside = {
            let mut state = lock(&self.state);
            state.retiring.get_or_insert(failure.retirement());
            mem::take(&mut state.inside)
        };
        if inside.is_empty() && !matches!(failure, Failure::Wall { .. }) {
            unit.note_failure(failure);
        }
        // Nobody knows who it was if nobody is known and there were several.
        let is_guilty = |ticket: &Ticket| match guilty {
            Some(guilty) => Arc::ptr_eq(guilty, &ticket.exchange),
            None => inside.len() == 1,
        };
        for Inside { ticket, .. } in &inside {
            let failure = match is_guilty(ticket) || matches!(failure, Failure::Stopped | Failure::Cancelled) {
                true => failure.clone(),
                false => {
                    unit.counters.collateral.fetch_add(1, Relaxed);
                    Failure::Neighbour(failure.message())
                }
            };
            self.failed(unit, ticket, failure);
        }
        if guilty.is_none() && inside.len() > 1 && !matches!(failure, Failure::Stopped | Failure::Cancelled) {
            unit.counters.collateral.fetch_sub(1, Relaxed); // one of them it was
        }
    }
}
