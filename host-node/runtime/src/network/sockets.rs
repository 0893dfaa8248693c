//! What the sockets of one instance may do. [`check`] judges every address that is really used, whatever way it came; the
//! linker's functions (`sockets02.rs`, `sockets03.rs`) only translate between the addresses that guests know and the real
//! ones, and keep the books. A translation that is forgotten is a refusal, never a way out.

use super::{
    Network, NodeNetwork,
    connect::judge,
    failure::ConnectError,
    loopback::{self, Registration},
};
use crate::lock;
use lattice::spec::grants::{Host, Transport};
use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{
    p2,
    sockets::{SocketAddrUse, TcpSocket, UdpSocket},
};

/// Sockets of one instance.
const SOCKETS_MAX: usize = 128;
/// Sockets of all instances of a node.
pub(super) const NODE_SOCKETS_MAX: usize = 8192;
/// Addresses of names that one replica remembers; the oldest are forgotten.
const NAMES_MAX: usize = 1024;

/// Why a socket does not do what a guest wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Denied,
    InUse,
    NoListener,
}

/// The books of one instance. They go before its sockets do, so that a port that is looked up is one that is open.
pub(crate) struct Sockets {
    pub(super) network: Arc<Network>,
    count: Arc<SocketCount>,
    /// By the socket's handle.
    ports: BTreeMap<u32, Registration>,
    /// By the socket's handle. One that came from outside has none before it is asked for.
    tickets: BTreeMap<u32, Arc<Ticket>>,
    /// Of the sockets that the guest made, as long as something of them is there. Each may listen.
    made: Vec<Weak<Ticket>>,
}

impl Sockets {
    pub(crate) fn new(network: Arc<Network>) -> Self {
        let (own, accepted) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let count = Arc::new(SocketCount { node: network.node.clone(), own, accepted });
        Self { network, count, ports: BTreeMap::new(), tickets: BTreeMap::new(), made: Vec::new() }
    }

    /// What [`wasmtime_wasi::WasiCtxBuilder::socket_addr_check`] is to ask.
    pub(crate) fn check(&self) -> impl Fn(SocketAddr, SocketAddrUse) -> Answer + Send + Sync + 'static + use<> {
        self.check_with(None)
    }

    /// The same for one socket. The place of the socket is taken for as long as somebody has this, as a stream of a
    /// listener's connections does, which lives on without the listener's handle.
    pub(super) fn check_of(
        &self,
        ticket: Arc<Ticket>,
    ) -> impl Fn(SocketAddr, SocketAddrUse) -> Answer + Send + Sync + 'static + use<> {
        self.check_with(Some(ticket))
    }

    fn check_with(
        &self,
        ticket: Option<Arc<Ticket>>,
    ) -> impl Fn(SocketAddr, SocketAddrUse) -> Answer + Send + Sync + 'static + use<> {
        let (network, count) = (self.network.clone(), self.count.clone());
        move |address, what| {
            let _ = &ticket; // kept by whoever keeps this
            Box::pin(std::future::ready(check(&network, &count, address, what)))
        }
    }

    /// A place for one more socket, if there is one. `table` has those that are there.
    pub(super) fn take(&mut self, table: &mut ResourceTable) -> Option<Arc<Ticket>> {
        self.settle(table);
        self.count.take().then(|| Arc::new(Ticket(self.count.clone())))
    }

    /// The socket that the place was taken for is there.
    pub(super) fn made(&mut self, socket: u32, ticket: Arc<Ticket>) {
        self.made.push(Arc::downgrade(&ticket));
        self.tickets.insert(socket, ticket);
    }

    /// Give back the places of connections that were let in and that the guest will not get any more. A listener lets one
    /// in and then waits until the guest has taken it, so each that is left may keep one; all others are in the table.
    pub(crate) fn settle(&mut self, table: &mut ResourceTable) {
        self.made.retain(|ticket| ticket.strong_count() > 0);
        let accepted = self.count.accepted.load(Relaxed);
        if accepted <= self.made.len() {
            return; // as nearly always, and the walk is saved
        }
        let there = table.iter_mut().filter(|entry| is_socket(&**entry)).count();
        let unused = there.saturating_sub(self.tickets.len());
        for _ in 0..accepted.saturating_sub(unused + self.made.len()) {
            drop(self.count.accepted());
        }
    }

    /// That of a socket which is there. `None` where the system failed to let one in: no place was taken for it.
    pub(super) fn ticket(&mut self, socket: u32) -> Option<Arc<Ticket>> {
        if let Some(ticket) = self.tickets.get(&socket) {
            return Some(ticket.clone());
        }
        let ticket = Arc::new(self.count.accepted()?);
        self.tickets.insert(socket, ticket.clone());
        Some(ticket)
    }

    /// Where a socket is to be bound really, and the port of the private loopback that it becomes.
    pub(super) fn plan_bind(
        &self,
        transport: Transport,
        wanted: SocketAddr,
    ) -> Result<(SocketAddr, Option<Registration>), Refusal> {
        let is_any = wanted.ip().is_unspecified();
        if !is_any && !loopback::is_own(wanted.ip()) {
            self.network.denials.note(|| {
                format!("a {transport} socket was not bound to {wanted}: a guest listens on its private loopback only")
            });
            return Err(Refusal::Denied);
        }
        // No address and no port, where something outside is granted: that is how a client is bound.
        if is_any && wanted.port() == 0 && self.network.grants.has_transport(transport) {
            let registration = match transport {
                Transport::Udp => self.network.loopback.reserve(transport, wanted),
                Transport::Tcp => None,
            };
            return Ok((wanted, registration));
        }
        let reserved = self.network.loopback.reserve(transport, wanted).ok_or(Refusal::InUse)?;
        Ok((loopback::anywhere(wanted.is_ipv6()), Some(reserved)))
    }

    /// The socket is bound, really to `real`.
    pub(super) fn bound(&mut self, socket: u32, registration: Option<Registration>, real: SocketAddr) -> bool {
        let Some(mut registration) = registration else { return true };
        let opened = registration.open(real.port());
        if opened {
            self.ports.insert(socket, registration);
        }
        opened
    }

    /// Where to connect to, or send to, really.
    pub(super) fn outgoing(&self, transport: Transport, wanted: SocketAddr) -> Result<SocketAddr, Refusal> {
        if !loopback::is_own(wanted.ip()) {
            return Ok(wanted);
        }
        self.network.loopback.real(transport, wanted).ok_or(Refusal::NoListener)
    }

    /// A real address as the guest knows it.
    pub(super) fn shown(&self, transport: Transport, real: SocketAddr) -> SocketAddr {
        match loopback::is_own(real.ip()) {
            true => self.network.loopback.name(transport, real).unwrap_or(real),
            false => real,
        }
    }

    /// The handle of a socket is gone. Its place is free again once its streams are gone as well.
    pub(super) fn closed(&mut self, socket: u32) {
        self.ports.remove(&socket);
        drop(self.ticket(socket));
        self.tickets.remove(&socket);
    }
}

