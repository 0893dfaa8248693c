//! KV buckets as guests use them: the traits behind which JetStream stands, and how a guest's keys become NATS's. Object
//! stores, which are opened like them, are in [`crate::objects`]. Not the
//! lattice's own records, which have [`crate::store`].

use crate::{
    Fut,
    account::Login,
    id::Revision,
    nats::{BucketInfo, Code, Failure},
    objects::Objects,
    spec::BucketName,
};
use bytes::Bytes;
use std::{fmt, sync::Arc};

/// Longest key, as NATS has it: encoded ([`encode_key`]).
pub const KEY_BYTES_MAX: usize = 1024;

/// Why an operation on a bucket did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    /// It is not there.
    #[error("there is no KV bucket {0:?}")]
    Absent(String),
    /// It is there and not usable as it is.
    #[error("the KV bucket {bucket:?} {why}")]
    Unfit { bucket: String, why: String },
    /// No key can be like this. Nothing happened.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// Nothing happened.
    #[error("the value is {size} bytes long; with its key and headers a message is at most {limit}")]
    TooLarge { size: usize, limit: usize },
    /// Another writer was first. Nothing happened.
    #[error("the key was changed by another writer")]
    Conflict,
    /// NATS is out of reach. Nothing happened.
    #[error("the store is out of reach: {0}")]
    Unreachable(String),
    /// No answer came. A write may have been made, or may yet be.
    #[error("no answer from the store: what was asked may have been done, or may yet be")]
    OutcomeUnknown,
    /// The server refused: permissions, limits. Nothing happened.
    #[error("the store refused: {0}")]
    Refused(String),
}

/// A key's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    pub bytes: Bytes,
    /// Grows with each write to the bucket.
    pub revision: Revision,
}

/// Some of the keys of a bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    pub keys: Vec<String>,
    /// Ask with it for those that follow. `None`: there were no more.
    pub next: Option<Revision>,
}

/// One bucket. Keys are a guest's: any text but the empty one, within [`KEY_BYTES_MAX`].
pub trait KeyValue: Send + Sync + 'static {
    /// Bytes of the longest value that there can be.
    fn value_bytes_max(&self) -> usize;
    /// The key's value, from the bucket's leader: not older than any write acknowledged before.
    fn get(&self, key: &str) -> Fut<'_, Result<Option<Value>, BucketError>>;
    /// Write, whatever is there. The last of several writers wins.
    fn put(&self, key: &str, value: Bytes) -> Fut<'_, Result<Revision, BucketError>>;
    /// Write if the key is still at this revision, or, with `None`, if it has no value. Of several writers that expect the
    /// same one is acknowledged.
    fn update(&self, key: &str, value: Bytes, at: Option<Revision>) -> Fut<'_, Result<Revision, BucketError>>;
    /// Delete. A key without a value is left alone.
    fn delete(&self, key: &str) -> Fut<'_, Result<(), BucketError>>;
    /// Up to `most` keys, in the order of their last writes, of those written after that revision. Keys that are written
    /// meanwhile may come twice, those that are deleted may still come.
    fn keys(&self, after: Option<Revision>, most: usize) -> Fut<'_, Result<Keys, BucketError>>;
}

