//! Does with NATS what it is asked to over HTTP: every operation of `lattice:nats`, for tests and to try things out. wasi:http 0.3.
//!
//! The path names the operation, headers its arguments, the body is what is sent or stored.
//!
//! | path                                   | arguments                                    | answer                              |
//! |----------------------------------------|----------------------------------------------|-------------------------------------|
//! | `/publish`                             | `subject`, `reply-to`, `line` (of the header) | nothing                             |
//! | `/request`                             | `subject`, `line`, `ms`                      | the answer                          |
//! | `/flush`                               | `ms`                                         | nothing                             |
//! | `/subscribe`                           | `filter`, `group`, `count`, `wait` (ms)      | a line once it is known, then one for each arrival |
//! | `/get`, `/get-any`, `/get-revision`    | `bucket`, `key`, `revision`                  | `REVISION VALUE`, or 404            |
//! | `/put`, `/create`                      | `bucket`, `key`, `ttl` (ms)                  | the revision                        |
//! | `/update`, `/delete`, `/purge`         | `bucket`, `key`, `revision`, `ttl`           | the revision                        |
//! | `/increment`                           | `bucket`, `key`, `by`                        | the sum                             |
//! | `/keys`, `/watch`                      | `bucket`, `filter`, `count`, `new`           | a line for each                     |
//! | `/history`                             | `bucket`, `key`                              | a line for each                     |
//! | `/info`, `/limits`                     | `bucket`                                     | what is said                        |
//! | `/store`                               | `stream`, `subject`, `line`, `id`, `ttl`, `when` | `SEQUENCE`, and `duplicate` where it is one |
//! | `/store-all`                           | `stream`, `subject`, `when`, `count`, `large` | the same, of a batch on `SUBJECT.0`, `SUBJECT.1` … |
//! | `/find`, `/find-any`                   | `stream`, `sequence` or `filter`             | `SEQUENCE SUBJECT PAYLOAD`, or 404  |
//! | `/snapshot`, `/snapshot-any`           | `stream`, `filter`                           | a line for each, then `as of SEQUENCE` |
//! | `/read`                                | `stream`, `filter`, `start`, `count`         | a line for each                     |
//! | `/fetch`                               | `stream`, `consumer`, `max`, `wait`, `then`, `ms` | a line for each, with what became of it |
//! | `/backlog`                             | `stream`, `consumer`                         | what is said                        |
//! | `/load`                                | `what`, `times`, and those of what           | nothing: for benchmarks             |
//! | `/stream`                              | `stream`                                     | what is said                        |
//! | `/add`                                 | `stream`, `subject`, `by`, `id`              | `TOTAL SEQUENCE`, and `duplicate` where it is one |
//! | `/count`, `/count-any`                 | `stream`, `subject`                          | `SUBJECT TOTAL SEQUENCE`, or 404    |
//! | `/counts`, `/counts-any`               | `stream`, `filter`                           | a line for each, then `as of SEQUENCE` |
//! | `/schedule`                            | `stream`, `subject`, `target`, `line`, `id`, `ttl`, `expect`, and `at` or `every` (ms) or `cron`, `zone` | `SEQUENCE`, and `duplicate` where it is one |
//! | `/cancel`                              | `stream`, `subject`                          | `cancelled` or `nothing`            |
//! | `/transact`                            | `bucket`, `write` (`KEY REVISION VALUE`), `count`, `ttl` | the last revision       |
//! | `/service-ping`, `/service-info`, `/service-stats` | `name`, `id`, `ms`                | a line for each instance            |
//! | `/service-request`                     | `subject`, `line`, `ms`                      | the answer, or `error CODE: TEXT`   |
//! | `/scheduled`, `/scheduled-any`         | `stream`, `subject`                          | `SEQUENCE WHEN TARGET PAYLOAD`, or 404 |
//! | `/hoard`                               | `filter`, `count`                            | how many subscriptions it got, and why no more |
//!
//! What must be so of a stream (`when`) is `none`, `last N`, `subject N` or `filter N FILTER`.
//!
//! Reading begins (`start`) at the `first`, with the `last` of each subject, with what is `new`, or at a sequence. What becomes of what is fetched
//! (`then`) is `ack`, `sync`, `nak` (after `ms`), `terminate`, `progress` and then `ack`, `twice` (an `ack` each), or nothing.
//!
//! What fails is 502, with `CODE OUTCOME: DETAIL`.

