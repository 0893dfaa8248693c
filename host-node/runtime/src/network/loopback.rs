//! The private loopback of one replica: which of its ports are open, and on which ports of this machine they really are.
//!
//! A guest that listens on `127.0.0.1:5432` gets some free port of the machine's loopback instead, and is told 5432. Who
//! connects to `127.0.0.1:5432` in the same replica is led there; in another replica there is no such port. So replicas do
//! not see each other's ports, nor the node's, and do not get in each other's way; and a port is only ever looked up here,
//! never passed through.

use crate::lock;
use lattice::spec::grants::Transport;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Mutex,
};

/// Where all private loopbacks really are.
const ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[derive(Default)]
pub(crate) struct Loopback {
    /// By what a guest calls it.
    ports: Mutex<BTreeMap<(Transport, u16), u16>>,
}

impl Loopback {
    /// The place on this machine that the guests of this replica know under this port.
    pub(crate) fn real(&self, transport: Transport, port: u16) -> Option<SocketAddr> {
        let real = lock(&self.ports).get(&(transport, port)).copied()?;
        Some(SocketAddr::new(IpAddr::V4(ADDRESS), real))
    }
}

/// Whether a host means this replica: `localhost`, names below it, and every address of the loopback.
pub(crate) fn is_here(host: &lattice::spec::grants::Host) -> bool {
    use lattice::spec::grants::Host;
    match host {
        Host::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        Host::Address(address) => address.is_loopback(),
    }
}
