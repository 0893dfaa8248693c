//! Requests that the HTTP/2 library refuses by itself: it resets their streams, and nobody here hears of them. They are
//! found by what both sides write: streams that a client opened and that never became a request, and the frames by which
//! the library said no.
//!
//! Start at [`Refusals::settle`]. What can't be seen: why it was refused, but for the code of the reset; and streams opened
//! after the connection was given up, which are passed over in silence (RFC 9113 §6.8).

use super::activity::Activity;
use crate::{Router, error::RouteError, headers::Client};
use http::Version;
use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
/// Bytes of a payload that say something: the last stream and the code of a GOAWAY.
const PAYLOAD_BYTES: usize = 8;
/// Streams that are kept until it is known what became of them.
const KEPT: usize = 1024;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
/// Codes of RFC 9113 §7.
const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const STREAM_MAX: u32 = (1 << 31) - 1;

/// One frame, as far as it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    kind: u8,
    flags: u8,
    stream: u32,
    /// The beginning of the payload.
    payload: [u8; PAYLOAD_BYTES],
}

impl Seen {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The number that begins at this byte of the payload.
    fn number(&self, at: usize) -> u32 {
        let bytes = self.payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_be_bytes)
    }
}

/// The frames of one direction. Told of each byte in order.
pub(crate) struct Frames {
    /// Bytes that are passed over: the preface, and the rest of payloads.
    skip: usize,
    /// The head of a frame and the beginning of its payload.
    kept: [u8; HEAD_BYTES + PAYLOAD_BYTES],
    filled: usize,
}

impl Frames {
    pub(crate) fn new(skip: usize) -> Self {
        Self { skip, kept: [0; HEAD_BYTES + PAYLOAD_BYTES], filled: 0 }
    }

    pub(crate) fn read(&mut self, mut bytes: &[u8], mut each: impl FnMut(Seen)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if self.skip > 0 {
                return;
            }
            // The head tells how much of the payload is kept.
            let wanted =
                if self.filled < HEAD_BYTES { HEAD_BYTES } else { HEAD_BYTES + self.length().min(PAYLOAD_BYTES) };
            let taken = (wanted - self.filled).min(bytes.len());
            let (piece, rest) = bytes.split_at(taken);
            if let Some(room) = self.kept.get_mut(self.filled..self.filled + taken) {
                room.copy_from_slice(piece);
            }
            self.filled += taken;
            bytes = rest;
            if self.filled < wanted {
                return;
            }
            let length = self.length();
            if self.filled < HEAD_BYTES + length.min(PAYLOAD_BYTES) {
                continue;
            }
            each(self.seen());
            self.skip = length.saturating_sub(PAYLOAD_BYTES);
            (self.filled, self.kept) = (0, [0; HEAD_BYTES + PAYLOAD_BYTES]);
        }
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.kept;
        u32::from_be_bytes([0, a, b, c]) as usize
    }

    fn seen(&self) -> Seen {
        let [_, _, _, kind, flags, a, b, c, d, payload @ ..] = self.kept;
        Seen { kind, flags, stream: u32::from_be_bytes([a & 0x7f, b, c, d]), payload }
    }
}

/// What the library said no with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum No {
    /// 431, then a reset.
    TooLarge,
    /// More streams than it takes at a time. Nothing ran.
    TooMany,
    Malformed,
}

/// The streams of one connection.
pub(super) struct Refusals {
    serves: Arc<(Router, Client)>,
    activity: Activity,
    read: Frames,
    written: Frames,
    /// The last stream that the client opened, and how many there were whose heads came in full.
    last: u32,
    opened: u64,
    /// The head of the last one is not over.
    is_opening: bool,
    /// Streams that were found to be refused.
    told: u64,
    /// Opened since it was last known that all were heard of.
    fresh: VecDeque<u32>,
    /// Those of them that ended by a head alone, or by a reset.
    ended: VecDeque<(u32, No)>,
    /// The connection was given up.
    is_over: bool,
    /// All that was read has been taken by the library.
    is_quiet: bool,
}

impl Refusals {
    pub(super) fn new(serves: Arc<(Router, Client)>, activity: Activity) -> Self {
        Self {
            serves,
            activity,
            read: Frames::new(PREFACE_BYTES),
            written: Frames::new(0),
            last: 0,
            opened: 0,
            is_opening: false,
            told: 0,
            fresh: VecDeque::new(),
            ended: VecDeque::new(),
            is_over: false,
            is_quiet: false,
        }
    }

    fn read(&mut self, bytes: &[u8]) {
        let Self { read, last, opened, is_opening, is_over, fresh, .. } = self;
        read.read(bytes, |seen| {
            match seen.kind {
                HEADERS if seen.stream > *last && !*is_over => {
                    *last = seen.stream;
                    *is_opening = true;
                }
                CONTINUATION if seen.stream == *last => {}
                _ => return,
            }
            if *is_opening && seen.has(END_HEADERS) {
                *is_opening = false;
                *opened += 1;
                keep(fresh, seen.stream);
            }
        });
    }

