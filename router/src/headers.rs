//! What a proxy does to headers: hop-by-hop ones end here, in both directions; who asked, and how, is written down for
//! the component. Pure.

use crate::error::HEADER_ERROR;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, EXPECT, Entry, FORWARDED, HOST, TE},
};
use lattice::{
    http::HEADER_AMONG,
    id::WorkloadName,
    mesh::{HEADER_CALLER, HEADER_HOPS},
    trigger::{HEADER_SCHEDULE, HEADER_TICK},
};
use std::{net::IpAddr, str::FromStr};

/// The node whose instance answered.
pub const HEADER_NODE: &str = "lattice-node";
/// The node that took the request.
pub const HEADER_ROUTER: &str = "lattice-router";

/// The node that took the request has lost NATS, since so many seconds: it answers what runs on it, as it last knew it.
pub const HEADER_DISCONNECTED: &str = "lattice-disconnected";

const NODE: HeaderName = HeaderName::from_static(HEADER_NODE);
pub(crate) const ROUTER: HeaderName = HeaderName::from_static(HEADER_ROUTER);
pub(crate) const DISCONNECTED: HeaderName = HeaderName::from_static(HEADER_DISCONNECTED);
const ERROR: HeaderName = HeaderName::from_static(HEADER_ERROR);
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Who the client has shown to be in its TLS handshake, as Envoy writes it. Begins like the others, so that it is removed
/// with them from what strangers send.
const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The part of the path that was taken away before the component saw it.
pub(crate) const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// Path and query as the client sent them.
pub(crate) const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// What only the lattice says of a request.
const OURS: [&str; 5] = [HEADER_SCHEDULE, HEADER_TICK, HEADER_CALLER, HEADER_HOPS, HEADER_AMONG];

/// A block of addresses, written `10.0.0.0/8`, `::1` or `192.0.2.7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

/// Why a text is not a block of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a block of addresses; write 10.0.0.0/8 or 192.0.2.7")]
pub struct NetworkError(String);

impl FromStr for Network {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let error = || NetworkError(text.to_owned());
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address = IpAddr::from_str(address).map_err(|_| error())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|prefix| *prefix <= longest).ok_or_else(error)?,
            None => longest,
        };
        Ok(Self { address, prefix })
    }
}

/// Remove what is meant for the next hop only (RFC 9110 §7.6.1): the named ones and those that `Connection` lists.
/// `te: trailers` stays, since trailers are carried.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have none of them, and one look at each name is cheaper than a search for each of these.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    let trailers = headers.get_all(TE).iter().any(|value| {
        let is_trailers = |token: &str| token.trim().eq_ignore_ascii_case("trailers");
        value.to_str().is_ok_and(|value| value.split(',').any(is_trailers))
    });
    for name in listed {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// What ends here, beside what `Connection` lists.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "transfer-encoding",
    "upgrade",
    "te",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "http2-settings",
];

fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(&name.as_str())
}

/// Who asks over one connection: what its requests have in common.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// The peer is a proxy of ours: what it says about the client before it is believed.
    trusted: bool,
    ip: IpAddr,
    address: HeaderValue,
    /// As `forwarded` wants it: an IPv6 address in brackets and quotes.
    node: String,
    secured: Option<Secured>,
}

/// What a client said and showed in a TLS handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Secured {
    /// The host that it asked for, in lower case.
    pub(crate) server_name: Option<String>,
    /// Who it is, where it had to show that.
    pub(crate) certificate: Option<HeaderValue>,
}

impl Client {
    pub(crate) fn new(address: IpAddr, trusted: bool) -> Self {
        let ip = address.to_canonical();
        let address = ip.to_string();
        let node = if ip.is_ipv4() { address.clone() } else { ["\"[", &address, "]\""].concat() };
        Self { trusted, ip, address: value(address), node, secured: None }
    }

    pub(crate) fn over_tls(self, secured: Secured) -> Self {
        Self { secured: Some(secured), ..self }
    }

    /// Whether the connection is for this host, in the form that the route table takes. A client that named no host in
    /// its handshake may ask for any.
    pub(crate) fn is_for(&self, host: &str) -> bool {
        let name = self.secured.as_ref().and_then(|secured| secured.server_name.as_deref());
        name.is_none_or(|name| name == host)
    }

    /// Who it is that asks: the peer of the connection, or whom a proxy of ours says that it asks for.
    pub(crate) fn address_of(&self, headers: &HeaderMap) -> IpAddr {
        let said = || headers.get_all(X_FORWARDED_FOR).iter().next_back()?.to_str().ok()?.rsplit(',').next();
        let said = || said()?.trim().parse().ok();
        self.trusted.then(said).flatten().unwrap_or(self.ip)
    }

