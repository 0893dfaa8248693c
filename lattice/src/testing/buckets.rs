//! KV buckets of guests in memory. Those that tests make are there, and no others.

use crate::{
    Fut,
    account::Login,
    bucket::{BucketError, Buckets, KeyValue, Keys, Value, decode_key, encode_key, no_objects},
    id::Revision,
    limits::NATS_PAYLOAD_BYTES_DEFAULT,
    nats::{BucketInfo, Failure},
    objects::Objects,
    spec::BucketName,
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Clones are the same buckets.
#[derive(Debug, Clone, Default)]
pub struct MemoryBuckets(Arc<Mutex<BTreeMap<BucketName, MemoryBucket>>>);

/// Clones are the same bucket.
#[derive(Debug, Clone, Default)]
pub struct MemoryBucket(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    head: u64,
    /// By the key as NATS has it. A deletion has no value.
    last: BTreeMap<String, (Revision, Option<Bytes>)>,
}

impl MemoryBuckets {
    /// Make a bucket, or take the one that is there.
    pub fn make(&self, name: &BucketName) -> MemoryBucket {
        lock(&self.0).entry(name.clone()).or_default().clone()
    }
}

impl Buckets for MemoryBuckets {
    fn open(&self, _: &Login, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn KeyValue>, BucketError>> {
        let found = lock(&self.0).get(bucket).cloned();
        let absent = || BucketError::Absent(bucket.to_string());
        let opened = found.map(|bucket| Arc::new(bucket) as Arc<dyn KeyValue>).ok_or_else(absent);
        Box::pin(std::future::ready(opened))
    }

    fn info(&self, _: &Login, bucket: &BucketName) -> Fut<'_, Result<BucketInfo, BucketError>> {
        let is_there = lock(&self.0).contains_key(bucket);
        let info = BucketInfo { replicas: 1, in_memory: true, history: 1, ..BucketInfo::default() };
        let found = is_there.then_some(info).ok_or_else(|| BucketError::Absent(bucket.to_string()));
        Box::pin(std::future::ready(found))
    }

    /// There are none.
    fn open_objects(&self, _: &Login, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn Objects>, Failure>> {
        Box::pin(std::future::ready(Err(no_objects(bucket))))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryBucket {
    fn get_now(&self, key: &str) -> Result<Option<Value>, BucketError> {
        let key = encode_key(key)?;
        let content = lock(&self.0);
        let last = content.last.get(&key);
        Ok(last.and_then(|(revision, bytes)| Some(Value { bytes: bytes.clone()?, revision: *revision })))
    }

    /// `at`: the revision that the key must have now, 0 for one that has no value.
    fn write_now(&self, key: &str, value: Option<Bytes>, at: Option<Revision>) -> Result<Revision, BucketError> {
        let key = encode_key(key)?;
        let (size, limit) = (value.as_ref().map_or(0, Bytes::len), NATS_PAYLOAD_BYTES_DEFAULT);
        if size > limit {
            return Err(BucketError::TooLarge { size, limit });
        }
        let mut content = lock(&self.0);
        let live = |(revision, value): &(Revision, Option<Bytes>)| value.as_ref().map(|_| *revision);
        let now = content.last.get(&key).and_then(live).unwrap_or(Revision(0));
        if at.is_some_and(|at| at != now) {
            return Err(BucketError::Conflict);
        }
        content.head += 1;
        let revision = Revision(content.head);
        content.last.insert(key, (revision, value));
        Ok(revision)
    }

    fn keys_now(&self, after: Option<Revision>, most: usize) -> Keys {
        let content = lock(&self.0);
        let mut found: Vec<_> = content
            .last
            .iter()
            .filter(|(_, (revision, value))| value.is_some() && after.is_none_or(|after| *revision > after))
            .filter_map(|(key, (revision, _))| Some((*revision, decode_key(key)?)))
            .collect();
        found.sort();
        let next =
            if found.len() > most { found.get(most.saturating_sub(1)).map(|(revision, _)| *revision) } else { None };
        Keys { keys: found.into_iter().take(most).map(|(_, key)| key).collect(), next }
    }
}

fn now<T: Send + 'static>(outcome: T) -> Fut<'static, T> {
    Box::pin(std::future::ready(outcome))
}

impl KeyValue for MemoryBucket {
    fn value_bytes_max(&self) -> usize {
        NATS_PAYLOAD_BYTES_DEFAULT
    }

    fn get(&self, key: &str) -> Fut<'_, Result<Option<Value>, BucketError>> {
        now(self.get_now(key))
    }

    fn put(&self, key: &str, value: Bytes) -> Fut<'_, Result<Revision, BucketError>> {
        now(self.write_now(key, Some(value), None))
    }

    fn update(&self, key: &str, value: Bytes, at: Option<Revision>) -> Fut<'_, Result<Revision, BucketError>> {
        now(self.write_now(key, Some(value), Some(at.unwrap_or(Revision(0)))))
    }

    fn delete(&self, key: &str) -> Fut<'_, Result<(), BucketError>> {
        now(self.get_now(key).and_then(|value| match value {
            Some(_) => self.write_now(key, None, None).map(drop),
            None => Ok(()),
        }))
    }

    fn keys(&self, after: Option<Revision>, most: usize) -> Fut<'_, Result<Keys, BucketError>> {
        now(Ok(self.keys_now(after, most)))
    }
}
