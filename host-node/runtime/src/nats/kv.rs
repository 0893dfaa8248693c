//! `lattice:nats/kv`.

use super::{Has, Outcome, Store, View, bindings::lattice::nats::kv, called, consistency, nanos, streams, told, types};
use crate::{
    host::Host,
    increment::{self, AddError, Cell},
    inherited::Inherited,
    network::{Network, nats::OpenBucket},
    operations::{Interface, Kind, Operation},
};
use bytes::Bytes;
use lattice::{
    id::Revision,
    nats::{self as driver, ChangeEvent, Code, Consistency, Reading, Write, Writing, check_key},
    spec::profile::{Given, KvOperation},
};
use std::{sync::Arc, time::Duration};
use wasmtime::component::{Lift, Lower, Resource, StreamReader};

/// Tries to create a key that others create and delete at the same time.
const TRIES_MAX: u32 = 16;
/// The shortest time to live that NATS knows.
const TTL_MIN: Duration = Duration::from_secs(1);

/// One operation on an open bucket.
struct Call {
    network: Arc<Network>,
    inherited: Inherited,
    open: OpenBucket,
}

impl Call {
    fn of(
        store: &Store<Host>,
        bucket: &Resource<OpenBucket>,
        (kind, name): (Kind, &'static str),
    ) -> wasmtime::Result<(Self, Operation)> {
        let open = store.with(|mut access| access.get().table.get(bucket).cloned())?;
        let (network, inherited, operation) = called(store, (Interface::Kv, kind, name))?;
        let operation = operation.on(open.name.as_str());
        Ok((Self { network, inherited, open }, operation))
    }

    /// Something that changes nothing, and brings at most one value.
    async fn read<T>(&self, operation: impl Future<Output = Result<T, driver::Failure>>) -> Result<T, driver::Failure> {
        let bytes = self.open.bucket.value_bytes_max();
        let turn = self.network.nats_turn(None, (bytes, false), &self.inherited).await?;
        turn.run(operation).await.map_err(driver::Failure::of_read)
    }

    /// Something that changes it. `bytes`: of what is written or read for it.
    async fn change<T>(
        &self,
        (what, given): (KvOperation, Given),
        bytes: usize,
        operation: impl Future<Output = Result<T, driver::Failure>>,
    ) -> Result<T, driver::Failure> {
        self.network.judge_kv(&self.open, what, given)?;
        let turn = self.network.nats_turn(None, (bytes, false), &self.inherited).await?;
        turn.run(operation).await
    }

    async fn write(
        &self,
        operation: KvOperation,
        key: &str,
        what: Writing,
        expect: Option<u64>,
        ttl: Option<types::Duration>,
    ) -> Result<u64, driver::Failure> {
        let ttl = ttl.map(Duration::from_nanos);
        check_ttl(ttl)?;
        let bytes = if let Writing::Put(value) = &what { value.len() } else { 0 };
        let given = Given { revision: expect.is_some(), ttl: ttl.is_some() };
        let write = Write { what, expect: expect.map(Revision), ttl };
        Ok(self.change((operation, given), bytes, self.open.bucket.write(key, write)).await?.0)
    }
}

pub(super) fn check_ttl(ttl: Option<Duration>) -> Result<(), driver::Failure> {
    match ttl {
        Some(ttl) if ttl < TTL_MIN => {
            Err(driver::Failure::not(Code::Invalid("ttl".into()), "a time to live is at least one second"))
        }
        _ => Ok(()),
    }
}

/// Put a key that has no value. What says that it was deleted has a revision, which counts then.
async fn create(
    bucket: &dyn driver::Bucket,
    key: &str,
    value: Bytes,
    ttl: Option<Duration>,
) -> Result<Revision, driver::Failure> {
    // Most keys that have no value never had one.
    let mut expect = Revision(0);
    for _ in 0..TRIES_MAX {
        let write = Write { what: Writing::Put(value.clone()), expect: Some(expect), ttl };
        match bucket.write(key, write).await {
            Err(failure) if failure.code == Code::WrongRevision => {}
            outcome => return outcome,
        }
        // The write was refused, so whatever fails now has changed nothing.
        expect = match bucket.get(key, Consistency::Leader).await.map_err(driver::Failure::of_read)? {
            None => Revision(0),
            Some(driver::Entry { change: driver::Change::Put, revision, .. }) => {
                return Err(driver::Failure::not(Code::AlreadyExists(revision), "the key has a value"));
            }
            Some(deletion) => deletion.revision,
        };
    }
    Err(driver::Failure::not(Code::WrongRevision, "others create and delete the key all the time"))
}

/// The number under a key.
struct Number<'a> {
    bucket: &'a dyn driver::Bucket,
    key: &'a str,
}

