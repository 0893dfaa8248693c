//! One page of a bucket's keys, read by a consumer that is there for this page alone. What the server says is pending
//! decides whether a page is whole: one that broke off is an error, never a shorter list.

use super::{NatsBucket, passing::Passing};
use crate::store::is_deletion;
use async_nats::jetstream::{
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    stream::Stream,
};
use futures_util::StreamExt as _;
use lattice::{
    bucket::{BucketError, Keys, decode_key},
    id::Revision,
};
use std::{fmt, time::Duration};
use tokio::sync::OwnedSemaphorePermit;

/// Keys that the server sends at a time.
const FETCH: usize = 512;
/// What is left of a page whose node is gone is removed by the server after so long.
const CONSUMER_IDLE: Duration = Duration::from_secs(15);

/// The keys of those that were written after that revision. `place` is held until the server has nothing of the page any
/// more, however early it is dropped.
pub(super) async fn page(
    bucket: &NatsBucket,
    place: OwnedSemaphorePermit,
    after: Option<Revision>,
    most: usize,
) -> Result<Keys, BucketError> {
    // Where a key has one message, those that follow are all that must be looked at. Else the server goes through the last
    // message of each key from the beginning, for each page. Asked each time: whoever owns the bucket may change it.
    let deliver_policy = match after {
        Some(after) if keeps_one(&bucket.stream).await? => {
            DeliverPolicy::ByStartSequence { start_sequence: after.0 + 1 }
        }
        _ => DeliverPolicy::LastPerSubject,
    };
    let name = format!("lattice-list-{}", uuid::Uuid::new_v4().simple());
    let config = pull::Config {
        name: Some(name.clone()),
        deliver_policy,
        ack_policy: AckPolicy::None,
        filter_subject: format!("{}>", bucket.prefix),
        headers_only: true,
        num_replicas: 1,
        memory_storage: true,
        inactive_threshold: CONSUMER_IDLE,
        ..Default::default()
    };
    // Before it is asked for: an answer that nobody waits for any more makes a consumer as well.
    let passing = Passing::new(bucket.stream.clone(), name, Some(place));
    collect(&mut Reading { passing, config, prefix: &bucket.prefix, consumer: None }, after, most).await
}

fn lost(error: &dyn fmt::Display) -> BucketError {
    BucketError::Unreachable(error.to_string())
}

async fn keeps_one(stream: &Stream) -> Result<bool, BucketError> {
    let info = stream.get_info().await.map_err(|error| lost(&error))?;
    Ok(info.config.max_messages_per_subject == 1)
}

/// The head of a message.
struct Head {
    revision: Revision,
    /// `None` where no guest has such a key, or where the message says that the key was deleted.
    key: Option<String>,
    /// Messages behind it.
    pending: u64,
}

/// Where heads come from, in the order of their revisions.
trait Heads {
    /// How many are yet to come, as the server knows now.
    async fn pending(&mut self) -> Result<u64, BucketError>;
    /// Some of them. None where there are none, or where none came in time.
    async fn fetch(&mut self) -> Result<Vec<Head>, BucketError>;
}

async fn collect(heads: &mut impl Heads, after: Option<Revision>, most: usize) -> Result<Keys, BucketError> {
    let mut page = Keys::default();
    let (mut seen, mut last) = (after.unwrap_or(Revision(0)), Revision(0));
    let mut left = heads.pending().await?;
    let mut came_to_nothing = false;
    while left > 0 {
        let fetched = heads.fetch().await?;
        if fetched.is_empty() {
            // What was pending may be gone, which the server knows; or it did not come.
            if std::mem::replace(&mut came_to_nothing, true) {
                return Err(BucketError::Unreachable("the list of the keys broke off".into()));
            }
            left = heads.pending().await?;
            continue;
        }
        came_to_nothing = false;
        for head in fetched {
            left = head.pending;
            if head.revision <= seen {
                continue;
            }
            seen = head.revision;
            let Some(key) = head.key else { continue };
            if page.keys.len() >= most {
                page.next = Some(last);
                return Ok(page);
            }
            page.keys.push(key);
            last = head.revision;
        }
    }
    Ok(page)
}

