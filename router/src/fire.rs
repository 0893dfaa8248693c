//! Ticks of schedules: requests that come from the lattice itself and go the way of any other, but for the listener.

use crate::target::Target;
use crate::{Account, Outbound, Router, body::Source, dispatch::until, error::RouteError, headers, trace};
use http::{
    HeaderMap, HeaderValue, Method,
    header::{CONTENT_LENGTH, HOST, USER_AGENT},
    uri::Scheme,
};
use http_body_util::BodyExt as _;
use lattice::{
    event::rfc3339,
    http::{Response, empty},
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
        let mut account = Account::new(Some(inner.metrics.counts(&tick.workload)));
        let answered = self.answer(tick, started, &mut account).await;
        let duration = inner.clock.now().saturating_sub(started);
        match answered {
            Ok(response) => {
                inner.metrics.count_request(account.counts.as_ref(), response.status(), account.path, duration);
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
                let status = error.into_response(true).status();
                inner.metrics.count_request(account.counts.as_ref(), status, account.path, duration);
                Err(text)
            }
        }
    }

    fn time_limit(&self, tick: &Tick) -> Duration {
        let wall = || self.0.table.load().workload(&tick.workload).map_or(Duration::ZERO, |entry| entry.wall);
        tick.schedule.time_limit().unwrap_or_else(wall)
    }

    async fn answer(&self, tick: &Tick, started: Duration, account: &mut Account) -> Result<Response, RouteError> {
        let inner = &*self.0;
        let _place = inner.places.take()?;
        let path = tick.schedule.path.path_and_query().clone();
        let target = Target::of_workload(&tick.workload, path)?;
        let mut headers = HeaderMap::new();
        headers.insert(HOST, headers::value(target.authority.to_string()));
        headers.insert(USER_AGENT, HeaderValue::from_static("lattice"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let schedule = format!("{} {}", tick.schedule.cron, tick.schedule.zone);
        headers.insert(HEADER_SCHEDULE, headers::value(schedule));
        headers.insert(HEADER_TICK, headers::value(rfc3339(tick.at)));
        trace::ensure(&mut headers, &*inner.rng);
        let outbound = Outbound {
            method: Method::POST,
            scheme: Scheme::HTTP,
            target,
            rewritten: None,
            roll: 0,
            bound: None,
            headers,
            body: Source::new(empty()),
            timeout: tick.schedule.time_limit(),
        };
        let table = inner.table.load();
        inner.send(outbound, table, started, account).await
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
