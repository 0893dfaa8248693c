//! Ticks of schedules: requests that come from the lattice itself and go the way of any other, but for the listener.

use crate::target::Target;
use crate::{Outbound, Router, account::Account, body::Source, dispatch::until, error::RouteError, headers, trace};
use http::{
    HeaderMap, HeaderValue, Method,
    header::{CONTENT_LENGTH, HOST, USER_AGENT},
    uri::Scheme,
};
use http_body_util::BodyExt as _;
use lattice::{
    event::rfc3339,
    http::{Response, empty},
    trace::{OpenSpan, SpanKind},
    trigger::{HEADER_SCHEDULE, HEADER_TICK, Tick},
};
use std::time::Duration;

/// As much of the answer's body is read, so that a guest that writes a short one can end as it means to.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

impl Router {
    /// Send the request of a tick to a ready instance anywhere; answers with the status, or with why there is none. It is
    /// sent again only where no guest has seen it.
    pub async fn fire(&self, tick: &Tick) -> Result<u16, String> {
        let inner = &*self.0;
        let started = inner.clock.now();
        let (request, span) = self.tick_request(tick);
        let mut account = Account::of_span(span, &inner.clock, started);
        let answered = match request {
            Ok(request) => self.answer(tick, request, started, &mut account).await,
            Err(error) => Err(error),
        };
        let duration = inner.clock.now().saturating_sub(started);
        match answered {
            Ok(response) => {
                account.answered(&inner.metrics, response.status(), duration);
                let status = response.status().as_u16();
                let deadline = inner.clock.now() + self.time_limit(tick);
                match until(&*inner.clock, deadline, read(response)).await {
                    Ok(Ok(())) => Ok(status),
                    Ok(Err(error)) => Err(format!("status {status}, then {error}")),
                    Err(_) => Err(format!("status {status}, then a body that did not end in time")),
                }
            }
            Err(error) => {
                let text = error.to_string();
                account.failed(error.code());
                account.answered(&inner.metrics, error.into_response(true).status(), duration);
                Err(text)
            }
        }
    }

    fn time_limit(&self, tick: &Tick) -> Duration {
        let wall = || self.0.table.load().workload(&tick.workload).map_or(Duration::ZERO, |entry| entry.wall);
        tick.schedule.time_limit().unwrap_or_else(wall)
    }

    async fn answer(
        &self,
        tick: &Tick,
        request: Outbound,
        started: Duration,
        account: &mut Account,
    ) -> Result<Response, RouteError> {
        let inner = &*self.0;
        let entry = inner.table.load().workload(&tick.workload).cloned().ok_or(RouteError::NoRoute)?;
        account.routed(&inner.metrics, &entry);
        let _place = inner.places.take()?;
        inner.send(request, entry, started, account).await
    }

    /// The request of a tick, and its span where that is recorded.
    fn tick_request(&self, tick: &Tick) -> (Result<Outbound, RouteError>, Option<OpenSpan>) {
        let inner = &*self.0;
        let path = tick.schedule.path.path_and_query().clone();
        let target = match Target::of_workload(&tick.workload, path) {
            Ok(target) => target,
            Err(error) => return (Err(error), None),
        };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, headers::value(target.authority.to_string()));
        headers.insert(USER_AGENT, HeaderValue::from_static("lattice"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let schedule = format!("{} {}", tick.schedule.cron, tick.schedule.zone);
        let mut span = trace::begin(&mut headers, &*inner.rng, &inner.options.tracer, SpanKind::Internal, "tick");
        if let Some(span) = &mut span {
            span.set("lattice.schedule", schedule.clone());
            span.set("lattice.tick", rfc3339(tick.at));
            span.set("url.path", target.path_and_query.path().to_owned());
        }
        headers.insert(HEADER_SCHEDULE, headers::value(schedule));
        headers.insert(HEADER_TICK, headers::value(rfc3339(tick.at)));
        let outbound = Outbound {
            method: Method::POST,
            scheme: Scheme::HTTP,
            target,
            rewritten: None,
            roll: 0,
            lot: None,
            bound: None,
            headers,
            body: Source::new(empty()),
            timeout: tick.schedule.time_limit(),
        };
        (Ok(outbound), span)
    }
}

async fn read(response: Response) -> Result<(), String> {
    let mut body = response.into_body();
    let mut read = 0;
    while read < ANSWER_BYTES_MAX {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|error| error.to_string())?;
        read += frame.data_ref().map_or(0, |bytes| bytes.len());
    }
    Ok(())
}
