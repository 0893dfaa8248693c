//! Ticks of schedules go from the control plane to the router.

use lattice::{
    Fut,
    trigger::{Tick, Trigger},
};
use lattice_router::Router;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

/// Runs each request where guests run, never on the control plane's own thread.
pub(super) struct RouterTrigger {
    pub(super) router: Router,
    pub(super) runtime: Handle,
}

impl Trigger for RouterTrigger {
    fn fire(&self, tick: Tick) -> Fut<'static, Result<u16, String>> {
        let router = self.router.clone();
        let request = AbortOnDropHandle::new(self.runtime.spawn(async move { router.fire(&tick).await }));
        Box::pin(
            async move { request.await.unwrap_or_else(|error| Err(format!("the request was broken off: {error}"))) },
        )
    }
}
