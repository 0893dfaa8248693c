//! Refuse before doing any work: how many requests may be under way, how many may wait for an instance to start, and how
//! many connections one address may have.

use crate::{body::lock, error::RouteError};
use lattice::id::WorkloadName;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const FULL: RouteError = RouteError::Overloaded { retry_after: Duration::from_secs(1) };

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
        self.try_take().ok_or(FULL)
    }

    /// Whether somebody may hold so many of them: twice as many as are free, so that a third stays for others, however
    /// many one asks for (dynamic thresholds, Choudhury and Hahne 1998).
    pub(crate) fn allow(&self, held: usize) -> Result<(), RouteError> {
        let most = self.free.available_permits().saturating_mul(2).saturating_add(1);
        if held > most { Err(FULL) } else { Ok(()) }
    }

    /// Wait for a place.
    pub(crate) async fn wait(&self) -> Option<Place> {
        self.free.clone().acquire_owned().await.ok()
    }

    pub(crate) fn taken(&self) -> usize {
        self.total.saturating_sub(self.free.available_permits())
    }
}

/// A bounded number of places for each key.
#[derive(Debug, Clone)]
pub(crate) struct EachPlaces<K: Ord> {
    /// Only keys that have some.
    taken: Arc<Mutex<BTreeMap<K, usize>>>,
    each: usize,
}

/// A place of a key, until it is dropped.
#[derive(Debug)]
pub(crate) struct EachPlace<K: Ord> {
    places: EachPlaces<K>,
    key: K,
}

impl<K: Ord + Clone> EachPlaces<K> {
    pub(crate) fn new(each: usize) -> Self {
        Self { taken: Arc::default(), each }
    }

    pub(crate) fn try_take(&self, key: K) -> Option<EachPlace<K>> {
        let mut taken = lock(&self.taken);
        let count = taken.get(&key).copied().unwrap_or(0);
        if count >= self.each {
            return None;
        }
        taken.insert(key.clone(), count + 1);
        Some(EachPlace { places: self.clone(), key })
    }
}

impl<K: Ord> Drop for EachPlace<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.taken);
        match taken.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.key)),
        }
    }
}

/// Of addresses in canonical form.
pub(crate) type AddressPlaces = EachPlaces<IpAddr>;

/// Requests that wait for an instance: of all workloads, and of each, so that none takes the places of all others.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    all: Places,
    of_workload: EachPlaces<WorkloadName>,
}

impl Waiting {
    pub(crate) fn new(all: usize, of_workload: usize) -> Self {
        Self { all: Places::new(all), of_workload: EachPlaces::new(of_workload) }
    }

    pub(crate) fn take(&self, workload: &WorkloadName) -> Result<(Place, EachPlace<WorkloadName>), RouteError> {
        let own = self.of_workload.try_take(workload.clone()).ok_or(FULL)?;
        Ok((self.all.take()?, own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_own_places() {
        let places = AddressPlaces::new(2);
        let (one, mapped, other) = ("1.1.1.1", "::ffff:1.1.1.1", "2.2.2.2");
        let take = |address: &str| places.try_take(address.parse::<IpAddr>().unwrap().to_canonical());
        let held = (take(one).unwrap(), take(mapped).unwrap(), take(other).unwrap());
        assert!(take(one).is_none());
        drop(held.0);
        let again = take(one).unwrap();
        assert!(take(mapped).is_none());
        drop((again, held.1, held.2));
        assert!(lock(&places.taken).is_empty());
    }

    #[test]
    fn a_workload_leaves_places_to_others() {
        let waiting = Waiting::new(3, 2);
        let (one, other, third) = ("one".parse().unwrap(), "other".parse().unwrap(), "third".parse().unwrap());
        let held = (waiting.take(&one).unwrap(), waiting.take(&one).unwrap());
        assert_eq!(waiting.take(&one).unwrap_err(), FULL);
        let last = waiting.take(&other).unwrap();
        assert_eq!(waiting.take(&third).unwrap_err(), FULL);
        drop(held);
        drop((waiting.take(&one).unwrap(), waiting.take(&third).unwrap(), last));
        assert!(waiting.all.taken() == 0 && lock(&waiting.of_workload.taken).is_empty());
    }

    #[test]
    fn nobody_takes_what_others_need() {
        let places = Places::new(30);
        let mut held = Vec::new();
        loop {
            let place = places.take().unwrap();
            match places.allow(held.len() + 1) {
                Ok(()) => held.push(place),
                Err(error) => break assert_eq!(error, FULL),
            }
        }
        assert_eq!(held.len(), 20);
        let _other = places.take().unwrap();
        assert_eq!(places.allow(1), Ok(()));
        let one = Places::new(1);
        let _place = one.take().unwrap();
        assert_eq!(one.allow(1), Ok(()));
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