impl Cell for Number<'_> {
    type Error = driver::Failure;

    async fn read(&self) -> Result<Option<(Bytes, Revision)>, driver::Failure> {
        let last = self.bucket.get(self.key, Consistency::Leader).await.map_err(driver::Failure::of_read)?;
        let last = last.filter(|entry| entry.change == driver::Change::Put);
        Ok(last.map(|entry| (entry.value, entry.revision)))
    }

    async fn write(&self, value: Bytes, at: Option<Revision>) -> Result<bool, driver::Failure> {
        let written = match at {
            Some(at) => {
                let write = Write { what: Writing::Put(value), expect: Some(at), ttl: None };
                self.bucket.write(self.key, write).await
            }
            None => create(self.bucket, self.key, value, None).await,
        };
        match written {
            Ok(_) => Ok(true),
            Err(failure) if matches!(failure.code, Code::WrongRevision | Code::AlreadyExists(_)) => Ok(false),
            Err(failure) => Err(failure),
        }
    }
}

impl From<driver::Entry> for kv::Entry {
    fn from(entry: driver::Entry) -> Self {
        let driver::Entry { key, value, revision, created, change } = entry;
        let change = match change {
            driver::Change::Put => kv::Change::Put,
            driver::Change::Delete => kv::Change::Delete,
            driver::Change::Purge => kv::Change::Purge,
            driver::Change::Expire => kv::Change::Expire,
        };
        Self { key, value: value.into(), revision: revision.0, created, change }
    }
}

fn watched(event: ChangeEvent) -> kv::WatchEvent {
    match event {
        ChangeEvent::Changed(entry) => kv::WatchEvent::Changed(entry.into()),
        ChangeEvent::CaughtUp => kv::WatchEvent::CaughtUp,
        ChangeEvent::Resynchronised => kv::WatchEvent::Resynchronised,
        ChangeEvent::Failed(failure) => kv::WatchEvent::Failed(failure.into()),
    }
}

/// Of a list, which has entries and perhaps a failure: what else there is does not leave `network/nats.rs`.
fn listed<T>(event: ChangeEvent, of: impl FnOnce(driver::Entry) -> T) -> Result<T, types::Failure> {
    match event {
        ChangeEvent::Changed(entry) => Ok(of(entry)),
        ChangeEvent::Failed(failure) => Err(failure.into()),
        ChangeEvent::CaughtUp | ChangeEvent::Resynchronised => {
            Err(driver::Failure::not(Code::Other, "a list was told of like a watch").into())
        }
    }
}

