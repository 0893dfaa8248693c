//! The private loopback of one replica: which of its ports are open, and on which ports of this machine they really are.
//!
//! A guest that binds `127.0.0.1:5432` gets some free port of the machine's loopback instead, and is told 5432. Who
//! connects to `127.0.0.1:5432` in the same replica is led there; in another replica there is no such port. So replicas do
//! not see each other's ports, nor the node's, and do not get in each other's way; and a port is only ever looked up here,
//! never passed through.

use crate::lock;
use lattice::spec::grants::{Host, Transport};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
};

/// The loopback of IPv4 and that of IPv6 are two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    transport: Transport,
    is_v6: bool,
    number: u16,
}

#[derive(Default)]
pub(crate) struct Loopback {
    ports: Mutex<Ports>,
}

#[derive(Default)]
struct Ports {
    /// By what guests call it. Nothing while it is being bound.
    real: BTreeMap<Port, Option<u16>>,
    guests: BTreeMap<Port, u16>,
}

fn ip(is_v6: bool) -> IpAddr {
    if is_v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() }
}

/// Where a socket of the private loopback is to be bound really: to a port that the system chooses.
pub(crate) fn anywhere(is_v6: bool) -> SocketAddr {
    SocketAddr::new(ip(is_v6), 0)
}

impl Loopback {
    /// The place on this machine that the guests of this replica know under this address.
    pub(crate) fn real(&self, transport: Transport, address: SocketAddr) -> Option<SocketAddr> {
        let is_v6 = address.is_ipv6();
        let port = Port { transport, is_v6, number: address.port() };
        let real = lock(&self.ports).real.get(&port).copied()??;
        Some(SocketAddr::new(ip(is_v6), real))
    }

    /// What guests call a real address of the loopback, if it is one of this replica.
    pub(crate) fn name(&self, transport: Transport, real: SocketAddr) -> Option<SocketAddr> {
        let port = Port { transport, is_v6: real.is_ipv6(), number: real.port() };
        let name = lock(&self.ports).guests.get(&port).copied()?;
        Some(SocketAddr::new(real.ip(), name))
    }

    /// Take a port, before it is bound really; port 0 is chosen then. Nothing if it is taken.
    pub(crate) fn reserve(self: &Arc<Self>, transport: Transport, address: SocketAddr) -> Option<Registration> {
        let port = Port { transport, is_v6: address.is_ipv6(), number: address.port() };
        if port.number != 0 {
            let mut ports = lock(&self.ports);
            if ports.real.contains_key(&port) {
                return None;
            }
            ports.real.insert(port, None);
        }
        Some(Registration { loopback: self.clone(), port, real: None })
    }
}

/// A port of the private loopback, for as long as this lives.
pub(crate) struct Registration {
    loopback: Arc<Loopback>,
    port: Port,
    real: Option<Port>,
}

impl Registration {
    /// The port is bound, really to this one. False if its name is taken, which can only be where none was asked for.
    pub(crate) fn open(&mut self, real: u16) -> bool {
        let mut ports = lock(&self.loopback.ports);
        if self.port.number == 0 {
            let port = Port { number: real, ..self.port };
            if ports.real.contains_key(&port) {
                return false; // and nothing of it is ours to remove
            }
            self.port = port;
        }
        let key = Port { number: real, ..self.port };
        ports.real.insert(self.port, Some(real));
        ports.guests.insert(key, self.port.number);
        self.real = Some(key);
        true
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut ports = lock(&self.loopback.ports);
        if self.port.number != 0 {
            ports.real.remove(&self.port);
        }
        if let Some(real) = self.real {
            ports.guests.remove(&real);
        }
    }
}

/// Whether an address is that of the private loopback. The others of `127.0.0.0/8` are the machine's, and judged like any
/// address outside.
pub(crate) fn is_own(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST
}

/// Whether a host means this replica: `localhost`, names below it, `127.0.0.1` and `::1`.
pub(crate) fn is_here(host: &Host) -> bool {
    match host {
        Host::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        Host::Address(address) => is_own(*address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_known_by_the_names_that_guests_gave_them() {
        let (one, other) = (Arc::<Loopback>::default(), Arc::<Loopback>::default());
        let address: SocketAddr = "127.0.0.1:5432".parse().unwrap();
        let mut port = one.reserve(Transport::Tcp, address).unwrap();
        assert_eq!(one.real(Transport::Tcp, address), None, "it is not bound yet");
        assert!(one.reserve(Transport::Tcp, address).is_none(), "it is taken");
        assert!(one.reserve(Transport::Udp, address).is_some() && other.reserve(Transport::Tcp, address).is_some());
        assert!(port.open(40_000));
        assert_eq!(one.real(Transport::Tcp, address), Some("127.0.0.1:40000".parse().unwrap()));
        assert_eq!(one.name(Transport::Tcp, "127.0.0.1:40000".parse().unwrap()), Some(address));
        for (transport, address) in [(Transport::Udp, "127.0.0.1:5432"), (Transport::Tcp, "[::1]:5432")] {
            assert_eq!(one.real(transport, address.parse().unwrap()), None);
        }
        assert_eq!(other.real(Transport::Tcp, address), None);

        let mut chosen = one.reserve(Transport::Tcp, anywhere(false)).unwrap();
        assert!(chosen.open(40_001));
        let same: SocketAddr = "127.0.0.1:40001".parse().unwrap();
        assert_eq!((one.real(Transport::Tcp, same), one.name(Transport::Tcp, same)), (Some(same), Some(same)));
        let mut clash = one.reserve(Transport::Tcp, anywhere(false)).unwrap();
        assert!(!clash.open(5432), "somebody else is called so");
        drop((port, clash));
        assert_eq!(one.real(Transport::Tcp, address), None);
        assert!(one.reserve(Transport::Tcp, address).is_some(), "it is free again");
    }
}
