//! What holds for what a client sends, whatever it is: nothing panics, nothing that is refused gets through in another form,
//! and bytes mean the same however they are cut. The fuzz targets in `fuzz/` hand over any bytes; a test here hands over
//! mutations of good examples.

use crate::{
    cors::{Granted, Preflight},
    headers::{self, Client},
    ingress::{framing::Framing, refusals::Frames},
    redirect, rewrite,
    sticky::Bond,
    target::Target,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{HOST, LOCATION},
};
use lattice::{
    id::{Generation, NodeId, Revision, WorkloadName},
    mesh::{HEADER_CALLER, HEADER_HOPS},
    record::SpecRecord,
    spec,
    store::Rng,
    view::{LatticeView, Versioned},
};
use lattice_route_table::{RouteTable, normalize_host};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
};

struct Seven;
impl Rng for Seven {
    fn u64(&self) -> u64 {
        7
    }
}

/// One route of each kind.
const SPEC: &str = "
name: w
components: [{name: c, source: 'sha256:0000000000000000000000000000000000000000000000000000000000000000'}]
http:
  routes:
    - {host: '*'}
    - {host: h.test, path: /api, rewrite: {prefix: /v1}}
    - {host: h.test, path: /strip, rewrite: {prefix: /}}
    - {host: h.test, path: {exact: /exact}, rewrite: {prefix: /other}}
    - {host: h.test, path: /old, redirect: {status: 308, prefix: /new}}
    - {host: r.test, redirect: {status: 301, host: h.test, scheme: https}}
    - {host: h.test, path: /cors, cors: {origins: ['https://a.test'], methods: [GET, PUT], headers: ['*']}}
    - {host: h.test, path: /stay, sticky: {cookie: to}}
    - {host: h.test, path: /asks, headers: {x-a: {prefix: '1'}}, query: {q: '1'}, methods: [GET, POST]}
";

static TABLE: LazyLock<RouteTable> = LazyLock::new(|| {
    let mut view = LatticeView::default();
    if let (Ok(spec), Ok(name), Ok(me)) = (spec::parse(SPEC.as_bytes()), WorkloadName::new("w"), NodeId::new("n")) {
        let record = SpecRecord::new(spec, uuid::Uuid::nil(), Generation::FIRST);
        view.specs.insert(name, Arc::new(Versioned { record, revision: Revision(1) }));
        return RouteTable::build(&view, &me);
    }
    RouteTable::default()
});

/// A head: a method, a blank and a target, then a header in each line. Where it is taken, what becomes of it.
pub fn check_head(input: &[u8]) {
    let Some((method, uri, mut sent)) = read(input) else { return };
    let Ok(target) = Target::parse(&method, &uri, Version::HTTP_11, &sent) else { return };
    let host = target.host().unwrap_or_default().to_owned();
    assert_eq!(normalize_host(&host).as_deref(), Some(host.as_str()), "the normal form is its own");
    assert!(host != "lattice" && !host.ends_with(".lattice"), "{host}");
    let path = target.path_and_query.path();
    assert!(path.starts_with('/') && is_resolved(path), "{path}");

    let stranger = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
    let https = headers::to_component(&mut sent, &Client::new(stranger, false), target.authority.as_str());
    let one = |name: &str| {
        let mut values = sent.get_all(name).iter().map(HeaderValue::as_bytes);
        values.next().filter(|_| values.next().is_none()).map(<[u8]>::to_vec)
    };
    assert!(!https);
    assert_eq!(one(HOST.as_str()).as_deref(), Some(target.authority.as_str().as_bytes()));
    assert_eq!(one("x-forwarded-for").as_deref(), Some(&b"192.0.2.9"[..]), "what a stranger says of itself counts");
    for gone in ["connection", "keep-alive", "transfer-encoding", "upgrade", "expect", HEADER_CALLER, HEADER_HOPS] {
        assert_eq!(sent.get(gone), None, "{gone}");
    }

    let Ok(route) = target.find(&TABLE, &method, &sent) else { return };
    let Some(rule) = &route.rule else { return };
    if let Ok(Some(response)) = redirect::answer(rule, &target, https) {
        let location = response.headers().get(LOCATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let leads = Uri::try_from(location).ok().and_then(|uri| uri.host().map(str::to_owned));
        let redirect = rule.redirect.as_ref().and_then(|redirect| redirect.host.as_ref().map(ToString::to_string));
        let expect = redirect.unwrap_or_else(|| target.authority.host().to_owned());
        assert_eq!(leads.as_deref(), Some(expect.as_str()), "{}", String::from_utf8_lossy(location));
    }
    if let Some(preflight) = Preflight::of(&method, &sent)
        && let Some(cors) = &rule.cors
    {
        let _ = preflight.answer(cors);
    }
    if let Some(granted) = Granted::of(rule, &sent) {
        granted.say(&mut HeaderMap::new());
    }
    let _ = Bond::of(rule, &sent, https, &Seven);
    if let Ok(Some(rewritten)) = rewrite::rewrite(rule, &target.path_and_query, &mut sent) {
        assert!(rewritten.path().starts_with('/') && is_resolved(rewritten.path()), "{rewritten}");
        assert_eq!(rewritten.query(), target.path_and_query.query());
    }
}

fn read(input: &[u8]) -> Option<(Method, Uri, HeaderMap)> {
    let mut lines = input.split(|byte| *byte == b'\n');
    let mut request = lines.next()?.splitn(2, |byte| *byte == b' ');
    let (method, uri) = (Method::from_bytes(request.next()?).ok()?, Uri::try_from(request.next()?).ok()?);
    let mut headers = HeaderMap::new();
    for line in lines.take(100) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        if let (Some(name), Some(value)) = (parts.next(), parts.next())
            && let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii()))
        {
            headers.append(name, value);
        }
    }
    Some((method, uri, headers))
}

