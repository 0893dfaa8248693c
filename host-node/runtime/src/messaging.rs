//! `wasmcloud:messaging@0.2` over core NATS: what guests send, and how a message is handed to one. What is granted, and what
//! is under way, is in `network/messages.rs`.
//!
//! A message takes the way of a request ([`Incoming`] is what tells it from one), so that it meets the same limits, and its
//! failures are counted and held against reuse like those of any other.
//!
//! The interface's functions are plain ones, so a guest that waits in one holds up all else in its instance: a spec gives
//! messaging to no instances that have several requests at a time.

use crate::{
    exchange::Shared,
    host::{Host, handed_on},
    load::Pre,
    network::Outgoing,
    operations::{Interface, Kind},
    pool::Guest,
};
pub(crate) use bindings::MessageGuest;

use bindings::wasmcloud::messaging::types::BrokerMessage;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use lattice::{http::Request, store::Message};
use std::{sync::Arc, time::Duration};
use wasmtime::{
    AsContextMut as _, Store, StoreContextMut,
    component::{Instance, Linker},
};
use wasmtime_wasi_http::{p2, p3};

mod bindings {
    //! Generated from `wit/deps/messaging`.
    wasmtime::component::bindgen!({
        path: "../../wit/deps/messaging",
        inline: "package lattice:messaging; world message-guest { export wasmcloud:messaging/handler@0.2.0; }",
        world: "lattice:messaging/message-guest",
        exports: { default: async },
    });
}

const CONSUMER: &str = "wasmcloud:messaging/consumer@0.2.0";

pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut consumer = linker.instance(CONSUMER)?;
    consumer.func_wrap_async("publish", |mut store: StoreContextMut<'_, Host>, (message,): (BrokerMessage,)| {
        Box::new(async move {
            let mut inherited = handed_on(store.as_context_mut())?;
            let network = store.data().network().clone();
            let BrokerMessage { subject, body, reply_to } = message;
            let operation = network.operation((Interface::Messaging, Kind::Publish, "publish"), &mut inherited);
            let operation = operation.on(&subject).with("messaging.message.body.size", || body.len() as u64);
            let published = network.publish(Outgoing { subject, reply_to, body: body.into() }, &inherited).await;
            Ok((operation.end(published).map_err(|error| error.to_string()),))
        })
    })?;
    type Ask = (String, Vec<u8>, u32);
    consumer.func_wrap_async("request", |mut store: StoreContextMut<'_, Host>, (subject, body, millis): Ask| {
        Box::new(async move {
            let mut inherited = handed_on(store.as_context_mut())?;
            let network = store.data().network().clone();
            let operation = network.operation((Interface::Messaging, Kind::Request, "request"), &mut inherited);
            let operation = operation.on(&subject).with("messaging.message.body.size", || body.len() as u64);
            let wall = store.data().limits.wall;
            let timeout = inherited.left(Duration::from_millis(u64::from(millis)).min(wall));
            let outgoing = Outgoing { subject, reply_to: None, body: body.into() };
            let answered = operation.end(network.request(outgoing, timeout, &inherited).await);
            let reply = answered.map(|reply| BrokerMessage {
                subject: reply.subject,
                body: reply.payload.into(),
                reply_to: reply.reply,
            });
            Ok((reply.map_err(|error| error.to_string()),))
        })
    })
}

/// What makes a request a message.
#[derive(Clone)]
pub(crate) struct Incoming(Arc<Message>);

impl Incoming {
    pub(crate) fn of<B>(request: &http::Request<B>) -> Option<Arc<Message>> {
        Some(request.extensions().get::<Self>()?.0.clone())
    }

    /// A message on the way of a request: the trace that it belongs to is in the headers.
    pub(crate) fn request(message: Message) -> Request {
        let mut request = http::Request::new(lattice::http::empty());
        *request.method_mut() = Method::POST;
        for name in ["traceparent", "tracestate"] {
            let of_name = message.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
            if let Some(value) = of_name.and_then(|(_, value)| HeaderValue::from_str(value).ok()) {
                request.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        request.extensions_mut().insert(Self(Arc::new(message)));
        request
    }
}

/// An instance of a component of which more is called than what takes requests: its handler of messages, where it has one,
/// or functions by their names.
pub(crate) async fn instantiate(
    pre: &Pre,
    store: &mut Store<Host>,
    has_handler: bool,
) -> wasmtime::Result<(Guest, Option<MessageGuest>, Option<Instance>)> {
    let of_any = match pre {
        Pre::Http02(pre) => pre.instance_pre(),
        Pre::Http03(pre) => pre.instance_pre(),
        Pre::Messages(pre) => pre,
    };
    let instance = of_any.instantiate_async(&mut *store).await?;
    let guest = match pre {
        Pre::Http02(_) => Guest::Http02(p2::bindings::Proxy::new(&mut *store, &instance)?),
        Pre::Http03(_) => Guest::Http03(p3::bindings::Service::new(&mut *store, &instance)?),
        Pre::Messages(_) => Guest::NoHttp,
    };
    let handler = has_handler.then(|| MessageGuest::new(&mut *store, &instance)).transpose()?;
    Ok((guest, handler, Some(instance)))
}

/// One message to `wasmcloud:messaging/handler@0.2`: a plain call.
pub(crate) async fn handle(
    store: &mut Store<Host>,
    guest: &MessageGuest,
    message: Arc<Message>,
    headers: &HeaderMap,
    shared: Arc<Shared>,
) -> wasmtime::Result<()> {
    store.data_mut().handling(&message, headers, &shared);
    let Message { subject, reply, payload, .. } = &*message;
    let message = BrokerMessage { subject: subject.clone(), body: payload.to_vec(), reply_to: reply.clone() };
    let handled = guest.wasmcloud_messaging_handler().call_handle_message(&mut *store, &message).await?;
    shared.request_was_read();
    match handled {
        Ok(()) => {
            let mut done = http::Response::new(());
            *done.status_mut() = StatusCode::NO_CONTENT;
            shared.answer_bodiless(done.into_parts().0);
        }
        Err(text) => shared.answer(Err(text)),
    }
    Ok(())
}
