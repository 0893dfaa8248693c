//! What becomes of each message that a client sends to a workload: who kept it while no replica was there, and how that ended.
//! A message may be lost, with the node that keeps it or on its way; it may not be handled twice, and who keeps one may not
//! forget it without a word.

use crate::checkers::Verdict;
use lattice::{
    id::{NodeId, WorkloadName},
    store::{Bus, Message, STATUS_NO_RESPONDERS},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// For how long a message may wait for a replica: half a minute by a clock that may be slow, the answers of some nodes that it
/// is offered to, and a look.
const KEPT_MAX: Duration = Duration::from_secs(45);
/// Where clients hear of their messages; its number follows.
pub(crate) const REPLIES: &str = "_INBOX.letters";

/// One process of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Life {
    pub(crate) node: NodeId,
    pub(crate) number: u64,
}

/// All messages that clients ever sent. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Letters(Arc<Mutex<Log>>);

#[derive(Default)]
struct Log {
    letters: BTreeMap<u64, Letter>,
    /// Those that somebody keeps.
    kept: BTreeSet<u64>,
    suspended: BTreeSet<Life>,
    violation: Option<String>,
}

struct Letter {
    workload: WorkloadName,
    sent: Instant,
    /// Who keeps it or kept it, and since when.
    keeper: Option<(Life, Instant)>,
    end: Option<End>,
    handled: Option<(Life, Instant)>,
}

/// What its keeper did with it, or the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// A replica's node said that it has it.
    HandedOver,
    /// Its sender was told that it is dropped.
    Refused,
    /// It was handed over, and no answer came.
    Unconfirmed,
    /// It was lost with the node that kept it.
    Lost,
    /// Nobody listened, and its sender was told so.
    Unheard,
}

impl End {
    pub(crate) fn name(self) -> &'static str {
        match self {
            End::HandedOver => "handed over",
            End::Refused => "refused",
            End::Unconfirmed => "not confirmed",
            End::Lost => "lost with a node",
            End::Unheard => "not heard",
        }
    }
}

/// The number that a message carries.
pub(crate) fn number(payload: &[u8]) -> Option<u64> {
    std::str::from_utf8(payload).ok()?.parse().ok()
}

/// The number of the message to which this is the answer.
pub(crate) fn answered(subject: &str) -> Option<u64> {
    subject.strip_prefix(REPLIES)?.strip_prefix('.')?.parse().ok()
}

/// What workloads listen to.
pub(crate) fn subject(workload: &WorkloadName) -> String {
    format!("tasks.{workload}")
}

impl Letters {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Send one, over a connection without faults.
    pub(crate) async fn send(&self, bus: &Arc<dyn Bus>, workload: &WorkloadName) {
        let number = {
            let mut log = self.log();
            let number = log.letters.len() as u64;
            let (workload, sent) = (workload.clone(), Instant::now());
            log.letters.insert(number, Letter { workload, sent, keeper: None, end: None, handled: None });
            number
        };
        let reply = Some(format!("{REPLIES}.{number}"));
        let message =
            Message { subject: subject(workload), reply, payload: number.to_string().into(), ..Message::default() };
        bus.publish(message).await.expect("it is a message as others are");
    }

    /// What its sender hears of it.
    pub(crate) fn reply(&self, reply: &Message) {
        if let (Some(number), Some(STATUS_NO_RESPONDERS)) = (answered(&reply.subject), reply.status) {
            self.end(number, End::Unheard);
        }
    }

    /// A node that listens in the place of a replica has it.
    pub(crate) fn came(&self, number: u64, life: &Life) {
        let mut log = self.log();
        if let Some(letter) = log.letters.get_mut(&number) {
            letter.keeper = Some((life.clone(), Instant::now()));
            log.kept.insert(number);
        }
    }

    pub(crate) fn end(&self, number: u64, end: End) {
        let mut log = self.log();
        log.kept.remove(&number);
        if let Some(letter) = log.letters.get_mut(&number) {
            letter.end = Some(end);
        }
    }