    /// Whether the client's side is https.
    pub(crate) fn is_https(&self, headers: &HeaderMap) -> bool {
        match self.trusted.then(|| headers.get(X_FORWARDED_PROTO)).flatten() {
            Some(proto) => proto.as_bytes() == b"https",
            None => self.secured.is_some(),
        }
    }

    /// Headers that a component must not see as the client sent them.
    fn may_not_say(&self, name: &HeaderName) -> bool {
        // hyper answers `Expect: 100-continue` when the body is first read.
        let never = *name == EXPECT || OURS.contains(&name.as_str());
        let says_who = || name.as_str().starts_with("x-forwarded-") || *name == FORWARDED || *name == X_REAL_IP;
        never || !self.trusted && says_who()
    }
}

/// Turn the headers of a client into those that a component sees. `host` is the authority that it asked for. Returns
/// whether the client's side is https.
pub(crate) fn to_component(headers: &mut HeaderMap, client: &Client, host: &str) -> bool {
    /// What is set here and by the trace context, beside the host.
    const ADDED: usize = 5;
    headers.reserve(ADDED);
    strip_hop_by_hop(headers);
    let removed: Vec<HeaderName> = headers.keys().filter(|name| client.may_not_say(name)).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
    // What a stranger says of itself is gone, and need not be looked for.
    let is_said = |headers: &HeaderMap, name: &HeaderName| client.trusted && is_single(headers, name);
    let https = client.is_https(headers);
    let proto = if https { "https" } else { "http" };
    let forwarded = ["for=", &client.node, ";host=\"", host, "\";proto=", proto].concat();
    append(headers, X_FORWARDED_FOR, client.address.clone());
    append(headers, FORWARDED, value(forwarded));
    if let Some(certificate) = client.secured.as_ref().and_then(|secured| secured.certificate.clone()) {
        append(headers, X_FORWARDED_CLIENT_CERT, certificate);
    }
    let host = match headers.get(HOST) {
        Some(sent) if sent.as_bytes() == host.as_bytes() => sent.clone(),
        _ => {
            let host = value(host.to_owned());
            headers.insert(HOST, host.clone());
            host
        }
    };
    if !is_said(headers, &X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    }
    if !is_said(headers, &X_FORWARDED_HOST) {
        headers.insert(X_FORWARDED_HOST, host);
    }
    https
}

/// Turn the headers of a component's request into those that the workload sees that it calls.
pub(crate) fn to_callee(headers: &mut HeaderMap, caller: &WorkloadName, hops: u8, host: &str) {
    strip_hop_by_hop(headers);
    headers.remove(EXPECT);
    for name in OURS {
        headers.remove(name);
    }
    headers.insert(HOST, value(host.to_owned()));
    headers.insert(HEADER_CALLER, value(caller.to_string()));
    headers.insert(HEADER_HOPS, HeaderValue::from(u16::from(hops)));
}

/// Turn the headers of a component into those that the caller in another workload sees: nothing that names a node.
pub(crate) fn to_caller(headers: &mut HeaderMap) {
    for name in [ERROR, NODE, ROUTER, DISCONNECTED] {
        headers.remove(name);
    }
}

/// Turn the headers of a component into those that the client sees. `node` answered, `router` took the request.
pub(crate) fn to_client(headers: &mut HeaderMap, node: HeaderValue, router: HeaderValue) {
    strip_hop_by_hop(headers);
    headers.remove(ERROR);
    headers.remove(DISCONNECTED);
    headers.insert(NODE, node);
    headers.insert(ROUTER, router);
}

/// Authorities, addresses and ids are visible ASCII, so that they are always a good value.
pub(crate) fn value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

fn is_single(headers: &HeaderMap, name: &HeaderName) -> bool {
    let mut values = headers.get_all(name).iter();
    values.next().is_some() && values.next().is_none()
}

