//! `lattice:node/identity`: what a component may learn about the lattice that runs it.

use crate::host::Host;
use lattice::id::WorkloadName;
use wasmtime::component::{HasSelf, Linker};

mod bindings {
    //! Generated from `wit/node`.
    wasmtime::component::bindgen!({ path: "../../wit/node", world: "lattice:node/imports" });
}

/// Who an instance is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) workload: WorkloadName,
    pub(crate) replica: u32,
}

pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    bindings::lattice::node::identity::add_to_linker::<_, HasSelf<Identity>>(linker, |host| &mut host.identity)
}

impl bindings::lattice::node::identity::Host for Identity {
    fn workload(&mut self) -> String {
        self.workload.to_string()
    }

    fn replica(&mut self) -> u32 {
        self.replica
    }
}
