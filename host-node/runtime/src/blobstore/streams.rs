//! The bytes of objects as `wasi:io` has them. Neither side gets ahead of the other by more than a few chunks.

use crate::{
    lock,
    network::{CHUNKS_WAITING_MAX, ReadAhead, Transfer},
};
use bytes::{Bytes, BytesMut};
use lattice::{
    Fut,
    nats::{Code, Failure, Feed},
    objects::{CHUNK_BYTES, Object, Objects, Piece, Put, TryFeed},
};
use std::{
    mem,
    sync::{Arc, Mutex},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use wasmtime_wasi::{
    async_trait,
    p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult},
};

/// An object that is read.
pub(super) struct Download {
    ahead: ReadAhead,
    /// What came and was not read yet.
    held: Option<Result<Bytes, Failure>>,
}

impl Download {
    pub(super) fn new(chunks: TryFeed<Bytes>, room: Transfer) -> Self {
        Self { ahead: ReadAhead::new(chunks, room), held: None }
    }
}

#[async_trait]
impl Pollable for Download {
    async fn ready(&mut self) {
        if self.held.is_none() {
            self.held = self.ahead.coming.recv().await;
        }
    }
}

#[async_trait]
impl InputStream for Download {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if self.held.is_none() {
            self.held = match self.ahead.coming.try_recv() {
                Ok(chunk) => Some(chunk),
                Err(mpsc::error::TryRecvError::Empty) => return Ok(Bytes::new()),
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(StreamError::Closed),
            };
        }
        match self.held.take() {
            Some(Ok(mut bytes)) => {
                let read = bytes.split_to(size.min(bytes.len()));
                self.held = (!bytes.is_empty()).then_some(Ok(bytes));
                Ok(read)
            }
            Some(Err(failure)) => Err(StreamError::LastOperationFailed(wasmtime::Error::msg(super::told(failure)))),
            None => Ok(Bytes::new()),
        }
    }
}

/// A value that a guest writes: into a stream, and from there to the container that it says, before or after it began. It is
/// seen there once it is finished.
pub(super) struct Outgoing {
    body: Arc<Body>,
    is_taken: bool,
    /// What waits for a container, and where to say why that takes no more.
    waiting: Option<(mpsc::Receiver<Piece>, watch::Sender<Option<String>>)>,
    writing: Option<JoinHandle<Result<Object, Failure>>>,
}

/// What the guest writes, in chunks.
struct Body(Mutex<State>);

struct State {
    /// None where no more is taken.
    pieces: Option<mpsc::Sender<Piece>>,
    /// For the chunk that is being put together.
    place: Option<mpsc::OwnedPermit<Piece>>,
    chunk: BytesMut,
    /// It is known where the chunks go.
    has_container: bool,
    /// Why no more is taken there.
    failure: watch::Receiver<Option<String>>,
    room: Option<Transfer>,
}

struct Coming(mpsc::Receiver<Piece>);

impl Feed<Piece> for Coming {
    fn next(&mut self) -> Fut<'_, Option<Piece>> {
        Box::pin(async { self.0.recv().await })
    }
}

impl Outgoing {
    pub(super) fn new() -> Self {
        let (tell, pieces) = mpsc::channel(CHUNKS_WAITING_MAX);
        let (fail, failure) = watch::channel(None);
        let state = State {
            pieces: Some(tell),
            place: None,
            chunk: BytesMut::new(),
            has_container: false,
            failure,
            room: None,
        };
        let waiting = Some((pieces, fail));
        Self { body: Arc::new(Body(Mutex::new(state))), is_taken: false, waiting, writing: None }
    }

    pub(super) fn is_taken(&self) -> bool {
        self.is_taken
    }

    pub(super) fn take_body(&mut self, room: Transfer) -> Upload {
        self.is_taken = true;
        lock(&self.body.0).room = Some(room);
        Upload(self.body.clone())
    }

