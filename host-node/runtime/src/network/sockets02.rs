//! `wasi:sockets@0.2` over wasmtime's: addresses translated on their way in and out, names looked up here.

use super::sockets::{LookupRefusal, Refusal};
use crate::host::Host;
use lattice::spec::grants::Transport;
use std::{net::IpAddr, net::SocketAddr, vec};
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceType},
};
use wasmtime_wasi::{
    async_trait,
    p2::{
        DynPollable, Network, Pollable, SocketError, TcpSocket, UdpSocket,
        bindings::sockets::{
            network::{ErrorCode, Host as _, IpAddress, IpAddressFamily, IpSocketAddress},
            tcp::HostTcpSocket,
            tcp_create_socket,
            udp::{
                HostIncomingDatagramStream, HostOutgoingDatagramStream, HostUdpSocket, IncomingDatagram,
                IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream,
            },
            udp_create_socket,
        },
        subscribe,
    },
    runtime::AbortOnDropJoinHandle,
    sockets::WasiSocketsView as _,
};

/// The version that wasmtime's own are linked under; the others of 0.2 are led there.
const TCP: &str = "wasi:sockets/tcp@0.2.12";
const TCP_CREATE: &str = "wasi:sockets/tcp-create-socket@0.2.12";
const UDP: &str = "wasi:sockets/udp@0.2.12";
const UDP_CREATE: &str = "wasi:sockets/udp-create-socket@0.2.12";
const LOOKUP: &str = "wasi:sockets/ip-name-lookup@0.2.12";

type Answer<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;
type Store<'a> = StoreContextMut<'a, Host>;

impl From<Refusal> for ErrorCode {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied => ErrorCode::AccessDenied,
            Refusal::InUse => ErrorCode::AddressInUse,
            Refusal::NoListener => ErrorCode::ConnectionRefused,
        }
    }
}

impl From<LookupRefusal> for ErrorCode {
    fn from(refusal: LookupRefusal) -> Self {
        match refusal {
            LookupRefusal::Denied => ErrorCode::AccessDenied,
            LookupRefusal::Invalid => ErrorCode::InvalidArgument,
            LookupRefusal::Unresolvable => ErrorCode::NameUnresolvable,
            LookupRefusal::Busy => ErrorCode::TemporaryResolverFailure,
        }
    }
}

fn answer<T>(store: &mut Store<'_>, result: Result<T, SocketError>) -> Answer<T> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(store.data_mut().sockets().convert_error_code(error)?),)),
    }
}

/// Take the place of wasmtime's functions that see an address, and of those by which sockets come and go.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    tcp(linker)?;
    udp(linker)?;
    lookup(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn tcp(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut create = linker.instance(TCP_CREATE)?;
    create.func_wrap("create-tcp-socket", |mut store: Store<'_>, (family,): (IpAddressFamily,)| {
        let Host { books, table, .. } = store.data_mut();
        let Some(ticket) = books.take(table) else { return Ok((Err(ErrorCode::NewSocketLimit),)) };
        let made = tcp_create_socket::Host::create_tcp_socket(&mut store.data_mut().sockets(), family);
        if let Ok(socket) = &made {
            store.data_mut().books.made(socket.rep(), ticket);
        }
        answer(&mut store, made)
    })?;

    let mut tcp = linker.instance(TCP)?;
    tcp.resource("tcp-socket", ResourceType::host::<TcpSocket>(), |mut store, rep| {
        store.data_mut().books.closed(rep);
        HostTcpSocket::drop(&mut store.data_mut().sockets(), Resource::new_own(rep))
    })?;
    tcp.func_wrap_async(
        "[method]tcp-socket.start-bind",
        |mut store: Store<'_>,
         (socket, network, address): (Resource<TcpSocket>, Resource<Network>, IpSocketAddress)| {
            Box::new(async move {
                let planned = store.data().books.plan_bind(Transport::Tcp, address.into());
                let (real, registration) = match planned {
                    Ok(planned) => planned,
                    Err(refusal) => return Ok((Err(refusal.into()),)),
                };
                let rep = socket.rep();
                let mut view = store.data_mut().sockets();
                let mut bound = HostTcpSocket::start_bind(&mut view, socket, network, real.into()).await;
                if bound.is_ok() {
                    match HostTcpSocket::local_address(&mut view, Resource::new_borrow(rep)) {
                        Ok(real) if store.data_mut().books.bound(rep, registration, real.into()) => {}
                        Ok(_) => bound = Err(ErrorCode::AddressInUse.into()),
                        Err(error) => bound = Err(error),
                    }
                }
                answer(&mut store, bound)
            })
        },
    )?;
    tcp.func_wrap(
        "[method]tcp-socket.start-connect",
        |mut store: Store<'_>,
         (socket, network, address): (Resource<TcpSocket>, Resource<Network>, IpSocketAddress)| {
            let real = match store.data().books.outgoing(Transport::Tcp, address.into()) {
                Ok(real) => real,
                Err(refusal) => return Ok((Err(refusal.into()),)),
            };
            let started = HostTcpSocket::start_connect(&mut store.data_mut().sockets(), socket, network, real.into());
            answer(&mut store, started)
        },
    )?;
    tcp.func_wrap("[method]tcp-socket.local-address", |mut store: Store<'_>, (socket,): (Resource<TcpSocket>,)| {
        let real = HostTcpSocket::local_address(&mut store.data_mut().sockets(), socket);
        shown(store, Transport::Tcp, real)
    })?;
    tcp.func_wrap("[method]tcp-socket.remote-address", |mut store: Store<'_>, (socket,): (Resource<TcpSocket>,)| {
        let real = HostTcpSocket::remote_address(&mut store.data_mut().sockets(), socket);
        shown(store, Transport::Tcp, real)
    })?;
    Ok(())
}

