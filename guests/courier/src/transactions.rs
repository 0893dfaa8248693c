//! What is asked of `lattice:nats/transactions`.

use crate::{
    Answer, Asked,
    bindings::lattice::nats::{
        transactions::{self, Change, Write},
        types::Failure,
    },
};

/// Lines of `write`: `KEY REVISION VALUE`, or `KEY REVISION` to delete it; with `count` so many keys more, `many.0`, `many.1` …
pub(crate) async fn answer(asked: &Asked) -> Result<Answer, Failure> {
    let write = |line: &String| {
        let mut words = line.splitn(3, ' ');
        let key = words.next().unwrap_or_default().to_owned();
        let expect = words.next().and_then(|revision| revision.parse().ok()).unwrap_or(0);
        let change = words.next().map_or(Change::Delete, |value| Change::Put(value.into()));
        Write { key, change, expect, ttl: asked.nanos("ttl") }
    };
    let lines = asked.all("write");
    let many = (0..asked.number("count").unwrap_or(0)).map(|n| Write {
        key: format!("many.{n}"),
        change: Change::Put(asked.body.clone()),
        expect: 0,
        ttl: None,
    });
    let writes = lines.iter().map(write).chain(many).collect();
    let bucket = asked.bucket().await?;
    let revision = transactions::transact(&bucket, writes).await?;
    Ok(Answer::Text(200, revision.to_string().into_bytes()))
}
