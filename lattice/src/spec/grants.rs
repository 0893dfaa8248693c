//! What a workload may reach outside: `grants` of a spec, how they are read, and whether one covers a target. Pure, and the
//! only place where hosts of outgoing requests are compared: who sends asks here, so that a name is read in one way only.

use super::{
    KeyvalueGrant, MessagingGrants, NatsGrants, ObjectsGrant, PathPrefix, SpecError, StoreName, http::is_host_name,
    messaging, nats,
};
use crate::{
    limits::{GRANTS_MAX, clip},
    mesh,
};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// What a workload may reach outside. Nothing, unless it is listed here. A grant is about names and ports; where the
/// name leads must be public besides, or a range that the operator of the node allows (`lattice node --allow-egress`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Grants {
    /// Where it may send HTTP requests: `https://api.example.org`, `https://*.example.org` (one or more labels in front),
    /// `http://10.0.0.7:8080`, `https://api.example.org/v1` (this path and what is below), `https://*` (every host), a
    /// port or `:*` behind the host where it is not the scheme's; `*` alone is everything. Redirects are not followed.
    /// `http://shop.lattice` is the workload `shop` of this lattice, by whichever node runs it; `http://*.lattice` is all of
    /// them. No other grant covers a workload, not even `*`: that is about what is outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub http_out: Vec<HttpGrant>,
    /// Where it may open sockets to: `tcp://db.example.org:5432`, `udp://10.0.0.2:53`, `tcp://*.example.org:*`. Names can
    /// be looked up that a grant here covers, and no others. Its private loopback needs no grant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub connect: Vec<ConnectGrant>,
    /// Which KV buckets its guests open through `wasi:keyvalue`, by the name they open them by, which is `default` where an
    /// interface leaves it open: `{default: {bucket: shop-kv}}`. Other names are no store to them. Not for a workload with
    /// `reuse.concurrency` above 1; a part of it that is isolated or lazy can have one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    pub keyvalue: BTreeMap<StoreName, KeyvalueGrant>,
    /// Which object stores its guests use as containers of `wasi:blobstore`, by the names they know them by: `{files: {bucket:
    /// shop-files}}`. Others are no containers to them, and none is made or deleted. Not for a workload with
    /// `reuse.concurrency` above 1; a part of it that is isolated or lazy can have one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    pub blobstore: BTreeMap<StoreName, ObjectsGrant>,
    /// What its guests send over NATS through `wasmcloud:messaging`: `{publish: ["orders.>"]}`.
    #[serde(default, skip_serializing_if = "MessagingGrants::is_empty")]
    pub messaging: MessagingGrants,
    /// What its guests do with NATS through `lattice:nats`: `{publish: ["orders.>"], subscribe: ["orders.*"], buckets: {carts:
    /// {bucket: shop-carts}}}`.
    #[serde(default, skip_serializing_if = "NatsGrants::is_empty")]
    pub nats: NatsGrants,
}

impl Grants {
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }

    /// Whether a request to this target may be sent.
    pub fn allow_http(&self, target: &HttpTarget<'_>) -> bool {
        self.http_out.iter().any(|grant| grant.covers(target))
    }

    /// Whether a socket may be connected to, or send to, this host and port.
    pub fn allow_connect(&self, transport: Transport, host: &Host, port: u16) -> bool {
        self.connect.iter().any(|grant| grant.covers(transport, host, port))
    }

    /// Whether the addresses of this host may be asked for: some port of it is granted.
    pub fn allow_lookup(&self, host: &Host) -> bool {
        self.connect.iter().any(|grant| grant.covers_host(host))
    }

    /// Whether workloads of the lattice are among what may be reached.
    pub(super) fn has_workloads(&self) -> bool {
        self.http_out.iter().any(HttpGrant::is_of_workloads)
    }

    /// Whether any socket of this kind may leave.
    pub fn has_transport(&self, transport: Transport) -> bool {
        self.connect.iter().any(|grant| grant.transport == transport)
    }
}