/// Whether nobody who takes percent-encoding away finds a segment that leads up, or a path of another system.
fn is_resolved(path: &str) -> bool {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let (bytes, mut plain, mut at) = (path.as_bytes(), Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                plain.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    !plain.contains(&0) && !plain.split(|byte| matches!(byte, b'/' | b'\\')).any(|part| part == b"." || part == b"..")
}

/// A connection's bytes behind one that says how they are cut: what is found in them does not depend on that.
pub fn check_bytes(input: &[u8]) {
    let Some((cut, sent)) = input.split_first() else { return };
    let mut whole = (Framing::new(), Frames::new(24), Vec::new());
    let mut pieces = (Framing::new(), Frames::new(24), Vec::new());
    whole.0.read(sent);
    whole.1.read(sent, |seen| whole.2.push(seen));
    for piece in sent.chunks(usize::from(*cut).max(1)) {
        pieces.0.read(piece);
        pieces.1.read(piece, |seen| pieces.2.push(seen));
    }
    let told = |framing: &Framing| (framing.heads(), framing.doubtful_from(), framing.is_torn());
    assert_eq!(told(&whole.0), told(&pieces.0));
    assert_eq!(whole.2, pieces.2);
}

/// Good examples of heads: a request line without the version, and header lines.
pub const HEADS: &[&str] = &[
    "GET /api/x?q=1\nhost: h.test\nx-forwarded-for: 1.2.3.4\nconnection: keep-alive, x-b\nx-b: 1",
    "GET http://h.test:8080/strip/a/%2e%2e/b?x=y\nhost: other.test",
    "POST /exact\nhost: H.Test.:80\nexpect: 100-continue\nte: trailers\nlattice-caller: a",
    "GET /old/../x\nhost: h.test",
    "GET /old/a%2Fb?to=//evil.test\nhost: h.test",
    "HEAD //evil.test/%5c..\nhost: r.test:80",
    "OPTIONS /cors\nhost: h.test\norigin: https://a.test\naccess-control-request-method: PUT\naccess-control-request-headers: x",
    "GET /stay\nhost: h.test\ncookie: a=b; to=0123456789abcdef0123456789abcdef",
    "POST /asks?q=%31&q=2\nhost: h.test\nx-a: 12\nx-a: 13\nupgrade: h2c\nforwarded: for=x",
    "GET /\nhost: [::1]:8000\nx-forwarded-proto: https\nlattice-hops: 3\nkeep-alive: 1",
    "GET /x\nhost: a.lattice.:1",
];
/// Good examples of connections.
pub const BYTES: &[&str] = &[
    "\u{3}GET / HTTP/1.1\r\nhost: h\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
    "\u{1}POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nx: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "\u{9}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0\0\0\u{3}\u{1}\u{5}\0\0\0\u{1}abc\0\0\u{4}\u{3}\0\0\0\0\u{1}\0\0\0\u{1}",
    "\u{2}POST / HTTP/1.1\ncontent-length: 1\r\nTransfer-Encoding: chunked\n\r\n",
];

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::testing::Mutations;

    #[test]
    fn all_kinds_of_routes_are_met() {
        assert!(TABLE.conflicts().is_empty() && TABLE.routes().len() == 10, "{:?}", TABLE.routes());
        let taken = |head: &&str| {
            let (method, uri, headers) = read(head.as_bytes()).unwrap();
            Target::parse(&method, &uri, Version::HTTP_11, &headers).is_ok()
        };
        assert_eq!(HEADS.iter().filter(|head| taken(head)).count(), 7);
    }

    #[test]
    fn whatever_a_client_sends_is_refused_or_taken_as_it_is_meant() {
        for (check, examples, rounds) in [(check_head as fn(&[u8]), HEADS, 40_000), (check_bytes, BYTES, 20_000)] {
            for (round, input) in Mutations::new(examples, 11).take(rounds).enumerate() {
                let held = std::panic::catch_unwind(|| check(&input));
                assert!(held.is_ok(), "round {round}: {:?}", String::from_utf8_lossy(&input));
            }
        }
    }
}
