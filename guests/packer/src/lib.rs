//! A queue of tasks that are worked on until they are done, with retries that wait longer each time, and dead letters:
//! `lattice:nats/jetstream` with a durable consumer, which all replicas share. wasi:http 0.3.
//!
//! | request            | answer                                                                                |
//! |--------------------|---------------------------------------------------------------------------------------|
//! | `POST /NAME`       | puts the body in the queue, once for each name; `stored`, or `there already`           |
//! | `GET /work`        | works on what there is; what became of how many. A schedule asks for it every 5 s      |
//!
//! A task is done by printing it, unless it says `fail`. One that failed three times goes to `work.dead`, under its own name, so that it is
//! there once even if this replica is lost before the server knows that the task is settled.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response};
use wasip3::wit_bindgen::StreamResult;
use wasip3::{spawn_local, wit_future, wit_stream};

use crate::bindings::lattice::nats::{
    jetstream::{self, Delivery, Precondition, PublishOptions, Stream},
    types::{Failure, Message},
};

mod bindings {
    wasip3::wit_bindgen::generate!({
        path: "../../wit/nats",
        inline: "package example:packer; world packer { include lattice:nats/work-queue@0.1.0; }",
        world: "example:packer/packer",
        runtime_path: "wasip3::wit_bindgen::rt",
        generate_all,
    });
}

wasip3::http::service::export!(Packer);

struct Packer;

/// A task that failed so often is a dead letter.
const ATTEMPTS: u64 = 3;
/// Before the second attempt, in nanoseconds; twice as long before the third.
const PAUSE: u64 = 500_000_000;
/// Tasks that one request takes.
const TASKS: u32 = 64;

impl Guest for Packer {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let name = target.trim_start_matches('/').to_owned();
        let is_task = matches!(request.get_method(), Method::Post) && name != "work";
        let body = body(request).await;
        let answer = async {
            let stream = jetstream::open("work".to_owned()).await?;
            if is_task { put(&stream, "work.tasks", name, body).await } else { work(&stream).await }
        };
        let (status, text) = match answer.await {
            Ok(text) => (200, text),
            Err(failure) => (502, format!("{:?} {:?}: {}\n", failure.code, failure.outcome, failure.detail)),
        };
        let (mut writer, reader) = wit_stream::new();
        spawn_local(async move { drop(writer.write_all(text.into_bytes()).await) });
        let (_trailers, none) = wit_future::new(|| Ok(None)); // a dropped writer delivers this default
        let (response, _sent) = Response::new(Fields::new(), Some(reader), none);
        let _ = response.set_status_code(status);
        Ok(response)
    }
}

/// Once for each name, as long as the stream remembers it.
async fn put(stream: &Stream, subject: &str, name: String, payload: Vec<u8>) -> Result<String, Failure> {
    let message = Message { subject: subject.to_owned(), reply_to: None, headers: Vec::new(), payload };
    let options = PublishOptions { precondition: Precondition::None, message_id: Some(name), ttl: None };
    let stored = stream.publish(message, options).await?;
    Ok(if stored.duplicate { "there already\n" } else { "stored\n" }.to_owned())
}

async fn work(stream: &Stream) -> Result<String, Failure> {
    let consumer = stream.consumer("packers".to_owned()).await?;
    let (mut done, mut failed, mut dead) = (0, 0, 0);
    for delivery in consumer.fetch(TASKS, 0).await? {
        let task = delivery.stored();
        let text = String::from_utf8_lossy(&task.message.payload).into_owned();
        if try_to(&text) {
            delivery.ack_sync().await?;
            done += 1;
        } else if delivery.attempts() < ATTEMPTS {
            delivery.nak(Some(PAUSE * delivery.attempts())).await?;
            failed += 1;
        } else {
            bury(stream, &delivery, task.sequence, task.message.payload).await?;
            dead += 1;
        }
    }
    Ok(format!("{done} done, {failed} to be tried again, {dead} dead\n"))
}

/// First the letter, then the word that the task is settled: in between it may come again, and then the letter is there already.
async fn bury(stream: &Stream, delivery: &Delivery, sequence: u64, payload: Vec<u8>) -> Result<(), Failure> {
    put(stream, "work.dead", format!("dead-{sequence}"), payload).await?;
    delivery.terminate(format!("failed {ATTEMPTS} times")).await
}

fn try_to(task: &str) -> bool {
    println!("task: {task}");
    !task.contains("fail")
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