/// What types cannot say. Names below `.lattice` that grant nothing are among it: a record that was put when they were like
/// any others must still be read.
pub(super) fn check(field: &str, grants: &Grants) -> Result<(), SpecError> {
    let counts = [
        ("http-out", grants.http_out.len()),
        ("connect", grants.connect.len()),
        ("keyvalue", grants.keyvalue.len()),
        ("blobstore", grants.blobstore.len()),
    ];
    for (name, count) in counts {
        if count > GRANTS_MAX {
            return Err(SpecError::new(format!("{field}.{name}"), format!("at most {GRANTS_MAX} grants are allowed")));
        }
    }
    messaging::check(&format!("{field}.messaging"), &grants.messaging)?;
    nats::check(&format!("{field}.nats"), &grants.nats)?;
    let http_out = grants.http_out.iter().map(|grant| (grant.is_void(), grant.to_string())).enumerate();
    let connect = grants.connect.iter().map(|grant| (grant.is_void(), grant.to_string())).enumerate();
    for (name, i, (is_void, grant)) in
        http_out.map(|(i, grant)| ("http-out", i, grant)).chain(connect.map(|(i, grant)| ("connect", i, grant)))
    {
        if is_void {
            let message = format!("{:?} is no workload of the lattice", shown(&grant));
            return Err(SpecError::new(format!("{field}.{name}[{i}]"), message).hint(
                "write http://shop.lattice, or http://*.lattice for all of them: without a port, and only in http-out",
            ));
        }
    }
    Ok(())
}

/// A host as a guest names it, in normal form: lower case, no final dot, no brackets; an IPv4 address inside an IPv6 one
/// is that IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    Name(String),
    Address(IpAddr),
}

/// Why a text names no host or port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    #[error("{0:?} is not a host")]
    Host(String),
    #[error("{0:?} is read as an address by some and as a name by others; write the address as a.b.c.d")]
    Numeric(String),
    #[error("{0:?} is not in ASCII; write it in punycode, xn--…")]
    NotAscii(String),
    #[error("a user name has no place here")]
    UserInfo,
    #[error("{0:?} is not a port from 1 to 65535")]
    Port(String),
}

fn shown(text: &str) -> String {
    clip(text, 128).to_owned()
}

impl FromStr for Host {
    type Err = AuthorityError;
    /// Reads `api.example.org`, `192.0.2.1`, `[2001:db8::1]`. What resolvers take for an address though it is not written
    /// as one (`127.1`, `0x7f000001`) is refused.
    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        if let Some(inside) = text.strip_prefix('[') {
            let inside = inside.strip_suffix(']').ok_or_else(|| AuthorityError::Host(shown(text)))?;
            let address: Ipv6Addr = inside.parse().map_err(|_| AuthorityError::Host(shown(text)))?;
            return Ok(Host::Address(IpAddr::V6(address).to_canonical()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Host::Address(address.into()));
        }
        name(text).map(Host::Name)
    }
}

