//! `wasmcloud:messaging@0.2` over core NATS: what guests send. What is granted, and what is under way, is in
//! `network/messages.rs`.
//!
//! The interface's functions are plain ones, so a guest that waits in one holds up all else in its instance: a spec gives
//! messaging to no instances that have several requests at a time.

use crate::{
    host::{Host, handed_on},
    network::Outgoing,
};
use bindings::wasmcloud::messaging::types::BrokerMessage;
use std::time::Duration;
use wasmtime::{AsContextMut as _, StoreContextMut, component::Linker};

mod bindings {
    //! Generated from `wit/deps/messaging`.
    wasmtime::component::bindgen!({
        path: "../../wit/deps/messaging",
        inline: "package lattice:messaging; world types { import wasmcloud:messaging/types@0.2.0; }",
        world: "lattice:messaging/types",
    });
}

const CONSUMER: &str = "wasmcloud:messaging/consumer@0.2.0";

pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut consumer = linker.instance(CONSUMER)?;
    consumer.func_wrap_async("publish", |mut store: StoreContextMut<'_, Host>, (message,): (BrokerMessage,)| {
        Box::new(async move {
            let inherited = handed_on(store.as_context_mut())?;
            let network = store.data().network().clone();
            let BrokerMessage { subject, body, reply_to } = message;
            let published = network.publish(Outgoing { subject, reply_to, body: body.into() }, &inherited).await;
            Ok((published.map_err(|error| error.to_string()),))
        })
    })?;
    type Ask = (String, Vec<u8>, u32);
    consumer.func_wrap_async("request", |mut store: StoreContextMut<'_, Host>, (subject, body, millis): Ask| {
        Box::new(async move {
            let inherited = handed_on(store.as_context_mut())?;
            let network = store.data().network().clone();
            let wall = store.data().limits.wall;
            let timeout = inherited.left(Duration::from_millis(u64::from(millis)).min(wall));
            let outgoing = Outgoing { subject, reply_to: None, body: body.into() };
            let reply = network.request(outgoing, timeout, &inherited).await.map(|reply| BrokerMessage {
                subject: reply.subject,
                body: reply.payload.into(),
                reply_to: reply.reply,
            });
            Ok((reply.map_err(|error| error.to_string()),))
        })
    })
}
