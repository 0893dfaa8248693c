//! A client's socket as hyper sees it: what is read is shown to [`Framing`], hyper's own answers go by [`Unheard`], and a
//! socket that is closed while its client still sends is read on for a moment.

use super::{framing::Framing, unheard::Unheard};
use lattice::{Fut, store::Clock};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a socket that is closed is read on. A kernel that is left with unread bytes resets the connection, and the
/// client may lose the answer that told it why (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(2);

/// What a connection's requests have to know of its socket, and the other way round.
pub(crate) struct Notes {
    doubtful_from: AtomicU64,
    heard: AtomicU64,
    unread: AtomicBool,
}

impl Notes {
    pub(crate) fn new() -> Arc<Self> {
        let (doubtful_from, heard) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
        Arc::new(Self { doubtful_from, heard, unread: AtomicBool::new(false) })
    }

    /// Whether it is in doubt where the body of an HTTP/1 request ends. `number` counts the requests of the connection
    /// from 0.
    pub(crate) fn is_doubtful(&self, number: u64) -> bool {
        number >= self.doubtful_from.load(Acquire)
    }

    /// hyper took the request of this number for one.
    pub(crate) fn set_heard(&self, number: u64) {
        self.heard.store(number.saturating_add(1), Release);
    }

    /// The client may still be sending a body that nobody reads.
    pub(crate) fn set_unread(&self) {
        self.unread.store(true, Release);
    }
}

pub(crate) struct Socket<S> {
    stream: S,
    framing: Framing,
    notes: Arc<Notes>,
    unheard: Unheard,
    /// Of an answer that is sent in place of hyper's own: what is left of it.
    renamed: Vec<u8>,
    clock: Arc<dyn Clock>,
    /// The end of the time for which it is read on, once it is closed.
    lingers: Option<Fut<'static, ()>>,
}

impl<S> Socket<S> {
    pub(crate) fn new(stream: S, notes: Arc<Notes>, unheard: Unheard, clock: Arc<dyn Clock>) -> Self {
        Self { stream, framing: Framing::new(), notes, unheard, renamed: Vec::new(), clock, lingers: None }
    }
}

impl<S: AsyncWrite + Unpin> Socket<S> {
    /// Send what is left of an answer that is not hyper's any more.
    fn poll_renamed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.renamed.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.renamed))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.renamed.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether this is an answer of hyper's own, which is taken as a whole then: what does not go out now does with the
    /// next flush.
    fn takes(&mut self, cx: &mut Context<'_>, answer: &[u8]) -> io::Result<bool> {
        let Some(renamed) = self.unheard.rename(answer) else { return Ok(false) };
        self.renamed = renamed;
        // More of what it refuses may be on its way.
        self.notes.set_unread();
        if let Poll::Ready(sent) = self.poll_renamed(cx) {
            sent?;
        }
        Ok(true)
    }
}

impl<S> Socket<S> {
    /// Whether the client may be sending what nobody reads: the rest of a body, or of what hyper refused, which tells
    /// nobody but the client.
    fn is_unread(&self) -> bool {
        let heard = self.notes.heard.load(Acquire);
        self.notes.unread.load(Acquire) || self.framing.is_torn() || self.framing.heads() > heard
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.framing.read(buf.filled().get(before..).unwrap_or_default());
        if let Some(number) = this.framing.doubtful_from() {
            this.notes.doubtful_from.store(number, Release);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_renamed(cx))?;
        if this.takes(cx, buf)? {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_renamed(cx))?;
        if let Some(first) = bufs.first()
            && this.takes(cx, first)?
        {
            return Poll::Ready(Ok(first.len()));
        }
        Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_renamed(cx))?;
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        this.unheard.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingers.is_none() {
            ready!(this.poll_renamed(cx))?;
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.is_unread() {
                return Poll::Ready(Ok(()));
            }
        }
        let lingers = this.lingers.get_or_insert_with(|| this.clock.sleep(LINGER));
        let mut dropped = [0; 8 * 1024];
        // A client that never pauses must not keep the thread, nor the socket longer than it may linger.
        for _ in 0..16 {
            if lingers.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(&mut dropped);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