    fn written(&mut self, bytes: &[u8]) {
        let Self { written, fresh, ended, is_over, serves, .. } = self;
        let mut end = |stream, no| {
            // An answer of 431 may have a reset behind it.
            if fresh.contains(&stream) && !ended.iter().any(|(ended, _)| *ended == stream) {
                keep(ended, (stream, no));
            }
        };
        written.read(bytes, |seen| match seen.kind {
            HEADERS if seen.has(END_STREAM) => end(seen.stream, No::TooLarge),
            RST_STREAM => match seen.number(0) {
                // What happens to streams of requests that were heard of.
                NO_ERROR | INTERNAL_ERROR | CANCEL => {}
                REFUSED_STREAM => end(seen.stream, No::TooMany),
                _ => end(seen.stream, No::Malformed),
            },
            GOAWAY => {
                // The first of an end in order lets streams come that are on their way.
                *is_over |= seen.number(0) != STREAM_MAX;
                if seen.number(4) != NO_ERROR {
                    let (router, client) = &**serves;
                    router.refused_unheard(client, Version::HTTP_2, &RouteError::BadTarget("malformed"), None);
                }
            }
            _ => {}
        });
    }

    /// Streams that were opened and of which nobody heard are those that were refused. Called where the library has taken
    /// all that was read, so that each stream that it means to pass on has been.
    fn settle(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        let heard = self.activity.counts().0;
        while self.opened > heard + self.told
            && let Some((_, no)) = self.ended.pop_front()
        {
            self.told += 1;
            let (router, client) = &*self.serves;
            let (error, is_answered) = match no {
                No::TooLarge => (RouteError::HeadTooLarge, true),
                No::TooMany => (RouteError::Overloaded { retry_after: Duration::ZERO }, false),
                No::Malformed => (RouteError::BadTarget("malformed"), false),
            };
            router.refused_unheard(client, Version::HTTP_2, &error, is_answered.then(|| error.status()));
        }
        if self.opened <= heard + self.told {
            // What else ended has a line of its own.
            self.ended.clear();
            self.fresh.clear();
        }
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        self.settle();
    }
}

/// As the newest; the oldest makes room.
fn keep<T>(kept: &mut VecDeque<T>, new: T) {
    if kept.len() >= KEPT {
        kept.pop_front();
    }
    kept.push_back(new);
}

/// A client's socket as the library sees it.
pub(super) struct Tapped<S> {
    stream: S,
    refused: Refusals,
}

impl<S> Tapped<S> {
    pub(super) fn new(stream: S, refused: Refusals) -> Self {
        Self { stream, refused }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tapped<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, refused } = &mut *self;
        if std::mem::take(&mut refused.is_quiet) {
            refused.settle();
        }
        let before = buf.filled().len();
        let polled = Pin::new(stream).poll_read(cx, buf);
        refused.is_quiet = polled.is_pending();
        ready!(polled)?;
        refused.read(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tapped<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.refused.written(bytes.get(..count).unwrap_or(bytes));
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        let mut left = count;
        for buf in bufs {
            let written = buf.get(..left.min(buf.len())).unwrap_or_default();
            self.refused.written(written);
            left -= written.len();
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_their_bytes_come() {
        let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
            let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
            [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
        };
        let sent = [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            &frame(4, 0, 0, &[]),
            &frame(HEADERS, 5, 0x8000_0001, b"abc"),
            &frame(0, 1, 1, &[7; 20_000]),
            &frame(RST_STREAM, 0, 3, &[0, 0, 0, 1]),
            &frame(GOAWAY, 0, 0, &[0, 0, 0, 9, 0, 0, 0, 11, b'w', b'h', b'y']),
            &frame(0, 0, 5, &[1; 7]),
        ]
        .concat();
        for size in [1, 2, 9, 10, 17, 1000, usize::MAX] {
            let (mut frames, mut seen) = (Frames::new(PREFACE_BYTES), Vec::new());
            for piece in sent.chunks(size.min(sent.len())) {
                frames.read(piece, |frame| seen.push(frame));
            }
            let told: Vec<_> = seen.iter().map(|seen| (seen.kind, seen.flags, seen.stream)).collect();
            let expect = [(4, 0, 0), (1, 5, 1), (0, 1, 1), (3, 0, 3), (7, 0, 0), (0, 0, 5)];
            assert_eq!(told, expect, "{size}");
            assert_eq!((seen[3].number(0), seen[4].number(0), seen[4].number(4)), (1, 9, 11), "{size}");
        }
    }
}
