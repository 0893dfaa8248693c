//! Streams that bring a guest what comes in: what waits takes its room until the guest reads it.

use super::Has;
use crate::{host::Host, network::nats::Waiting};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::sync::mpsc;
use wasmtime::{
    StoreContextMut,
    component::{Accessor, Destination, Lift, Lower, StreamProducer, StreamReader, StreamResult, VecBuffer},
};

/// Items that one read brings.
const AT_ONCE: usize = 64;

/// A stream of what waits there, one item for each.
pub(super) fn reader<T, I>(
    store: &Accessor<Host, Has>,
    waiting: mpsc::Receiver<Waiting<T>>,
    convert: fn(T) -> I,
) -> wasmtime::Result<StreamReader<I>>
where
    T: Send + 'static,
    I: Lift + Lower + Send + Sync + 'static,
{
    store.with(|access| StreamReader::new(access, Coming { waiting, held: None, convert }))
}

struct Coming<T, I> {
    waiting: mpsc::Receiver<Waiting<T>>,
    /// The next item, where its reader only asked whether there was one.
    held: Option<Waiting<T>>,
    convert: fn(T) -> I,
}

impl<T, I> Unpin for Coming<T, I> {}

impl<T, I> StreamProducer<Host> for Coming<T, I>
where
    T: Send + 'static,
    I: Lift + Lower + Send + Sync + 'static,
{
    type Item = I;
    type Buffer = VecBuffer<I>;

    fn poll_produce(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, Host>,
        mut destination: Destination<'_, I, VecBuffer<I>>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut *self;
        if this.held.is_none() {
            match this.waiting.poll_recv(cx) {
                Poll::Ready(Some(item)) => this.held = Some(item),
                Poll::Ready(None) => return Poll::Ready(Ok(StreamResult::Dropped)),
                Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
                Poll::Pending => return Poll::Pending,
            }
        }
        // What is not lowered at once would be in no room.
        let most = destination.remaining(store).unwrap_or(AT_ONCE).min(AT_ONCE);
        let mut items = Vec::with_capacity(most.min(this.waiting.len() + 1));
        while items.len() < most
            && let Some(Waiting { item, .. }) = this.held.take().or_else(|| this.waiting.try_recv().ok())
        {
            items.push((this.convert)(item));
        }
        if !items.is_empty() {
            destination.set_buffer(items.into());
        }
        Poll::Ready(Ok(StreamResult::Completed))
    }
}