fn is_socket(entry: &(dyn Any + Send)) -> bool {
    entry.is::<p2::TcpSocket>() || entry.is::<p2::UdpSocket>() || entry.is::<TcpSocket>() || entry.is::<UdpSocket>()
}

pub(crate) type Answer = std::pin::Pin<Box<dyn Future<Output = bool> + Send + Sync>>;

/// Counts the sockets of one instance, which gives them back with its end.
struct SocketCount {
    node: Arc<NodeNetwork>,
    own: AtomicUsize,
    /// Of those, the ones that were let in from outside and have no [`Ticket`] yet: nobody knows their handles before they
    /// are used.
    accepted: AtomicUsize,
}

/// The place of one socket, until the last clone is dropped.
pub(super) struct Ticket(Arc<SocketCount>);

impl SocketCount {
    fn take(&self) -> bool {
        let below = |max: usize| move |count: usize| (count < max).then_some(count + 1);
        if self.own.try_update(Relaxed, Relaxed, below(SOCKETS_MAX)).is_err() {
            return false;
        }
        if self.node.sockets.try_update(Relaxed, Relaxed, below(NODE_SOCKETS_MAX)).is_err() {
            self.own.fetch_sub(1, Relaxed);
            return false;
        }
        true
    }

    fn accept(&self) -> bool {
        let taken = self.take();
        self.accepted.fetch_add(usize::from(taken), Relaxed);
        taken
    }

    /// The place of one that was let in: any of them, they are all alike.
    fn accepted(self: &Arc<Self>) -> Option<Ticket> {
        let one_less = |count: usize| count.checked_sub(1);
        self.accepted.try_update(Relaxed, Relaxed, one_less).ok().map(|_| Ticket(self.clone()))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.own.fetch_sub(1, Relaxed);
        self.0.node.sockets.fetch_sub(1, Relaxed);
    }
}

impl Drop for SocketCount {
    fn drop(&mut self) {
        self.node.sockets.fetch_sub(*self.own.get_mut(), Relaxed);
    }
}

/// Whether a socket may use this address, which is the real one.
fn check(network: &Network, count: &SocketCount, address: SocketAddr, what: SocketAddrUse) -> bool {
    let is_here = loopback::is_own(address.ip());
    let is_open = |transport| network.loopback.name(transport, address).is_some();
    match what {
        SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => {
            address.port() == 0 && (is_here || address.ip().is_unspecified())
        }
        SocketAddrUse::TcpListen => is_here && is_open(Transport::Tcp),
        // Other programs of this machine come from there, too, if they look for the port.
        SocketAddrUse::TcpAccept => is_here && count.accept(),
        SocketAddrUse::TcpConnect if is_here => is_open(Transport::Tcp),
        SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive if is_here => is_open(Transport::Udp),
        SocketAddrUse::TcpConnect => network.judge_socket(Transport::Tcp, address, true),
        SocketAddrUse::UdpSend => network.judge_socket(Transport::Udp, address, true),
        SocketAddrUse::UdpReceive => network.judge_socket(Transport::Udp, address, false),
    }
}