use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::wit_bindgen::{StreamReader, StreamResult, StreamWriter};
use wasip3::{spawn_local, wit_future, wit_stream};

use crate::bindings::lattice::nats::{
    core::{self, Arrival},
    jetstream::{self, Acknowledgement, Delivery, Precondition, PublishOptions, ReadEvent, Start, Stored, Stream},
    kv::{self, Bucket, Entry, WatchEvent, WatchOptions},
    limits,
    types::{Consistency, Failure, Header, Message, Outcome},
};

mod counters;
mod schedules;
mod services;
mod transactions;

mod bindings {
    wasip3::wit_bindgen::generate!({
        path: "../../wit/nats",
        world: "imports",
        runtime_path: "wasip3::wit_bindgen::rt",
    });
}

wasip3::http::service::export!(Courier);

struct Courier;

const MILLI: u64 = 1_000_000;

/// What is asked for.
struct Asked {
    operation: String,
    headers: Fields,
    body: Vec<u8>,
}

impl Asked {
    fn all(&self, name: &str) -> Vec<String> {
        self.headers.get(name).iter().map(|value| String::from_utf8_lossy(value).into_owned()).collect()
    }

    fn get(&self, name: &str) -> Option<String> {
        self.all(name).pop()
    }

    fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// Milliseconds as nanoseconds.
    fn nanos(&self, name: &str) -> Option<u64> {
        Some(self.number(name)?.saturating_mul(MILLI))
    }

    fn message(&self) -> Message {
        let header = |line: String| {
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            Header { name: name.to_owned(), value: value.trim_start().to_owned() }
        };
        Message {
            subject: self.text("subject"),
            reply_to: self.get("reply-to"),
            headers: self.all("line").into_iter().map(header).collect(),
            payload: self.body.clone(),
        }
    }

    async fn stream(&self) -> Result<Stream, Failure> {
        jetstream::open(self.text("stream")).await
    }

    /// What is expected, and how it is to be stored.
    fn options(&self) -> PublishOptions {
        let expect = self.text("when");
        let mut words = expect.split(' ');
        let (what, first) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let sequence = first.parse().unwrap_or(0);
        let precondition = match what {
            "last" => Precondition::LastSequence(sequence),
            "subject" => Precondition::LastOnSubject(sequence),
            "filter" => Precondition::LastOnFilter((words.next().unwrap_or_default().to_owned(), sequence)),
            _ => Precondition::None,
        };
        PublishOptions { precondition, message_id: self.get("id"), ttl: self.nanos("ttl") }
    }

    /// Messages on `SUBJECT.0`, `SUBJECT.1` …; what is expected is expected with the first one.
    fn batch(&self) -> Vec<(Message, PublishOptions)> {
        let payload = vec![b'x'; self.number("large").and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(1)];
        let one = |n: u64| {
            let message = Message { payload: payload.clone(), ..self.message() };
            let message = Message { subject: format!("{}.{n}", message.subject), ..message };
            let none = PublishOptions { precondition: Precondition::None, message_id: self.get("id"), ttl: None };
            (message, if n == 0 { self.options() } else { none })
        };
        (0..self.number("count").unwrap_or(1)).map(one).collect()
    }

    async fn bucket(&self) -> Result<Bucket, Failure> {
        kv::open(self.text("bucket")).await
    }
}

/// What is answered.
enum Answer {
    Text(u16, Vec<u8>),
    Arrivals(StreamReader<Arrival>),
    Events(StreamReader<WatchEvent>),
    Keys(StreamReader<Result<String, Failure>>),
    Entries(StreamReader<Result<Entry, Failure>>),
    Read(StreamReader<ReadEvent>),
}