/// A name in normal form.
fn name(text: &str) -> Result<String, AuthorityError> {
    if !text.is_ascii() {
        return Err(AuthorityError::NotAscii(shown(text)));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if !is_host_name(&name) {
        return Err(AuthorityError::Host(shown(text)));
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
    let is_hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    if is_number(last) || is_hex {
        return Err(AuthorityError::Numeric(shown(text)));
    }
    Ok(name)
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(IpAddr::V4(address)) => address.fmt(f),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// `host`, `host:port`, `[::1]:port` in two.
fn split_authority(text: &str) -> Result<(&str, Option<&str>), AuthorityError> {
    if text.contains('@') {
        return Err(AuthorityError::UserInfo);
    }
    let host_ends = match text.strip_prefix('[') {
        Some(_) => text.find(']').map(|at| at + 1).ok_or_else(|| AuthorityError::Host(shown(text)))?,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at_checked(host_ends).unwrap_or((text, ""));
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if rest.is_empty() => Ok((host, None)),
        None => Err(AuthorityError::Host(shown(text))),
    }
}

fn port(text: &str) -> Result<u16, AuthorityError> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = if digits { text.parse().unwrap_or(0) } else { 0 };
    if port == 0 { Err(AuthorityError::Port(shown(text))) } else { Ok(port) }
}

/// The schemes of outgoing requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// Where an outgoing request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTarget<'a> {
    pub scheme: Scheme,
    pub host: Host,
    pub port: u16,
    /// As it is sent, without the query.
    pub path: &'a str,
}

impl<'a> HttpTarget<'a> {
    /// Read the authority of a request: `host` or `host:port`.
    pub fn new(scheme: Scheme, authority: &str, path: &'a str) -> Result<Self, AuthorityError> {
        let (host, port_text) = split_authority(authority)?;
        let port = port_text.map_or(Ok(scheme.default_port()), port)?;
        Ok(Self { scheme, host: host.parse()?, port, path })
    }

    /// The narrowest grant that covers any path of this host.
    pub fn grant(&self) -> HttpGrant {
        let host = match &self.host {
            Host::Name(name) => HostGrant::Name(name.clone()),
            Host::Address(address) => HostGrant::Address(*address),
        };
        let port = PortGrant::One(self.port);
        HttpGrant { scheme: Some(self.scheme), host, port, path: PathPrefix::default() }
    }
}

/// Hosts that a grant covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum HostGrant {
    /// Every name and every address.
    Any,
    /// Names below this one. No addresses.
    Under(String),
    Name(String),
    Address(IpAddr),
}

impl HostGrant {
    fn covers(&self, host: &Host) -> bool {
        match (self, host) {
            // What is outside: a workload is named, or all of them are.
            (HostGrant::Any, Host::Name(name)) => mesh::workload_of(name).is_none(),
            (HostGrant::Any, Host::Address(_)) => true,
            (HostGrant::Under(suffix), Host::Name(name)) => {
                name.strip_suffix(suffix.as_str()).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
            }
            (HostGrant::Name(granted), Host::Name(name)) => granted == name,
            (HostGrant::Address(granted), Host::Address(address)) => granted == address,
            _ => false,
        }
    }
}

impl HostGrant {
    /// Whether it is about workloads: of the lattice, or of none.
    fn is_of_lattice(&self) -> bool {
        match self {
            HostGrant::Any | HostGrant::Address(_) => false,
            HostGrant::Under(name) => name == mesh::DOMAIN || mesh::workload_of(name).is_some(),
            HostGrant::Name(name) => mesh::workload_of(name).is_some(),
        }
    }
}

impl FromStr for HostGrant {
    type Err = AuthorityError;
    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        if text == "*" {
            return Ok(HostGrant::Any);
        }
        if let Some(suffix) = text.strip_prefix("*.") {
            return name(suffix).map(HostGrant::Under);
        }
        Ok(match text.parse()? {
            Host::Name(name) => HostGrant::Name(name),
            Host::Address(address) => HostGrant::Address(address),
        })
    }
}

impl fmt::Display for HostGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostGrant::Any => f.write_str("*"),
            HostGrant::Under(suffix) => write!(f, "*.{suffix}"),
            HostGrant::Name(name) => f.write_str(name),
            HostGrant::Address(address) => Host::Address(*address).fmt(f),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum PortGrant {
    Any,
    One(u16),
}

impl PortGrant {
    fn covers(self, port: u16) -> bool {
        self == PortGrant::Any || self == PortGrant::One(port)
    }
}

impl FromStr for PortGrant {
    type Err = AuthorityError;
    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        if text == "*" { Ok(PortGrant::Any) } else { port(text).map(PortGrant::One) }
    }
}

impl fmt::Display for PortGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortGrant::Any => f.write_str(":*"),
            PortGrant::One(port) => write!(f, ":{port}"),
        }
    }
}

