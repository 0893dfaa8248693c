//! The few combinators that this module needs, so that the crate needs no executor and no stream library.

use crate::{Fut, store::Items};
use std::{future::poll_fn, pin::pin, task::Poll};

pub(super) async fn next<T>(items: &mut Items<T>) -> Option<T> {
    poll_fn(|context| items.as_mut().poll_next(context)).await
}

/// The future's output, or `None` if `deadline` is first.
pub(super) async fn before<T>(future: impl Future<Output = T>, mut deadline: Fut<'static, ()>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => deadline.as_mut().poll(context).map(|()| None),
    })
    .await
}

/// The outputs of futures that run at the same time, in their order.
pub(super) async fn join_all<T>(futures: Vec<Fut<'_, T>>) -> Vec<T> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Some(future), None)).collect();
    poll_fn(|context| {
        for (future, output) in &mut running {
            if let Some(polled) = future
                && let Poll::Ready(value) = polled.as_mut().poll(context)
            {
                *output = Some(value);
                *future = None;
            }
        }
        if running.iter().all(|(future, _)| future.is_none()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}