impl Guest for Courier {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let operation = target.trim_start_matches('/').to_owned();
        let headers = request.get_headers();
        let body = body(request).await;
        let asked = Asked { operation, headers, body };
        let answer = answer(&asked).await.unwrap_or_else(|failure| Answer::Text(502, told(&failure).into_bytes()));
        let (writer, reader) = wit_stream::new();
        let status = if let Answer::Text(status, _) = &answer { *status } else { 200 };
        let (count, wait) = (asked.number("count").unwrap_or(u64::MAX), asked.nanos("wait").unwrap_or(0));
        spawn_local(async move {
            let mut writer = Lines { writer, left: count };
            match answer {
                Answer::Text(_, text) => drop(writer.writer.write_all(text).await),
                Answer::Arrivals(stream) => {
                    drop(writer.writer.write_all(b"subscribed\n".to_vec()).await);
                    wait_for(wait).await;
                    writer.all(stream, arrival).await;
                }
                Answer::Read(stream) => writer.all(stream, read_event).await,
                Answer::Events(stream) => writer.all(stream, event).await,
                Answer::Keys(stream) => writer.all(stream, |key| key.unwrap_or_else(|failure| told(&failure))).await,
                Answer::Entries(stream) => {
                    writer.all(stream, |entry| entry.map_or_else(|failure| told(&failure), |entry| line(&entry))).await;
                }
            }
        });
        let (_trailers, none) = wit_future::new(|| Ok(None)); // a dropped writer delivers this default
        let (response, _sent) = Response::new(Fields::new(), Some(reader), none);
        let _ = response.set_status_code(status);
        Ok(response)
    }
}

async fn body(request: Request) -> Vec<u8> {
    let (_writer, processed) = wit_future::new(|| Ok(()));
    let (mut body, _trailers) = Request::consume_body(request, processed);
    let mut whole = Vec::new();
    loop {
        match body.read(Vec::with_capacity(64 << 10)).await {
            (StreamResult::Complete(_), chunk) => whole.extend(chunk),
            (StreamResult::Dropped | StreamResult::Cancelled, chunk) => {
                whole.extend(chunk);
                return whole;
            }
        }
    }
}

