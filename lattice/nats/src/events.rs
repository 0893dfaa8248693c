//! Reading the lattice's events back: the last ones, then live ones.

use crate::connect::{ConnectError, Nats};
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use lattice::{id::LatticeId, store::Items, subject};

impl Nats {
    /// The last `last` events, oldest first; with `follow`, new ones behind them for as long as the stream is read.
    pub async fn events(&self, lattice: &LatticeId, last: u64, follow: bool) -> Result<Items<Bytes>, ConnectError> {
        let name = subject::events_stream(lattice);
        let failed = |why: &dyn std::fmt::Display| ConnectError::Layout {
            what: format!("reading stream {name}"),
            why: why.to_string(),
        };
        let stream = self.jetstream.get_stream(&name).await.map_err(|error| failed(&error))?;
        let state = &stream.cached_info().state;
        let head = state.last_sequence;
        let start = head.saturating_add(1).saturating_sub(last).max(state.first_sequence).max(1);
        if !follow && (state.messages == 0 || last == 0) {
            return Ok(stream::empty().boxed());
        }
        let consumer = stream
            .create_consumer(pull::OrderedConfig {
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: start },
                ..Default::default()
            })
            .await
            .map_err(|error| failed(&error))?;
        let messages = consumer.messages().await.map_err(|error| failed(&error))?;
        let items = messages.filter_map(|item| async move {
            let message = item.ok()?;
            let sequence = message.info().map(|info| info.stream_sequence).unwrap_or_default();
            Some((sequence, message.payload.clone()))
        });
        if follow {
            return Ok(items.map(|(_, payload)| payload).boxed());
        }
        // End with the event that was the last when we began.
        let bounded = stream::unfold((items.boxed(), false), move |(mut items, done)| async move {
            if done {
                return None;
            }
            let (sequence, payload) = items.next().await?;
            Some((payload, (items, sequence >= head)))
        });
        Ok(bounded.boxed())
    }
}
