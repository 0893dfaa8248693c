//! `wasi:keyvalue@0.2.0-draft` over KV buckets: stores, atomic increments, batches. What is granted is in
//! `network/stores.rs`. An operation that fails says what is known of its effect; what a guest is told names no server.

mod failed;

use crate::{
    host::Host,
    increment::{self, Cell},
    inherited::Inherited,
    network::{Network, Store, VALUES_BYTES_MAX},
    operations::{Interface, Kind, Operation},
};
use bindings::wasi::keyvalue::{atomics, batch, store};
use bytes::Bytes;
use failed::Failed;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lattice::{
    bucket::{BucketError, KEY_BYTES_MAX, KeyValue},
    id::Revision,
    spec::Access,
};
use std::sync::Arc;
use store::{Error, KeyResponse};
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit};
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

mod bindings {
    //! Generated from `wit/deps/keyvalue`.
    wasmtime::component::bindgen!({
        path: "../../wit/deps/keyvalue",
        world: "wasi:keyvalue/imports",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": super::OpenStore },
    });
}

/// Keys in one answer to `list-keys`: with the longest ones a megabyte.
const PAGE_KEYS: usize = 1_000;
/// Keys of one batch, and how many of them are under way at a time.
const BATCH_KEYS_MAX: usize = 1_000;
const BATCH_AT_A_TIME: usize = 16;
/// What one `get-many` may bring.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// A store that a guest has open.
#[expect(unreachable_pub, reason = "the generated bindings pass it on as theirs")]
pub struct OpenStore {
    name: String,
    store: Store,
}

/// What the functions of the interface need of an instance.
pub(crate) struct View<'a> {
    table: &'a mut ResourceTable,
    network: &'a Arc<Network>,
    inherited: Option<&'a Inherited>,
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    fn view(host: &mut Host) -> View<'_> {
        let (table, network, inherited) = host.table_and_network();
        View { table, network, inherited }
    }
    store::add_to_linker::<_, Has>(linker, view)?;
    atomics::add_to_linker::<_, Has>(linker, view)?;
    batch::add_to_linker::<_, Has>(linker, view)
}

type Outcome<T> = wasmtime::Result<Result<T, Error>>;

/// The end of an operation.
fn told<T>(operation: Operation, result: Result<T, Failed>) -> Outcome<T> {
    Ok(operation.end(result).map_err(Into::into))
}

