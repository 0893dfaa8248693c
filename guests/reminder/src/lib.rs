//! Reminds of things when their time has come: `lattice:nats/schedules`, where the server waits, and no instance. wasi:http 0.3.
//!
//! | request                                        | answer                                                      |
//! |------------------------------------------------|-------------------------------------------------------------|
//! | `POST /NAME`, with a header `at` or `every`    | reminds of the body, in place of what NAME had before       |
//! | `GET /NAME`                                    | when it does, and of what; or 404                           |
//! | `DELETE /NAME`                                 | does not remind of it; 404 where there was nothing          |
//! | `GET /`                                        | what was last reminded of under each name, one a line       |
//!
//! `at` is a moment in seconds since 1970, `every` a number of seconds, which needs nats-server 2.14.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response};
use wasip3::wit_bindgen::StreamResult;
use wasip3::{spawn_local, wit_future, wit_stream};

use crate::bindings::lattice::nats::{
    jetstream,
    schedules::{self, PutOptions, Timing},
    types::{Consistency, Failure, Message, Outcome},
};

mod bindings {
    wasip3::wit_bindgen::generate!({
        path: "../../wit/nats",
        inline: "package example:reminder; world reminder {
            include lattice:nats/scheduler@0.1.0;
            include lattice:nats/event-log@0.1.0;
        }",
        world: "example:reminder/reminder",
        runtime_path: "wasip3::wit_bindgen::rt",
        generate_all,
    });
}

wasip3::http::service::export!(Reminder);

struct Reminder;

const SECOND: u64 = 1_000_000_000;

type Answer = Result<(u16, String), Failure>;

impl Guest for Reminder {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let name = target.trim_start_matches('/').to_owned();
        let (method, headers) = (request.get_method(), request.get_headers());
        let nanos = |name: &str| {
            let seconds: u64 = String::from_utf8(headers.get(name).pop()?).ok()?.parse().ok()?;
            Some(seconds.saturating_mul(SECOND))
        };
        let timing = nanos("at").map(Timing::At).or_else(|| nanos("every").map(Timing::Every));
        let body = body(request).await;
        let answer = match (method, name.as_str(), timing) {
            (Method::Post, name, Some(timing)) => remind(name, timing, body).await,
            (Method::Post, ..) => Ok((400, "say when: a header at, or every, in seconds".to_owned())),
            (Method::Delete, name, _) => forget(name).await,
            (_, "", _) => due().await,
            (_, name, _) => when(name).await,
        };
        let (status, text) = answer.unwrap_or_else(|failure| match failure.outcome {
            Outcome::Maybe => (503, format!("ask again: {}", failure.detail)),
            Outcome::DefinitelyNot => (502, failure.detail),
        });
        let (mut writer, reader) = wit_stream::new();
        spawn_local(async move { drop(writer.write_all(format!("{text}\n").into_bytes()).await) });
        let (_trailers, none) = wit_future::new(|| Ok(None)); // a dropped writer delivers this default
        let (response, _sent) = Response::new(Fields::new(), Some(reader), none);
        let _ = response.set_status_code(status);
        Ok(response)
    }
}

async fn remind(name: &str, timing: Timing, of: Vec<u8>) -> Answer {
    let message = Message { subject: format!("due.{name}"), reply_to: None, headers: Vec::new(), payload: of };
    let options = PutOptions { ttl: None, message_id: None, expect: None };
    let schedules = schedules::open("reminders".to_owned()).await?;
    schedules.put(format!("later.{name}"), timing, message, options).await?;
    Ok((200, "noted".to_owned()))
}

async fn forget(name: &str) -> Answer {
    let was_there = schedules::open("reminders".to_owned()).await?.cancel(format!("later.{name}")).await?;
    Ok(if was_there { (200, "forgotten".to_owned()) } else { (404, String::new()) })
}

async fn when(name: &str) -> Answer {
    let schedules = schedules::open("reminders".to_owned()).await?;
    let found = schedules.get(format!("later.{name}"), Consistency::Leader).await?;
    Ok(found.map_or((404, String::new()), |schedule| {
        (200, format!("{}: {}", schedule.timing, String::from_utf8_lossy(&schedule.message.payload)))
    }))
}

async fn due() -> Answer {
    let stream = jetstream::open("reminders".to_owned()).await?;
    let last = stream.get_many_last(vec!["due.*".to_owned()], Consistency::Leader).await?;
    let lines = last.messages.iter().map(|stored| {
        let name = stored.message.subject.trim_start_matches("due.");
        format!("{name}: {}", String::from_utf8_lossy(&stored.message.payload))
    });
    Ok((200, lines.collect::<Vec<_>>().join("\n")))
}

async fn body(request: Request) -> Vec<u8> {
    let (_writer, processed) = wit_future::new(|| Ok(()));
    let (mut body, _trailers) = Request::consume_body(request, processed);
    let mut whole = Vec::new();
    loop {
        let (result, chunk) = body.read(Vec::with_capacity(4 << 10)).await;
        whole.extend(chunk);
        if matches!(result, StreamResult::Dropped | StreamResult::Cancelled) {
            return whole;
        }
    }
}
