//! Room on the node: idle instances go when another one is needed and there is no room for it. Those that their unit
//! wants to keep warm go last.

use crate::{lock, unit};
use std::sync::{Arc, Mutex, Weak};
use wasmtime::Engine;

/// All units that have instances.
#[derive(Default)]
pub(crate) struct Units(Mutex<Vec<Weak<unit::Inner>>>);

impl Units {
    pub(crate) fn add(&self, unit: &Arc<unit::Inner>) {
        let mut units = lock(&self.0);
        units.retain(|unit| unit.strong_count() > 0);
        units.push(Arc::downgrade(unit));
    }

    /// Drops the instance that has been idle for longest, of whichever unit, or of those of one engine, which has a pool
    /// of its own. False if there is none.
    pub(crate) fn evict(&self, engine: Option<&Engine>) -> bool {
        let units: Vec<_> = lock(&self.0).iter().filter_map(Weak::upgrade).collect();
        let has_engine =
            |unit: &unit::Inner| engine.is_none_or(|engine| Engine::same(engine, unit.blueprint.component.engine()));
        let mut idle: Vec<_> =
            units.iter().filter(|unit| has_engine(unit)).filter_map(|unit| Some((unit.pool.oldest()?, unit))).collect();
        idle.sort_by_key(|(oldest, _)| *oldest);
        idle.into_iter().any(|(_, unit)| unit.pool.evict())
    }
}
