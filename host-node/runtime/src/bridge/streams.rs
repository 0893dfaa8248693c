//! Streams of bytes between two stores: what is in one crosses by a short queue between two ends of ours, one in each
//! store.
//!
//! A stream knows one end, and whoever reads it takes that for the whole. So where a service ends in the middle of one
//! (a trap, a restart, the end of the unit), the caller that reads it fails like one whose call failed. The other way round
//! that can't be: a service holds what others need, and must not end with one of its callers. What a reader may be told is
//! that a stream has ended, or nothing; an error of a producer is one of the whole store, and a guest's task can be
//! cancelled by another guest only, never by the host. To tell it nothing would leave its task waiting for ever, with one
//! of the few calls that a service has at a time. So a service that reads a stream sees it end where its caller did.

use super::ends::Arriving;
use crate::{host::Host, parts::Counterpart};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::PollSender;
use wasmtime::{
    Store, StoreContextMut,
    component::{
        Destination, Source, StreamAny, StreamConsumer, StreamProducer, StreamReader, StreamResult, Val, VecBuffer,
    },
};

/// Written at once. What a writer offers beyond it waits.
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Chunks between two stores. With what each side holds at the moment it bounds how far a writer is ahead of its reader.
const CHUNKS_MAX: usize = 2;

/// Whether a store ends now: what ends with it was not ended by its guest.
#[derive(Clone, Default)]
pub(crate) struct Over(Arc<AtomicBool>);

/// Says so. Must be dropped before the store is.
pub(crate) struct EndsWith(Over);

impl EndsWith {
    pub(crate) fn of(store: &Store<Host>) -> Self {
        Self(store.data().over.clone())
    }
}

impl Drop for EndsWith {
    fn drop(&mut self) {
        self.0.0.store(true, Relaxed);
    }
}

/// Read a stream of this store from here on.
pub(super) fn take_out(
    mut store: StoreContextMut<'_, Host>,
    stream: StreamAny,
    place: OwnedSemaphorePermit,
) -> wasmtime::Result<Box<dyn Arriving>> {
    let (chunks, received) = mpsc::channel(CHUNKS_MAX);
    let whole = Arc::<AtomicBool>::default();
    let over = store.data().over.clone();
    let sender = Sender { chunks: PollSender::new(chunks), over, whole: whole.clone() };
    StreamReader::<u8>::try_from_stream_any(stream)?.pipe(&mut store, sender)?;
    Ok(Box::new(Receiver { chunks: received, next: None, whole, of: None, _place: place }))
}

/// Reads a stream in the store that it is from.
struct Sender {
    chunks: PollSender<Vec<u8>>,
    over: Over,
    whole: Arc<AtomicBool>,
}

impl StreamConsumer<Host> for Sender {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, Host>,
        source: Source<'_, u8>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        Poll::Ready(Ok(match self.chunks.poll_reserve(cx) {
            Poll::Pending if finish => StreamResult::Cancelled,
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => StreamResult::Dropped, // nobody reads it any more
            Poll::Ready(Ok(())) => {
                let mut source = source.as_direct(store);
                let offered = source.remaining();
                let chunk = offered.get(..CHUNK_BYTES_MAX).unwrap_or(offered).to_vec();
                source.mark_read(chunk.len());
                // Nothing is offered by one who only asks whether it could write.
                if !chunk.is_empty() && self.chunks.send_item(chunk).is_err() {
                    return Poll::Ready(Ok(StreamResult::Dropped));
                }
                StreamResult::Completed
            }
        }))
    }
}

impl Drop for Sender {
    /// Before the queue is closed, so that whoever sees that sees this as well.
    fn drop(&mut self) {
        self.whole.store(!self.over.0.load(Relaxed), Relaxed);
    }
}

/// Writes it in the store that it goes to.
struct Receiver {
    chunks: mpsc::Receiver<Vec<u8>>,
    /// Received and not yet written.
    next: Option<Vec<u8>>,
    whole: Arc<AtomicBool>,
    /// The service that it is from. None where it goes to one.
    of: Option<Counterpart>,
    /// Without this end the queue holds nothing, whatever the other one does.
    _place: OwnedSemaphorePermit,
}

impl Arriving for Receiver {
    fn arrive(
        mut self: Box<Self>,
        mut store: StoreContextMut<'_, Host>,
        of: Option<&Counterpart>,
    ) -> wasmtime::Result<Val> {
        self.of = of.cloned();
        let stream = StreamReader::new(&mut store, *self)?;
        Ok(Val::Stream(StreamAny::try_from_stream_reader(store, stream)?))
    }
}

impl StreamProducer<Host> for Receiver {
    type Item = u8;
    type Buffer = VecBuffer<u8>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, Host>,
        mut destination: Destination<'a, u8, VecBuffer<u8>>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let chunk = match self.next.take() {
            Some(chunk) => Some(chunk),
            None => match self.chunks.poll_recv(cx) {
                Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
                pending_or_not => ready!(pending_or_not),
            },
        };
        let Some(chunk) = chunk else {
            return Poll::Ready(match &self.of {
                Some(of) if !self.whole.load(Relaxed) => Err(of.cut_short().into()),
                _ => Ok(StreamResult::Dropped),
            });
        };
        // One who only asks whether there is something gets nothing yet.
        match destination.remaining(&mut store) {
            Some(0) => self.next = Some(chunk),
            _ => destination.set_buffer(chunk.into()),
        }
        Poll::Ready(Ok(StreamResult::Completed))
    }
}
