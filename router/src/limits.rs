//! Refuse before doing any work: how many requests may be under way, how many may wait for an instance to start, and how
//! many connections one address may have.

use crate::{body::lock, error::RouteError};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
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

/// A bounded number of places for each address.
#[derive(Debug, Clone)]
pub(crate) struct AddressPlaces {
    /// Only addresses that have some.
    taken: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    each: usize,
}

/// A place of an address, until it is dropped.
#[derive(Debug)]
pub(crate) struct AddressPlace {
    places: AddressPlaces,
    address: IpAddr,
}

impl AddressPlaces {
    pub(crate) fn new(each: usize) -> Self {
        Self { taken: Arc::default(), each }
    }

    pub(crate) fn try_take(&self, address: IpAddr) -> Option<AddressPlace> {
        let address = address.to_canonical();
        let mut taken = lock(&self.taken);
        let count = taken.get(&address).copied().unwrap_or(0);
        if count >= self.each {
            return None;
        }
        taken.insert(address, count + 1);
        Some(AddressPlace { places: self.clone(), address })
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.taken);
        match taken.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_own_places() {
        let places = AddressPlaces::new(2);
        let (one, mapped, other) = ("1.1.1.1", "::ffff:1.1.1.1", "2.2.2.2");
        let take = |address: &str| places.try_take(address.parse().unwrap());
        let held = (take(one).unwrap(), take(mapped).unwrap(), take(other).unwrap());
        assert!(take(one).is_none());
        drop(held.0);
        let again = take(one).unwrap();
        assert!(take(mapped).is_none());
        drop((again, held.1, held.2));
        assert!(lock(&places.taken).is_empty());
    }

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
