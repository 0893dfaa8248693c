//! How replicas do: who asks them, and what is remembered of those that failed. What follows from it is for the supervisor
//! to say.

use crate::logs::Logs;
use http::{HeaderValue, header};
use lattice::{
    ctl::LogLine,
    http::{Request, empty},
    id::{Generation, SlotId},
    limits::one_line,
    report::{CRASH_LINE_BYTES_MAX, CRASH_LINES_MAX, CrashReport},
    spec::{Asks, ProbeSpec, RequestPath},
    store::Platform,
};
use lattice_runtime::{Probed, Prober};
use lattice_supervisor::{Answer, Probe, Verdict};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Before the second probe of a replica that was never ready. Each pause after it is twice as long, up to `every`.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest part of an answer that is told, in bytes.
const ANSWER_BYTES_TOLD: usize = 120;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ready,
    Live,
}

/// What a probe has to tell.
#[derive(Debug)]
pub(crate) enum News {
    /// It can take requests.
    Ready,
    /// It can't any more, or not yet.
    NotReady(String),
    /// It is to be started again.
    NotAlive(String),
}

/// Asks one question of one unit, again and again, until the unit ends. What it tells is only ever new.
pub(crate) async fn watch<Told: Future<Output = ()>>(
    kind: Kind,
    spec: ProbeSpec,
    host: String,
    prober: Prober,
    platform: Platform,
    tell: impl Fn(News) -> Told,
) {
    let (every, limit) = (Duration::from(spec.every), Duration::from(spec.timeout));
    let mut delay = Duration::from(spec.delay);
    let (verdict, mut pause) = match kind {
        Kind::Ready => (None, FIRST_PAUSE.min(every)),
        Kind::Live => {
            // Replicas that begin together are not asked together.
            delay += platform.rng.up_to(every);
            (Some(Verdict::Passes), every)
        }
    };
    let mut probe = Probe::new(spec.successes, spec.failures, verdict);
    platform.clock.sleep(delay).await;
    loop {
        let Some(asks) = spec.asks() else { return };
        let probed = match asks {
            Asks::Http(path) => prober.probe(|| request(path, &host), limit).await,
            Asks::Function { function, of: None } => prober.call(function, limit).await,
            Asks::Function { function, of: Some(service) } => prober.call_service(service, function, limit).await,
        };
        let (answer, text) = match probed {
            Probed::Stopped => return,
            probed => judge(&spec, asks, probed),
        };
        match (probe.on(answer), kind) {
            (None, _) | (Some(Verdict::Passes), Kind::Live) => {}
            (Some(Verdict::Passes), Kind::Ready) => {
                pause = every;
                tell(News::Ready).await;
            }
            (Some(Verdict::Fails), Kind::Ready) => tell(News::NotReady(text)).await,
            (Some(Verdict::Fails), Kind::Live) => {
                let times =
                    if spec.failures == 1 { String::new() } else { format!(", {} times in a row", spec.failures) };
                return tell(News::NotAlive(format!("not alive: {text}{times}"))).await;
            }
        }
        platform.clock.sleep(pause).await;
        pause = (pause * 2).min(every);
    }
}

fn request(path: &RequestPath, host: &str) -> Request {
    let mut request = http::Request::new(empty());
    *request.uri_mut() = http::Uri::from(path.path_and_query().clone());
    let headers = request.headers_mut();
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(header::HOST, host);
    }
    headers.insert(header::USER_AGENT, HeaderValue::from_static("lattice-probe"));
    request
}

/// What an answer counts as, and what it says.
fn judge(spec: &ProbeSpec, asks: Asks<'_>, probed: Probed) -> (Answer, String) {
    let (answer, text) = match probed {
        Probed::Answered { status, .. } if status.is_success() || status.is_redirection() => {
            (Answer::Passed, String::new())
        }
        Probed::Answered { status, text } => {
            let text = one_line(text.trim(), ANSWER_BYTES_TOLD);
            let colon = if text.is_empty() { "" } else { ": " };
            (Answer::Failed, format!("answered {}{colon}{text}", status.as_u16()))
        }
        Probed::Returned(Ok(())) => (Answer::Passed, String::new()),
        Probed::Returned(Err(text)) => (Answer::Failed, format!("returned {}", one_line(&text, ANSWER_BYTES_TOLD))),
        // One that has much to do is not helped by being taken away, or started again.
        Probed::Late { busy: true } | Probed::NoRoom | Probed::Stopped => (Answer::Unknown, String::new()),
        Probed::Late { busy: false } => (Answer::Failed, format!("gave no whole answer within {}", spec.timeout)),
        Probed::Failed(message) => (Answer::Failed, format!("failed: {message}")),
    };
    (answer, format!("{asks} {text}"))
}

