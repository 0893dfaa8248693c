//! `wasi:sockets@0.3` over wasmtime's: addresses translated on their way in and out, names looked up here.
//!
//! Hazard: a stream of a TCP socket outlives the socket's handle, and the system's socket lives as long as either. So its
//! place is not the handle's: who listens keeps it by the socket's own check of addresses, which the stream of its
//! connections has too, who sends or receives by [`kept_until`] the end of that stream.

use super::sockets::{LookupRefusal, Refusal, Ticket};
use crate::host::Host;
use lattice::spec::grants::Transport;
use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::sync::oneshot;
use wasmtime::{
    AsContextMut as _, StoreContextMut,
    component::{
        Access, Accessor, FutureConsumer, FutureReader, Linker, Resource, ResourceTable, ResourceType, Source,
        StreamReader,
    },
};
use wasmtime_wasi::{
    WasiCtx, WasiCtxView, WasiView,
    p3::{
        bindings::sockets::{
            ip_name_lookup,
            types::{
                ErrorCode, HostTcpSocket, HostTcpSocketWithStore, HostUdpSocket, HostUdpSocketWithStore, IpAddress,
                IpAddressFamily, IpSocketAddress,
            },
        },
        sockets::SocketError,
    },
    sockets::{TcpSocket, UdpSocket, WasiSockets, WasiSocketsView as _},
};

/// The version that wasmtime's own are linked under; the others of 0.3 are led there.
const TYPES: &str = "wasi:sockets/types@0.3.0";
const LOOKUP: &str = "wasi:sockets/ip-name-lookup@0.3.0";

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

impl From<LookupRefusal> for ip_name_lookup::ErrorCode {
    fn from(refusal: LookupRefusal) -> Self {
        use ip_name_lookup::ErrorCode;
        match refusal {
            LookupRefusal::Denied => ErrorCode::AccessDenied,
            LookupRefusal::Invalid => ErrorCode::InvalidArgument,
            LookupRefusal::Unresolvable => ErrorCode::NameUnresolvable,
            LookupRefusal::Busy => ErrorCode::TemporaryResolverFailure,
        }
    }
}

fn answer<T>(result: Result<T, SocketError>) -> Answer<T> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}