    /// A replica handles it.
    pub(crate) fn handled(&self, number: u64, life: &Life) {
        let mut log = self.log();
        let Some(letter) = log.letters.get_mut(&number) else { return };
        if let Some((other, _)) = letter.handled.replace((life.clone(), Instant::now())) {
            let workload = letter.workload.clone();
            let text = format!("message {number} of {workload} was handled on {} and on {}", other.node, life.node);
            log.violation = Some(text);
        }
    }

    /// The process goes on or is suspended.
    pub(crate) fn suspended(&self, life: &Life, is_suspended: bool) {
        let mut log = self.log();
        if is_suspended {
            log.suspended.insert(life.clone());
            return;
        }
        log.suspended.remove(life);
        for (keeper, since) in log.letters.values_mut().filter_map(|letter| letter.keeper.as_mut()) {
            if keeper == life {
                *since = Instant::now();
            }
        }
    }

    /// The process is no more. What it kept is lost; one that ended by itself has no excuse for that.
    pub(crate) fn gone(&self, life: &Life, was_killed: bool) {
        let mut log = self.log();
        log.suspended.remove(life);
        let Log { letters, kept, violation, .. } = &mut *log;
        kept.retain(|number| {
            let Some(letter) = letters.get_mut(number) else { return false };
            if letter.keeper.as_ref().is_none_or(|(keeper, _)| keeper != life) {
                return true;
            }
            letter.end = Some(End::Lost);
            if !was_killed {
                *violation = Some(format!("{} left without a word about message {number}", life.node));
            }
            false
        });
    }

    /// No message is handled twice, or kept for too long.
    pub(crate) fn check(&self) -> Verdict {
        let log = self.log();
        let kept = log.kept.iter().filter_map(|number| Some((number, log.letters.get(number)?.keeper.as_ref()?)));
        for (number, (life, since)) in kept {
            if since.elapsed() > KEPT_MAX && !log.suspended.contains(life) {
                return Err(format!("{} keeps message {number} for too long, or forgot it", life.node));
            }
        }
        log.violation.clone().map_or(Ok(()), Err)
    }

    /// Of the messages that were sent since then, each was handled within this time.
    pub(crate) fn all_handled(&self, since: Instant, within: Duration) -> Verdict {
        let log = self.log();
        let late = log.letters.iter().rev().take_while(|(_, letter)| letter.sent >= since).find(|(_, letter)| {
            let took = letter.handled.as_ref().map_or(Instant::now(), |(_, at)| *at).duration_since(letter.sent);
            took > within
        });
        let Some((number, Letter { workload, end, handled, .. })) = late else { return Ok(()) };
        let became = match (end, handled) {
            (_, Some((life, _))) => format!("was handled late, on {}", life.node),
            (Some(end), None) => format!("was {}", end.name()),
            (None, None) => "is nowhere".to_owned(),
        };
        Err(format!("message {number} of {workload} {became}, though nothing fails"))
    }

    /// How many messages of a workload were handled, or ended so.
    pub(crate) fn count(&self, workload: &WorkloadName, end: Option<End>) -> usize {
        let log = self.log();
        let is_such = |letter: &&Letter| match end {
            Some(end) => letter.end == Some(end),
            None => letter.handled.is_some(),
        };
        log.letters.values().filter(|letter| letter.workload == *workload).filter(is_such).count()
    }

    /// What became of all messages so far.
    pub(crate) fn totals(&self) -> BTreeMap<&'static str, u64> {
        let log = self.log();
        let mut totals = BTreeMap::from([("sent", log.letters.len() as u64)]);
        for letter in log.letters.values() {
            let handled = letter.handled.as_ref().map(|_| "handled");
            for name in handled.into_iter().chain(letter.end.map(End::name)) {
                *totals.entry(name).or_default() += 1;
            }
        }
        totals
    }

    /// The longest that one of those which were kept waited for a replica since then.
    pub(crate) fn longest_wait(&self, since: Instant) -> Duration {
        let log = self.log();
        let recent = log.letters.values().filter(|letter| letter.sent >= since && letter.keeper.is_some());
        let waits = recent.filter_map(|letter| Some(letter.handled.as_ref()?.1.duration_since(letter.sent)));
        waits.max().unwrap_or_default()
    }
}
