//! `lattice:nats/jetstream`. Consumers and what they deliver are in `deliveries.rs`.

use super::{
    Has, Outcome, Store, View, bindings::lattice::nats::jetstream, called, consistency, kv, nanos, outgoing, streams,
    told, types,
};
use crate::{
    host::Host,
    inherited::Inherited,
    network::{
        Network,
        nats_streams::{OpenConsumer, OpenStream},
    },
    operations::{Interface, Kind, Operation},
};
use lattice::nats::{self as driver, Code, Precondition, PublishOptions, ReadEvent, SNAPSHOT_BYTES_MAX, Start};
use lattice::spec::stream_profile::{Storing, StreamOperation};
use std::{sync::Arc, time::Duration};
use wasmtime::component::{Resource, StreamReader};

/// Messages of one batch, and their bytes.
const BATCH_MAX: u32 = 1_000;
const BATCH_BYTES_MAX: usize = 16 << 20;
/// Filters of one snapshot, or of one reader.
const FILTERS_MAX: usize = 16;

/// One operation on an open stream.
struct Call {
    network: Arc<Network>,
    inherited: Inherited,
    open: OpenStream,
}

impl Call {
    /// Messages that are stored say themselves where they go; all else is about the stream.
    fn of(
        store: &Store<Host>,
        stream: &Resource<OpenStream>,
        (kind, name): (Kind, &'static str),
    ) -> wasmtime::Result<(Self, Operation)> {
        let open = store.with(|mut access| access.get().table.get(stream).cloned())?;
        let (network, inherited, operation) = called(store, (Interface::Jetstream, kind, name))?;
        let operation = operation.on(open.name.as_str());
        Ok((Self { network, inherited, open }, operation))
    }

    /// Whether the guest's profiles of the stream have it.
    fn judge(&self, operation: StreamOperation) -> Result<(), driver::Failure> {
        self.network.judge_operation(&self.open.name, operation, Storing::default())
    }

    fn judge_storing(
        &self,
        operation: StreamOperation,
        batch: &[(driver::Message, PublishOptions)],
    ) -> Result<(), driver::Failure> {
        let has_ttl = batch.iter().any(|(_, options)| options.ttl.is_some());
        let storing = Storing { is_conditional: driver::is_conditional(batch), has_ttl };
        self.network.judge_operation(&self.open.name, operation, storing)
    }

    /// Something that changes nothing, and brings at most so many bytes.
    async fn read<T>(
        &self,
        bytes: usize,
        operation: impl Future<Output = Result<T, driver::Failure>>,
    ) -> Result<T, driver::Failure> {
        let turn = self.network.nats_turn(None, (bytes, false), &self.inherited).await?;
        turn.run(operation).await.map_err(driver::Failure::of_read)
    }

    async fn get(
        &self,
        sequence: u64,
        consistency: driver::Consistency,
    ) -> Result<Option<driver::Stored>, driver::Failure> {
        let (network, name, stream) = (&self.network, &self.open.name, &self.open.stream);
        self.judge(StreamOperation::Get)?;
        network.judge_any_reading(name)?;
        let found = self.read(stream.message_bytes_max(), stream.get(sequence, consistency)).await?;
        found.map(|stored| network.judge_read(name, &stored).map(|()| stored)).transpose()
    }

    async fn get_last(
        &self,
        filter: &str,
        consistency: driver::Consistency,
    ) -> Result<Option<driver::Stored>, driver::Failure> {
        self.judge(StreamOperation::GetLast)?;
        self.network.judge_reading(&self.open.name, filter)?;
        let stream = &self.open.stream;
        self.read(stream.message_bytes_max(), stream.get_last(filter, consistency)).await
    }

    async fn get_many_last(
        &self,
        filters: Vec<String>,
        consistency: driver::Consistency,
    ) -> Result<driver::Snapshot, driver::Failure> {
        self.judge(StreamOperation::GetManyLast)?;
        if !(1..=FILTERS_MAX).contains(&filters.len()) {
            let text = format!("{} filters; 1 to {FILTERS_MAX} are allowed", filters.len());
            return Err(driver::Failure::not(Code::Invalid("filters".into()), text));
        }
        filters.iter().try_for_each(|filter| self.network.judge_reading(&self.open.name, filter))?;
        let stream = &self.open.stream;
        let most = SNAPSHOT_BYTES_MAX + stream.message_bytes_max();
        self.read(most, stream.get_many_last(filters, consistency)).await
    }

    /// A reader of all that the filters match, or of the whole stream.
    async fn reader(
        &self,
        filters: Vec<String>,
        start: Start,
    ) -> Result<tokio::sync::mpsc::Receiver<crate::network::nats::Waiting<ReadEvent>>, driver::Failure> {
        self.judge(StreamOperation::Read)?;
        if filters.len() > FILTERS_MAX {
            let text = format!("{} filters; at most {FILTERS_MAX} are allowed", filters.len());
            return Err(driver::Failure::not(Code::Invalid("filters".into()), text));
        }
        if filters.is_empty() {
            self.network.judge_reading(&self.open.name, ">")?;
        }
        filters.iter().try_for_each(|filter| self.network.judge_reading(&self.open.name, filter))?;
        self.network.nats_read(self.open.stream.read(filters, start), &self.inherited).await
    }

    fn outgoing(
        &self,
        message: types::Message,
        options: jetstream::PublishOptions,
    ) -> Result<(driver::Message, PublishOptions), driver::Failure> {
        let jetstream::PublishOptions { precondition, message_id, ttl } = options;
        let ttl = ttl.map(Duration::from_nanos);
        kv::check_ttl(ttl)?;
        let precondition = match precondition {
            jetstream::Precondition::None => Precondition::None,
            jetstream::Precondition::LastSequence(sequence) => Precondition::LastSequence(sequence),
            jetstream::Precondition::LastOnSubject(sequence) => Precondition::LastOnSubject(sequence),
            jetstream::Precondition::LastOnFilter((filter, sequence)) => Precondition::LastOnFilter(filter, sequence),
        };
        let options = PublishOptions { precondition, message_id, ttl };
        let message = self.network.judge_stored(&self.open.name, (message.into(), &options), &self.inherited)?;
        Ok((message, options))
    }

    async fn publish(
        &self,
        message: types::Message,
        options: jetstream::PublishOptions,
    ) -> Result<driver::Acknowledgement, driver::Failure> {
        let (message, options) = self.outgoing(message, options)?;
        let stored = (message, options);
        self.judge_storing(StreamOperation::Publish, std::slice::from_ref(&stored))?;
        let (message, options) = stored;
        let turn = self.network.nats_turn(None, (message.bytes(), false), &self.inherited).await?;
        turn.run(self.open.stream.publish(message, options)).await
    }

    async fn publish_atomic(
        &self,
        batch: Vec<(types::Message, jetstream::PublishOptions)>,
    ) -> Result<driver::Acknowledgement, driver::Failure> {
        let invalid = |text: &str| Err(driver::Failure::not(Code::Invalid("batch".into()), text));
        if batch.is_empty() {
            return invalid("a batch has at least one message");
        }
        if batch.len() > BATCH_MAX as usize {
            let text = format!("{} messages in one batch; at most {BATCH_MAX} are allowed", batch.len());
            return Err(driver::Failure::not(Code::TooMany(BATCH_MAX), text));
        }
        let too_large = |bytes: usize, most: usize, what: &str| {
            let text = format!("{bytes} bytes in one {what}; at most {most} are allowed");
            Err(driver::Failure::not(Code::TooLarge(most as u64), text))
        };
        let mut bytes = 0;
        let mut outgoing = Vec::with_capacity(batch.len());
        for (index, (message, options)) in batch.into_iter().enumerate() {
            let (message, options) = self.outgoing(message, options)?;
            if options.message_id.is_some() {
                return invalid("a message of a batch has no message id");
            }
            if index > 0 && matches!(options.precondition, Precondition::LastSequence(_)) {
                return invalid("last-sequence goes with the first message of a batch alone");
            }
            let most = self.open.stream.message_bytes_max();
            if message.bytes() > most {
                return too_large(message.bytes(), most, "message");
            }
            bytes += message.bytes();
            outgoing.push((message, options));
        }
        if bytes > BATCH_BYTES_MAX {
            return too_large(bytes, BATCH_BYTES_MAX, "batch");
        }
        self.judge_storing(StreamOperation::PublishAtomic, &outgoing)?;
        let turn = self.network.nats_turn(None, (bytes, false), &self.inherited).await?;
        turn.run(self.open.stream.publish_atomic(outgoing)).await
    }
}

impl From<driver::Stored> for jetstream::Stored {
    fn from(stored: driver::Stored) -> Self {
        let driver::Stored { message, sequence, time } = stored;
        Self { message: message.into(), sequence, time }
    }
}

impl From<driver::Snapshot> for jetstream::Snapshot {
    fn from(snapshot: driver::Snapshot) -> Self {
        let driver::Snapshot { messages, as_of } = snapshot;
        Self { messages: messages.into_iter().map(Into::into).collect(), as_of }
    }
}

impl From<driver::Acknowledgement> for jetstream::Acknowledgement {
    fn from(acknowledgement: driver::Acknowledgement) -> Self {
        let driver::Acknowledgement { sequence, duplicate } = acknowledgement;
        Self { sequence, duplicate }
    }
}

fn told_to_reader(event: ReadEvent) -> jetstream::ReadEvent {
    match event {
        ReadEvent::Message(stored) => jetstream::ReadEvent::Message(stored.into()),
        ReadEvent::CaughtUp => jetstream::ReadEvent::CaughtUp,
        ReadEvent::Resynchronised(first) => jetstream::ReadEvent::Resynchronised(first),
        ReadEvent::Failed(failure) => jetstream::ReadEvent::Failed(failure.into()),
    }
}

impl jetstream::Host for View<'_> {}

impl jetstream::HostWithStore<Host> for Has {
    async fn open(store: &Store<Host>, name: String) -> Outcome<Resource<OpenStream>> {
        let (network, inherited, operation) = called(store, (Interface::Jetstream, Kind::Open, "open"))?;
        match operation.on(&name).end(network.nats_stream(&name, &inherited).await) {
            Ok(open) => Ok(Ok(store.with(|mut access| access.get().table.push(open))?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }
}

impl jetstream::HostStream for View<'_> {
    fn drop(&mut self, stream: Resource<OpenStream>) -> wasmtime::Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

type This = Resource<OpenStream>;

impl jetstream::HostStreamWithStore<Host> for Has {
    async fn info(store: &Store<Host>, this: This) -> Outcome<jetstream::StreamInfo> {
        let (call, operation) = Call::of(store, &this, (Kind::Read, "info"))?;
        let info = call.read(0, call.open.stream.info()).await;
        told(
            operation,
            info.map(|info| jetstream::StreamInfo {
                replicas: info.replicas,
                in_memory: info.in_memory,
                duplicate_window: nanos(info.duplicate_window),
                max_message: info.message_bytes_max,
                max_age: nanos(info.max_age),
                message_ttl: info.message_ttl,
                atomic: info.atomic,
                direct: info.direct,
                messages: info.messages,
                first_sequence: info.first_sequence,
                last_sequence: info.last_sequence,
            }),
        )
    }

    async fn publish(
        store: &Store<Host>,
        this: This,
        message: types::Message,
        options: jetstream::PublishOptions,
    ) -> Outcome<jetstream::Acknowledgement> {
        let (call, operation) = Call::of(store, &this, (Kind::Publish, "publish"))?;
        let operation = outgoing(operation, &message);
        told(operation, call.publish(message, options).await.map(Into::into))
    }

    async fn publish_atomic(
        store: &Store<Host>,
        this: This,
        batch: Vec<(types::Message, jetstream::PublishOptions)>,
    ) -> Outcome<jetstream::Acknowledgement> {
        let (call, operation) = Call::of(store, &this, (Kind::Publish, "publish-atomic"))?;
        let operation = operation.with("messaging.batch.message_count", || batch.len() as u64);
        told(operation, call.publish_atomic(batch).await.map(Into::into))
    }

    async fn get(
        store: &Store<Host>,
        this: This,
        sequence: u64,
        from: types::Consistency,
    ) -> Outcome<Option<jetstream::Stored>> {
        let (call, operation) = Call::of(store, &this, (Kind::Read, "get"))?;
        told(operation, call.get(sequence, consistency(from)).await.map(|stored| stored.map(Into::into)))
    }

    async fn get_last(
        store: &Store<Host>,
        this: This,
        filter: String,
        from: types::Consistency,
    ) -> Outcome<Option<jetstream::Stored>> {
        let (call, operation) = Call::of(store, &this, (Kind::Read, "get-last"))?;
        told(operation, call.get_last(&filter, consistency(from)).await.map(|stored| stored.map(Into::into)))
    }

    async fn get_many_last(
        store: &Store<Host>,
        this: This,
        filters: Vec<String>,
        from: types::Consistency,
    ) -> Outcome<jetstream::Snapshot> {
        let (call, operation) = Call::of(store, &this, (Kind::Read, "get-many-last"))?;
        told(operation, call.get_many_last(filters, consistency(from)).await.map(Into::into))
    }

    async fn read(
        store: &Store<Host>,
        this: This,
        filters: Vec<String>,
        start: jetstream::Start,
    ) -> Outcome<StreamReader<jetstream::ReadEvent>> {
        let (call, operation) = Call::of(store, &this, (Kind::Subscribe, "read"))?;
        let start = match start {
            jetstream::Start::First => Start::First,
            jetstream::Start::LastPerSubject => Start::LastPerSubject,
            jetstream::Start::New => Start::New,
            jetstream::Start::At(sequence) => Start::At(sequence),
            jetstream::Start::Since(time) => Start::Since(time),
        };
        match operation.end(call.reader(filters, start).await) {
            Ok(waiting) => Ok(Ok(streams::reader(store, waiting, told_to_reader)?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }

    async fn consumer(store: &Store<Host>, this: This, name: String) -> Outcome<Resource<OpenConsumer>> {
        let (call, operation) = Call::of(store, &this, (Kind::Open, "consumer"))?;
        let operation = operation.with("messaging.consumer.group.name", || name.clone());
        match operation.end(call.network.nats_consumer(&call.open, &name, &call.inherited).await) {
            Ok(open) => Ok(Ok(store.with(|mut access| access.get().table.push(open))?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }
}