/// Why a text is not a grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error(
        "{0:?} is not a grant of HTTP; write https://api.example.org, http://10.0.0.7:8080, https://*.example.org or *"
    )]
    Http(String),
    #[error("{0:?} is not a grant to connect; write tcp://db.example.org:5432 or udp://10.0.0.2:53")]
    Connect(String),
    #[error("{0:?} needs a port, such as tcp://db.example.org:5432, or :* for all")]
    NoPort(String),
    #[error("{0}")]
    Authority(#[from] AuthorityError),
    #[error("{0}")]
    Path(String),
}

/// Leave to send HTTP requests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct HttpGrant {
    /// Nothing: both.
    scheme: Option<Scheme>,
    host: HostGrant,
    port: PortGrant,
    path: PathPrefix,
}

impl HttpGrant {
    /// Whether a request may be sent there because of this grant.
    pub fn covers(&self, target: &HttpTarget<'_>) -> bool {
        self.scheme.is_none_or(|scheme| scheme == target.scheme)
            && self.host.covers(&target.host)
            && self.port.covers(target.port)
            && (self.path == PathPrefix::default() || is_plain(target.path) && self.path.covers(target.path))
            && !self.is_void()
    }

    /// Whether it is about workloads of the lattice.
    fn is_of_workloads(&self) -> bool {
        let is_callable = match &self.host {
            HostGrant::Name(name) => mesh::workload_of(name).is_some_and(|workload| workload.is_some()),
            HostGrant::Under(name) => name == mesh::DOMAIN,
            HostGrant::Any | HostGrant::Address(_) => false,
        };
        is_callable && self.scheme == Some(Scheme::Http) && self.port == PortGrant::One(Scheme::Http.default_port())
    }

    /// Whether it is about names below `.lattice` that are no workload's, or can't be reached this way: it covers nothing.
    fn is_void(&self) -> bool {
        self.host.is_of_lattice() && !self.is_of_workloads()
    }
}

/// False where a server may understand another path than the one that is written: what a grant says of paths does not hold
/// for it then.
fn is_plain(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let hidden = ["%2e", "%2f", "%5c", "%25", "\\", "//", ";"];
    !hidden.iter().any(|part| lower.contains(part)) && !lower.split('/').any(|segment| matches!(segment, "." | ".."))
}

impl FromStr for HttpGrant {
    type Err = GrantError;
    fn from_str(text: &str) -> Result<Self, GrantError> {
        if text == "*" {
            return Ok(Self { scheme: None, host: HostGrant::Any, port: PortGrant::Any, path: PathPrefix::default() });
        }
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            _ => return Err(GrantError::Http(shown(text))),
        };
        let (authority, path) = rest.split_at_checked(rest.find('/').unwrap_or(rest.len())).unwrap_or((rest, ""));
        let (host, port) = split_authority(authority)?;
        let path = if path.is_empty() { Ok(PathPrefix::default()) } else { path.parse() };
        Ok(Self {
            scheme: Some(scheme),
            host: host.parse()?,
            port: port.map_or(Ok(PortGrant::One(scheme.default_port())), str::parse)?,
            path: path.map_err(GrantError::Path)?,
        })
    }
}

impl fmt::Display for HttpGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(scheme) = self.scheme else { return f.write_str("*") };
        write!(f, "{}://{}", scheme.as_str(), self.host)?;
        if self.port != PortGrant::One(scheme.default_port()) {
            self.port.fmt(f)?;
        }
        if self.path == PathPrefix::default() { Ok(()) } else { self.path.fmt(f) }
    }
}

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    Tcp,
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        })
    }
}

/// Leave to open sockets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct ConnectGrant {
    transport: Transport,
    host: HostGrant,
    port: PortGrant,
}

impl ConnectGrant {
    /// Whether a socket may be connected to, or send to, there because of this grant.
    pub fn covers(&self, transport: Transport, host: &Host, port: u16) -> bool {
        self.transport == transport && self.port.covers(port) && self.covers_host(host)
    }

    fn covers_host(&self, host: &Host) -> bool {
        !self.is_void() && self.host.covers(host)
    }