/// Names of the addresses that a replica has looked up: a grant of a name is one of the addresses that it then had.
#[derive(Default)]
pub(super) struct Names(Mutex<Known>);

#[derive(Default)]
struct Known {
    pairs: BTreeSet<(IpAddr, String)>,
    oldest_first: VecDeque<(IpAddr, String)>,
}

impl Names {
    fn remember(&self, name: &str, addresses: &[IpAddr]) {
        let mut known = lock(&self.0);
        for address in addresses {
            let pair = (*address, name.to_owned());
            if known.pairs.insert(pair.clone()) {
                known.oldest_first.push_back(pair);
            }
        }
        while known.oldest_first.len() > NAMES_MAX {
            if let Some(oldest) = known.oldest_first.pop_front() {
                known.pairs.remove(&oldest);
            }
        }
    }

    fn any(&self, address: IpAddr, mut is_granted: impl FnMut(&str) -> bool) -> bool {
        let known = lock(&self.0);
        let mut of_address = known.pairs.range((address, String::new())..).take_while(|(of, _)| *of == address);
        of_address.any(|(_, name)| is_granted(name))
    }
}

/// Why a name is not resolved for a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LookupRefusal {
    Denied,
    Invalid,
    Unresolvable,
    Busy,
}

impl Network {
    /// Whether a grant covers an address outside, or a name that has led there, and the node allows it.
    fn judge_socket(&self, transport: Transport, address: SocketAddr, tell: bool) -> bool {
        let (ip, port) = (address.ip().to_canonical(), address.port());
        let by_name = |name: &str| self.grants.allow_connect(transport, &Host::Name(name.to_owned()), port);
        if !self.grants.allow_connect(transport, &Host::Address(ip), port) && !self.names.any(ip, by_name) {
            if tell {
                let place = format!("{transport}://{}:{port}", Host::Address(ip));
                self.denials.note(|| {
                    format!("a socket to {place} was denied; to allow it add to the spec: grants: {{connect: [\"{place}\"]}}, or its name")
                });
            }
            return false;
        }
        match judge(&self.node.addresses, ip) {
            Ok(_) => true,
            Err(refusal) => {
                if tell {
                    self.tell_refusal(&format!("a socket to {address}"), &refusal);
                }
                false
            }
        }
    }

    fn tell_refusal(&self, what: &str, refusal: &ConnectError) {
        let (ConnectError::Prohibited { address, .. } | ConnectError::OwnAddress { address }) = refusal else { return };
        self.denials.note(|| {
            format!("{what} was denied: {refusal}. The operator of the node can allow it: lattice node --allow-egress {address}")
        });
    }

    /// The addresses of a name that some grant covers, which may be connected to from now on.
    pub(super) async fn look_up(self: Arc<Self>, text: String) -> Result<Vec<IpAddr>, LookupRefusal> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(vec![address.to_canonical()]);
        }
        let host: Host = text.parse().map_err(|_| LookupRefusal::Invalid)?;
        if loopback::is_here(&host) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let name = match &host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
        };
        if !self.grants.allow_lookup(&host) {
            self.denials.note(|| {
                format!("a lookup of {name} was denied; to allow it add to the spec: grants: {{connect: [\"tcp://{name}:PORT\"]}}")
            });
            return Err(LookupRefusal::Denied);
        }
        // Not waited for, other than for requests: a guest's sockets have no time of their own to end the wait.
        let own = self.lookups.clone().try_acquire_owned().map_err(|_| LookupRefusal::Busy)?;
        let node = self.node.lookups.clone().try_acquire_owned().map_err(|_| LookupRefusal::Busy)?;
        let found = self.node.resolver.lookup(name, (own, node)).await.map_err(|_| LookupRefusal::Unresolvable)?;
        let mut refusal = None;
        let mut allowed = Vec::new();
        for address in found {
            match judge(&self.node.addresses, address) {
                Ok(address) => allowed.push(address),
                Err(error) => refusal = Some(error),
            }
        }
        if let (true, Some(refusal)) = (allowed.is_empty(), refusal) {
            self.tell_refusal(&format!("a socket to {name}"), &refusal);
            return Err(LookupRefusal::Denied);
        }
        self.names.remember(name, &allowed);
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_are_forgotten() {
        let names = Names::default();
        let address = |i: u32| IpAddr::V4(Ipv4Addr::from(i));
        for i in 0..2 * NAMES_MAX as u32 {
            names.remember("a.test", &[address(i), address(i)]);
        }
        assert!(!names.any(address(0), |_| true));
        assert!(names.any(address(2 * NAMES_MAX as u32 - 1), |name| name == "a.test"));
        assert!(!names.any(address(2 * NAMES_MAX as u32 - 1), |name| name == "b.test"));
    }
}