    /// Begin to write it there.
    pub(super) fn write_to(&mut self, objects: Arc<dyn Objects>, name: String) -> Result<(), Failure> {
        let Some((pieces, fail)) = self.waiting.take() else {
            return Err(Failure::not(Code::Other, "the value is written to another object already"));
        };
        self.writing = Some(tokio::spawn(async move {
            let written = objects.write(&name, Put::default(), Box::new(Coming(pieces))).await;
            if let Err(failure) = &written {
                fail.send_replace(Some(super::told(failure.clone())));
            }
            written
        }));
        lock(&self.body.0).has_container = true;
        Ok(())
    }

    /// There is no more of it. Answers when it is to be seen where it was written to.
    pub(super) async fn finish(mut self) -> Result<(), Failure> {
        let Some(writing) = self.writing.take() else {
            return Err(Failure::not(
                Code::Other,
                "the value was written to no container: write-data comes before finish",
            ));
        };
        let (pieces, _room) = {
            let mut state = lock(&self.body.0);
            state.pass_on();
            (state.pieces.take(), state.room.take())
        };
        if let Some(pieces) = pieces {
            // Fails where the writing has ended, which says why.
            let _ = pieces.send(Piece::End).await;
        }
        writing.await.unwrap_or_else(|error| Err(Failure::maybe(Code::Other, error.to_string()))).map(drop)
    }
}

impl Drop for Outgoing {
    /// What was not finished is given up.
    fn drop(&mut self) {
        let mut state = lock(&self.body.0);
        (state.pieces, state.place, state.room) = (None, None, None);
    }
}

impl State {
    /// Send what there is, though it may be less than a chunk.
    fn pass_on(&mut self) {
        let Some(place) = self.place.take() else { return };
        if !self.chunk.is_empty() {
            place.send(Piece::Bytes(mem::take(&mut self.chunk).freeze()));
        }
    }

    /// How much can be written now.
    fn allowance(&mut self) -> StreamResult<usize> {
        if self.place.is_none() {
            let Some(pieces) = &self.pieces else { return Err(StreamError::Closed) };
            match pieces.clone().try_reserve_owned() {
                Ok(place) => self.place = Some(place),
                Err(mpsc::error::TrySendError::Full(_)) if self.has_container => return Ok(0),
                Err(mpsc::error::TrySendError::Full(_)) => {
                    let text = format!(
                        "{} bytes wait for a container: write-data comes before more of them",
                        CHUNKS_WAITING_MAX * CHUNK_BYTES
                    );
                    return Err(StreamError::LastOperationFailed(wasmtime::Error::msg(text)));
                }
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    let Some(why) = self.failure.borrow().clone() else { return Ok(0) };
                    self.pieces = None;
                    return Err(StreamError::LastOperationFailed(wasmtime::Error::msg(why)));
                }
            }
        }
        Ok(CHUNK_BYTES - self.chunk.len())
    }
}

/// The stream of a value that is written.
pub(super) struct Upload(Arc<Body>);

#[async_trait]
impl Pollable for Upload {
    async fn ready(&mut self) {
        let (pieces, mut failure) = {
            let state = lock(&self.0.0);
            match &state.pieces {
                Some(pieces) if state.place.is_none() && state.has_container => (pieces.clone(), state.failure.clone()),
                _ => return,
            }
        };
        match pieces.reserve_owned().await {
            Ok(place) => {
                let mut state = lock(&self.0.0);
                if state.pieces.is_some() {
                    state.place = Some(place);
                }
            }
            // It is known soon why.
            Err(_) => drop(failure.wait_for(Option::is_some).await),
        }
    }
}

#[async_trait]
impl OutputStream for Upload {
    fn check_write(&mut self) -> StreamResult<usize> {
        lock(&self.0.0).allowance()
    }

    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut state = lock(&self.0.0);
        if bytes.is_empty() {
            return Ok(());
        }
        if state.place.is_none() || bytes.len() > CHUNK_BYTES - state.chunk.len() {
            return Err(StreamError::trap("more was written than check-write allowed"));
        }
        state.chunk.extend_from_slice(&bytes);
        if state.chunk.len() == CHUNK_BYTES {
            state.pass_on();
        }
        Ok(())
    }

    /// Nothing of an object is seen before it is finished.
    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        lock(&self.0.0).pass_on();
    }
}
