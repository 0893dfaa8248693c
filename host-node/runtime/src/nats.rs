//! `lattice:nats`: NATS as NATS, for concurrent components. What is granted, and what is under way, is in `network/nats.rs`; what
//! is promised in `wit/nats`. Here are core NATS and the limits; `nats/kv.rs` has the buckets, `nats/transactions.rs` changes several keys of one, `nats/jetstream.rs`
//! the streams that store, `nats/counters.rs` their counters and `nats/schedules.rs` their schedules, `nats/services.rs` micro services, `nats/deliveries.rs` their consumers, `nats/objects.rs` the object stores, `nats/streams.rs` and
//! `nats/content.rs` what comes in streams of the component model.
//!
//! Before the first wait of a call it is found out whose work it is: its trace and its time are that request's. With that begins
//! what is counted and traced of it (`operations.rs`), which ends with what the guest is told.

mod content;
mod counters;
mod deliveries;
mod jetstream;
mod kv;
mod objects;
mod schedules;
mod services;
mod streams;
mod transactions;

pub(crate) use bindings::lattice::nats::types;

use crate::{
    host::{Host, handed_on},
    inherited::Inherited,
    network::{
        Network,
        nats::{DELIVERIES_MAX, OPERATIONS_MAX, STREAMS_MAX, Told, WAITING_BYTES_MAX, WAITING_MAX},
    },
    operations::{Interface, Kind, Named, Operation},
};
use bindings::lattice::nats::{
    core, counters as counters_interface, jetstream as jetstream_interface, kv as kv_interface, limits,
    objects as objects_interface, schedules as schedules_interface, services as services_interface,
    transactions as transactions_interface,
};
use lattice::nats as driver;
use std::{sync::Arc, time::Duration};
use wasmtime::{
    AsContextMut as _,
    component::{Accessor, HasData, Linker, ResourceTable, StreamReader},
};

mod bindings {
    //! Generated from `wit/nats`.
    wasmtime::component::bindgen!({
        path: "../../wit/nats",
        world: "lattice:nats/imports",
        imports: { default: trappable },
        with: {
            "lattice:nats/kv.bucket": crate::network::nats::OpenBucket,
            "lattice:nats/counters.counters": crate::network::nats_counters::OpenCounters,
            "lattice:nats/jetstream.stream": crate::network::nats_streams::OpenStream,
            "lattice:nats/jetstream.consumer": crate::network::nats_streams::OpenConsumer,
            "lattice:nats/jetstream.delivery": crate::network::nats_streams::OpenDelivery,
            "lattice:nats/objects.store": crate::network::nats_objects::OpenObjects,
            "lattice:nats/schedules.schedules": crate::network::nats_schedules::OpenSchedules,
            "lattice:nats/objects.upload": super::content::OpenUpload,
        },
    });
}

/// What the functions of the interfaces need of an instance.
pub(crate) struct View<'a> {
    table: &'a mut ResourceTable,
}

pub(crate) struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    fn view(host: &mut Host) -> View<'_> {
        View { table: &mut host.table }
    }
    core::add_to_linker::<_, Has>(linker, view)?;
    counters_interface::add_to_linker::<_, Has>(linker, view)?;
    jetstream_interface::add_to_linker::<_, Has>(linker, view)?;
    kv_interface::add_to_linker::<_, Has>(linker, view)?;
    objects_interface::add_to_linker::<_, Has>(linker, view)?;
    schedules_interface::add_to_linker::<_, Has>(linker, view)?;
    services_interface::add_to_linker::<_, Has>(linker, view)?;
    transactions_interface::add_to_linker::<_, Has>(linker, view)?;
    limits::add_to_linker::<_, Has>(linker, view)
}

type Store<T> = Accessor<T, Has>;
type Outcome<T> = wasmtime::Result<Result<T, types::Failure>>;

/// Whose work the call is, which has just been made.
fn caller(store: &Store<Host>) -> wasmtime::Result<(Arc<Network>, Inherited)> {
    store.with(|mut access| {
        let inherited = handed_on(access.as_context_mut())?;
        Ok((access.data_mut().network().clone(), inherited))
    })
}

/// The same of an operation, which begins.
fn called(store: &Store<Host>, named: Named) -> wasmtime::Result<(Arc<Network>, Inherited, Operation)> {
    let (network, mut inherited) = caller(store)?;
    let operation = network.operation(named, &mut inherited);
    Ok((network, inherited, operation))
}

fn consistency(from: types::Consistency) -> driver::Consistency {
    match from {
        types::Consistency::Leader => driver::Consistency::Leader,
        types::Consistency::AnyReplica => driver::Consistency::AnyReplica,
    }
}

