//! The bodies of a client's request and of its response, which tell [`Activity`](super::activity::Activity) whom they wait
//! for.

use super::{
    activity::{Open, Reader},
    socket::Notes,
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use lattice::http::BodyError;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// A request's body that breaks when its client sends it too slowly: when the times that somebody waited for it are more,
/// together, than the grace and what the bytes take at the least rate. Ends with the beginning of the response.
pub(super) struct Paced<B> {
    body: B,
    reader: Reader,
    bytes: u64,
    /// Told when the body is dropped before its end.
    unread: Option<Arc<Notes>>,
}

impl<B> Paced<B> {
    pub(super) fn new(body: B, open: &Open, unread: Option<Arc<Notes>>) -> Self {
        Self { body, reader: open.reader(), bytes: 0, unread }
    }
}

impl<B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin> http_body::Body for Paced<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            let is_late = this.reader.waits(this.bytes, cx.waker());
            return if is_late { Poll::Ready(Some(Err(BodyError::Timeout))) } else { Poll::Pending };
        };
        this.reader.goes_on();
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                this.bytes = this.bytes.saturating_add(bytes as u64);
            }
            Some(Err(_)) => {}
            None => this.unread = None,
        }
        if this.body.is_end_stream() {
            this.unread = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Paced<B> {
    fn drop(&mut self) {
        if let Some(notes) = &self.unread {
            notes.set_unread();
        }
        // Nobody waits for it any more.
        self.reader.goes_on();
    }
}

/// A response's body that notes who is to move next: while it has nothing, the router; else whoever reads it.
pub(super) struct Watched<B> {
    body: B,
    open: Option<Open>,
}

impl<B: http_body::Body> Watched<B> {
    pub(super) fn new(body: B, open: Open) -> Self {
        let open = (!body.is_end_stream()).then_some(open);
        if let Some(open) = &open {
            open.free();
            open.turn(true);
        }
        Self { body, open }
    }
}

impl<B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin> http_body::Body for Watched<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(open) = &self.open {
            open.turn(polled.is_ready());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
