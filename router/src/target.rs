//! What a request asks for, read off its head. Pure. hyper accepts several heads that name no host, or two; a router
//! that finds a workload by host must not.

use crate::error::RouteError;
use http::{
    HeaderMap, HeaderValue, Method, Uri, Version,
    header::{HOST, UPGRADE},
    uri::{Authority, PathAndQuery},
};
use lattice::{id::WorkloadName, mesh};
use lattice_route_table::{Asked, RouteEntry, RouteTable, normalize_host};
use std::sync::Arc;

/// Host and path of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// As the client wrote it, port included.
    pub(crate) authority: Authority,
    pub(crate) path_and_query: PathAndQuery,
    to: To,
}

/// What the route table is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum To {
    /// A host, in the form that the table takes.
    Host(String),
    /// A workload that the lattice itself has something to ask of, whether it has routes or not.
    Workload(WorkloadName),
}

impl Target {
    /// RFC 9112 §3.2, §3.3 and RFC 9113 §8.3.1: the authority of the request's target wins over `Host`.
    pub(crate) fn parse(method: &Method, uri: &Uri, version: Version, headers: &HeaderMap) -> Result<Self, RouteError> {
        if *method == Method::CONNECT || *method == Method::TRACE {
            return Err(RouteError::NotImplemented("this method is not served"));
        }
        // HTTP/2 carries no `Upgrade`; hyper refuses it there.
        if version <= Version::HTTP_11 && headers.get_all(UPGRADE).iter().any(is_tunnel) {
            return Err(RouteError::NotImplemented("upgrades are not served"));
        }
        if uri.scheme().is_none() && uri.authority().is_some() {
            return Err(RouteError::BadTarget("the target is a host alone"));
        }
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next();
        if hosts.next().is_some() {
            return Err(RouteError::BadTarget("more than one Host header"));
        }
        let authority = match (uri.authority(), host) {
            (Some(authority), _) => authority.clone(),
            (None, Some(host)) => parse_host(host)?,
            (None, None) => return Err(RouteError::BadTarget("no Host header")),
        };
        // Refuses user information too.
        let host = normalize_host(authority.as_str())
            .ok_or(RouteError::BadTarget("the host is not a host name or address"))?
            .into_owned();
        if host == mesh::DOMAIN || mesh::workload_of(&host).is_some() {
            return Err(RouteError::BadTarget("hosts below `.lattice` are for components of the lattice"));
        }
        let path_and_query = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        if !path_and_query.path().starts_with('/') {
            return Err(RouteError::BadTarget("the path does not start with a slash"));
        }
        if !is_plain(path_and_query.path()) {
            return Err(RouteError::BadTarget("the path has a segment `.` or `..`, or a backslash"));
        }
        Ok(Self { authority, path_and_query, to: To::Host(host) })
    }

    /// A request of the lattice's own, with the workload's name for a host.
    pub(crate) fn of_workload(workload: &WorkloadName, path_and_query: PathAndQuery) -> Result<Self, RouteError> {
        let authority = Authority::try_from(workload.as_str())
            .map_err(|_| RouteError::BadTarget("the workload's name is not a host"))?;
        Ok(Self { authority, path_and_query, to: To::Workload(workload.clone()) })
    }

    /// In the form that the route table takes.
    pub(crate) fn host(&self) -> Option<&str> {
        match &self.to {
            To::Host(host) => Some(host),
            To::Workload(_) => None,
        }
    }

    /// A request of a component to a workload, which it asks for by this authority. Its path is not looked at: nothing
    /// depends on it.
    pub(crate) fn of_call(workload: &WorkloadName, uri: &Uri) -> Result<Self, RouteError> {
        let authority = uri.authority().cloned().ok_or(RouteError::BadTarget("the request names no workload"))?;
        let path_and_query = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self { authority, path_and_query, to: To::Workload(workload.clone()) })
    }

    pub(crate) fn find<'a>(
        &self,
        table: &'a RouteTable,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<&'a Arc<RouteEntry>, RouteError> {
        let entry = match &self.to {
            To::Host(host) => {
                let (path, query) = (self.path_and_query.path(), self.path_and_query.query());
                table.find(&Asked { host, path, query, method, headers })
            }
            To::Workload(workload) => table.workload(workload),
        };
        entry.ok_or(RouteError::NoRoute)
    }
}