/// Take the place of wasmtime's functions that see an address, and of those by which sockets come and go.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    tcp(linker)?;
    udp(linker)?;
    let mut lookup = linker.instance(LOOKUP)?;
    type Found = wasmtime::Result<(Result<Vec<IpAddress>, ip_name_lookup::ErrorCode>,)>;
    lookup.func_wrap_concurrent("resolve-addresses", |accessor: &Accessor<Host>, (name,): (String,)| {
        Box::pin(async move {
            let network = accessor.with(|mut store| store.data_mut().books.network.clone());
            let found = network.look_up(name).await;
            let found = found.map(|addresses| addresses.into_iter().map(IpAddress::from).collect());
            Found::Ok((found.map_err(Into::into),))
        })
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

fn tcp(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.resource("tcp-socket", ResourceType::host::<TcpSocket>(), |mut store, rep| {
        store.data_mut().books.closed(rep);
        HostTcpSocket::drop(&mut store.data_mut().sockets(), Resource::new_own(rep))
    })?;
    types.func_wrap("[static]tcp-socket.create", |mut store: Store<'_>, (family,): (IpAddressFamily,)| {
        let Host { books, table, .. } = store.data_mut();
        let Some(ticket) = books.take(table) else { return Ok((Err(ErrorCode::OutOfMemory),)) };
        let wasi = WasiCtx::builder().allow_tcp(true).socket_addr_check(books.check_of(ticket.clone())).build();
        let made = HostTcpSocket::create(&mut OneSocket { wasi, table }.sockets(), family);
        if let Ok(socket) = &made {
            books.made(socket.rep(), ticket);
        }
        answer(made)
    })?;
    types.func_wrap_async(
        "[method]tcp-socket.bind",
        |mut store: Store<'_>, (socket, address): (Resource<TcpSocket>, IpSocketAddress)| {
            Box::new(async move {
                let planned = store.data().books.plan_bind(Transport::Tcp, address.into());
                let (real, registration) = match planned {
                    Ok(planned) => planned,
                    Err(refusal) => return Ok((Err(refusal.into()),)),
                };
                let rep = socket.rep();
                let mut view = store.data_mut().sockets();
                let mut bound = HostTcpSocket::bind(&mut view, socket, real.into()).await;
                if bound.is_ok() {
                    match HostTcpSocket::get_local_address(&mut view, Resource::new_borrow(rep)) {
                        Ok(real) if store.data_mut().books.bound(rep, registration, real.into()) => {}
                        Ok(_) => bound = Err(ErrorCode::AddressInUse.into()),
                        Err(error) => bound = Err(error),
                    }
                }
                answer(bound)
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]tcp-socket.connect",
        |accessor: &Accessor<Host>, (socket, address): (Resource<TcpSocket>, IpSocketAddress)| {
            Box::pin(async move {
                let real = accessor.with(|mut store| store.data_mut().books.outgoing(Transport::Tcp, address.into()));
                let real = match real {
                    Ok(real) => real,
                    Err(refusal) => return Ok((Err(refusal.into()),)),
                };
                let accessor = accessor.with_getter::<WasiSockets>(Host::sockets);
                answer(<WasiSockets as HostTcpSocketWithStore<Host>>::connect(&accessor, socket, real.into()).await)
            })
        },
    )?;
    types.func_wrap(
        "[method]tcp-socket.send",
        |mut store: Store<'_>, (socket, data): (Resource<TcpSocket>, StreamReader<u8>)| {
            let ticket = store.data_mut().books.ticket(socket.rep());
            let access = Access::<_, WasiSockets>::new(store.as_context_mut(), Host::sockets);
            let end = <WasiSockets as HostTcpSocketWithStore<Host>>::send(access, socket, data)?;
            Ok((kept_until(store, end, ticket)?,))
        },
    )?;
    types.func_wrap("[method]tcp-socket.receive", |mut store: Store<'_>, (socket,): (Resource<TcpSocket>,)| {
        let ticket = store.data_mut().books.ticket(socket.rep());
        let access = Access::<_, WasiSockets>::new(store.as_context_mut(), Host::sockets);
        let (data, end) = <WasiSockets as HostTcpSocketWithStore<Host>>::receive(access, socket)?;
        Ok(((data, kept_until(store, end, ticket)?),))
    })?;
    types.func_wrap(
        "[method]tcp-socket.get-local-address",
        |mut store: Store<'_>, (socket,): (Resource<TcpSocket>,)| {
            let real = HostTcpSocket::get_local_address(&mut store.data_mut().sockets(), socket);
            answer(real.map(|real| shown(&store, Transport::Tcp, real)))
        },
    )?;
    types.func_wrap(
        "[method]tcp-socket.get-remote-address",
        |mut store: Store<'_>, (socket,): (Resource<TcpSocket>,)| {
            let real = HostTcpSocket::get_remote_address(&mut store.data_mut().sockets(), socket);
            answer(real.map(|real| shown(&store, Transport::Tcp, real)))
        },
    )?;
    Ok(())
}

/// What a socket is made with that has a check of addresses of its own.
struct OneSocket<'a> {
    wasi: WasiCtx,
    table: &'a mut ResourceTable,
}

impl WasiView for OneSocket<'_> {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: self.table }
    }
}

type End = Result<(), ErrorCode>;

/// The same end of a stream, of which a guest learns through us. What tells us goes with the stream, whatever the guest
/// does with its handles, so the place of the socket is taken until then.
fn kept_until(
    mut store: Store<'_>,
    end: FutureReader<End>,
    ticket: Option<Arc<Ticket>>,
) -> wasmtime::Result<FutureReader<End>> {
    let (tell, told) = oneshot::channel();
    end.pipe(&mut store, Keeper { tell: Some(tell), _ticket: ticket })?;
    FutureReader::new(&mut store, told)
}

struct Keeper {
    tell: Option<oneshot::Sender<End>>,
    _ticket: Option<Arc<Ticket>>,
}

impl FutureConsumer<Host> for Keeper {
    type Item = End;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        store: Store<'_>,
        mut source: Source<'_, End>,
        _: bool,
    ) -> Poll<wasmtime::Result<()>> {
        let mut end = None;
        source.read(store, &mut end)?;
        if let (Some(tell), Some(end)) = (self.tell.take(), end) {
            let _ = tell.send(end); // nobody wants to know, perhaps
        }
        Poll::Ready(Ok(()))
    }
}

fn shown(store: &Store<'_>, transport: Transport, real: IpSocketAddress) -> IpSocketAddress {
    store.data().books.shown(transport, real.into()).into()
}

