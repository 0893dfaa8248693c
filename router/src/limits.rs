//! Refuse before doing any work: how many requests may be under way, and how many may wait for an instance to start.

use crate::error::RouteError;
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bounded number of places.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    total: usize,
}

/// A place, until it is dropped.
pub(crate) type Place = OwnedSemaphorePermit;

impl Places {
    pub(crate) fn new(total: usize) -> Self {
        let total = total.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(total)), total }
    }

    pub(crate) fn try_take(&self) -> Option<Place> {
        self.free.clone().try_acquire_owned().ok()
    }

    pub(crate) fn take(&self) -> Result<Place, RouteError> {
        self.try_take().ok_or(RouteError::Overloaded { retry_after: Duration::from_secs(1) })
    }

    /// Wait for a place.
    pub(crate) async fn wait(&self) -> Option<Place> {
        self.free.clone().acquire_owned().await.ok()
    }

    pub(crate) fn taken(&self) -> usize {
        self.total.saturating_sub(self.free.available_permits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_bound_is_refused() {
        let places = Places::new(1);
        let place = places.take().unwrap();
        assert_eq!(places.taken(), 1);
        assert!(matches!(places.take(), Err(RouteError::Overloaded { .. })));
        drop(place);
        assert_eq!(places.taken(), 0);
        drop(places.take().unwrap());
    }
}
