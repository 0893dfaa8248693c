//! How a service learns that it is to end: its stdin, which is silent until then, ends. WASI has no signals, and this is
//! what every language can wait for: a read that returns nothing. What a service does about it has a time, after which it
//! is ended like one that does not listen.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use wasmtime_wasi::cli::{IsTerminal, StdinStream};

/// The stdin of one service, in all its lives.
#[derive(Clone, Default)]
pub(crate) struct StopNotice(Arc<Inner>);

#[derive(Default)]
struct Inner {
    told: CancellationToken,
    heard: AtomicBool,
}

impl StopNotice {
    pub(crate) fn tell(&self) {
        self.0.told.cancel();
    }

    pub(crate) fn is_told(&self) -> bool {
        self.0.told.is_cancelled()
    }

    pub(crate) fn told(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.told.clone().cancelled_owned()
    }

    /// Whether the guest has read its stdin: whoever has not is not waited for.
    pub(crate) fn has_listener(&self) -> bool {
        self.0.heard.load(Relaxed)
    }
}

impl IsTerminal for StopNotice {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for StopNotice {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(Stdin { notice: self.clone(), told: Box::pin(self.0.told.clone().cancelled_owned()) })
    }
}

struct Stdin {
    notice: StopNotice,
    told: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl AsyncRead for Stdin {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.notice.0.heard.store(true, Relaxed);
        self.told.as_mut().poll(cx).map(Ok)
    }
}
