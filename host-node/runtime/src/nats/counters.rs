//! `lattice:nats/counters`. What is granted of them is in `network/nats_counters.rs`.

use super::{Has, Outcome, Store, View, bindings::lattice::nats::counters, called, consistency, told, types};
use crate::{
    host::Host,
    inherited::Inherited,
    network::{Network, nats::not_a_subject, nats_counters::OpenCounters},
    operations::{Interface, Kind, Operation},
};
use lattice::{
    nats::{Addition, Code, Consistency, Count, Failure, SNAPSHOT_BYTES_MAX},
    spec::{
        Subject,
        stream_profile::{Storing, StreamOperation},
    },
};
use std::sync::Arc;
use wasmtime::component::Resource;

/// Filters of one call.
const FILTERS_MAX: usize = 16;

/// One operation on the counters of a stream.
struct Call {
    network: Arc<Network>,
    inherited: Inherited,
    open: OpenCounters,
}

impl Call {
    fn of(
        store: &Store<Host>,
        this: &Resource<OpenCounters>,
        (kind, name): (Kind, &'static str),
    ) -> wasmtime::Result<(Self, Operation)> {
        let open = store.with(|mut access| access.get().table.get(this).cloned())?;
        let (network, inherited, operation) = called(store, (Interface::Counters, kind, name))?;
        Ok((Self { network, inherited, open }, operation))
    }

    async fn add(&self, subject: String, by: String, message_id: Option<String>) -> Result<Addition, Failure> {
        let adding = self.network.judge_adding(&self.open, (subject, &by, message_id), &self.inherited)?;
        let bytes = adding.message.bytes() + adding.by.as_str().len();
        let turn = self.network.nats_turn(None, (bytes, false), &self.inherited).await?;
        turn.run(self.open.0.stream.add(adding.message, adding.by, adding.message_id)).await
    }

    /// Something that changes nothing, and brings at most so many bytes.
    async fn read<T>(&self, bytes: usize, operation: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let turn = self.network.nats_turn(None, (bytes, false), &self.inherited).await?;
        turn.run(operation).await.map_err(Failure::of_read)
    }

    async fn get(&self, subject: &str, from: Consistency) -> Result<Option<Count>, Failure> {
        let (network, open) = (&self.network, &self.open.0);
        network.judge_operation(&open.name, StreamOperation::Count, Storing::default())?;
        // One counter: what a filter matches are several.
        let parsed: Result<Subject, _> = subject.parse();
        parsed.map_err(|error| not_a_subject("subject", &error))?;
        network.judge_reading(&open.name, subject)?;
        let found = self.read(open.stream.message_bytes_max(), open.stream.get_last(subject, from)).await?;
        found.map(Count::try_from).transpose()
    }

    async fn get_many(&self, filters: Vec<String>, from: Consistency) -> Result<counters::Counts, Failure> {
        let (network, open) = (&self.network, &self.open.0);
        network.judge_operation(&open.name, StreamOperation::Counts, Storing::default())?;
        if !(1..=FILTERS_MAX).contains(&filters.len()) {
            let text = format!("{} filters; 1 to {FILTERS_MAX} are allowed", filters.len());
            return Err(Failure::not(Code::Invalid("filters".into()), text));
        }
        filters.iter().try_for_each(|filter| network.judge_reading(&open.name, filter))?;
        let most = SNAPSHOT_BYTES_MAX + open.stream.message_bytes_max();
        let found = self.read(most, open.stream.get_many_last(filters, from)).await?;
        let counts = found.messages.into_iter().map(|stored| Count::try_from(stored).map(Into::into));
        Ok(counters::Counts { counts: counts.collect::<Result<_, _>>()?, as_of: found.as_of })
    }
}

impl From<Addition> for counters::Addition {
    fn from(addition: Addition) -> Self {
        let Addition { total, sequence, duplicate } = addition;
        Self { total, sequence, duplicate }
    }
}

impl From<Count> for counters::Count {
    fn from(count: Count) -> Self {
        let Count { subject, total, sequence, time } = count;
        Self { subject, total, sequence, time }
    }
}

impl counters::Host for View<'_> {}

impl counters::HostWithStore<Host> for Has {
    async fn open(store: &Store<Host>, name: String) -> Outcome<Resource<OpenCounters>> {
        let (network, inherited, operation) = called(store, (Interface::Counters, Kind::Open, "open"))?;
        match operation.on(&name).end(network.nats_counters(&name, &inherited).await) {
            Ok(open) => Ok(Ok(store.with(|mut access| access.get().table.push(open))?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }
}

impl counters::HostCounters for View<'_> {
    fn drop(&mut self, this: Resource<OpenCounters>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

type This = Resource<OpenCounters>;

impl counters::HostCountersWithStore<Host> for Has {
    async fn add(
        store: &Store<Host>,
        this: This,
        subject: String,
        by: String,
        message_id: Option<String>,
    ) -> Outcome<counters::Addition> {
        let (call, operation) = Call::of(store, &this, (Kind::Write, "add"))?;
        let operation = operation.on(&subject);
        told(operation, call.add(subject, by, message_id).await.map(Into::into))
    }

    async fn get(
        store: &Store<Host>,
        this: This,
        subject: String,
        from: types::Consistency,
    ) -> Outcome<Option<counters::Count>> {
        let (call, operation) = Call::of(store, &this, (Kind::Read, "get"))?;
        told(operation.on(&subject), call.get(&subject, consistency(from)).await.map(|found| found.map(Into::into)))
    }

    async fn get_many(
        store: &Store<Host>,
        this: This,
        filters: Vec<String>,
        from: types::Consistency,
    ) -> Outcome<counters::Counts> {
        let (call, operation) = Call::of(store, &this, (Kind::Read, "get-many"))?;
        let operation = operation.on(call.open.0.name.as_str());
        told(operation, call.get_many(filters, consistency(from)).await)
    }
}
