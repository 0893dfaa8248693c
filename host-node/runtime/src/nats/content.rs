//! The bytes of objects as component-model streams, both ways: neither side gets ahead of the other by more than a few chunks.

use super::{Store, types};
use crate::{
    host::Host,
    network::{CHUNKS_WAITING_MAX, ReadAhead, Transfer},
};
use bytes::Bytes;
use lattice::{
    Fut,
    nats::{Code, Failure, Feed},
    objects::{Object, Objects, Piece, Put, TryFeed},
};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::{Mutex, mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::PollSender;
use wasmtime::{
    StoreContextMut,
    component::{Destination, FutureReader, Source, StreamConsumer, StreamProducer, StreamReader, StreamResult},
};

/// Taken of a guest's stream at a time, and how many of them wait.
const TAKEN_BYTES_MAX: usize = 64 << 10;
const TAKEN_MAX: usize = 2;

/// An object that a guest writes. What is not finished is given up when it is dropped.
#[expect(unreachable_pub, reason = "the generated bindings pass it on as theirs")]
pub struct OpenUpload {
    writing: Arc<Writing>,
    done: JoinHandle<Result<Object, Failure>>,
}

/// Where its bytes go.
pub(super) struct Writing {
    pieces: Mutex<Pieces>,
    /// Why no more are taken.
    failed: watch::Receiver<Option<Failure>>,
}

struct Pieces {
    tell: mpsc::Sender<Piece>,
    /// A `write` began and did not end well: what it wrote is a part of what it should have.
    has_gap: bool,
}

struct Coming(mpsc::Receiver<Piece>);

impl Feed<Piece> for Coming {
    fn next(&mut self) -> Fut<'_, Option<Piece>> {
        Box::pin(async { self.0.recv().await })
    }
}

impl OpenUpload {
    pub(super) fn begin(objects: Arc<dyn Objects>, name: String, put: Put, room: Transfer) -> Self {
        let (tell, pieces) = mpsc::channel(CHUNKS_WAITING_MAX);
        let (fail, failed) = watch::channel(None);
        let done = tokio::spawn(async move {
            let _room = room;
            let written = objects.write(&name, put, Box::new(Coming(pieces))).await;
            if let Err(failure) = &written {
                fail.send_replace(Some(failure.clone()));
            }
            written
        });
        let pieces = Mutex::new(Pieces { tell, has_gap: false });
        Self { writing: Arc::new(Writing { pieces, failed }), done }
    }

    pub(super) fn writing(&self) -> Arc<Writing> {
        self.writing.clone()
    }

    /// There is no more of it. Answers when it is to be seen.
    pub(super) async fn finish(self, within: Duration) -> Result<Object, Failure> {
        let until = Instant::now() + within;
        let end = async {
            let pieces = self.writing.pieces.lock().await;
            if pieces.has_gap {
                return Err(given_up());
            }
            // Fails where the writing has ended, which says why.
            let _ = pieces.tell.send(Piece::End).await;
            Ok(())
        };
        let late = |_| Failure::not(Code::Timeout, "what was written before was not taken in time");
        timeout_at(until, end).await.map_err(late)??;
        match timeout_at(until, self.done).await {
            Ok(written) => written.unwrap_or_else(|error| Err(Failure::maybe(Code::Other, error.to_string()))),
            Err(_) => Err(Failure::maybe(Code::Timeout, "no answer in time")),
        }
    }
}

impl Writing {
    /// Behind what was written before; answers how many bytes it was.
    pub(super) async fn write(&self, mut coming: mpsc::Receiver<Bytes>) -> Result<u64, Failure> {
        let mut pieces = self.pieces.lock().await;
        if std::mem::replace(&mut pieces.has_gap, true) {
            return Err(given_up());
        }
        let mut length = 0;
        loop {
            let bytes = tokio::select! {
                biased;
                () = pieces.tell.closed() => return Err(self.why().await),
                bytes = coming.recv() => bytes,
            };
            let Some(bytes) = bytes else { break };
            length += bytes.len() as u64;
            if pieces.tell.send(Piece::Bytes(bytes)).await.is_err() {
                return Err(self.why().await);
            }
        }
        pieces.has_gap = false;
        Ok(length)
    }