fn nanos(duration: Duration) -> types::Duration {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The end of an operation.
fn told<T>(operation: Operation, result: Result<T, driver::Failure>) -> Outcome<T> {
    Ok(operation.end(result).map_err(Into::into))
}

/// With what is told of a message that is sent.
fn outgoing(operation: Operation, message: &types::Message) -> Operation {
    operation.on(&message.subject).with("messaging.message.body.size", || message.payload.len() as u64)
}

impl From<driver::Failure> for types::Failure {
    fn from(failure: driver::Failure) -> Self {
        use driver::Code;
        use types::ErrorCode;
        let code = match failure.code {
            Code::Denied => ErrorCode::Denied,
            Code::Invalid(argument) => ErrorCode::Invalid(argument),
            Code::TooLarge(limit) => ErrorCode::TooLarge(limit),
            Code::TooMany(most) => ErrorCode::TooMany(most),
            Code::QuotaExceeded(most) => ErrorCode::QuotaExceeded(most),
            Code::NoResponders => ErrorCode::NoResponders,
            Code::Timeout => ErrorCode::Timeout,
            Code::Disconnected => ErrorCode::Disconnected,
            Code::NotFound => ErrorCode::NotFound,
            Code::AlreadyExists(revision) => ErrorCode::AlreadyExists(revision.0),
            Code::WrongRevision => ErrorCode::WrongRevision,
            Code::WrongSequence => ErrorCode::WrongSequence,
            Code::AlreadySettled => ErrorCode::AlreadySettled,
            Code::BatchAbandoned => ErrorCode::BatchAbandoned,
            Code::StorageFull => ErrorCode::StorageFull,
            Code::Unsupported => ErrorCode::Unsupported,
            Code::Jetstream(code) => ErrorCode::Jetstream(code),
            Code::Other => ErrorCode::Other,
        };
        let outcome = match failure.outcome {
            driver::Outcome::DefinitelyNot => types::Outcome::DefinitelyNot,
            driver::Outcome::Maybe => types::Outcome::Maybe,
        };
        Self { code, outcome, detail: failure.detail }
    }
}

impl From<types::Message> for driver::Message {
    fn from(message: types::Message) -> Self {
        let types::Message { subject, reply_to, headers, payload } = message;
        let headers = headers.into_iter().map(|types::Header { name, value }| (name, value)).collect();
        Self { subject, reply: reply_to, headers, payload: payload.into() }
    }
}

impl From<driver::Message> for types::Message {
    fn from(message: driver::Message) -> Self {
        let driver::Message { subject, reply, headers, payload } = message;
        let headers = headers.into_iter().map(|(name, value)| types::Header { name, value }).collect();
        Self { subject, reply_to: reply, headers, payload: payload.into() }
    }
}

impl From<Told> for core::Arrival {
    fn from(told: Told) -> Self {
        match told {
            Told::Message(message) => core::Arrival::Message(message.into()),
            Told::Lost(lost) => core::Arrival::Lost(lost),
            Told::Interrupted => core::Arrival::Interrupted,
        }
    }
}

impl types::Host for View<'_> {}
impl core::Host for View<'_> {}

impl core::HostWithStore<Host> for Has {
    async fn publish(store: &Store<Host>, message: types::Message) -> Outcome<()> {
        let (network, inherited, operation) = called(store, (Interface::Core, Kind::Publish, "publish"))?;
        let operation = outgoing(operation, &message);
        told(operation, network.nats_publish(message.into(), &inherited).await)
    }

    async fn flush(store: &Store<Host>, timeout: types::Duration) -> Outcome<()> {
        let (network, inherited, operation) = called(store, (Interface::Core, Kind::Flush, "flush"))?;
        told(operation, network.nats_flush(Duration::from_nanos(timeout), &inherited).await)
    }

    async fn request(
        store: &Store<Host>,
        message: types::Message,
        timeout: types::Duration,
    ) -> Outcome<types::Message> {
        let (network, inherited, operation) = called(store, (Interface::Core, Kind::Request, "request"))?;
        let operation = outgoing(operation, &message);
        let answer = network.nats_request(message.into(), Duration::from_nanos(timeout), &inherited).await;
        told(operation, answer.map(Into::into))
    }

    async fn subscribe(
        store: &Store<Host>,
        filter: String,
        queue_group: Option<String>,
    ) -> Outcome<StreamReader<core::Arrival>> {
        let (network, inherited, operation) = called(store, (Interface::Core, Kind::Subscribe, "subscribe"))?;
        let operation = operation.on(&filter);
        match operation.end(network.nats_subscribe(&filter, queue_group, &inherited).await) {
            Ok(waiting) => Ok(Ok(streams::reader(store, waiting, core::Arrival::from)?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }
}

impl limits::Host for View<'_> {
    fn replica(&mut self) -> wasmtime::Result<limits::ReplicaLimits> {
        Ok(limits::ReplicaLimits {
            operations: OPERATIONS_MAX,
            operation_bytes: crate::network::VALUES_BYTES_MAX as u64,
            streams: STREAMS_MAX,
            deliveries: DELIVERIES_MAX,
            waiting_messages: WAITING_MAX,
            waiting_bytes: WAITING_BYTES_MAX.into(),
        })
    }
}

impl limits::HostWithStore<Host> for Has {
    async fn server(store: &Store<Host>) -> Outcome<limits::ServerLimits> {
        let (network, inherited) = caller(store)?;
        let server = network.nats_server(&inherited).await;
        Ok(server.map_err(Into::into).map(|server| limits::ServerLimits {
            version: server.version,
            max_payload: server.payload_bytes_max as u64,
        }))
    }
}
