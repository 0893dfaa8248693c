//! The bodies that a router makes and wraps. None of them buffers more than one piece; none turns a cut body into a
//! whole one.

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use lattice::http::{Body, BodyError, empty};
use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio::sync::{mpsc, oneshot};

/// A body that is all here, trailers included. Cloning it is cheap: it is what can be sent again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) bytes: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.bytes.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.bytes)))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

/// The body of a request, as long as it may have to be sent more than once.
pub(crate) enum Source {
    /// Can be sent any number of times.
    Whole(Whole),
    /// Can be sent again as long as nobody has read of it.
    Stream(Stream),
}

/// A body that comes back if its borrower dropped it unread.
pub(crate) struct Stream {
    kept: Arc<Mutex<Option<Body>>>,
    hint: SizeHint,
    owed: Arc<AtomicBool>,
    /// Its sender waits until somebody wants it.
    on_demand: bool,
}

impl Source {
    pub(crate) fn new(body: Body) -> Self {
        Self::of(body, false)
    }

    /// A body that is sent when it is first read (`Expect: 100-continue`): not read before an instance wants it.
    pub(crate) fn on_demand(body: Body) -> Self {
        Self::of(body, true)
    }

    fn of(body: Body, on_demand: bool) -> Self {
        if body.is_end_stream() {
            return Source::Whole(Whole::default());
        }
        let hint = body.size_hint();
        Source::Stream(Stream { kept: Arc::new(Mutex::new(Some(body))), hint, owed: Arc::default(), on_demand })
    }

    /// True if [`Source::body`] would give the body from its beginning.
    pub(crate) fn is_intact(&self) -> bool {
        match self {
            Source::Whole(_) => true,
            Source::Stream(stream) => lock(&stream.kept).is_some(),
        }
    }

    /// True if whoever read it last had to wait for its sender: what takes long then may be the sender's doing.
    pub(crate) fn is_owed(&self) -> bool {
        match self {
            Source::Whole(_) => false,
            Source::Stream(stream) => stream.owed.load(Relaxed),
        }
    }

    /// The body, for one attempt.
    pub(crate) fn body(&self) -> Body {
        match self {
            Source::Whole(whole) if whole.is_end_stream() => empty(),
            Source::Whole(whole) => whole.clone().boxed_unsync(),
            Source::Stream(Stream { kept, hint, owed, .. }) => {
                Borrowed { kept: kept.clone(), taken: None, hint: *hint, owed: owed.clone() }.boxed_unsync()
            }
        }
    }

    /// Read the body into memory if it says that it has at most `bytes_max` bytes. It is read to its end before the
    /// first attempt, so that it travels beside the head and can be sent again.
    pub(crate) async fn collect_small(&mut self, bytes_max: usize) -> Result<(), BodyError> {
        let Source::Stream(stream) = self else { return Ok(()) };
        if stream.on_demand || stream.hint.upper().is_none_or(|upper| upper > bytes_max as u64) {
            return Ok(());
        }
        let Some(body) = lock(&stream.kept).take() else { return Ok(()) };
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned();
        *self = Source::Whole(Whole { bytes: collected.to_bytes(), trailers });
        Ok(())
    }
}

struct Borrowed {
    kept: Arc<Mutex<Option<Body>>>,
    taken: Option<Body>,
    hint: SizeHint,
    /// As [`Source::is_owed`] has it. Left as it is when this is dropped, since the end of a request drops it as well.
    owed: Arc<AtomicBool>,
}