async fn answer(asked: &Asked) -> Result<Answer, Failure> {
    let text = |text: String| Answer::Text(200, text.into_bytes());
    let entry = |entry: Option<Entry>| match entry {
        Some(entry) => {
            Answer::Text(200, format!("{} {}", entry.revision, String::from_utf8_lossy(&entry.value)).into())
        }
        None => Answer::Text(404, Vec::new()),
    };
    let (key, value, revision) = (asked.text("key"), asked.body.clone(), asked.number("revision"));
    let ttl = asked.nanos("ttl");
    Ok(match asked.operation.as_str() {
        "publish" => {
            core::publish(asked.message()).await?;
            text(String::new())
        }
        "request" => {
            let reply = core::request(asked.message(), asked.nanos("ms").unwrap_or(2_000 * MILLI)).await?;
            Answer::Text(200, reply.payload)
        }
        "flush" => {
            core::flush(asked.nanos("ms").unwrap_or(2_000 * MILLI)).await?;
            text(String::new())
        }
        "subscribe" => Answer::Arrivals(core::subscribe(asked.text("filter"), asked.get("group")).await?),
        "hoard" => {
            let mut kept = Vec::new();
            let failure = loop {
                if kept.len() as u64 >= asked.number("count").unwrap_or(1) {
                    break None;
                }
                match core::subscribe(asked.text("filter"), None).await {
                    Ok(stream) => kept.push(stream),
                    Err(failure) => break Some(failure),
                }
            };
            text(format!("{} {}", kept.len(), failure.map(|failure| told(&failure)).unwrap_or_default()))
        }
        "get" => entry(asked.bucket().await?.get(key, Consistency::Leader).await?),
        "get-any" => entry(asked.bucket().await?.get(key, Consistency::AnyReplica).await?),
        "get-revision" => entry(asked.bucket().await?.get_revision(key, revision.unwrap_or(0)).await?),
        "put" => text(asked.bucket().await?.put(key, value, ttl).await?.to_string()),
        "create" => text(asked.bucket().await?.create(key, value, ttl).await?.to_string()),
        "update" => text(asked.bucket().await?.update(key, value, revision.unwrap_or(0), ttl).await?.to_string()),
        "delete" => text(asked.bucket().await?.delete(key, revision).await?.to_string()),
        "purge" => text(asked.bucket().await?.purge(key, revision, ttl).await?.to_string()),
        "increment" => text(asked.bucket().await?.increment(key, asked.number("by").unwrap_or(1)).await?.to_string()),
        "keys" => Answer::Keys(asked.bucket().await?.keys(asked.all("filter")).await?),
        "history" => Answer::Entries(asked.bucket().await?.history(key).await?),
        "watch" => {
            let state_first = asked.get("new").is_none();
            let options = WatchOptions { state_first, metadata_only: false, puts_only: false };
            Answer::Events(asked.bucket().await?.watch(asked.all("filter"), options).await?)
        }
        "store" => text(acknowledged(asked.stream().await?.publish(asked.message(), asked.options()).await?)),
        "store-all" => text(acknowledged(asked.stream().await?.publish_atomic(asked.batch()).await?)),
        "find" | "find-any" => {
            let from = consistency(asked);
            let stream = asked.stream().await?;
            let found = match asked.number("sequence") {
                Some(sequence) => stream.get(sequence, from).await?,
                None => stream.get_last(asked.text("filter"), from).await?,
            };
            found.map_or(Answer::Text(404, Vec::new()), |found| text(stored(&found)))
        }
        "snapshot" | "snapshot-any" => {
            let from = consistency(asked);
            let snapshot = asked.stream().await?.get_many_last(asked.all("filter"), from).await?;
            let lines = snapshot.messages.iter().map(|found| format!("{}\n", stored(found)));
            text(format!("{}as of {}", lines.collect::<String>(), snapshot.as_of))
        }
        "read" => {
            let start = match asked.text("start").as_str() {
                "last" => Start::LastPerSubject,
                "new" => Start::New,
                other => other.parse().map_or(Start::First, Start::At),
            };
            Answer::Read(asked.stream().await?.read(asked.all("filter"), start).await?)
        }
        "fetch" => {
            let max = asked.number("max").and_then(|max| u32::try_from(max).ok()).unwrap_or(1);
            let consumer = asked.stream().await?.consumer(asked.text("consumer")).await?;
            let mut lines = String::new();
            for delivery in consumer.fetch(max, asked.nanos("wait").unwrap_or(0)).await? {
                let settled = settle(asked, &delivery).await;
                let outcome = settled.map_or_else(|failure| told(&failure), |()| asked.text("then"));
                let (attempts, pending) = (delivery.attempts(), delivery.pending());
                lines += &format!("{} attempt {attempts}, {pending} behind: {outcome}\n", stored(&delivery.stored()));
            }
            text(lines)
        }
        "add" | "count" | "count-any" | "counts" | "counts-any" => counters::answer(asked).await?,
        "schedule" | "cancel" | "scheduled" | "scheduled-any" => schedules::answer(asked).await?,
        "service-ping" | "service-info" | "service-stats" | "service-request" => services::answer(asked).await?,
        "transact" => transactions::answer(asked).await?,
        "backlog" => {
            text(format!("{:?}", asked.stream().await?.consumer(asked.text("consumer")).await?.backlog().await?))
        }
        "load" => {
            load(asked, asked.number("times").unwrap_or(1)).await?;
            text(String::new())
        }
        "stream" => text(format!("{:?}", asked.stream().await?.info().await?)),
        "info" => text(format!("{:?}", asked.bucket().await?.info().await?)),
        "limits" => text(format!("{:?} {:?}", limits::server().await?, limits::replica())),
        _ => Answer::Text(404, b"see the source\n".to_vec()),
    })
}

fn consistency(asked: &Asked) -> Consistency {
    if asked.operation.ends_with("-any") { Consistency::AnyReplica } else { Consistency::Leader }
}

/// One thing many times, one after the other.
async fn load(asked: &Asked, times: u64) -> Result<(), Failure> {
    match asked.text("what").as_str() {
        "publish" => {
            for _ in 0..times {
                core::publish(asked.message()).await?;
            }
            core::flush(5_000 * MILLI).await?;
        }
        "request" => {
            for _ in 0..times {
                core::request(asked.message(), 5_000 * MILLI).await?;
            }
        }
        "get" => {
            let bucket = asked.bucket().await?;
            for _ in 0..times {
                bucket.get(asked.text("key"), Consistency::Leader).await?;
            }
        }
        "put" => {
            let bucket = asked.bucket().await?;
            for _ in 0..times {
                bucket.put(asked.text("key"), asked.body.clone(), None).await?;
            }
        }
        _ => {
            let consumer = asked.stream().await?.consumer(asked.text("consumer")).await?;
            let mut left = u32::try_from(times).unwrap_or(u32::MAX);
            while left > 0 {
                for delivery in consumer.fetch(left.min(64), 5_000 * MILLI).await? {
                    let _ = delivery.stored();
                    delivery.ack().await?;
                    left = left.saturating_sub(1);
                }
            }
        }
    }
    Ok(())
}

