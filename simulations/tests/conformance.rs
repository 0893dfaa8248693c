//! The lattice in memory, which the simulations stand on, against what the services rely on.

use lattice::testing::{MemoryLattice, conformance};
use lattice_simulations::chance::{SimClock, SimRng};
use std::sync::Arc;

#[tokio::test(start_paused = true)]
async fn the_lattice_in_memory_has_the_semantics_that_the_services_rely_on() {
    let rng = SimRng::new(0, 0);
    let lattice = MemoryLattice::new().platform(Arc::new(SimClock::new(&rng)), Arc::new(rng));
    conformance::all(&lattice).await;
}
