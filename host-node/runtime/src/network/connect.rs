//! Opens the connections of HTTP clients: resolves a name once, judges every address, connects to one that was judged.

use super::{
    CONNECTIONS_MAX, Counters, NodeNetwork,
    denial::Denials,
    failure::ConnectError,
    loopback::{self, Loopback},
    resolve::LookupError,
    stream::Stream,
};
use http::Uri;
use lattice::{
    Fut,
    address::AddressPolicy,
    spec::grants::{Host, HttpTarget, Scheme, Transport},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tower_service::Service;

/// From the first question to the end of the TLS handshake, whatever a guest asks for.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(30);
/// For one address, where there are others to try.
const ATTEMPT_MAX: Duration = Duration::from_secs(3);

/// Makes connections for one [`super::Network`]. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connector(Arc<Inner>);

struct Inner {
    node: Arc<NodeNetwork>,
    loopback: Arc<Loopback>,
    counters: Arc<Counters>,
    denials: Arc<Denials>,
    places: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    tls: OnceLock<TlsConnector>,
}

impl Connector {
    pub(super) fn new(
        node: Arc<NodeNetwork>,
        loopback: Arc<Loopback>,
        lookups: Arc<Semaphore>,
        counters: Arc<Counters>,
        denials: Arc<Denials>,
    ) -> Self {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self(Arc::new(Inner { node, loopback, counters, denials, places, lookups, tls: OnceLock::new() }))
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Fut<'static, Result<Stream, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move { timeout(CONNECT_MAX, inner.open(uri)).await.unwrap_or(Err(ConnectError::Timeout)) })
    }
}

impl Inner {
    async fn open(self: Arc<Self>, uri: Uri) -> Result<Stream, ConnectError> {
        let scheme = if uri.scheme() == Some(&http::uri::Scheme::HTTPS) { Scheme::Https } else { Scheme::Http };
        let authority = uri.authority().ok_or(ConnectError::Uri)?;
        let target = HttpTarget::new(scheme, authority.as_str(), "/").map_err(|_| ConnectError::Uri)?;
        // Waits for one that ends: connections nobody uses do so after a while. Who waits is bounded by the requests.
        let own = self.places.clone().acquire_owned().await.map_err(|_| ConnectError::NoPlace)?;
        let node = self.node.connections.clone().acquire_owned().await.map_err(|_| ConnectError::NoPlace)?;
        let tcp = self.tcp(&target).await?;
        self.counters.connections.fetch_add(1, Relaxed);
        // Small requests and small answers: waiting for more to send costs 40 ms for nothing.
        let _ = tcp.set_nodelay(true);
        match scheme {
            Scheme::Http => Ok(Stream::new(Box::new(tcp), false, (own, node))),
            Scheme::Https => {
                let tls =
                    self.tls().await?.connect(server_name(&target.host)?, tcp).await.map_err(ConnectError::Tls)?;
                let is_h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
                Ok(Stream::new(Box::new(tls), is_h2, (own, node)))
            }
        }
    }

    async fn tcp(&self, target: &HttpTarget<'_>) -> Result<TcpStream, ConnectError> {
        if loopback::is_here(&target.host) {
            let port = target.port;
            let real = |is_v6| {
                let ip: IpAddr = if is_v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
                self.loopback.real(Transport::Tcp, SocketAddr::new(ip, port))
            };
            let address = real(false).or_else(|| real(true)).ok_or(ConnectError::NoListener { port })?;
            return TcpStream::connect(address).await.map_err(ConnectError::Io);
        }
        let addresses = match &target.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => self.lookup(name).await?,
        };
        let mut refusal = ConnectError::Lookup(LookupError::NotFound("the name has no address".into()));
        let mut allowed = Vec::new();
        for address in addresses {
            match judge(&self.node.addresses, address) {
                Ok(address) => allowed.push(address),
                Err(error) => refusal = error,
            }
        }
        if allowed.is_empty() {
            if !matches!(refusal, ConnectError::Lookup(_)) {
                self.tell(target, &refusal);
            }
            return Err(refusal);
        }
        let last = allowed.len().saturating_sub(1);
        for (i, address) in allowed.into_iter().enumerate() {
            let limit = if i == last { CONNECT_MAX } else { ATTEMPT_MAX };
            match timeout(limit, TcpStream::connect(SocketAddr::new(address, target.port))).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => refusal = ConnectError::Io(error),
                Err(_) => refusal = ConnectError::Timeout,
            }
        }
        Err(refusal)
    }

    async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, ConnectError> {
        let closed = |_| ConnectError::NoPlace;
        let own = self.lookups.clone().acquire_owned().await.map_err(closed)?;
        let node = self.node.lookups.clone().acquire_owned().await.map_err(closed)?;
        Ok(self.node.resolver.lookup(name, (own, node)).await?)
    }

    async fn tls(self: &Arc<Self>) -> Result<TlsConnector, ConnectError> {
        if let Some(tls) = self.tls.get() {
            return Ok(tls.clone());
        }
        let inner = self.clone();
        let made = tokio::task::spawn_blocking(move || inner.tls.get_or_init(|| inner.node.tls.connector()).clone());
        made.await.map_err(|error| ConnectError::Tls(std::io::Error::other(error)))
    }

    fn tell(&self, target: &HttpTarget<'_>, refusal: &ConnectError) {
        let (ConnectError::Prohibited { address, .. } | ConnectError::OwnAddress { address }) = refusal else { return };
        self.denials.note(|| {
            let name = format!("{}:{}", target.host, target.port);
            format!(
                "a request to {name} was not sent: {refusal}. The operator of the node can allow it: lattice node \
                 --allow-egress {address}"
            )
        });
    }
}

fn server_name(host: &Host) -> Result<ServerName<'static>, ConnectError> {
    match host {
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(|_| ConnectError::Uri),
        Host::Address(address) => Ok(ServerName::from(*address)),
    }
}

/// The address as it may be connected to, or why not.
pub(super) fn judge(policy: &AddressPolicy, address: IpAddr) -> Result<IpAddr, ConnectError> {
    let address = address.to_canonical();
    policy.check(address).map_err(|special| ConnectError::Prohibited { address, special })?;
    if !policy.names_alone(address) && is_own(address) {
        return Err(ConnectError::OwnAddress { address });
    }
    Ok(address)
}

/// Whether a public address is one of this machine's own. The system answers it without a packet: what goes to an address
/// of one's own comes from it as well.
fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let probe = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, 9))?;
        socket.local_addr()
    };
    // Where there is no way to it there is no harm either.
    probe().is_ok_and(|local: SocketAddr| local.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_are_its_own() {
        assert!(is_own([127, 0, 0, 1].into()));
        assert!(!is_own([192, 0, 2, 1].into()));
        let policy = AddressPolicy::default();
        assert!(matches!(judge(&policy, [127, 0, 0, 1].into()), Err(ConnectError::Prohibited { .. })));
        let mapped = "::ffff:169.254.169.254".parse().unwrap();
        assert!(matches!(judge(&policy, mapped), Err(ConnectError::Prohibited { .. })));
        let allowed = |range: &str| AddressPolicy::new(vec![range.parse().unwrap()]);
        assert_eq!(judge(&allowed("127.0.0.1"), [127, 0, 0, 1].into()).unwrap(), IpAddr::from([127, 0, 0, 1]));
        let of_a_range = judge(&allowed("127.0.0.0/8"), [127, 0, 0, 1].into());
        assert!(matches!(of_a_range, Err(ConnectError::OwnAddress { .. })));
    }
}
