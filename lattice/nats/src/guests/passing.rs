//! Consumers that are there for one reader alone.

use async_nats::jetstream::stream::Stream;
use tokio::sync::OwnedSemaphorePermit;

/// A consumer, removed whenever this is dropped. To be made before the consumer is asked for: an answer that nobody waits
/// for any more makes a consumer as well.
pub(super) struct Passing {
    stream: Stream,
    name: String,
    place: Option<OwnedSemaphorePermit>,
}

impl Passing {
    /// The place is held until the server has nothing of the consumer any more.
    pub(super) fn new(stream: Stream, name: String, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { stream, name, place }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (stream, name, place) = (self.stream.clone(), std::mem::take(&mut self.name), self.place.take());
        runtime.spawn(async move {
            let _ = stream.delete_consumer(&name).await; // else it goes by itself, later
            drop(place);
        });
    }
}