impl View<'_> {
    fn begin(&self, (kind, operation): (Kind, &'static str), name: &str) -> Operation {
        let mut inherited = self.inherited.cloned().unwrap_or_default();
        self.network.operation((Interface::Keyvalue, kind, operation), &mut inherited).on(name)
    }

    /// For an operation that changes nothing.
    fn to_read(&self, open: &Resource<OpenStore>, named: (Kind, &'static str)) -> wasmtime::Result<(Store, Operation)> {
        let OpenStore { name, store } = self.table.get(open)?;
        Ok((store.clone(), self.begin(named, name)))
    }

    /// For one that does.
    fn to_change(
        &self,
        open: &Resource<OpenStore>,
        operation: &'static str,
    ) -> wasmtime::Result<(Result<Store, Failed>, Operation)> {
        let OpenStore { name, store } = self.table.get(open)?;
        let operation = self.begin((Kind::Write, operation), name);
        if store.access == Access::ReadOnly {
            self.network.note_read_only(name);
            return Ok((Err(Failed::ReadOnly), operation));
        }
        Ok((Ok(store.clone()), operation))
    }
}

impl Store {
    async fn turn(&self) -> Result<SemaphorePermit<'_>, Failed> {
        self.operations.acquire().await.map_err(|_| Failed::Ends)
    }

    /// For one call of a guest, before its turns: it may have so many bytes of values on their way.
    async fn room(&self, bytes: usize) -> Result<[OwnedSemaphorePermit; 2], Failed> {
        self.room.take(bytes).await.ok_or(Failed::Ends)
    }

    /// For a value that is read, of which it is not known how long it is.
    async fn room_for_one(&self) -> Result<[OwnedSemaphorePermit; 2], Failed> {
        self.room(self.bucket.value_bytes_max()).await
    }

    /// How many keys of a batch may be under way at a time: what they bring fits beside what was brought.
    fn at_a_time(&self) -> usize {
        ((VALUES_BYTES_MAX - BATCH_BYTES_MAX) / self.bucket.value_bytes_max().max(1)).clamp(1, BATCH_AT_A_TIME)
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Failed> {
        let _turn = self.turn().await?;
        Ok(self.bucket.get(key).await?.map(|value| value.bytes.into()))
    }

    async fn get_one(&self, key: &str) -> Result<Option<Vec<u8>>, Failed> {
        let _room = self.room_for_one().await?;
        self.get(key).await
    }

    async fn set_one(&self, key: &str, value: Vec<u8>) -> Result<(), Failed> {
        let _room = self.room(value.len()).await?;
        self.set(key, value).await
    }

    /// What is deleted is read before.
    async fn delete_one(&self, key: &str) -> Result<(), Failed> {
        let _room = self.room_for_one().await?;
        self.delete(key).await
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), Failed> {
        let _turn = self.turn().await?;
        self.bucket.put(key, value.into()).await?;
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<(), Failed> {
        let _turn = self.turn().await?;
        Ok(self.bucket.delete(key).await?)
    }
}

/// The number under a key.
struct Number<'a> {
    bucket: &'a dyn KeyValue,
    key: &'a str,
}

impl Cell for Number<'_> {
    type Error = BucketError;

    async fn read(&self) -> Result<Option<(Bytes, Revision)>, BucketError> {
        Ok(self.bucket.get(self.key).await?.map(|value| (value.bytes, value.revision)))
    }

    async fn write(&self, value: Bytes, at: Option<Revision>) -> Result<bool, BucketError> {
        match self.bucket.update(self.key, value, at).await {
            Ok(_) => Ok(true),
            Err(BucketError::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// An error after which it is not known whether the number was changed says so.
async fn increment(bucket: &dyn KeyValue, key: &str, delta: u64) -> Result<u64, Failed> {
    Ok(increment::add(&Number { bucket, key }, delta).await?)
}

impl store::Host for View<'_> {
    async fn open(&mut self, identifier: String) -> Outcome<Resource<OpenStore>> {
        let name = if identifier.is_empty() { "default".to_owned() } else { identifier };
        let operation = self.begin((Kind::Open, "open"), &name);
        let opened = match self.network.open_store(&name).await {
            None => Err(Failed::NoGrant),
            Some(opened) => opened.map_err(Failed::from),
        };
        Ok(match operation.end(opened) {
            Ok(store) => Ok(self.table.push(OpenStore { name, store })?),
            Err(failed) => Err(failed.into()),
        })
    }
}

impl store::HostBucket for View<'_> {
    async fn get(&mut self, open: Resource<OpenStore>, key: String) -> Outcome<Option<Vec<u8>>> {
        let (store, operation) = self.to_read(&open, (Kind::Read, "get"))?;
        told(operation, store.get_one(&key).await)
    }

    async fn set(&mut self, open: Resource<OpenStore>, key: String, value: Vec<u8>) -> Outcome<()> {
        let (store, operation) = self.to_change(&open, "set")?;
        let done = match store {
            Ok(store) => store.set_one(&key, value).await,
            Err(denied) => Err(denied),
        };
        told(operation, done)
    }

    async fn delete(&mut self, open: Resource<OpenStore>, key: String) -> Outcome<()> {
        let (store, operation) = self.to_change(&open, "delete")?;
        let done = match store {
            Ok(store) => store.delete_one(&key).await,
            Err(denied) => Err(denied),
        };
        told(operation, done)
    }

    async fn exists(&mut self, open: Resource<OpenStore>, key: String) -> Outcome<bool> {
        let (store, operation) = self.to_read(&open, (Kind::Read, "exists"))?;
        told(operation, store.get_one(&key).await.map(|value| value.is_some()))
    }

    async fn list_keys(&mut self, open: Resource<OpenStore>, cursor: Option<u64>) -> Outcome<KeyResponse> {
        let (store, operation) = self.to_read(&open, (Kind::List, "list-keys"))?;
        let list = async {
            let _room = store.room(PAGE_KEYS * KEY_BYTES_MAX).await?;
            let _turn = store.turn().await?;
            let page = store.bucket.keys(cursor.map(Revision), PAGE_KEYS).await?;
            Ok(KeyResponse { keys: page.keys, cursor: page.next.map(|revision| revision.0) })
        };
        told(operation, list.await)
    }

    async fn drop(&mut self, open: Resource<OpenStore>) -> wasmtime::Result<()> {
        self.table.delete(open)?;
        Ok(())
    }
}

impl atomics::Host for View<'_> {
    async fn increment(&mut self, open: Resource<OpenStore>, key: String, delta: u64) -> Outcome<u64> {
        let (store, operation) = self.to_change(&open, "increment")?;
        let add = async {
            let store = store?;
            let _room = store.room_for_one().await?;
            let _turn = store.turn().await?;
            increment(&*store.bucket, &key, delta).await
        };
        told(operation, add.await)
    }
}

fn check_batch(keys: usize) -> Result<(), Failed> {
    if keys > BATCH_KEYS_MAX {
        return Err(Failed::Invalid(format!("{keys} keys in one batch; at most {BATCH_KEYS_MAX} are allowed")));
    }
    Ok(())
}

type Pair = (String, Vec<u8>);

impl batch::Host for View<'_> {
    async fn get_many(&mut self, open: Resource<OpenStore>, keys: Vec<String>) -> Outcome<Vec<Option<Pair>>> {
        let (store, operation) = self.to_read(&open, (Kind::Read, "get-many"))?;
        let operation = operation.with("db.operation.batch.size", || keys.len() as u64);
        let get = async {
            check_batch(keys.len())?;
            let (most, at_a_time) = (store.bucket.value_bytes_max(), store.at_a_time());
            let _room = store.room(most.saturating_mul(keys.len()).min(BATCH_BYTES_MAX + most * at_a_time)).await?;
            let mut bytes = 0;
            let mut found = Vec::with_capacity(keys.len());
            let store = &store;
            let gets = keys.into_iter().map(|key| async move {
                let value = store.get(&key).await?;
                Ok::<_, Failed>(value.map(|value| (key, value)))
            });
            let mut gets = stream::iter(gets).buffered(at_a_time);
            while let Some(pair) = gets.try_next().await? {
                bytes += pair.as_ref().map_or(0, |(key, value)| key.len() + value.len());
                if bytes > BATCH_BYTES_MAX {
                    let text = format!("the values are more than {BATCH_BYTES_MAX} bytes together: ask for fewer keys");
                    return Err(Failed::Invalid(text));
                }
                found.push(pair);
            }
            Ok(found)
        };
        told(operation, get.await)
    }

    async fn set_many(&mut self, open: Resource<OpenStore>, pairs: Vec<Pair>) -> Outcome<()> {
        let (store, operation) = self.to_change(&open, "set-many")?;
        let operation = operation.with("db.operation.batch.size", || pairs.len() as u64);
        let set = async {
            let store = store?;
            check_batch(pairs.len())?;
            let _room = store.room(pairs.iter().map(|(key, value)| key.len() + value.len()).sum()).await?;
            let store = &store;
            let sets = pairs.into_iter().map(|(key, value)| async move { store.set(&key, value).await });
            stream::iter(sets).buffer_unordered(BATCH_AT_A_TIME).try_collect::<()>().await
        };
        told(operation, set.await)
    }

    async fn delete_many(&mut self, open: Resource<OpenStore>, keys: Vec<String>) -> Outcome<()> {
        let (store, operation) = self.to_change(&open, "delete-many")?;
        let operation = operation.with("db.operation.batch.size", || keys.len() as u64);
        let delete = async {
            let store = store?;
            check_batch(keys.len())?;
            let at_a_time = store.at_a_time();
            let _room = store.room(store.bucket.value_bytes_max().saturating_mul(keys.len().min(at_a_time))).await?;
            let store = &store;
            let deletes = keys.into_iter().map(|key| async move { store.delete(&key).await });
            stream::iter(deletes).buffer_unordered(at_a_time).try_collect::<()>().await
        };
        told(operation, delete.await)
    }
}