/// The buckets of a NATS account.
pub trait Buckets: fmt::Debug + Send + Sync + 'static {
    /// Open a bucket for the guests of a workload, which have a connection of their own, in their account.
    fn open(&self, login: &Login, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn KeyValue>, BucketError>>;
    /// How it is configured now, as the server says.
    fn info(&self, login: &Login, bucket: &BucketName) -> Fut<'_, Result<BucketInfo, BucketError>>;
    /// The same of an object store.
    fn open_objects(&self, login: &Login, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn Objects>, Failure>>;
}

/// There is none of that name.
pub fn no_objects(bucket: &BucketName) -> Failure {
    Failure::not(Code::NotFound, format!("there is no object store {:?}", bucket.as_str()))
}

/// Where there is no NATS for guests.
#[derive(Debug, Clone, Copy)]
pub struct NoBuckets;

impl Buckets for NoBuckets {
    fn open(&self, _: &Login, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn KeyValue>, BucketError>> {
        let absent = BucketError::Absent(bucket.to_string());
        Box::pin(std::future::ready(Err(absent)))
    }

    fn info(&self, _: &Login, bucket: &BucketName) -> Fut<'_, Result<BucketInfo, BucketError>> {
        let absent = BucketError::Absent(bucket.to_string());
        Box::pin(std::future::ready(Err(absent)))
    }

    fn open_objects(&self, _: &Login, bucket: &BucketName) -> Fut<'_, Result<Arc<dyn Objects>, Failure>> {
        Box::pin(std::future::ready(Err(no_objects(bucket))))
    }
}

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the key is empty")]
    Empty,
    #[error(
        "the key is longer than {KEY_BYTES_MAX} bytes as NATS has it, where what it does not allow in a key takes three"
    )]
    TooLong,
}

/// Whether NATS KV allows it in a key, and no encoding begins with it.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/')
}

/// The key under which NATS has it (ADR-8: `[-/_=.a-zA-Z0-9]+`, no dot at an end, no two in a row). What is not allowed
/// there, and `=`, becomes `=` and two hexadecimal digits for each byte: `user:7` is `user=3A7`.
pub fn encode_key(key: &str) -> Result<String, KeyError> {
    if key.is_empty() {
        return Err(KeyError::Empty);
    }
    let bytes = key.as_bytes();
    let mut encoded = String::with_capacity(key.len());
    for (at, &byte) in bytes.iter().enumerate() {
        // A dot parts two tokens, neither of which is empty.
        let parts = byte == b'.' && at > 0 && at + 1 < bytes.len() && !encoded.ends_with('.');
        if is_plain(byte) || parts {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("={byte:02X}"));
        }
        if encoded.len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLong);
        }
    }
    Ok(encoded)
}

/// The guest's key of one that NATS has. `None` for a key that no guest could have written, since another program may.
pub fn decode_key(key: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'=' {
            decoded.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        decoded.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    let decoded = String::from_utf8(decoded).ok()?;
    // One key has one name.
    (encode_key(&decoded).as_deref() == Ok(key)).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_that_nats_has_stay_as_they_are() {
        for (key, encoded) in [
            ("a", "a"),
            ("shop.carts/7_x-Y", "shop.carts/7_x-Y"),
            ("user:7", "user=3A7"),
            ("a b", "a=20b"),
            (".a", "=2Ea"),
            ("a.", "a=2E"),
            ("a..b", "a.=2Eb"),
            ("a...b", "a.=2E.b"),
            (">", "=3E"),
            ("*", "=2A"),
            ("=", "=3D"),
            ("é", "=C3=A9"),
        ] {
            assert_eq!(encode_key(key).as_deref(), Ok(encoded), "{key}");
            assert_eq!(decode_key(encoded).as_deref(), Some(key));
        }
        assert_eq!(encode_key(""), Err(KeyError::Empty));
        assert_eq!(encode_key(&":".repeat(342)), Err(KeyError::TooLong));
        assert!(encode_key(&"a".repeat(1024)).is_ok());
        for foreign in ["=", "=4", "=zz", "=41", "=3a", "=FF", "a=b"] {
            assert_eq!(decode_key(foreign), None, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn every_key_comes_back(key in ".{1,40}|[.=a:]{1,12}") {
            let encoded = encode_key(&key).unwrap();
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_=.".contains(&byte);
            prop_assert!(encoded.bytes().all(allowed), "{}", encoded);
            prop_assert!(!encoded.starts_with('.') && !encoded.ends_with('.') && !encoded.contains(".."), "{}", encoded);
            prop_assert_eq!(decode_key(&encoded), Some(key));
        }

        #[test]
        fn whatever_is_in_a_bucket_is_read_or_left_out(key in "[-/_=.a-zA-Z0-9]{1,20}") {
            if let Some(decoded) = decode_key(&key) {
                prop_assert_eq!(encode_key(&decoded), Ok(key));
            }
        }
    }
}
