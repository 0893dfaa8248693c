//! `lattice:nats/transactions`: several keys of one bucket changed together.

use super::{Has, Outcome, Store, View, bindings::lattice::nats::transactions, called, kv::check_ttl, told};
use crate::{
    host::Host,
    network::nats::OpenBucket,
    operations::{Interface, Kind},
};
use lattice::{
    id::Revision,
    nats::{Code, Failure, Write, Writing, check_key},
    spec::profile::{Given, KvOperation},
};
use std::{collections::BTreeSet, time::Duration};
use wasmtime::component::Resource;

/// Keys of one transaction, and their bytes.
const WRITES_MAX: u32 = 1_000;
const WRITES_BYTES_MAX: usize = 16 << 20;

/// What is to be written, and its bytes.
fn prepare(writes: Vec<transactions::Write>, value_bytes_max: usize) -> Result<(Vec<(String, Write)>, usize), Failure> {
    let invalid = |text: String| Err(Failure::not(Code::Invalid("writes".into()), text));
    if writes.is_empty() {
        return invalid("a transaction has at least one key".into());
    }
    if writes.len() > WRITES_MAX as usize {
        let text = format!("{} keys in one transaction; at most {WRITES_MAX} are allowed", writes.len());
        return Err(Failure::not(Code::TooMany(WRITES_MAX), text));
    }
    let mut keys = BTreeSet::new();
    let (mut prepared, mut bytes) = (Vec::with_capacity(writes.len()), 0);
    for transactions::Write { key, change, expect, ttl } in writes {
        check_key(&key)?;
        if !keys.insert(key.clone()) {
            return invalid(format!("the key {key} is there twice"));
        }
        let ttl = ttl.map(Duration::from_nanos);
        check_ttl(ttl)?;
        let what = match change {
            transactions::Change::Put(value) => Writing::Put(value.into()),
            transactions::Change::Delete => Writing::Delete,
        };
        let size = key.len() + if let Writing::Put(value) = &what { value.len() } else { 0 };
        bytes += size;
        for (size, most, of) in [(size, value_bytes_max, "value"), (bytes, WRITES_BYTES_MAX, "transaction")] {
            if size > most {
                let text = format!("{size} bytes in one {of}; at most {most} are allowed");
                return Err(Failure::not(Code::TooLarge(most as u64), text));
            }
        }
        prepared.push((key, Write { what, expect: Some(Revision(expect)), ttl }));
    }
    Ok((prepared, bytes))
}

impl transactions::Host for View<'_> {}

impl transactions::HostWithStore<Host> for Has {
    async fn transact(
        store: &Store<Host>,
        bucket: Resource<OpenBucket>,
        writes: Vec<transactions::Write>,
    ) -> Outcome<transactions::Revision> {
        let open = store.with(|mut access| access.get().table.get(&bucket).cloned())?;
        let (network, inherited, operation) = called(store, (Interface::Transactions, Kind::Write, "transact"))?;
        let operation = operation.on(open.name.as_str()).with("db.operation.batch.size", || writes.len() as u64);
        let transact = async {
            network.judge_kv(&open, KvOperation::Transact, Given { revision: true, ttl: false })?;
            let (writes, bytes) = prepare(writes, open.bucket.value_bytes_max())?;
            let turn = network.nats_turn(None, (bytes, false), &inherited).await?;
            turn.run(open.bucket.transact(writes)).await
        };
        told(operation, transact.await.map(|revision| revision.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, bytes: usize) -> transactions::Write {
        transactions::Write {
            key: key.to_owned(),
            change: transactions::Change::Put(vec![0; bytes]),
            expect: 0,
            ttl: None,
        }
    }

    #[test]
    fn each_key_is_there_once_and_all_are_bounded() {
        let code = |writes: Vec<transactions::Write>| prepare(writes, 1 << 20).unwrap_err().code;
        assert_eq!(code(vec![]), Code::Invalid("writes".into()));
        assert_eq!(code(vec![put("a", 1), put("b", 1), put("a", 1)]), Code::Invalid("writes".into()));
        assert_eq!(code(vec![put("a b", 1)]), Code::Invalid("key".into()));
        assert_eq!(code(vec![put("a", 1 << 20)]), Code::TooLarge(1 << 20));
        let brief = transactions::Write { ttl: Some(1), ..put("a", 1) };
        assert_eq!(code(vec![brief]), Code::Invalid("ttl".into()));
        let many = |count: usize, bytes: usize| (0..count).map(|n| put(&n.to_string(), bytes)).collect::<Vec<_>>();
        assert_eq!(code(many(1_001, 1)), Code::TooMany(1_000));
        assert_eq!(code(many(17, 1_000_000)), Code::TooLarge(16 << 20));
        let (writes, bytes) = prepare(many(1_000, 1), 1 << 20).unwrap();
        assert_eq!((writes.len(), bytes), (1_000, 1_000 + 10 + 180 + 2_700));
    }
}
