//! Accounts that are event-sourced: a balance is the sum of what happened, in the order of a stream, and whoever adds to it says what
//! it has seen. `lattice:nats/jetstream` with optimistic concurrency. wasi:http 0.3.
//!
//! | request                                | answer                                                             |
//! |----------------------------------------|--------------------------------------------------------------------|
//! | `GET /ID`                              | `BALANCE SEQUENCE`: the sum of its events, and the last one's place |
//! | `POST /ID`, the body `+30` or `-12`    | the same after it; 409 where the balance would go below 0          |
//!
//! With the header `idempotency-key` an event is there once, however often it is asked for: the key is the event's message id, and stays
//! in the stream with it. What may or may not have happened is 503, and is to be asked for again under the same key.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response};
use wasip3::wit_bindgen::StreamResult;
use wasip3::{spawn_local, wit_future, wit_stream};

use crate::bindings::lattice::nats::{
    jetstream::{self, Precondition, PublishOptions, ReadEvent, Start, Stream},
    types::{ErrorCode as NatsError, Failure, Message, Outcome},
};

mod bindings {
    wasip3::wit_bindgen::generate!({
        path: "../../wit/nats",
        inline: "package example:account; world account { include lattice:nats/event-store@0.1.0; }",
        world: "example:account/account",
        runtime_path: "wasip3::wit_bindgen::rt",
        generate_all,
    });
}

wasip3::http::service::export!(Account);

struct Account;

/// Others were quicker so often.
const TRIES: u32 = 16;

impl Guest for Account {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let subject = format!("accounts.{}", target.trim_start_matches('/'));
        let key = request.get_headers().get("idempotency-key").pop();
        let key = key.map(|key| String::from_utf8_lossy(&key).into_owned());
        let is_change = matches!(request.get_method(), Method::Post);
        let body = body(request).await;
        let answer = async {
            let stream = jetstream::open("accounts".to_owned()).await?;
            if !is_change {
                return state(&stream, &subject, None).await.map(|state| (200, state.text()));
            }
            match body.trim().parse() {
                Ok(amount) => change(&stream, &subject, amount, key).await,
                Err(_) => Ok((400, "the body is a number, like +30\n".to_owned())),
            }
        };
        let (status, text) = answer.await.unwrap_or_else(|failure| failed(&failure));
        let (mut writer, reader) = wit_stream::new();
        spawn_local(async move { drop(writer.write_all(text.into_bytes()).await) });
        let (_trailers, none) = wit_future::new(|| Ok(None)); // a dropped writer delivers this default
        let (response, _sent) = Response::new(Fields::new(), Some(reader), none);
        let _ = response.set_status_code(status);
        Ok(response)
    }
}

/// An account as its events left it.
struct State {
    balance: i64,
    /// Of the last event; 0 where there is none.
    sequence: u64,
    /// The event that was asked about is there.
    is_done: bool,
}

impl State {
    fn text(&self) -> String {
        format!("{} {}\n", self.balance, self.sequence)
    }
}

/// All that happened, summed up.
async fn state(stream: &Stream, subject: &str, key: Option<&str>) -> Result<State, Failure> {
    let mut events = stream.read(vec![subject.to_owned()], Start::First).await?;
    let mut state = State { balance: 0, sequence: 0, is_done: false };
    loop {
        match events.next().await {
            Some(ReadEvent::Message(event)) => {
                let amount: i64 = String::from_utf8_lossy(&event.message.payload).parse().unwrap_or(0);
                let id = event.message.headers.iter().find(|header| header.name == "Nats-Msg-Id");
                state.balance += amount;
                state.sequence = event.sequence;
                state.is_done |= key.is_some() && id.map(|header| header.value.as_str()) == key;
            }
            Some(ReadEvent::Resynchronised(_)) => {}
            Some(ReadEvent::CaughtUp) | None => return Ok(state),
            Some(ReadEvent::Failed(failure)) => return Err(failure),
        }
    }
}

/// Add an event to what was seen; where others were quicker, see again.
async fn change(stream: &Stream, subject: &str, amount: i64, key: Option<String>) -> Result<(u16, String), Failure> {
    for _ in 0..TRIES {
        let state = state(stream, subject, key.as_deref()).await?;
        if state.is_done {
            return Ok((200, state.text()));
        }
        let balance = match state.balance.checked_add(amount) {
            Some(balance) if balance >= 0 => balance,
            _ => return Ok((409, state.text())),
        };
        let event = Message {
            subject: subject.to_owned(),
            reply_to: None,
            headers: Vec::new(),
            payload: amount.to_string().into(),
        };
        let options = PublishOptions {
            precondition: Precondition::LastOnSubject(state.sequence),
            message_id: key.clone(),
            ttl: None,
        };
        match stream.publish(event, options).await {
            // The same key, asked for at the same time: what became of it is seen in the next round.
            Ok(stored) if stored.duplicate => {}
            Ok(stored) => return Ok((200, State { balance, sequence: stored.sequence, is_done: true }.text())),
            Err(Failure { code: NatsError::WrongSequence, .. }) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok((503, "others were quicker all the time\n".to_owned()))
}

fn failed(failure: &Failure) -> (u16, String) {
    match failure.outcome {
        Outcome::Maybe => (503, format!("it may have happened: ask again under the same key ({})\n", failure.detail)),
        Outcome::DefinitelyNot => (502, format!("{}\n", failure.detail)),
    }
}

async fn body(request: Request) -> String {
    let (_writer, processed) = wit_future::new(|| Ok(()));
    let (mut body, _trailers) = Request::consume_body(request, processed);
    let mut whole = Vec::new();
    loop {
        let (result, chunk) = body.read(Vec::with_capacity(64)).await;
        whole.extend(chunk);
        if whole.len() > 64 || matches!(result, StreamResult::Dropped | StreamResult::Cancelled) {
            return String::from_utf8_lossy(&whole).into_owned();
        }
    }
}