/// Add to a list header, in one line.
pub(crate) fn append(headers: &mut HeaderMap, name: HeaderName, added: HeaderValue) {
    match headers.entry(name) {
        Entry::Vacant(entry) => {
            entry.insert(added);
        }
        Entry::Occupied(mut entry) => {
            let list: Vec<&str> = entry.iter().chain([&added]).filter_map(|value| value.to_str().ok()).collect();
            let joined = value(list.join(", "));
            entry.insert(joined);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn lines(headers: &HeaderMap) -> Vec<(String, String)> {
        let line = |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), value.to_str().unwrap().to_owned());
        let mut lines: Vec<_> = headers.iter().map(line).collect();
        lines.sort();
        lines
    }

    #[test]
    fn hop_by_hop_headers_end_here() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "te , not a name,"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip, Trailers"),
            ("proxy-authorization", "x"),
            ("trailer", "grpc-status"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(lines(&headers), lines(&map(&[("accept", "*/*"), ("te", "trailers"), ("trailer", "grpc-status")])));
    }

    #[test]
    fn strangers_do_not_say_who_they_are() {
        let sent = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.test"),
            ("x-forwarded-port", "1"),
            ("x-real-ip", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
            ("host", "old.test"),
            ("expect", "100-continue"),
            (HEADER_SCHEDULE, "* * * * * UTC"),
            (HEADER_TICK, "2026-11-22T14:00:00Z"),
            (HEADER_CALLER, "shop"),
            (HEADER_HOPS, "0"),
            (HEADER_AMONG, "7"),
        ];
        let client = Client::new("::ffff:9.9.9.9".parse().unwrap(), false);
        let mut headers = map(&sent);
        assert!(!to_component(&mut headers, &client, "h.test:8080"));
        let expect = map(&[
            ("x-forwarded-for", "9.9.9.9"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "h.test:8080"),
            ("forwarded", "for=9.9.9.9;host=\"h.test:8080\";proto=http"),
            ("host", "h.test:8080"),
        ]);
        assert_eq!(lines(&headers), lines(&expect));

        let mut headers = map(&sent);
        assert!(to_component(&mut headers, &Client::new("::1".parse().unwrap(), true), "h.test:8080"));
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 2.2.2.2, ::1");
        assert_eq!(headers["forwarded"], "for=1.1.1.1, for=\"[::1]\";host=\"h.test:8080\";proto=https");
        assert_eq!(headers["x-forwarded-host"], "evil.test");
        assert_eq!(headers["host"], "h.test:8080");
        // These are the lattice's alone.
        assert!(OURS.iter().all(|name| !headers.contains_key(*name)));
    }

    #[test]
    fn a_component_does_not_say_who_it_is() {
        let mut headers = map(&[
            (HEADER_CALLER, "admin"),
            (HEADER_HOPS, "0"),
            (HEADER_TICK, "2026-11-22T14:00:00Z"),
            ("connection", "close"),
            ("host", "pay.lattice.evil.test"),
            ("x-mine", "1"),
        ]);
        to_callee(&mut headers, &"shop".parse().unwrap(), 2, "pay.lattice");
        let expect = [(HEADER_CALLER, "shop"), (HEADER_HOPS, "2"), ("host", "pay.lattice"), ("x-mine", "1")];
        assert_eq!(lines(&headers), lines(&map(&expect)));
    }

    #[test]
    fn what_was_said_in_a_handshake_is_passed_on() {
        let sent = [("x-forwarded-client-cert", "Hash=forged"), ("x-forwarded-proto", "http")];
        let secured = |certificate: Option<&'static str>| Secured {
            server_name: Some("h.test".into()),
            certificate: certificate.map(HeaderValue::from_static),
        };
        for (trusted, certificate, proto, shown) in [
            (false, None, "https", None),
            (false, Some("Hash=ab"), "https", Some("Hash=ab")),
            // A proxy of ours took the request without TLS, and has a certificate of its own.
            (true, None, "http", Some("Hash=forged")),
            (true, Some("Hash=ab"), "http", Some("Hash=forged, Hash=ab")),
        ] {
            let client = Client::new("9.9.9.9".parse().unwrap(), trusted).over_tls(secured(certificate));
            let mut headers = map(&sent);
            assert_eq!(to_component(&mut headers, &client, "h.test"), proto == "https");
            assert_eq!(headers["x-forwarded-proto"], proto);
            assert!(headers["forwarded"].to_str().unwrap().ends_with(&format!("proto={proto}")));
            assert_eq!(headers.get(X_FORWARDED_CLIENT_CERT).map(|value| value.to_str().unwrap()), shown);
            assert!(client.is_for("h.test") && !client.is_for("other.test"));
        }
        let nameless = Secured { server_name: None, certificate: None };
        assert!(Client::new("9.9.9.9".parse().unwrap(), false).over_tls(nameless).is_for("other.test"));
    }

    #[test]
    fn a_component_can_not_speak_as_the_router() {
        let mut headers = map(&[
            (HEADER_ERROR, "x"),
            (HEADER_NODE, "x"),
            (HEADER_ROUTER, "x"),
            (HEADER_DISCONNECTED, "1"),
            ("connection", "close"),
        ]);
        to_client(&mut headers, HeaderValue::from_static("n1"), HeaderValue::from_static("n2"));
        assert_eq!(lines(&headers), lines(&map(&[(HEADER_NODE, "n1"), (HEADER_ROUTER, "n2")])));
    }

    #[test]
    fn networks() {
        for (network, address, contains) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "fe80::1", true),
            ("fe80::/10", "fe80::1", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
        ] {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), contains, "{network:?} {address}");
        }
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "x", "10.0.0.0/"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