impl Call {
    /// What is read of the bucket, as a stream.
    async fn stream<I>(
        &self,
        (store, operation): (&Store<Host>, Operation),
        filters: Vec<String>,
        (reading, puts_only): (Reading, bool),
        convert: fn(ChangeEvent) -> I,
    ) -> Outcome<StreamReader<I>>
    where
        I: Lift + Lower + Send + Sync + 'static,
    {
        let is_watch = matches!(reading, Reading::Watch { .. });
        let wanted = move |event: &ChangeEvent| match event {
            ChangeEvent::CaughtUp => is_watch,
            ChangeEvent::Changed(entry) => !puts_only || entry.change == driver::Change::Put,
            _ => true,
        };
        let opening = self.open.bucket.read(filters, reading);
        match operation.end(self.network.nats_feed(opening, (ChangeEvent::bytes, wanted), &self.inherited).await) {
            Ok(waiting) => Ok(Ok(streams::reader(store, waiting, convert)?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }
}

impl kv::Host for View<'_> {}

impl kv::HostWithStore<Host> for Has {
    async fn open(store: &Store<Host>, name: String) -> Outcome<Resource<OpenBucket>> {
        let (network, inherited, operation) = called(store, (Interface::Kv, Kind::Open, "open"))?;
        match operation.on(&name).end(network.nats_bucket(&name, &inherited).await) {
            Ok(open) => Ok(Ok(store.with(|mut access| access.get().table.push(open))?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }
}

impl kv::HostBucket for View<'_> {
    fn drop(&mut self, bucket: Resource<OpenBucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

type This = Resource<OpenBucket>;

impl kv::HostBucketWithStore<Host> for Has {
    async fn info(store: &Store<Host>, this: This) -> Outcome<kv::BucketInfo> {
        let (call, operation) = Call::of(store, &this, (Kind::Read, "info"))?;
        let info = call.read(call.open.bucket.info()).await;
        told(
            operation,
            info.map(|info| kv::BucketInfo {
                replicas: info.replicas,
                in_memory: info.in_memory,
                history: info.history,
                max_age: nanos(info.max_age),
                key_ttl: info.key_ttl,
                direct: info.direct,
                max_value: info.value_bytes_max,
                max_bytes: info.bytes_max,
            }),
        )
    }

    async fn get(store: &Store<Host>, this: This, key: String, from: types::Consistency) -> Outcome<Option<kv::Entry>> {
        let (call, operation) = Call::of(store, &this, (Kind::Read, "get"))?;
        let last = call.read(call.open.bucket.get(&key, consistency(from))).await;
        told(operation, last.map(|last| last.filter(|entry| entry.change == driver::Change::Put).map(Into::into)))
    }

    async fn get_revision(
        store: &Store<Host>,
        this: This,
        key: String,
        revision: kv::Revision,
    ) -> Outcome<Option<kv::Entry>> {
        let (call, operation) = Call::of(store, &this, (Kind::Read, "get-revision"))?;
        let entry = call.read(call.open.bucket.get_revision(&key, Revision(revision))).await;
        told(operation, entry.map(|entry| entry.map(Into::into)))
    }

    async fn put(
        store: &Store<Host>,
        this: This,
        key: String,
        value: Vec<u8>,
        ttl: Option<types::Duration>,
    ) -> Outcome<kv::Revision> {
        let (call, operation) = Call::of(store, &this, (Kind::Write, "put"))?;
        told(operation, call.write(KvOperation::Put, &key, Writing::Put(value.into()), None, ttl).await)
    }

    async fn create(
        store: &Store<Host>,
        this: This,
        key: String,
        value: Vec<u8>,
        ttl: Option<types::Duration>,
    ) -> Outcome<kv::Revision> {
        let (call, operation) = Call::of(store, &this, (Kind::Write, "create"))?;
        let ttl = ttl.map(Duration::from_nanos);
        if let Err(failure) = check_ttl(ttl) {
            return told(operation, Err(failure));
        }
        let bytes = value.len().max(call.open.bucket.value_bytes_max());
        let what = (KvOperation::Create, Given { revision: true, ttl: ttl.is_some() });
        let created = call.change(what, bytes, create(&*call.open.bucket, &key, value.into(), ttl)).await;
        told(operation, created.map(|revision| revision.0))
    }

    async fn update(
        store: &Store<Host>,
        this: This,
        key: String,
        value: Vec<u8>,
        revision: kv::Revision,
        ttl: Option<types::Duration>,
    ) -> Outcome<kv::Revision> {
        let (call, operation) = Call::of(store, &this, (Kind::Write, "update"))?;
        told(operation, call.write(KvOperation::Update, &key, Writing::Put(value.into()), Some(revision), ttl).await)
    }

    async fn delete(
        store: &Store<Host>,
        this: This,
        key: String,
        revision: Option<kv::Revision>,
    ) -> Outcome<kv::Revision> {
        let (call, operation) = Call::of(store, &this, (Kind::Write, "delete"))?;
        told(operation, call.write(KvOperation::Delete, &key, Writing::Delete, revision, None).await)
    }

    async fn purge(
        store: &Store<Host>,
        this: This,
        key: String,
        revision: Option<kv::Revision>,
        marker_ttl: Option<types::Duration>,
    ) -> Outcome<kv::Revision> {
        let (call, operation) = Call::of(store, &this, (Kind::Write, "purge"))?;
        told(operation, call.write(KvOperation::Purge, &key, Writing::Purge, revision, marker_ttl).await)
    }

    async fn increment(store: &Store<Host>, this: This, key: String, delta: u64) -> Outcome<u64> {
        let (call, operation) = Call::of(store, &this, (Kind::Write, "increment"))?;
        let number = Number { bucket: &*call.open.bucket, key: &key };
        let add = async {
            increment::add(&number, delta).await.map_err(|error| match error {
                AddError::Store(failure) => failure,
                error @ AddError::Contended => driver::Failure::not(Code::WrongRevision, error.to_string()),
                error @ AddError::NotANumber => driver::Failure::not(Code::Invalid("value".into()), error.to_string()),
                error @ AddError::TooLarge => driver::Failure::not(Code::Invalid("delta".into()), error.to_string()),
            })
        };
        let what = (KvOperation::Increment, Given::default());
        told(operation, call.change(what, call.open.bucket.value_bytes_max(), add).await)
    }

    async fn keys(
        store: &Store<Host>,
        this: This,
        filters: Vec<String>,
    ) -> Outcome<StreamReader<Result<String, types::Failure>>> {
        let (call, operation) = Call::of(store, &this, (Kind::List, "keys"))?;
        call.stream((store, operation), filters, (Reading::Keys, true), |event| listed(event, |entry| entry.key)).await
    }

    async fn history(
        store: &Store<Host>,
        this: This,
        key: String,
    ) -> Outcome<StreamReader<Result<kv::Entry, types::Failure>>> {
        let (call, operation) = Call::of(store, &this, (Kind::List, "history"))?;
        if let Err(failure) = check_key(&key) {
            return told(operation, Err(failure));
        }
        call.stream((store, operation), vec![key], (Reading::History, false), |event| listed(event, Into::into)).await
    }

    async fn watch(
        store: &Store<Host>,
        this: This,
        filters: Vec<String>,
        options: kv::WatchOptions,
    ) -> Outcome<StreamReader<kv::WatchEvent>> {
        let (call, operation) = Call::of(store, &this, (Kind::Subscribe, "watch"))?;
        if let Err(failure) = call.network.judge_kv(&call.open, KvOperation::Watch, Given::default()) {
            return told(operation, Err(failure));
        }
        let kv::WatchOptions { state_first, metadata_only, puts_only } = options;
        let reading = Reading::Watch { state_first, metadata_only };
        call.stream((store, operation), filters, (reading, puts_only), watched).await
    }
}