fn udp(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.resource("udp-socket", ResourceType::host::<UdpSocket>(), |mut store, rep| {
        store.data_mut().books.closed(rep);
        HostUdpSocket::drop(&mut store.data_mut().sockets(), Resource::new_own(rep))
    })?;
    types.func_wrap_async("[static]udp-socket.create", |mut store: Store<'_>, (family,): (IpAddressFamily,)| {
        Box::new(async move {
            let Host { books, table, .. } = store.data_mut();
            let Some(ticket) = books.take(table) else { return Ok((Err(ErrorCode::OutOfMemory),)) };
            let made = HostUdpSocket::create(&mut store.data_mut().sockets(), family).await;
            if let Ok(socket) = &made {
                store.data_mut().books.made(socket.rep(), ticket);
            }
            answer(made)
        })
    })?;
    types.func_wrap_async(
        "[method]udp-socket.bind",
        |mut store: Store<'_>, (socket, address): (Resource<UdpSocket>, IpSocketAddress)| {
            Box::new(async move {
                let planned = store.data().books.plan_bind(Transport::Udp, address.into());
                let (real, registration) = match planned {
                    Ok(planned) => planned,
                    Err(refusal) => return Ok((Err(refusal.into()),)),
                };
                let rep = socket.rep();
                let mut view = store.data_mut().sockets();
                let mut bound = HostUdpSocket::bind(&mut view, socket, real.into()).await;
                if bound.is_ok() {
                    match HostUdpSocket::get_local_address(&mut view, Resource::new_borrow(rep)) {
                        Ok(real) if store.data_mut().books.bound(rep, registration, real.into()) => {}
                        Ok(_) => bound = Err(ErrorCode::AddressInUse.into()),
                        Err(error) => bound = Err(error),
                    }
                }
                answer(bound)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]udp-socket.connect",
        |mut store: Store<'_>, (socket, address): (Resource<UdpSocket>, IpSocketAddress)| {
            Box::new(async move {
                let real = match store.data().books.outgoing(Transport::Udp, address.into()) {
                    Ok(real) => real,
                    Err(refusal) => return Ok((Err(refusal.into()),)),
                };
                answer(HostUdpSocket::connect(&mut store.data_mut().sockets(), socket, real.into()).await)
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]udp-socket.send",
        |accessor: &Accessor<Host>, (socket, data, remote): (Resource<UdpSocket>, Vec<u8>, Option<IpSocketAddress>)| {
            Box::pin(async move {
                let outgoing = |remote: IpSocketAddress| {
                    accessor.with(|mut store| store.data_mut().books.outgoing(Transport::Udp, remote.into()))
                };
                let remote = match remote.map(outgoing).transpose() {
                    Ok(remote) => remote.map(IpSocketAddress::from),
                    Err(refusal) => return Ok((Err(refusal.into()),)),
                };
                let accessor = accessor.with_getter::<WasiSockets>(Host::sockets);
                answer(<WasiSockets as HostUdpSocketWithStore<Host>>::send(&accessor, socket, data, remote).await)
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]udp-socket.receive",
        |accessor: &Accessor<Host>, (socket,): (Resource<UdpSocket>,)| {
            Box::pin(async move {
                let sockets = accessor.with_getter::<WasiSockets>(Host::sockets);
                let received = <WasiSockets as HostUdpSocketWithStore<Host>>::receive(&sockets, socket).await;
                let named = received.map(|(data, remote)| {
                    let remote: SocketAddr = remote.into();
                    let remote = accessor.with(|mut store| store.data_mut().books.shown(Transport::Udp, remote));
                    (data, IpSocketAddress::from(remote))
                });
                answer(named)
            })
        },
    )?;
    types.func_wrap(
        "[method]udp-socket.get-local-address",
        |mut store: Store<'_>, (socket,): (Resource<UdpSocket>,)| {
            let real = HostUdpSocket::get_local_address(&mut store.data_mut().sockets(), socket);
            answer(real.map(|real| shown(&store, Transport::Udp, real)))
        },
    )?;
    types.func_wrap(
        "[method]udp-socket.get-remote-address",
        |mut store: Store<'_>, (socket,): (Resource<UdpSocket>,)| {
            let real = HostUdpSocket::get_remote_address(&mut store.data_mut().sockets(), socket);
            answer(real.map(|real| shown(&store, Transport::Udp, real)))
        },
    )?;
    Ok(())
}
