//! The lattice in memory, which the simulations stand on, against what the services rely on.

use lattice::testing::{MemoryLattice, conformance};
use lattice_simulations::chance::{SimClock, SimRng};
use std::sync::Arc;

#[tokio::test(start_paused = true)]
async fn the_lattice_in_memory_has_the_semantics_that_the_services_rely_on() {
    let world = MemoryLattice::new();
    let [lattice, other] = [0, 1].map(|stream| {
        let rng = SimRng::new(0, stream);
        world.platform(Arc::new(SimClock::new(&rng)), Arc::new(rng))
    });
    conformance::all(&lattice).await;
    conformance::two_connections(&lattice, &other).await;
}