/// False for an offer to speak HTTP/2, which several clients make with every request: it may be ignored (RFC 9110 §7.8),
/// and means the same request. A client that asks for another protocol would take the answer for something else.
fn is_tunnel(upgrade: &HeaderValue) -> bool {
    let protocols = upgrade.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let mut others = protocols.filter(|protocol| !protocol.is_empty() && !protocol.eq_ignore_ascii_case(b"h2c"));
    others.next().is_some()
}

fn parse_host(host: &HeaderValue) -> Result<Authority, RouteError> {
    let bad = |_| RouteError::BadTarget("the Host header is not a host name or address");
    Authority::try_from(host.as_bytes()).map_err(bad)
}

/// False for a path whose meaning depends on who normalises it: dot segments and backslashes, also percent-encoded. A
/// guest could take `/public/%2e%2e/admin` for another path than the one it was routed by. Clients resolve dot segments
/// before they send, so that no honest one is refused.
fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b'\\')) && !bytes.windows(2).any(|pair| pair == b"/.") {
        return true;
    }
    let lower = path.to_ascii_lowercase();
    if lower.contains('\\') || lower.contains("%5c") || lower.contains("%00") {
        return false;
    }
    let separated = lower.replace("%2f", "/").replace("%2e", ".");
    !separated.split('/').any(|segment| matches!(segment, "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(uri: &str, hosts: &[&str]) -> Result<(String, String), RouteError> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_str(host).unwrap());
        }
        let target = Target::parse(&Method::GET, &uri.parse().unwrap(), Version::HTTP_11, &headers)?;
        Ok((target.authority.to_string(), target.path_and_query.to_string()))
    }

    #[test]
    fn targets() {
        let ok = |authority: &str, path: &str| Ok((authority.to_owned(), path.to_owned()));
        assert_eq!(parse("/a?b", &["h.test:80"]), ok("h.test:80", "/a?b"));
        assert_eq!(parse("http://h.test/a", &["other.test"]), ok("h.test", "/a"));
        assert_eq!(parse("http://h.test/a", &[]), ok("h.test", "/a"));
        assert_eq!(parse("http://h.test", &["h.test"]), ok("h.test", "/"));
        assert_eq!(parse("/", &["[::1]:8080"]), ok("[::1]:8080", "/"));
        for (uri, hosts) in [
            ("/", &[][..]),
            ("/", &["a.test", "a.test"]),
            ("http://a.test/", &["a.test", "b.test"]),
            ("/", &[""]),
            ("/", &["a b"]),
            ("/", &["user@a.test"]),
            ("/", &[":80"]),
            ("*", &["a.test"]),
            ("a.test", &["a.test"]),
            ("a.test:80", &["a.test"]),
            ("/a/../b", &["a.test"]),
            ("/a/%2E%2e/b", &["a.test"]),
            ("/a%2f..%2Fb", &["a.test"]),
            ("/./b", &["a.test"]),
            ("/a%5cb", &["a.test"]),
            ("/a%00b", &["a.test"]),
        ] {
            assert!(matches!(parse(uri, hosts), Err(RouteError::BadTarget(_))), "{uri} {hosts:?}");
        }
        for plain in ["/.well-known/x", "/a..b", "/a/...", "/a%20b", "/%2ea"] {
            assert_eq!(parse(plain, &["a.test"]), ok("a.test", plain));
        }
    }

    #[test]
    fn tunnels_and_upgrades_are_refused() {
        let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("a.test"))]);
        let uri = Uri::from_static("/");
        for method in [Method::CONNECT, Method::TRACE] {
            let parsed = Target::parse(&method, &uri, Version::HTTP_11, &headers);
            assert!(matches!(parsed, Err(RouteError::NotImplemented(_))), "{method}");
        }
        for (upgrade, refused) in
            [("websocket", true), ("h2c, websocket", true), ("TLS/1.0", true), ("h2c", false), ("H2C ,", false)]
        {
            headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
            let parsed = Target::parse(&Method::GET, &uri, Version::HTTP_11, &headers);
            assert_eq!(matches!(parsed, Err(RouteError::NotImplemented(_))), refused, "{upgrade}: {parsed:?}");
        }
    }
}
