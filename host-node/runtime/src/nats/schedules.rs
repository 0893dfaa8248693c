//! `lattice:nats/schedules`. What is granted of them is in `network/nats_schedules.rs`.

use super::{
    Has, Outcome, Store, View, bindings::lattice::nats::schedules, called, consistency, kv, outgoing, told, types,
};
use crate::{
    host::Host,
    inherited::Inherited,
    network::{Network, nats_schedules::OpenSchedules},
    operations::{Interface, Kind, Operation},
};
use lattice::{
    nats::{Acknowledgement, Consistency, Failure, Precondition, PublishOptions, Scheduled, Scheduling, Timing},
    spec::stream_profile::StreamOperation,
};
use std::{sync::Arc, time::Duration};
use wasmtime::component::Resource;

/// One operation on the schedules of a stream.
struct Call {
    network: Arc<Network>,
    inherited: Inherited,
    open: OpenSchedules,
}

/// What a guest gives of a schedule.
type Given = (String, schedules::Timing, types::Message, schedules::PutOptions);

impl Call {
    fn of(
        store: &Store<Host>,
        this: &Resource<OpenSchedules>,
        (kind, name): (Kind, &'static str),
    ) -> wasmtime::Result<(Self, Operation)> {
        let open = store.with(|mut access| access.get().table.get(this).cloned())?;
        let (network, inherited, operation) = called(store, (Interface::Schedules, kind, name))?;
        Ok((Self { network, inherited, open }, operation))
    }

    async fn put(&self, (subject, timing, message, options): Given) -> Result<Acknowledgement, Failure> {
        let schedules::PutOptions { ttl, message_id, expect } = options;
        let ttl = ttl.map(Duration::from_nanos);
        kv::check_ttl(ttl)?;
        let timing = match timing {
            schedules::Timing::At(time) => Timing::at(time),
            schedules::Timing::Every(pause) => Timing::every(Duration::from_nanos(pause))?,
            schedules::Timing::Cron(schedules::Calendar { cron, time_zone }) => Timing::cron(&cron, time_zone)?,
        };
        let precondition = expect.map_or(Precondition::None, Precondition::LastOnSubject);
        let options = PublishOptions { precondition, message_id, ttl: None };
        let scheduling = Scheduling { subject, timing, message: message.into(), ttl, options };
        let scheduling = self.network.judge_scheduling(&self.open, scheduling, &self.inherited)?;
        let turn = self.network.nats_turn(None, (scheduling.message.bytes(), false), &self.inherited).await?;
        turn.run(self.open.0.stream.schedule(scheduling)).await
    }

    async fn cancel(&self, subject: &str) -> Result<bool, Failure> {
        self.network.judge_schedule(&self.open, StreamOperation::Cancel, subject)?;
        let turn = self.network.nats_turn(None, (0, false), &self.inherited).await?;
        turn.run(self.open.0.stream.cancel(subject)).await
    }

    async fn get(&self, subject: &str, from: Consistency) -> Result<Option<Scheduled>, Failure> {
        self.network.judge_schedule(&self.open, StreamOperation::Scheduled, subject)?;
        let stream = &self.open.0.stream;
        let turn = self.network.nats_turn(None, (stream.message_bytes_max(), false), &self.inherited).await?;
        let found = turn.run(stream.get_last(subject, from)).await.map_err(Failure::of_read)?;
        found.map(Scheduled::try_from).transpose()
    }
}

impl From<Acknowledgement> for schedules::Acknowledgement {
    fn from(acknowledgement: Acknowledgement) -> Self {
        let Acknowledgement { sequence, duplicate } = acknowledgement;
        Self { sequence, duplicate }
    }
}

impl From<Scheduled> for schedules::Schedule {
    fn from(scheduled: Scheduled) -> Self {
        let Scheduled { timing, message, sequence, time } = scheduled;
        Self { timing, message: message.into(), sequence, time }
    }
}

impl schedules::Host for View<'_> {}

impl schedules::HostWithStore<Host> for Has {
    async fn open(store: &Store<Host>, name: String) -> Outcome<Resource<OpenSchedules>> {
        let (network, inherited, operation) = called(store, (Interface::Schedules, Kind::Open, "open"))?;
        match operation.on(&name).end(network.nats_schedules(&name, &inherited).await) {
            Ok(open) => Ok(Ok(store.with(|mut access| access.get().table.push(open))?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }
}

impl schedules::HostSchedules for View<'_> {
    fn drop(&mut self, this: Resource<OpenSchedules>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

type This = Resource<OpenSchedules>;

impl schedules::HostSchedulesWithStore<Host> for Has {
    async fn put(
        store: &Store<Host>,
        this: This,
        subject: String,
        timing: schedules::Timing,
        message: types::Message,
        options: schedules::PutOptions,
    ) -> Outcome<schedules::Acknowledgement> {
        let (call, operation) = Call::of(store, &this, (Kind::Publish, "put"))?;
        let operation = outgoing(operation, &message);
        told(operation, call.put((subject, timing, message, options)).await.map(Into::into))
    }

    async fn cancel(store: &Store<Host>, this: This, subject: String) -> Outcome<bool> {
        let (call, operation) = Call::of(store, &this, (Kind::Write, "cancel"))?;
        told(operation.on(&subject), call.cancel(&subject).await)
    }

    async fn get(
        store: &Store<Host>,
        this: This,
        subject: String,
        from: types::Consistency,
    ) -> Outcome<Option<schedules::Schedule>> {
        let (call, operation) = Call::of(store, &this, (Kind::Read, "get"))?;
        told(operation.on(&subject), call.get(&subject, consistency(from)).await.map(|found| found.map(Into::into)))
    }
}
