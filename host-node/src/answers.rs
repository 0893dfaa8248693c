//! What a replica answers, counted where its spec has bounds that what is new must keep.

use lattice::{
    http::{CallError, Response},
    report::{AnswersReport, Slow},
    spec::WorkloadSpec,
    units::Millis,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Of one unit, since it began to serve.
pub(crate) struct Answers {
    requests: AtomicU64,
    errors: AtomicU64,
    p95: Option<Over>,
    p99: Option<Over>,
}

struct Over {
    bound: Millis,
    requests: AtomicU64,
}

impl Over {
    fn new(bound: Millis) -> Self {
        Self { bound, requests: AtomicU64::new(0) }
    }

    fn note(&self, took: Duration) {
        if took > self.bound.into() {
            self.requests.fetch_add(1, Relaxed);
        }
    }

    fn report(&self) -> Slow {
        Slow { bound: self.bound, requests: self.requests.load(Relaxed) }
    }
}

impl Answers {
    /// Nothing is counted where nobody decides by it.
    pub(crate) fn of(spec: &WorkloadSpec) -> Option<Arc<Self>> {
        let analysis = spec.rollout.analysis.as_ref()?;
        let (p95, p99) = (analysis.max_p95.map(Over::new), analysis.max_p99.map(Over::new));
        Some(Arc::new(Self { requests: AtomicU64::new(0), errors: AtomicU64::new(0), p95, p99 }))
    }

    /// What came of a request, after so long.
    pub(crate) fn note(&self, took: Duration, answer: &Result<Response, CallError>) {
        let is_error = match answer {
            Ok(response) => response.status().is_server_error(),
            Err(CallError::Failed { .. } | CallError::Timeout { .. }) => true,
            // Nothing ran, or it was the client.
            Err(CallError::NotHere | CallError::Overloaded { .. } | CallError::Body(_)) => return,
        };
        self.requests.fetch_add(1, Relaxed);
        if is_error {
            self.errors.fetch_add(1, Relaxed);
        }
        for over in [&self.p95, &self.p99].into_iter().flatten() {
            over.note(took);
        }
    }

    pub(crate) fn report(&self) -> AnswersReport {
        AnswersReport {
            requests: self.requests.load(Relaxed),
            errors: self.errors.load(Relaxed),
            p95: self.p95.as_ref().map(Over::report),
            p99: self.p99.as_ref().map(Over::report),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::http::{BodyError, empty};

    #[test]
    fn what_ran_counts_and_what_failed_or_took_long() {
        let spec = |more: &str| {
            let text = format!("name: a\ncomponents: [{{name: a, source: 'file:a'}}]\n{more}\n");
            lattice::spec::parse(text.as_bytes()).unwrap()
        };
        assert!(Answers::of(&spec("")).is_none());
        let answers = Answers::of(&spec("rollout: {analysis: {max-p95: 100ms}}")).unwrap();
        let status = |status: u16| {
            let mut response = Response::new(empty());
            *response.status_mut() = status.try_into().unwrap();
            Ok(response)
        };
        let limit = Duration::from_secs(1);
        for (took, answer) in [
            (100, status(200)),
            (101, status(404)),
            (1, status(500)),
            (1, status(503)),
            (5, Err(CallError::Failed { message: "trap".into() })),
            (500, Err(CallError::Timeout { limit })),
            (500, Err(CallError::NotHere)),
            (500, Err(CallError::Overloaded { retry_after: limit })),
            (500, Err(CallError::Body(BodyError::Timeout))),
        ] {
            answers.note(Duration::from_millis(took), &answer);
        }
        let p95 = Some(Slow { bound: Millis(100), requests: 2 });
        assert_eq!(answers.report(), AnswersReport { requests: 6, errors: 4, p95, p99: None });
    }
}