/// Why replicas failed here. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Crashes(Arc<Mutex<BySlot>>);

/// With the life of the workload and the generation.
type BySlot = BTreeMap<SlotId, (uuid::Uuid, Generation, CrashReport)>;

impl Crashes {
    fn lock(&self) -> MutexGuard<'_, BySlot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Note one; what is counted is counted for one generation.
    pub(crate) fn note(
        &self,
        slot: &SlotId,
        (uid, generation): (uuid::Uuid, Generation),
        error: &str,
        lines: &[Arc<LogLine>],
        at: u64,
    ) {
        let mut crashes = self.lock();
        let before = crashes.get(slot).filter(|(of, number, _)| (*of, *number) == (uid, generation));
        let restarts = before.map_or(0, |(.., crash)| crash.restarts).saturating_add(1);
        let lines = lines.iter().map(|line| line.line.clone()).collect();
        crashes.insert(slot.clone(), (uid, generation, CrashReport { restarts, error: error.to_owned(), at, lines }));
    }

    pub(crate) fn of(&self, slot: &SlotId, uid: uuid::Uuid, generation: Generation) -> Option<CrashReport> {
        let crashes = self.lock();
        let (of, number, crash) = crashes.get(slot)?;
        ((*of, *number) == (uid, generation)).then(|| crash.clone())
    }

    /// Forget what happened to slots that are not here any more.
    pub(crate) fn keep_only(&self, is_here: impl Fn(&SlotId) -> bool) {
        self.lock().retain(|slot, _| is_here(slot));
    }
}

/// The last lines of a slot's guests since `count`, for a report; and as the end of a sentence.
pub(crate) fn last_words(logs: &Logs, slot: &SlotId, count: u64) -> (Vec<Arc<LogLine>>, String) {
    let lines = logs.last_lines(slot, count, CRASH_LINES_MAX);
    let texts = lines.iter().map(|line| one_line(line.line.trim(), CRASH_LINE_BYTES_MAX));
    let texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
    let sentence = if texts.is_empty() { String::new() } else { format!("; printed last: {}", texts.join(" | ")) };
    (lines, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn what_answers_count_as() {
        let spec = ProbeSpec::new("/healthz".parse().unwrap());
        let answered = |status: u16, text: &str| Probed::Answered {
            status: StatusCode::from_u16(status).unwrap(),
            text: text.to_owned(),
        };
        for (probed, answer, text) in [
            (answered(200, "ok"), Answer::Passed, ""),
            (answered(204, ""), Answer::Passed, ""),
            (answered(307, ""), Answer::Passed, ""),
            (answered(404, ""), Answer::Failed, "answered 404"),
            (answered(503, "no\u{1b}[2J database\n"), Answer::Failed, "answered 503: no [2J database"),
            (Probed::Late { busy: false }, Answer::Failed, "gave no whole answer within 1s"),
            (Probed::Late { busy: true }, Answer::Unknown, ""),
            (Probed::NoRoom, Answer::Unknown, ""),
            (Probed::Failed("wasm trap".into()), Answer::Failed, "failed: wasm trap"),
        ] {
            let judged = judge(&spec, spec.asks().unwrap(), probed.clone());
            assert_eq!(judged, (answer, format!("GET /healthz {text}")), "{probed:?}");
        }
    }

    #[test]
    fn failures_are_counted_for_a_generation() {
        let (crashes, slot) = (Crashes::default(), SlotId::new("web".parse().unwrap(), 0));
        let (first, second) = (Generation(1), Generation(2));
        let uid = uuid::Uuid::nil();
        crashes.note(&slot, (uid, first), "one", &[], 1);
        crashes.note(&slot, (uid, first), "two", &[], 2);
        let crash = crashes.of(&slot, uid, first).unwrap();
        assert_eq!((crash.restarts, crash.error.as_str(), crash.at), (2, "two", 2));
        assert_eq!(crashes.of(&slot, uid, second), None);
        crashes.note(&slot, (uid, second), "three", &[], 3);
        assert_eq!(crashes.of(&slot, uid, second).map(|crash| crash.restarts), Some(1));
        crashes.keep_only(|_| false);
        assert_eq!(crashes.of(&slot, uid, second), None);
    }
}
