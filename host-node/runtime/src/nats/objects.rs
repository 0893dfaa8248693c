//! `lattice:nats/objects`. The bytes of objects are in `content.rs`; what is granted, and how much of objects may be in memory, in
//! `network/nats_objects.rs` and `network/objects.rs`.

use super::{
    Has, Outcome, Store, View, bindings::lattice::nats::objects, called, content, nanos, streams, told, types,
};
use crate::{
    host::Host,
    inherited::Inherited,
    network::{Network, READ_AHEAD_BYTES, nats_objects::OpenObjects},
    operations::{Interface, Kind, Operation},
};
use content::OpenUpload;
use lattice::{
    id::Revision,
    nats::Failure,
    objects::{About, Expect, Object, ObjectEvent, Put, StoreInfo, check_name},
};
use std::{sync::Arc, time::Duration};
use wasmtime::component::{FutureReader, Resource, StreamReader};

/// For a reading to begin: a part of a long object is looked for.
const BEGINNING: Duration = Duration::from_secs(30);
/// For an object to be seen.
const FINISHING: Duration = Duration::from_secs(30);

/// One operation on an open store.
struct Call {
    network: Arc<Network>,
    inherited: Inherited,
    open: OpenObjects,
}

impl Call {
    fn of(
        store: &Store<Host>,
        this: &Resource<OpenObjects>,
        (kind, name): (Kind, &'static str),
    ) -> wasmtime::Result<(Self, Operation)> {
        let open = store.with(|mut access| access.get().table.get(this).cloned())?;
        let (network, inherited, operation) = called(store, (Interface::Objects, kind, name))?;
        let operation = operation.on(open.name.as_str());
        Ok((Self { network, inherited, open }, operation))
    }

    /// Something that changes nothing.
    async fn read<T>(
        &self,
        within: Option<Duration>,
        operation: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let turn = self.network.nats_turn(within, (0, false), &self.inherited).await?;
        turn.run(operation).await.map_err(Failure::of_read)
    }

    async fn change<T>(&self, operation: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        self.network.judge_objects(&self.open)?;
        let turn = self.network.nats_turn(None, (0, false), &self.inherited).await?;
        turn.run(operation).await
    }

    async fn put(&self, name: String, put: Put) -> Result<OpenUpload, Failure> {
        self.network.judge_objects(&self.open)?;
        check_name(&name)?;
        put.about.check()?;
        self.read(None, self.open.objects.check(&name, put.expect)).await?;
        let room = self.network.room_to_write().await?;
        Ok(OpenUpload::begin(self.open.objects.clone(), name, put, room))
    }
}

impl From<Object> for objects::Object {
    fn from(object: Object) -> Self {
        let Object { name, size, digest, modified, revision, content: _, about, link } = object;
        let About { description, metadata } = about;
        Self { name, size, digest, modified, revision: revision.0, description, metadata, link }
    }
}

impl From<objects::Precondition> for Expect {
    fn from(precondition: objects::Precondition) -> Self {
        match precondition {
            objects::Precondition::None => Expect::Anything,
            objects::Precondition::Absent => Expect::Absent,
            objects::Precondition::At(revision) => Expect::At(Revision(revision)),
        }
    }
}

fn watched(event: ObjectEvent) -> objects::WatchEvent {
    match event {
        ObjectEvent::Changed(object) => objects::WatchEvent::Changed(object.into()),
        ObjectEvent::Deleted(name) => objects::WatchEvent::Deleted(name),
        ObjectEvent::CaughtUp => objects::WatchEvent::CaughtUp,
        ObjectEvent::Resynchronised => objects::WatchEvent::Resynchronised,
        ObjectEvent::Failed(failure) => objects::WatchEvent::Failed(failure.into()),
    }
}

fn listed(item: Result<Object, Failure>) -> Result<objects::Object, types::Failure> {
    item.map(Into::into).map_err(Into::into)
}

impl objects::Host for View<'_> {}

impl objects::HostWithStore<Host> for Has {
    async fn open(store: &Store<Host>, name: String) -> Outcome<Resource<OpenObjects>> {
        let (network, inherited, operation) = called(store, (Interface::Objects, Kind::Open, "open"))?;
        match operation.on(&name).end(network.nats_objects(&name, &inherited).await) {
            Ok(open) => Ok(Ok(store.with(|mut access| access.get().table.push(open))?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }
}

impl objects::HostUpload for View<'_> {
    /// What was not finished is given up.
    fn drop(&mut self, upload: Resource<OpenUpload>) -> wasmtime::Result<()> {
        self.table.delete(upload)?;
        Ok(())
    }
}

impl objects::HostUploadWithStore<Host> for Has {
    async fn write(store: &Store<Host>, this: Resource<OpenUpload>, content: StreamReader<u8>) -> Outcome<u64> {
        let (_, _, operation) = called(store, (Interface::Objects, Kind::Write, "write"))?;
        let writing = store.with(|mut access| access.get().table.get(&this).map(OpenUpload::writing))?;
        let coming = content::take(store, content)?;
        told(operation, writing.write(coming).await)
    }

    async fn finish(store: &Store<Host>, this: Resource<OpenUpload>) -> Outcome<objects::Object> {
        let (_, inherited, operation) = called(store, (Interface::Objects, Kind::Write, "finish"))?;
        let upload = store.with(|mut access| access.get().table.delete(this))?;
        told(operation, upload.finish(inherited.left(FINISHING)).await.map(Into::into))
    }
}

impl objects::HostStore for View<'_> {
    fn drop(&mut self, this: Resource<OpenObjects>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

type This = Resource<OpenObjects>;
/// An object, its bytes, and how they ended.
type Content = (objects::Object, StreamReader<u8>, FutureReader<Result<(), types::Failure>>);

impl objects::HostStoreWithStore<Host> for Has {
    async fn stat(store: &Store<Host>, this: This) -> Outcome<objects::StoreInfo> {
        let (call, operation) = Call::of(store, &this, (Kind::Read, "stat"))?;
        let info = call.read(None, call.open.objects.info()).await;
        told(
            operation,
            info.map(|StoreInfo { replicas, in_memory, max_age, bytes_max, bytes }| objects::StoreInfo {
                replicas,
                in_memory,
                max_age: nanos(max_age),
                max_bytes: bytes_max,
                bytes,
                created: call.open.objects.created(),
            }),
        )
    }

    async fn info(store: &Store<Host>, this: This, name: String) -> Outcome<Option<objects::Object>> {
        let (call, operation) = Call::of(store, &this, (Kind::Read, "info"))?;
        let found = call.read(None, call.open.objects.object(&name)).await;
        told(operation, found.map(|found| found.map(Into::into)))
    }

    async fn get(
        store: &Store<Host>,
        this: This,
        name: String,
        part: Option<objects::Part>,
    ) -> Outcome<Option<Content>> {
        let (call, operation) = Call::of(store, &this, (Kind::Read, "get"))?;
        let (network, objects) = (&call.network, &*call.open.objects);
        let begin = async {
            let Some(object) = call.read(None, objects.object(&name)).await? else { return Ok(None) };
            let (from, to) = match part {
                Some(objects::Part { offset, length }) => (offset, offset.saturating_add(length)),
                None => (0, object.size),
            };
            let (from, to) = (from.min(object.size), to.min(object.size));
            let room = network.room_to_read(objects, READ_AHEAD_BYTES).await?;
            let chunks = call.read(Some(BEGINNING), objects.read(&object, from, to)).await?;
            Ok::<_, Failure>(Some((object, chunks, room)))
        };
        match operation.end(begin.await) {
            Ok(Some((object, chunks, room))) => {
                let (bytes, end) = content::reader(store, chunks, room)?;
                Ok(Ok(Some((object.into(), bytes, end))))
            }
            Ok(None) => Ok(Ok(None)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }

    async fn put(
        store: &Store<Host>,
        this: This,
        name: String,
        options: objects::PutOptions,
    ) -> Outcome<Resource<OpenUpload>> {
        let (call, operation) = Call::of(store, &this, (Kind::Write, "put"))?;
        let objects::PutOptions { precondition, description, metadata } = options;
        let put = Put { about: About { description, metadata }, expect: precondition.into() };
        match operation.end(call.put(name, put).await) {
            Ok(upload) => Ok(Ok(store.with(|mut access| access.get().table.push(upload))?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }

    async fn delete(
        store: &Store<Host>,
        this: This,
        name: String,
        revision: Option<objects::Revision>,
    ) -> Outcome<bool> {
        let (call, operation) = Call::of(store, &this, (Kind::Write, "delete"))?;
        let expect = revision.map_or(Expect::Anything, |revision| Expect::At(Revision(revision)));
        told(operation, call.change(call.open.objects.delete(&name, expect)).await)
    }

    async fn link(store: &Store<Host>, this: This, name: String, to: String) -> Outcome<()> {
        let (call, operation) = Call::of(store, &this, (Kind::Write, "link"))?;
        told(operation, call.change(call.open.objects.link(&name, &to)).await)
    }

    async fn list(store: &Store<Host>, this: This) -> Outcome<StreamReader<Result<objects::Object, types::Failure>>> {
        let (call, operation) = Call::of(store, &this, (Kind::List, "list"))?;
        let bytes = |item: &Result<Object, Failure>| item.as_ref().map_or(0, Object::bytes);
        let all = |_: &Result<Object, Failure>| true;
        match operation.end(call.network.nats_feed(call.open.objects.list(), (bytes, all), &call.inherited).await) {
            Ok(waiting) => Ok(Ok(streams::reader(store, waiting, listed)?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }

    async fn watch(store: &Store<Host>, this: This, state_first: bool) -> Outcome<StreamReader<objects::WatchEvent>> {
        let (call, operation) = Call::of(store, &this, (Kind::Subscribe, "watch"))?;
        let opening = call.open.objects.watch(state_first);
        let all = |_: &ObjectEvent| true;
        match operation.end(call.network.nats_feed(opening, (ObjectEvent::bytes, all), &call.inherited).await) {
            Ok(waiting) => Ok(Ok(streams::reader(store, waiting, watched)?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }
}