fn shown(
    mut store: Store<'_>,
    transport: Transport,
    real: Result<IpSocketAddress, SocketError>,
) -> Answer<IpSocketAddress> {
    let shown = real.map(|real| store.data().books.shown(transport, real.into()).into());
    answer(&mut store, shown)
}

fn udp(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut create = linker.instance(UDP_CREATE)?;
    create.func_wrap_async("create-udp-socket", |mut store: Store<'_>, (family,): (IpAddressFamily,)| {
        Box::new(async move {
            let Host { books, table, .. } = store.data_mut();
            let Some(ticket) = books.take(table) else { return Ok((Err(ErrorCode::NewSocketLimit),)) };
            let made = udp_create_socket::Host::create_udp_socket(&mut store.data_mut().sockets(), family).await;
            if let Ok(socket) = &made {
                store.data_mut().books.made(socket.rep(), ticket);
            }
            answer(&mut store, made)
        })
    })?;

    let mut udp = linker.instance(UDP)?;
    udp.resource("udp-socket", ResourceType::host::<UdpSocket>(), |mut store, rep| {
        store.data_mut().books.closed(rep);
        HostUdpSocket::drop(&mut store.data_mut().sockets(), Resource::new_own(rep))
    })?;
    udp.func_wrap_async(
        "[method]udp-socket.start-bind",
        |mut store: Store<'_>,
         (socket, network, address): (Resource<UdpSocket>, Resource<Network>, IpSocketAddress)| {
            Box::new(async move {
                let planned = store.data().books.plan_bind(Transport::Udp, address.into());
                let (real, registration) = match planned {
                    Ok(planned) => planned,
                    Err(refusal) => return Ok((Err(refusal.into()),)),
                };
                let rep = socket.rep();
                let mut view = store.data_mut().sockets();
                let mut bound = HostUdpSocket::start_bind(&mut view, socket, network, real.into()).await;
                if bound.is_ok() {
                    match HostUdpSocket::local_address(&mut view, Resource::new_borrow(rep)) {
                        Ok(real) if store.data_mut().books.bound(rep, registration, real.into()) => {}
                        Ok(_) => bound = Err(ErrorCode::AddressInUse.into()),
                        Err(error) => bound = Err(error),
                    }
                }
                answer(&mut store, bound)
            })
        },
    )?;
    type Streams = (Resource<IncomingDatagramStream>, Resource<OutgoingDatagramStream>);
    udp.func_wrap_async(
        "[method]udp-socket.stream",
        |mut store: Store<'_>, (socket, remote): (Resource<UdpSocket>, Option<IpSocketAddress>)| {
            Box::new(async move {
                let remote =
                    remote.map(|remote| store.data().books.outgoing(Transport::Udp, remote.into())).transpose();
                let remote = match remote {
                    Ok(remote) => remote.map(IpSocketAddress::from),
                    Err(refusal) => return Ok((Err(refusal.into()),)),
                };
                let streams: Result<Streams, SocketError> =
                    HostUdpSocket::stream(&mut store.data_mut().sockets(), socket, remote).await;
                answer(&mut store, streams)
            })
        },
    )?;
    udp.func_wrap("[method]udp-socket.local-address", |mut store: Store<'_>, (socket,): (Resource<UdpSocket>,)| {
        let real = HostUdpSocket::local_address(&mut store.data_mut().sockets(), socket);
        shown(store, Transport::Udp, real)
    })?;
    udp.func_wrap("[method]udp-socket.remote-address", |mut store: Store<'_>, (socket,): (Resource<UdpSocket>,)| {
        let real = HostUdpSocket::remote_address(&mut store.data_mut().sockets(), socket);
        shown(store, Transport::Udp, real)
    })?;
    udp.func_wrap(
        "[method]incoming-datagram-stream.receive",
        |mut store: Store<'_>, (stream, max): (Resource<IncomingDatagramStream>, u64)| {
            let received = HostIncomingDatagramStream::receive(&mut store.data_mut().sockets(), stream, max);
            let shown = received.map(|datagrams| {
                let books = &store.data().books;
                let named = |datagram: IncomingDatagram| IncomingDatagram {
                    remote_address: books.shown(Transport::Udp, datagram.remote_address.into()).into(),
                    ..datagram
                };
                datagrams.into_iter().map(named).collect::<Vec<_>>()
            });
            answer(&mut store, shown)
        },
    )?;
    udp.func_wrap(
        "[method]outgoing-datagram-stream.send",
        |mut store: Store<'_>, (stream, datagrams): (Resource<OutgoingDatagramStream>, Vec<OutgoingDatagram>)| {
            let mut real = Vec::with_capacity(datagrams.len());
            for datagram in datagrams {
                let remote = datagram.remote_address.map(SocketAddr::from);
                let remote = remote.map(|remote| store.data().books.outgoing(Transport::Udp, remote)).transpose();
                match remote {
                    Ok(remote) => {
                        let remote_address = remote.map(IpSocketAddress::from);
                        real.push(OutgoingDatagram { remote_address, ..datagram });
                    }
                    // What comes before it is sent first; a guest sends the rest again, and hears of it then.
                    Err(refusal) if real.is_empty() => return Ok((Err(refusal.into()),)),
                    Err(_) => break,
                }
            }
            let sent = HostOutgoingDatagramStream::send(&mut store.data_mut().sockets(), stream, real);
            answer(&mut store, sent)
        },
    )?;
    Ok(())
}