struct Reading<'a> {
    passing: Passing,
    config: pull::Config,
    prefix: &'a str,
    consumer: Option<PullConsumer>,
}

impl Heads for Reading<'_> {
    async fn pending(&mut self) -> Result<u64, BucketError> {
        // Of one that is there, the same request is answered with how it is now.
        let made = self.passing.stream().create_consumer(self.config.clone()).await;
        let consumer = self.consumer.insert(made.map_err(|error| lost(&error))?);
        Ok(consumer.cached_info().num_pending)
    }

    async fn fetch(&mut self) -> Result<Vec<Head>, BucketError> {
        let Some(consumer) = &self.consumer else { return Ok(Vec::new()) };
        let mut messages = consumer.fetch().max_messages(FETCH).messages().await.map_err(|error| lost(&error))?;
        let mut heads = Vec::new();
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| lost(&error))?;
            let info = message.info().map_err(|error| lost(&error))?;
            let is_deletion = message.headers.as_ref().is_some_and(is_deletion);
            let key = message.subject.strip_prefix(self.prefix).filter(|_| !is_deletion).and_then(decode_key);
            heads.push(Head { revision: Revision(info.stream_sequence), key, pending: info.pending });
        }
        Ok(heads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Answers as written down, in this order.
    #[derive(Default)]
    struct Told {
        pending: VecDeque<u64>,
        fetched: VecDeque<Vec<Head>>,
    }

    impl Heads for Told {
        async fn pending(&mut self) -> Result<u64, BucketError> {
            Ok(self.pending.pop_front().expect("is not asked again"))
        }
        async fn fetch(&mut self) -> Result<Vec<Head>, BucketError> {
            Ok(self.fetched.pop_front().expect("is not asked again"))
        }
    }

    /// Keys `k1`, `k2`, … of these revisions, with so many behind the last one.
    fn heads(revisions: std::ops::RangeInclusive<u64>, behind: u64) -> Vec<Head> {
        let end = *revisions.end();
        let head = |n| Head { revision: Revision(n), key: Some(format!("k{n}")), pending: end - n + behind };
        revisions.map(head).collect()
    }

    async fn listed(
        pending: &[u64],
        fetched: Vec<Vec<Head>>,
        most: usize,
    ) -> Result<(usize, Option<u64>), BucketError> {
        let mut told = Told { pending: pending.to_vec().into(), fetched: fetched.into() };
        let keys = collect(&mut told, None, most).await?;
        Ok((keys.keys.len(), keys.next.map(|next| next.0)))
    }

    #[tokio::test]
    async fn a_list_that_breaks_off_is_no_list() {
        let whole = listed(&[5], vec![heads(1..=3, 2), heads(4..=5, 0)], 10).await;
        assert_eq!(whole, Ok((5, None)));
        let broken = listed(&[5, 2], vec![heads(1..=3, 2), vec![], vec![]], 10).await;
        assert!(matches!(&broken, Err(BucketError::Unreachable(why)) if why.contains("broke off")), "{broken:?}");
        // What was pending is gone, says the server.
        assert_eq!(listed(&[5, 0], vec![heads(1..=3, 2), vec![]], 10).await, Ok((3, None)));
        // It was late, and then it came.
        assert_eq!(listed(&[5, 2], vec![heads(1..=3, 2), vec![], heads(4..=5, 0)], 10).await, Ok((5, None)));
        // The server has forgotten what it had sent.
        assert_eq!(listed(&[5, 5], vec![heads(1..=3, 2), vec![], heads(1..=5, 0)], 10).await, Ok((5, None)));
    }

    #[tokio::test]
    async fn a_page_that_is_full_says_where_the_next_one_begins() {
        assert_eq!(listed(&[5], vec![heads(1..=5, 0)], 5).await, Ok((5, None)));
        assert_eq!(listed(&[6], vec![heads(1..=6, 0)], 5).await, Ok((5, Some(5))));
        assert_eq!(listed(&[0], vec![], 5).await, Ok((0, None)));
    }
}
