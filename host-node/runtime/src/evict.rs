//! Room on the node: idle instances go when another one is needed and there is no room for it, those of parts like those
//! of units. Those that are to be kept warm go last.

use crate::{lock, unit::Blueprint};
use std::{
    sync::{Mutex, Weak},
    time::Instant,
};

/// Has instances that may be idle.
pub(crate) trait HasIdle: Send + Sync {
    /// Of all its instances.
    fn blueprint(&self) -> &Blueprint;

    /// When the instance was last used that has been idle for longest, and whether it is one to keep warm.
    fn oldest(&self) -> Option<(bool, Instant)>;

    /// Drops that instance. False if there is none.
    fn evict(&self) -> bool;
}

/// All that have instances.
#[derive(Default)]
pub(crate) struct Units(Mutex<Vec<Weak<dyn HasIdle>>>);

impl Units {
    pub(crate) fn add(&self, unit: Weak<dyn HasIdle>) {
        let mut units = lock(&self.0);
        units.retain(|unit| unit.strong_count() > 0);
        units.push(unit);
    }

    /// Drops the instance that has been idle for longest, of those from whom it is of use. False if there is none.
    pub(crate) fn evict(&self, is_of_use: impl Fn(&Blueprint) -> bool) -> bool {
        let units: Vec<_> = lock(&self.0).iter().filter_map(Weak::upgrade).collect();
        let of_use = units.iter().filter(|unit| is_of_use(unit.blueprint()));
        let mut idle: Vec<_> = of_use.filter_map(|unit| Some((unit.oldest()?, unit))).collect();
        idle.sort_by_key(|(oldest, _)| *oldest);
        idle.into_iter().any(|(_, unit)| unit.evict())
    }
}
