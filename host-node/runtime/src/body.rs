//! Bodies on their way in and out. Both are watched: the request's for its size, the response's for a guest that ends
//! before it has finished what it promised. A cut body never reads like a whole one.

use crate::{exchange::Shared, failure::Failure};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use lattice::http::{Body, BodyError};
use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};
use wasmtime_wasi_http::{Error, WasiBody};

/// The request's body as the guest reads it.
///
/// The caller's own body stays in [`Shared`]: guests that collect garbage drop their side late, and the connection must
/// not wait for that.
pub(crate) struct RequestBody {
    left: u64,
    limit: u64,
    shared: Arc<Shared>,
}

impl RequestBody {
    pub(crate) fn new(body: Body, limit: u64, shared: Arc<Shared>) -> Self {
        match body.is_end_stream() {
            true => shared.request_was_read(),
            false => *shared.request_body() = Some(body),
        }
        Self { left: limit, limit, shared }
    }

    fn fail(&mut self, error: BodyError, told: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.shared.request_failed(error);
        Poll::Ready(Some(Err(told)))
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let shared = self.shared.clone();
        let mut place = shared.request_body();
        let Some(inner) = &mut *place else {
            // Taken away before its end. A guest that outlives its request must not take half of it for the whole.
            let whole = shared.request_is_read();
            return Poll::Ready(if whole { None } else { Some(Err(Error::ConnectionTerminated)) });
        };
        let polled = ready!(Pin::new(inner).poll_frame(cx));
        if !matches!(polled, Some(Ok(_))) {
            *place = None;
        }
        match polled {
            Some(Ok(frame)) => {
                self.shared.moved();
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                match self.left.checked_sub(length) {
                    Some(left) => self.left = left,
                    None => {
                        *place = None;
                        let limit = self.limit;
                        return self.fail(BodyError::TooLarge { limit }, Error::HttpRequestBodySize(Some(limit)));
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => self.fail(error, Error::ConnectionTerminated),
            None => {
                self.shared.request_was_read();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &*self.shared.request_body() {
            Some(inner) => inner.is_end_stream(),
            None => self.shared.request_is_read(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &*self.shared.request_body() {
            Some(inner) => inner.size_hint(),
            None if self.shared.request_is_read() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}

/// Read ahead before anybody asks for it.
const AHEAD_BYTES_MAX: usize = 64 << 10;
const AHEAD_FRAMES_MAX: usize = 64;

/// The response's body as it comes from the guest, with what was read of it ahead of time.
pub(crate) struct GuestBody {
    ahead: VecDeque<Result<Frame<Bytes>, Error>>,
    ahead_bytes: usize,
    /// `None` at its end.
    inner: Option<WasiBody>,
    /// Bytes that the guest still owes, where it promised a number. wasi:http checks that as well, but forgets the
    /// error where the reader is slower than the guest.
    owed: Option<u64>,
}

impl GuestBody {
    pub(crate) fn new(inner: WasiBody, owed: Option<u64>) -> Self {
        Self { ahead: VecDeque::new(), ahead_bytes: 0, inner: Some(inner), owed }
    }

    /// Read what is there. Ready at the body's end.
    pub(crate) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(inner) = &mut self.inner {
            if self.ahead_bytes >= AHEAD_BYTES_MAX || self.ahead.len() >= AHEAD_FRAMES_MAX {
                return Poll::Pending; // until somebody takes it
            }
            match ready!(Pin::new(inner).poll_frame(cx)) {
                Some(frame) => {
                    self.ahead_bytes += frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
                    if frame.as_ref().is_ok_and(Frame::is_trailers) || frame.is_err() {
                        self.inner = None;
                    }
                    self.ahead.push_back(frame);
                }
                None => self.inner = None,
            }
        }
        Poll::Ready(())
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match (self.ahead.pop_front(), &mut self.inner) {
            (Some(frame), _) => Some(frame),
            (None, Some(inner)) => ready!(Pin::new(inner).poll_frame(cx)),
            (None, None) => None,
        };
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(owed), Some(data)) = (&mut self.owed, frame.data_ref()) {
                    *owed = owed.saturating_sub(data.len() as u64);
                }
            }
            Some(Err(_)) | None => self.inner = None,
        }
        Poll::Ready(frame)
    }

    /// True where all that was promised was read.
    fn is_whole(&self) -> bool {
        self.owed == Some(0) || self.inner.is_none() && self.ahead.is_empty()
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.inner.as_ref().is_none_or(|inner| self.owed == Some(0) && inner.is_end_stream())
    }

    /// After the guest's end: reads the rest, of which there is little, since only some chunks fit between the guest and
    /// its reader. Fails where it is not all that was promised.
    pub(crate) fn settle(&mut self) -> Result<(), Failure> {
        let mut cx = Context::from_waker(Waker::noop());
        while let Some(inner) = &mut self.inner {
            match poll_unbudgeted(&mut cx, |cx| Pin::new(&mut *inner).poll_frame(cx)) {
                Poll::Ready(Some(frame)) => self.ahead.push_back(frame),
                Poll::Ready(None) => self.inner = None,
                Poll::Pending => return Err(Failure::Unfinished),
            }
        }
        let mut bytes = 0;
        for frame in &self.ahead {
            match frame {
                Ok(frame) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
                Err(error) => return Err(Failure::Trap(format!("broke off its answer: {error}"))),
            }
        }
        if self.owed.is_some_and(|owed| owed != bytes) { Err(Failure::Unfinished) } else { Ok(()) }
    }

    /// The body after [`Self::settle`]: it is all here, so its size is known.
    pub(crate) fn into_sized(self) -> Body {
        let mut frames: VecDeque<_> = self.ahead.into_iter().filter_map(Result::ok).collect();
        if frames.len() <= 1 {
            match frames.pop_front().map(Frame::into_data) {
                None => return lattice::http::empty(),
                Some(Ok(data)) => return lattice::http::full(data),
                Some(Err(trailers)) => frames.push_back(trailers),
            }
        }
        Body::new(Frames(frames))
    }
}

/// The response's body while the guest still runs. Dropped before its end, it stops the guest.
pub(crate) struct ResponseBody {
    body: GuestBody,
    ended: bool,
    shared: Arc<Shared>,
    when_cut: Option<Box<dyn FnOnce() + Send>>,
}

impl ResponseBody {
    pub(crate) fn new(body: GuestBody, shared: Arc<Shared>) -> Self {
        Self { body, ended: false, shared, when_cut: None }
    }

    /// What to do if it is dropped before its end.
    pub(crate) fn or_when_cut(mut self, stop: impl FnOnce() + Send + 'static) -> Self {
        self.when_cut = Some(Box::new(stop));
        self
    }

    fn end(&mut self) {
        self.ended = true;
        self.shared.body_was_read();
    }

    fn failed(&mut self, failure: &Failure) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.end();
        Poll::Ready(Some(Err(failure.body_error())))
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // What the guest's end closes is seen only after its end is on record, so it is asked for before and after.
        let mut end = None;
        let polled = match self.body.poll_frame(cx) {
            Poll::Pending => {
                end = self.shared.end_or_wake(cx.waker());
                match &end {
                    None => return Poll::Pending,
                    Some(_) => poll_unbudgeted(cx, |cx| self.body.poll_frame(cx)),
                }
            }
            ready => ready,
        };
        let end = end.or_else(|| self.shared.end());
        match (polled, end) {
            (Poll::Ready(Some(Ok(frame))), _) => {
                self.shared.moved();
                if frame.is_trailers() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            (_, Some(Err(failure))) => self.failed(&failure),
            (Poll::Ready(None), _) if self.body.owed.is_none_or(|owed| owed == 0) => {
                self.end();
                Poll::Ready(None)
            }
            (Poll::Ready(Some(Err(error))), _) => {
                let failure = Failure::Trap(error.to_string());
                let failure = self.shared.request_error().map_or(failure, Failure::RequestBody);
                self.failed(&failure)
            }
            (Poll::Ready(None) | Poll::Pending, _) => self.failed(&Failure::Unfinished),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.owed.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // A server stops reading at the last byte it was promised; then the guest may finish what it does after it.
        match self.when_cut.take() {
            Some(stop) if !self.ended && !self.body.is_whole() => stop(),
            _ => self.shared.body_was_read(),
        }
    }
}

/// Polls past tokio's budget. Within it a channel that has something says `Pending` every so often, so that its task
/// lets others run; where this is used `Pending` must mean that there is nothing.
pub(crate) fn poll_unbudgeted<T>(cx: &mut Context<'_>, poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    pin!(tokio::task::unconstrained(poll_fn(poll))).poll(cx)
}

/// Frames that are all here: several chunks, or trailers.
struct Frames(VecDeque<Frame<Bytes>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum())
    }
}
