//! Handles messages of NATS: `wasmcloud:messaging/handler` with its published WIT, and nothing of the lattice. It answers no
//! HTTP.
//!
//! | message          | what becomes of it                                                                      |
//! |------------------|-----------------------------------------------------------------------------------------|
//! | `fail …`         | an error                                                                                |
//! | `trap …`         | a trap                                                                                  |
//! | `spin …`         | it computes until it is ended                                                           |
//! | `wait N SUBJECT` | it asks SUBJECT, for N milliseconds at most, before it goes on as below                 |
//! | `stray SUBJECT`  | it publishes there, and answers with what came of that                                  |
//! | any other        | a line in the log; who waits for a reply gets the message in capitals, and which replica's instance had it how often |
//!
//! A message is delivered at most once: what must not get lost is to be found by what is there, not by which messages came.

use std::cell::Cell;

use crate::exports::wasmcloud::messaging::handler::Guest;
use crate::wasmcloud::messaging::{consumer, types::BrokerMessage};

wit_bindgen::generate!({
    path: "../../wit/deps/messaging",
    inline: "package example:tasks; world tasks {
        import wasmcloud:messaging/consumer@0.2.0;
        export wasmcloud:messaging/handler@0.2.0;
    }",
    world: "example:tasks/tasks",
    generate_all,
});
export!(Tasks);

struct Tasks;

thread_local! {
    static HANDLED: Cell<u32> = const { Cell::new(0) };
}

impl Guest for Tasks {
    fn handle_message(message: BrokerMessage) -> Result<(), String> {
        let text = String::from_utf8_lossy(&message.body).into_owned();
        let mut words = text.split(' ');
        let mut reply = None;
        match words.next() {
            Some("fail") => return Err(format!("asked to fail: {text}")),
            Some("trap") => std::process::abort(),
            Some("spin") => loop {
                std::hint::spin_loop();
            },
            Some("wait") => {
                let millis = words.next().and_then(|millis| millis.parse().ok()).unwrap_or(100);
                // Whatever comes of it: it is the time that counts.
                let _ = consumer::request(words.next().unwrap_or("tasks.nobody"), &[], millis);
            }
            Some("stray") => {
                let subject = words.next().unwrap_or_default().to_owned();
                let stray = BrokerMessage { subject, body: b"stray".to_vec(), reply_to: None };
                reply = Some(format!("{:?}", consumer::publish(&stray)));
            }
            _ => {}
        }
        let handled = HANDLED.get() + 1;
        HANDLED.set(handled);
        println!("{}: {text}", message.subject);
        let Some(subject) = message.reply_to else { return Ok(()) };
        let reply = reply.unwrap_or_else(|| format!("{} {handled}", text.to_uppercase()));
        consumer::publish(&BrokerMessage { subject, body: reply.into_bytes(), reply_to: None })
    }
}