impl http_body::Body for Borrowed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.taken.is_none() {
            let body = lock(&self.kept).take();
            self.taken = body;
        }
        match &mut self.taken {
            Some(body) => {
                let polled = Pin::new(body).poll_frame(cx);
                self.owed.store(polled.is_pending(), Relaxed);
                polled
            }
            None => Poll::Ready(Some(Err(BodyError::Aborted("the body was read by another attempt".into())))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.taken.as_ref().is_some_and(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.taken.as_ref().map_or_else(|| self.hint, |body| body.size_hint())
    }
}

/// A body that ends with an error once it has more than `left` bytes, and tells how many came.
pub(crate) struct Limited {
    body: Body,
    limit: u64,
    left: u64,
    came: Arc<AtomicU64>,
}

impl Limited {
    pub(crate) fn new(body: Body, limit: u64, came: Arc<AtomicU64>) -> Self {
        Self { body, limit, left: limit, came }
    }
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &polled
            && let Some(data) = frame.data_ref()
        {
            let length = data.len() as u64;
            self.came.fetch_add(length, Relaxed);
            match self.left.checked_sub(length) {
                Some(left) => self.left = left,
                None => return Poll::Ready(Some(Err(BodyError::TooLarge { limit: self.limit }))),
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A piece of a body on its way from an exchange to its reader.
pub(crate) enum Piece {
    Data(Bytes),
    End(Option<HeaderMap>),
    Broken(BodyError),
}

/// The reader's end of an exchange's incoming body.
pub(crate) struct Incoming {
    pieces: mpsc::Receiver<Piece>,
    /// Told at the first read.
    wanted: Option<oneshot::Sender<()>>,
    over: bool,
}

/// A body of which one piece may wait. The sender learns when it is first read.
pub(crate) fn channel() -> (mpsc::Sender<Piece>, oneshot::Receiver<()>, Incoming) {
    let (sender, pieces) = mpsc::channel(1);
    let (wanted, first_read) = oneshot::channel();
    (sender, first_read, Incoming { pieces, wanted: Some(wanted), over: false })
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Some(wanted) = self.wanted.take() {
            let _ = wanted.send(());
        }
        let piece = ready!(self.pieces.poll_recv(cx));
        self.over = !matches!(piece, Some(Piece::Data(_)));
        Poll::Ready(match piece {
            Some(Piece::Data(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Piece::End(trailers)) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Some(Piece::Broken(error)) => Some(Err(error)),
            // An exchange that ends without saying so is a cut body, never a whole one.
            None => Some(Err(BodyError::Aborted("the exchange ended early".into()))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}

/// Most bytes that a client is handed at a time. See [`Pieces`].
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// A body whose frames are handed on in pieces, so that a client that takes a large one slowly shows that it does, and
/// one that takes none holds the rest here, where it is counted.
pub(crate) struct Pieces {
    body: Body,
    rest: Bytes,
}

impl Pieces {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, rest: Bytes::new() }
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => self.rest = bytes,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
        let len = self.rest.len().min(PIECE_BYTES_MAX);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, mut hint) = (self.rest.len() as u64, self.body.size_hint());
        // In this order: the upper bound may not be below the lower.
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

/// A body that holds something until it ends or is dropped: a place in the router, a gauge.
pub(crate) struct Holding<B, H> {
    body: B,
    hold: Option<H>,
}

impl<B: http_body::Body, H> Holding<B, H> {
    pub(crate) fn new(body: B, hold: Option<H>) -> Self {
        let hold = hold.filter(|_| !body.is_end_stream());
        Self { body, hold }
    }
}

impl<B, H> http_body::Body for Holding<B, H>
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin,
    H: Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if !matches!(polled, Some(Ok(_))) || self.body.is_end_stream() {
            self.hold = None;
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// No panic happens under these locks; a poisoned one is as good as any.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use lattice::http::full;

    fn read(body: Body) -> Result<Bytes, BodyError> {
        body.collect().now_or_never().unwrap().map(http_body_util::Collected::to_bytes)
    }

    #[test]
    fn an_unread_stream_can_be_sent_again() {
        let source = Source::new(full("abc"));
        drop(source.body());
        assert!(source.is_intact());
        let mut second = source.body();
        assert!(second.frame().now_or_never().is_some());
        assert!(!source.is_intact());
        assert!(read(source.body()).is_err(), "a stream that was read must not pass for an empty one");
    }

    #[test]
    fn a_small_stream_is_collected_and_a_large_one_is_not() {
        let mut small = Source::new(full("abc"));
        small.collect_small(3).now_or_never().unwrap().unwrap();
        assert_eq!(read(small.body()).unwrap(), read(small.body()).unwrap());
        let mut unasked = Source::on_demand(full("abc"));
        unasked.collect_small(3).now_or_never().unwrap().unwrap();
        assert!(unasked.is_intact() && matches!(unasked, Source::Stream(_)));
        let mut large = Source::new(full("abcd"));
        large.collect_small(3).now_or_never().unwrap().unwrap();
        assert!(matches!(large, Source::Stream(_)));
    }

    #[test]
    fn a_limit_breaks_the_body_that_exceeds_it() {
        let came = Arc::<AtomicU64>::default();
        assert_eq!(read(Limited::new(full("abc"), 3, came.clone()).boxed_unsync()).unwrap(), "abc");
        let too_large = read(Limited::new(full("abcd"), 3, came.clone()).boxed_unsync());
        assert_eq!((too_large, came.load(Relaxed)), (Err(BodyError::TooLarge { limit: 3 }), 7));
    }

    #[test]
    fn a_large_frame_is_handed_on_in_pieces() {
        let bytes = Bytes::from(vec![7; 2 * PIECE_BYTES_MAX + 1]);
        let mut body = Pieces::new(Whole { bytes, trailers: Some(HeaderMap::new()) }.boxed_unsync());
        let mut frames = Vec::new();
        loop {
            let (left, is_end) = (body.size_hint().exact().unwrap(), body.is_end_stream());
            let Some(frame) = body.frame().now_or_never().unwrap() else { break };
            frames.push((left, is_end, frame.unwrap().into_data().map(|bytes| bytes.len()).ok()));
        }
        let piece = PIECE_BYTES_MAX as u64;
        let expect = [
            (2 * piece + 1, false, Some(PIECE_BYTES_MAX)),
            (piece + 1, false, Some(PIECE_BYTES_MAX)),
            (1, false, Some(1)),
            (0, false, None),
        ];
        assert_eq!(frames, expect);
        assert!(body.is_end_stream());
    }

    #[test]
    fn an_exchange_that_vanishes_is_a_broken_body() {
        let (sender, _, body) = channel();
        sender.try_send(Piece::Data("ab".into())).unwrap();
        drop(sender);
        assert!(matches!(read(body.boxed_unsync()), Err(BodyError::Aborted(_))));
        let (sender, mut first_read, body) = channel();
        sender.try_send(Piece::End(None)).unwrap();
        assert!(first_read.try_recv().is_err());
        assert_eq!(read(body.boxed_unsync()).unwrap(), "");
        first_read.try_recv().unwrap();
    }
}