    async fn why(&self) -> Failure {
        let mut failed = self.failed.clone();
        let failed = failed.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
        // Nothing is seen before its end.
        failed.unwrap_or_else(|| Failure::not(Code::Other, "the object is not written any more")).of_read()
    }
}

fn given_up() -> Failure {
    let text = "a part of it failed or was given up, so that what was written has a gap: drop it";
    Failure::not(Code::Invalid("this".into()), text)
}

/// Read a guest's stream, as far as what was read before is taken.
pub(super) fn take(store: &Store<Host>, content: StreamReader<u8>) -> wasmtime::Result<mpsc::Receiver<Bytes>> {
    let (tell, taken) = mpsc::channel(TAKEN_MAX);
    store.with(|access| content.pipe(access, Taking(PollSender::new(tell))))?;
    Ok(taken)
}

struct Taking(PollSender<Bytes>);

impl StreamConsumer<Host> for Taking {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, Host>,
        source: Source<'_, u8>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        Poll::Ready(Ok(match self.0.poll_reserve(cx) {
            Poll::Pending if finish => StreamResult::Cancelled,
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => StreamResult::Dropped, // no more is taken
            Poll::Ready(Ok(())) => {
                let mut source = source.as_direct(store);
                let offered = source.remaining();
                let bytes = Bytes::copy_from_slice(offered.get(..TAKEN_BYTES_MAX).unwrap_or(offered));
                source.mark_read(bytes.len());
                // Nothing is offered by one who only asks whether it could write.
                if !bytes.is_empty() && self.0.send_item(bytes).is_err() {
                    return Poll::Ready(Ok(StreamResult::Dropped));
                }
                StreamResult::Completed
            }
        }))
    }
}

type End = FutureReader<Result<(), types::Failure>>;

/// The bytes of an object, and how they ended.
pub(super) fn reader(
    store: &Store<Host>,
    chunks: TryFeed<Bytes>,
    room: Transfer,
) -> wasmtime::Result<(StreamReader<u8>, End)> {
    let (tell, told) = oneshot::channel();
    let content = Content { ahead: ReadAhead::new(chunks, room), held: None, tell: Some(tell) };
    let end = async move {
        let dropped = |_| Err(Failure::not(Code::Other, "the content was dropped before its end"));
        wasmtime::Result::<_>::Ok(told.await.unwrap_or_else(dropped).map_err(types::Failure::from))
    };
    store.with(|mut access| {
        let bytes = StreamReader::new(&mut access, content)?;
        Ok((bytes, FutureReader::new(&mut access, end)?))
    })
}

struct Content {
    ahead: ReadAhead,
    /// What came and was not read yet.
    held: Option<Bytes>,
    tell: Option<oneshot::Sender<Result<(), Failure>>>,
}

impl Content {
    fn end(&mut self, how: Result<(), Failure>) -> StreamResult {
        if let Some(tell) = self.tell.take() {
            let _ = tell.send(how); // nobody asks
        }
        StreamResult::Dropped
    }
}

impl StreamProducer<Host> for Content {
    type Item = u8;
    type Buffer = Bytes;

    fn poll_produce(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, Host>,
        mut destination: Destination<'_, u8, Bytes>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut *self;
        let bytes = match this.held.take() {
            Some(bytes) => bytes,
            None => match this.ahead.coming.poll_recv(cx) {
                Poll::Ready(Some(Ok(bytes))) => bytes,
                Poll::Ready(Some(Err(failure))) => return Poll::Ready(Ok(this.end(Err(failure)))),
                Poll::Ready(None) => return Poll::Ready(Ok(this.end(Ok(())))),
                Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
                Poll::Pending => return Poll::Pending,
            },
        };
        // One who only asks whether there is something gets nothing yet.
        match destination.remaining(store) {
            Some(0) => this.held = Some(bytes),
            _ => destination.set_buffer(bytes),
        }
        Poll::Ready(Ok(StreamResult::Completed))
    }
}