async fn settle(asked: &Asked, delivery: &Delivery) -> Result<(), Failure> {
    match asked.text("then").as_str() {
        "ack" => delivery.ack().await,
        "sync" => delivery.ack_sync().await,
        "nak" => delivery.nak(asked.nanos("ms")).await,
        "terminate" => delivery.terminate("cannot be done".to_owned()).await,
        "progress" => {
            delivery.in_progress().await?;
            delivery.ack().await
        }
        "twice" => {
            delivery.ack().await?;
            delivery.ack().await
        }
        _ => Ok(()),
    }
}

fn read_event(event: ReadEvent) -> String {
    match event {
        ReadEvent::Message(found) => stored(&found),
        ReadEvent::CaughtUp => "caught-up".to_owned(),
        ReadEvent::Resynchronised(first) => format!("resynchronised {first}"),
        ReadEvent::Failed(failure) => format!("failed {}", told(&failure)),
    }
}

fn acknowledged(acknowledgement: Acknowledgement) -> String {
    format!("{}{}", acknowledgement.sequence, if acknowledgement.duplicate { " duplicate" } else { "" })
}

fn stored(stored: &Stored) -> String {
    let payload = match stored.message.payload.len() {
        0..=64 => String::from_utf8_lossy(&stored.message.payload).into_owned(),
        length => format!("{length} bytes"),
    };
    format!("{} {} {payload}", stored.sequence, stored.message.subject)
}

/// `wrong-revision definitely-not: …`, the code as the WIT has it.
fn told(failure: &Failure) -> String {
    let code = format!("{:?}", failure.code).replace("ErrorCode::", "");
    let (name, payload) = code.split_once('(').map_or((code.as_str(), ""), |(name, payload)| (name, payload));
    let mut kebab = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            kebab.push('-');
        }
        kebab.push(letter.to_ascii_lowercase());
    }
    let payload = if payload.is_empty() { String::new() } else { format!("({payload}") };
    let outcome = if failure.outcome == Outcome::Maybe { "maybe" } else { "definitely-not" };
    format!("{kebab}{payload} {outcome}: {}", failure.detail)
}

fn line(entry: &Entry) -> String {
    let change = format!("{:?}", entry.change).replace("Change::", "").to_lowercase();
    format!("{} {change} {} {}", entry.revision, entry.key, String::from_utf8_lossy(&entry.value))
}

fn arrival(arrival: Arrival) -> String {
    match arrival {
        Arrival::Message(message) => {
            let lines = message.headers.iter().map(|header| format!(" {}={}", header.name, header.value));
            let payload = match message.payload.len() {
                0..=64 => String::from_utf8_lossy(&message.payload).into_owned(),
                length => format!("{length} bytes"),
            };
            format!("{} {payload}{}", message.subject, lines.collect::<String>())
        }
        Arrival::Lost(lost) => format!("lost {lost}"),
        Arrival::Interrupted => "interrupted".to_owned(),
    }
}

fn event(event: WatchEvent) -> String {
    match event {
        WatchEvent::Changed(entry) => line(&entry),
        WatchEvent::CaughtUp => "caught-up".to_owned(),
        WatchEvent::Resynchronised => "resynchronised".to_owned(),
        WatchEvent::Failed(failure) => format!("failed {}", told(&failure)),
    }
}

/// The body of an answer that has lines, as they come.
struct Lines {
    writer: StreamWriter<u8>,
    left: u64,
}

impl Lines {
    async fn all<T>(&mut self, mut items: StreamReader<T>, line: impl Fn(T) -> String) {
        while self.left > 0 {
            let Some(item) = items.next().await else { return };
            self.left -= 1;
            if !self.writer.write_all(format!("{}\n", line(item)).into_bytes()).await.is_empty() {
                return; // nobody reads any more
            }
        }
    }
}
