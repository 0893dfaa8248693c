//! Which HTTP a client speaks that was not asked (ALPN): told by its first bytes (RFC 9113 §3.4). Nothing of it is for the
//! life of a connection but the bytes that were read.

use super::Speaks;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream with the bytes in front that were read of it.
pub(super) struct Rewound<S> {
    early: Vec<u8>,
    stream: S,
}

impl<S> Rewound<S> {
    /// Nothing was read.
    pub(super) fn fresh(stream: S) -> Self {
        Self { early: Vec::new(), stream }
    }
}

/// Reads until it is clear. Where the client goes away before, it speaks HTTP/1 as far as it does. Takes as long as the
/// client does.
pub(super) async fn told<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<(Speaks, Rewound<S>)> {
    let mut read = [0; PREFACE.len()];
    let mut filled = 0;
    let speaks = loop {
        let (early, rest) = read.split_at_mut_checked(filled).ok_or(io::ErrorKind::InvalidData)?;
        if !PREFACE.starts_with(early) {
            break Speaks::Http1;
        }
        if rest.is_empty() {
            break Speaks::Http2;
        }
        match stream.read(rest).await? {
            0 => break Speaks::Http1,
            count => filled += count,
        }
    };
    let early = read.get(..filled).unwrap_or_default().to_vec();
    Ok((speaks, Rewound { early, stream }))
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.early.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let count = this.early.len().min(buf.remaining());
        let rest = this.early.split_off(count);
        buf.put_slice(&this.early);
        this.early = rest;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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

    #[tokio::test]
    async fn the_first_bytes_tell_and_none_is_lost() {
        let preface = str::from_utf8(PREFACE).unwrap();
        for (sent, expect) in [
            (format!("{preface}more"), Speaks::Http2),
            (preface.to_owned(), Speaks::Http2),
            (preface[..23].to_owned(), Speaks::Http1),
            (format!("{}X{}", &preface[..20], "y".repeat(100)), Speaks::Http1),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), Speaks::Http1),
            ("P".to_owned(), Speaks::Http1),
            (String::new(), Speaks::Http1),
        ] {
            for size in [1, 3, 1000] {
                let (mut client, server) = tokio::io::duplex(size);
                let bytes = sent.clone().into_bytes();
                let writes = tokio::spawn(async move {
                    for piece in bytes.chunks(size) {
                        tokio::io::AsyncWriteExt::write_all(&mut client, piece).await.unwrap();
                    }
                });
                let (speaks, mut rewound) = told(server).await.unwrap();
                let mut received = String::new();
                rewound.read_to_string(&mut received).await.unwrap();
                writes.await.unwrap();
                assert_eq!((speaks, received), (expect, sent.clone()), "{size}");
            }
        }
    }
}