    /// Whether it is about names below `.lattice`, where there are no sockets: it covers nothing.
    fn is_void(&self) -> bool {
        self.host.is_of_lattice()
    }
}

impl FromStr for ConnectGrant {
    type Err = GrantError;
    fn from_str(text: &str) -> Result<Self, GrantError> {
        let (transport, authority) = match text.split_once("://") {
            Some(("tcp", rest)) => (Transport::Tcp, rest),
            Some(("udp", rest)) => (Transport::Udp, rest),
            _ => return Err(GrantError::Connect(shown(text))),
        };
        if authority.contains('/') {
            return Err(GrantError::Connect(shown(text)));
        }
        let (host, port) = split_authority(authority)?;
        let port = port.ok_or_else(|| GrantError::NoPort(shown(text)))?;
        Ok(Self { transport, host: host.parse()?, port: port.parse()? })
    }
}

impl fmt::Display for ConnectGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.transport, self.host, self.port)
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = GrantError;
            fn try_from(text: String) -> Result<Self, GrantError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(grant: $name) -> String {
                grant.to_string()
            }
        }
    )*};
}
as_text!(HttpGrant, ConnectGrant);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(url: &str) -> Result<HttpTarget<'_>, AuthorityError> {
        let (scheme, rest) = match url.strip_prefix("https://") {
            Some(rest) => (Scheme::Https, rest),
            None => (Scheme::Http, url.strip_prefix("http://").unwrap()),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        HttpTarget::new(scheme, authority, if path.is_empty() { "/" } else { path })
    }

    #[test]
    fn a_grant_covers_what_it_says_and_nothing_else() {
        let cases: [(&str, &[&str], &[&str]); 9] = [
            (
                "https://api.example.org",
                &["https://api.example.org", "https://API.example.ORG./x?y", "https://api.example.org:443/"],
                &[
                    "http://api.example.org",
                    "https://api.example.org:8443",
                    "https://example.org",
                    "https://x.api.example.org",
                    "https://api.example.org.evil.test",
                    "https://xapi.example.org",
                ],
            ),
            (
                "https://*.example.org",
                &["https://a.example.org", "https://a.b.example.org"],
                &["https://example.org", "https://aexample.org", "https://10.0.0.1", "https://a.example.org.evil.test"],
            ),
            ("http://10.0.0.7:8080", &["http://10.0.0.7:8080", "http://[::ffff:10.0.0.7]:8080"], &["http://10.0.0.7"]),
            ("http://[2001:db8::1]", &["http://[2001:DB8:0::1]:80"], &["http://[2001:db8::2]"]),
            ("https://*", &["https://a.test", "https://1.2.3.4"], &["http://a.test", "https://a.test:8443"]),
            ("https://a.test:*", &["https://a.test:1", "https://a.test"], &["http://a.test:443"]),
            ("*", &["https://a.test:1/x", "http://[::1]"], &[]),
            (
                "https://a.test/v1",
                &["https://a.test/v1", "https://a.test/v1/x"],
                &[
                    "https://a.test/v10",
                    "https://a.test/",
                    "https://a.test/v1/../x",
                    "https://a.test/v1/%2E%2e/x",
                    "https://a.test/v1//x",
                    "https://a.test/v1/..%2fx",
                    "https://a.test/v1/%252e%252e/x",
                    "https://a.test/v1/\\..\\x",
                    "https://a.test/v1/..;/x",
                ],
            ),
            ("http://xn--bcher-kva.test", &["http://XN--bcher-KVA.test"], &["http://bcher.test"]),
        ];
        for (grant, covered, others) in cases {
            let parsed: HttpGrant = grant.parse().unwrap();
            assert_eq!(parsed.to_string().parse::<HttpGrant>().unwrap(), parsed);
            for url in covered {
                assert!(parsed.covers(&target(url).unwrap()), "{grant} {url}");
            }
            for url in others {
                assert!(!parsed.covers(&target(url).unwrap()), "{grant} {url}");
            }
        }
    }

    #[test]
    fn workloads_are_granted_by_name_only() {
        let covers = |grant: &str, url: &str| grant.parse::<HttpGrant>().unwrap().covers(&target(url).unwrap());
        for (grant, url, expect) in [
            ("http://shop.lattice", "http://Shop.Lattice./x", true),
            ("http://shop.lattice/api", "http://shop.lattice/api/x", true),
            ("http://shop.lattice/api", "http://shop.lattice/admin", false),
            ("http://shop.lattice", "http://shop2.lattice", false),
            ("http://*.lattice", "http://shop.lattice", true),
            ("http://*", "http://shop.lattice", false),
            ("http://*:*", "http://shop.lattice", false),
            ("*", "http://shop.lattice", false),
            ("*", "http://shop.lattice.test", true),
        ] {
            assert_eq!(covers(grant, url), expect, "{grant} {url}");
        }
        for bad in ["https://shop.lattice", "http://shop.lattice:81", "http://shop.lattice:*", "http://*.shop.lattice"]
        {
            let grants = Grants { http_out: vec![bad.parse().unwrap()], ..Grants::default() };
            assert_eq!(check("grants", &grants).unwrap_err().field, "grants.http-out[0]", "{bad}");
        }
        for bad in ["tcp://shop.lattice:80", "udp://*.lattice:53"] {
            let grants = Grants { connect: vec![bad.parse().unwrap()], ..Grants::default() };
            assert_eq!(check("grants", &grants).unwrap_err().field, "grants.connect[0]", "{bad}");
        }
        let everything: ConnectGrant = "tcp://*:*".parse().unwrap();
        assert!(!everything.covers(Transport::Tcp, &"shop.lattice".parse().unwrap(), 80));
    }

    #[test]
    fn hosts_that_are_read_in_two_ways_are_refused() {
        for bad in [
            "http://user@a.test",
            "http://a.test@10.0.0.1",
            "http://127.1",
            "http://2130706433",
            "http://0x7f000001",
            "http://0x7f.0.0.1",
            "http://a.0x7f",
            "http://0177.0.0.1",
            "http://1.2.3.4.",
            "http://1.2.3.4.5",
            "http://256.1.1.1",
            "http://[::1",
            "http://[::1]x",
            "http://[fe80::1%25eth0]",
            "http://::1",
            "http://bücher.test",
            "http://a..test",
            "http://",
            "http://.",
            "http://a.test:",
            "http://a.test:0",
            "http://a.test:65536",
            "http://a.test:+80",
            "http://a test",
            "http://a.test\u{0}",
            "http://-a.test",
        ] {
            assert!(target(bad).is_err(), "{bad}");
        }
        for (url, shown) in
            [("http://A.Test.", "a.test"), ("http://[::ffff:1.2.3.4]", "1.2.3.4"), ("http://[::1]", "[::1]")]
        {
            assert_eq!(target(url).unwrap().host.to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_grant_is_refused() {
        for bad in [
            "",
            "api.example.org",
            "ftp://a.test",
            "HTTPS://a.test",
            "https://",
            "https://a.*.test",
            "https://*a.test",
            "https://**",
            "https://*.*",
            "https://a.test?x",
            "https://a.test/x?y",
            "https://a.test/../x",
            "https://u@a.test",
            "https://*.10.0.0.1",
            "https://a.test:x",
            "//a.test",
            "https:a.test",
            "https://*.",
        ] {
            assert!(bad.parse::<HttpGrant>().is_err(), "{bad}");
        }
        for bad in
            ["tcp://a.test", "tcp://a.test:0", "tcp://a.test:1/x", "a.test:1", "sctp://a.test:1", "tcp://:1", "*"]
        {
            assert!(bad.parse::<ConnectGrant>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sockets_need_transport_host_and_port() {
        let grants = Grants {
            connect: ["tcp://db.test:5432", "udp://*.dns.test:53", "tcp://10.0.0.1:*"]
                .map(|text| text.parse().unwrap())
                .into(),
            ..Grants::default()
        };
        let host = |text: &str| text.parse::<Host>().unwrap();
        for (transport, name, port, allowed) in [
            (Transport::Tcp, "DB.test.", 5432, true),
            (Transport::Tcp, "db.test", 5433, false),
            (Transport::Udp, "db.test", 5432, false),
            (Transport::Udp, "a.dns.test", 53, true),
            (Transport::Udp, "dns.test", 53, false),
            (Transport::Tcp, "10.0.0.1", 1, true),
            (Transport::Tcp, "[::ffff:10.0.0.1]", 1, true),
            (Transport::Tcp, "10.0.0.2", 1, false),
        ] {
            assert_eq!(grants.allow_connect(transport, &host(name), port), allowed, "{transport} {name} {port}");
        }
        assert!(grants.allow_lookup(&host("a.dns.test")) && !grants.allow_lookup(&host("c.test")));
        assert!(grants.has_transport(Transport::Udp));
    }

    #[test]
    fn the_grant_that_is_missing_can_be_told() {
        for (url, grant) in [
            ("https://a.test/x", "https://a.test"),
            ("http://a.test:81", "http://a.test:81"),
            ("http://[::1]:80/", "http://[::1]"),
        ] {
            let missing = target(url).unwrap();
            assert_eq!(missing.grant().to_string(), grant);
            assert!(missing.grant().covers(&missing));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,40}") {
            let _ = (text.parse::<HttpGrant>(), text.parse::<ConnectGrant>(), text.parse::<Host>());
            let _ = HttpTarget::new(Scheme::Http, &text, "/");
        }

        #[test]
        fn grants_are_shown_as_they_are_read(text in "(https?|tcp|udp)://(\\*\\.)?[a-zA-Z0-9.-]{1,12}(:[0-9*]{1,5})?(/[a-z/]{0,5})?") {
            if let Ok(grant) = text.parse::<HttpGrant>() {
                prop_assert_eq!(grant.to_string().parse::<HttpGrant>().unwrap(), grant);
            }
            if let Ok(grant) = text.parse::<ConnectGrant>() {
                prop_assert_eq!(grant.to_string().parse::<ConnectGrant>().unwrap(), grant);
            }
        }

        /// Case, a final dot and the scheme's own port change nothing; another label in front or behind does.
        #[test]
        fn names_are_compared_in_normal_form(name in "[a-z][a-z0-9]{0,8}(\\.[a-z][a-z0-9]{0,8}){1,3}", port in 1u16.., extra in "[a-z]{1,5}") {
            let grant: HttpGrant = format!("https://{name}:{port}").parse().unwrap();
            let covers = |authority: String| grant.covers(&HttpTarget::new(Scheme::Https, &authority, "/").unwrap());
            let written = [
                (format!("{}.:{port}", name.to_uppercase()), true),
                (format!("{extra}.{name}:{port}"), false),
                (format!("{name}.{extra}:{port}"), false),
                (format!("{extra}{name}:{port}"), false),
            ];
            for (authority, expect) in written {
                prop_assert_eq!(covers(authority), expect);
            }
            prop_assert_eq!(covers(name.clone()), port == 443);
        }

        /// However an address is written, it is covered by its own grant or refused.
        #[test]
        fn addresses_have_one_form(bits: u32, other: u32) {
            let (v4, stranger) = (Ipv4Addr::from(bits), Ipv4Addr::from(other));
            let grant: HttpGrant = format!("http://{v4}").parse().unwrap();
            for text in [v4.to_string(), format!("[{}]", v4.to_ipv6_mapped())] {
                prop_assert!(grant.covers(&HttpTarget::new(Scheme::Http, &text, "/").unwrap()));
            }
            for text in [bits.to_string(), format!("0x{bits:x}"), format!("{v4}.")] {
                prop_assert!(HttpTarget::new(Scheme::Http, &text, "/").is_err());
            }
            if v4 != stranger {
                prop_assert!(!grant.covers(&HttpTarget::new(Scheme::Http, &stranger.to_string(), "/").unwrap()));
            }
        }
    }
}