// What a page of keys may weigh at most goes out of one call.
const _: () = assert!(PAGE_KEYS * KEY_BYTES_MAX <= BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX < VALUES_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::testing::MemoryBucket;

    #[tokio::test]
    async fn increments_are_exact_however_many_make_them() {
        let bucket = MemoryBucket::default();
        let adding = (0..40).map(|_| async {
            let mut sums = Vec::new();
            for _ in 0..25 {
                sums.push(increment(&bucket, "n", 2).await.unwrap());
                tokio::task::yield_now().await;
            }
            sums
        });
        let mut sums = futures_util::future::join_all(adding).await.concat();
        sums.sort_unstable();
        assert_eq!(sums, (1..=1_000).map(|n| n * 2).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_can_not_be_incremented_says_so() {
        let bucket = MemoryBucket::default();
        bucket.put("text", "seven".into()).await.unwrap();
        bucket.put("most", u64::MAX.to_string().into()).await.unwrap();
        for (key, why) in [("text", "not a number"), ("most", "more than 64 bits"), ("", "empty")] {
            let failed = increment(&bucket, key, 1).await.map_err(Error::from);
            let Err(Error::Other(text)) = failed else { panic!("{key}") };
            assert!(text.contains(why), "{text}");
        }
        assert_eq!(increment(&bucket, "most", 0).await.unwrap(), u64::MAX);
    }
}
