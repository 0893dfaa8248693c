//! Counts who comes and goes, on every node, and is never wrong: `lattice:nats/counters`, where the server adds. wasi:http 0.3.
//!
//! | request                              | answer                                                    |
//! |--------------------------------------|-----------------------------------------------------------|
//! | `POST /NAME`, the body `+2` or `-1`  | the count after it; an empty body is `+1`                 |
//! | `GET /NAME`                          | the count; 0 where nobody was counted yet                 |
//! | `GET /`                              | all counts, one a line                                    |
//!
//! With the header `idempotency-key` somebody is counted once, however often it is asked for within the stream's duplicate window; asked
//! again it is answered with what the count is by then. What may or may not have been counted is 503, and is to be asked for again under the
//! same key.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response};
use wasip3::wit_bindgen::StreamResult;
use wasip3::{spawn_local, wit_future, wit_stream};

use crate::bindings::lattice::nats::{
    counters::{self, Counters},
    types::{Consistency, ErrorCode as NatsError, Failure, Outcome},
};

mod bindings {
    wasip3::wit_bindgen::generate!({
        path: "../../wit/nats",
        inline: "package example:turnstile; world turnstile { include lattice:nats/counter@0.1.0; }",
        world: "example:turnstile/turnstile",
        runtime_path: "wasip3::wit_bindgen::rt",
        generate_all,
    });
}

wasip3::http::service::export!(Turnstile);

struct Turnstile;

impl Guest for Turnstile {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let name = target.trim_start_matches('/').to_owned();
        let key = request.get_headers().get("idempotency-key").pop();
        let key = key.map(|key| String::from_utf8_lossy(&key).into_owned());
        let is_change = matches!(request.get_method(), Method::Post);
        let body = body(request).await;
        let answer = async {
            let hits = counters::open("hits".to_owned()).await?;
            match (is_change, name.as_str()) {
                (true, name) => pass(&hits, name, body.trim(), key).await,
                (false, "") => all(&hits).await,
                (false, name) => count(&hits, name).await,
            }
        };
        let (status, text) = match answer.await {
            Ok(text) => (200, text),
            Err(failure) => failed(&failure),
        };
        let (mut writer, reader) = wit_stream::new();
        spawn_local(async move { drop(writer.write_all(format!("{text}\n").into_bytes()).await) });
        let (_trailers, none) = wit_future::new(|| Ok(None)); // a dropped writer delivers this default
        let (response, _sent) = Response::new(Fields::new(), Some(reader), none);
        let _ = response.set_status_code(status);
        Ok(response)
    }
}

async fn pass(hits: &Counters, name: &str, by: &str, key: Option<String>) -> Result<String, Failure> {
    let by = if by.is_empty() { "+1" } else { by };
    let added = hits.add(format!("hits.{name}"), by.to_owned(), key).await?;
    match added.total {
        Some(total) => Ok(total),
        None => count(hits, name).await,
    }
}

async fn count(hits: &Counters, name: &str) -> Result<String, Failure> {
    let found = hits.get(format!("hits.{name}"), Consistency::Leader).await?;
    Ok(found.map_or_else(|| "0".to_owned(), |count| count.total))
}

async fn all(hits: &Counters) -> Result<String, Failure> {
    let found = hits.get_many(vec!["hits.*".to_owned()], Consistency::Leader).await?;
    let lines = found.counts.iter().map(|count| {
        let name = count.subject.trim_start_matches("hits.");
        format!("{name} {}", count.total)
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn failed(failure: &Failure) -> (u16, String) {
    match (&failure.outcome, &failure.code) {
        (Outcome::Maybe, _) => (503, format!("ask again under the same key: {}", failure.detail)),
        (_, NatsError::Invalid(_)) => (400, failure.detail.clone()),
        _ => (502, failure.detail.clone()),
    }
}

async fn body(request: Request) -> String {
    let (_writer, processed) = wit_future::new(|| Ok(()));
    let (mut body, _trailers) = Request::consume_body(request, processed);
    let mut whole = Vec::new();
    loop {
        let (result, chunk) = body.read(Vec::with_capacity(512)).await;
        whole.extend(chunk);
        if whole.len() > 512 || matches!(result, StreamResult::Dropped | StreamResult::Cancelled) {
            return String::from_utf8_lossy(&whole).into_owned();
        }
    }
}