/// A lookup under way, or its addresses.
enum Addresses {
    Pending(AbortOnDropJoinHandle<Result<Vec<IpAddr>, LookupRefusal>>),
    Ready(Result<vec::IntoIter<IpAddr>, LookupRefusal>),
}

#[async_trait]
impl Pollable for Addresses {
    async fn ready(&mut self) {
        if let Addresses::Pending(lookup) = self {
            let found = lookup.await;
            *self = Addresses::Ready(found.map(Vec::into_iter));
        }
    }
}

fn lookup(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut lookup = linker.instance(LOOKUP)?;
    lookup.resource("resolve-address-stream", ResourceType::host::<Addresses>(), |mut store, rep| {
        store.data_mut().table.delete(Resource::<Addresses>::new_own(rep))?;
        Ok(())
    })?;
    lookup.func_wrap(
        "resolve-addresses",
        |mut store: Store<'_>, (network, name): (Resource<Network>, String)| -> Answer<Resource<Addresses>> {
            store.data_mut().table.get(&network)?;
            let found = store.data().books.network.clone().look_up(name);
            let stream = Addresses::Pending(wasmtime_wasi::runtime::spawn(found));
            Ok((Ok(store.data_mut().table.push(stream)?),))
        },
    )?;
    lookup.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: Store<'_>, (stream,): (Resource<Addresses>,)| -> Answer<Option<IpAddress>> {
            let addresses = store.data_mut().table.get_mut(&stream)?;
            if let Addresses::Pending(found) = addresses {
                let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                if let std::task::Poll::Ready(found) = std::pin::Pin::new(found).poll(&mut cx) {
                    *addresses = Addresses::Ready(found.map(Vec::into_iter));
                }
            }
            Ok((match addresses {
                Addresses::Pending(_) => Err(ErrorCode::WouldBlock),
                Addresses::Ready(Ok(found)) => Ok(found.next().map(IpAddress::from)),
                Addresses::Ready(Err(refusal)) => Err((*refusal).into()),
            },))
        },
    )?;
    lookup.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: Store<'_>, (stream,): (Resource<Addresses>,)| -> wasmtime::Result<(Resource<DynPollable>,)> {
            Ok((subscribe(&mut store.data_mut().table, stream)?,))
        },
    )?;
    Ok(())
}
