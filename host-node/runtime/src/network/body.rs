//! The body of a response: passed through as it is read, within the time between two parts.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep},
};
use wasmtime_wasi_http::Error;

pub(crate) struct ResponseBody<B: Body> {
    inner: B,
    /// What the guest is told of an error.
    told: fn(&B::Error) -> Error,
    between_bytes: Duration,
    /// Made when a part is waited for the first time.
    alarm: Option<Pin<Box<Sleep>>>,
    armed: bool,
    /// One request of the replica, until its response is read.
    _place: OwnedSemaphorePermit,
}

impl<B: Body> ResponseBody<B> {
    pub(crate) fn new(
        inner: B,
        told: fn(&B::Error) -> Error,
        between_bytes: Duration,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { inner, told, between_bytes, alarm: None, armed: false, _place: place }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            this.armed = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| (this.told)(&error))));
        }
        let deadline = Instant::now() + this.between_bytes;
        let alarm = this.alarm.get_or_insert_with(|| Box::pin(sleep(this.between_bytes)));
        if !std::mem::replace(&mut this.armed, true) {
            alarm.as_mut().reset(deadline);
        }
        ready!(alarm.as_mut().poll(cx));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
