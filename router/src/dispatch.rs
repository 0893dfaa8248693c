//! The only IO of a request: to an instance of this node, or to another node.

pub(crate) mod drive;
pub(crate) mod exchanges;
pub(crate) mod local;
pub(crate) mod peers;
mod pulse;
pub(crate) mod remote;
pub(crate) mod way;
pub(crate) mod windows;

use lattice::store::Clock;
use std::{future::Future, pin::pin, task::Poll, time::Duration};

/// Most body bytes that are read before a request is sent to another node, so that it takes one message.
pub(crate) const SMALL_BODY_BYTES_MAX: usize = 16 * 1024;
const _: () = assert!(SMALL_BODY_BYTES_MAX <= lattice::frame::HTTP_INLINE_BODY_BYTES_MAX);

/// The deadline passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Wait for a future until `deadline` on the clock. A future that is ready at once costs no timer.
pub(crate) async fn until<F: Future>(clock: &dyn Clock, deadline: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    if let Poll::Ready(output) = futures_util::poll!(&mut future) {
        return Ok(output);
    }
    tokio::select! {
        biased;
        output = &mut future => Ok(output),
        () = clock.sleep(deadline.saturating_sub(clock.now())) => Err(Elapsed),
    }
}
