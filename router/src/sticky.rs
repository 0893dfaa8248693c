//! What of a request binds its client to a node, and the cookie that does so from now on. Pure but for the chance that is
//! passed in.

use crate::{headers, split::cookie};
use http::{HeaderMap, HeaderValue};
use lattice::{
    spec::{PathMatch, Route, Sticky},
    store::Rng,
};
use lattice_route_table::hash;

/// Hexadecimal digits of a cookie: as many as say nothing, and nobody guesses.
const DIGITS: usize = 32;

/// What a client is bound by.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Bond {
    pub(crate) key: Option<u64>,
    /// For a client that has no cookie yet.
    pub(crate) set_cookie: Option<HeaderValue>,
}

impl Bond {
    pub(crate) fn of(route: &Route, headers: &HeaderMap, https: bool, rng: &dyn Rng) -> Self {
        match &route.sticky {
            None => Self::default(),
            Some(Sticky::Header(key)) => {
                let key = headers.get(key.name()).map(|value| hash(value.as_bytes()));
                Self { key, set_cookie: None }
            }
            Some(Sticky::Cookie(name)) => match cookie(headers, name).filter(|value| is_ours(value)) {
                Some(value) => Self { key: Some(hash(value)), set_cookie: None },
                None => {
                    let value = format!("{:016x}{:016x}", rng.u64(), rng.u64());
                    let path = match &route.path {
                        PathMatch::Prefix(path) => path.as_str(),
                        PathMatch::Exact(_) => "/",
                    };
                    let secure = if https { "; Secure" } else { "" };
                    let line = format!("{name}={value}; Path={path}; HttpOnly; SameSite=Lax{secure}");
                    Self { key: Some(hash(value.as_bytes())), set_cookie: Some(headers::value(line)) }
                }
            },
        }
    }
}

fn is_ours(value: &[u8]) -> bool {
    value.len() == DIGITS && value.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::COOKIE;

    struct Seven;
    impl Rng for Seven {
        fn u64(&self) -> u64 {
            7
        }
    }

    fn route(sticky: &str) -> Route {
        let yaml = format!(
            "name: a\ncomponents: [{{name: a, source: 'file:a'}}]\nhttp: {{routes: [{{host: h.test, path: /shop, {sticky}}}]}}\n"
        );
        lattice::spec::parse(yaml.as_bytes()).unwrap().http.routes.remove(0)
    }

    #[test]
    fn a_client_gets_a_cookie_once() {
        let route = route("sticky: {cookie: node}");
        let first = Bond::of(&route, &HeaderMap::new(), true, &Seven);
        let line = first.set_cookie.as_ref().unwrap().to_str().unwrap();
        let value = "00000000000000070000000000000007";
        assert_eq!(line, format!("node={value}; Path=/shop; HttpOnly; SameSite=Lax; Secure"));
        let with = |cookies: &str| HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(cookies).unwrap())]);
        let again = Bond::of(&route, &with(&format!("a=b; node={value}")), false, &Seven);
        assert_eq!(again, Bond { key: first.key, set_cookie: None });
        for foreign in
            ["node=x", "node=", "x=00000000000000070000000000000007", "node=0000000000000007000000000000000G"]
        {
            assert!(Bond::of(&route, &with(foreign), false, &Seven).set_cookie.is_some(), "{foreign}");
        }
    }

    #[test]
    fn a_header_binds_those_that_send_it() {
        let route = route("sticky: {header: x-user}");
        let with = |user: &'static str| {
            let headers =
                HeaderMap::from_iter([(http::HeaderName::from_static("x-user"), HeaderValue::from_static(user))]);
            Bond::of(&route, &headers, false, &Seven).key
        };
        assert!(with("u1").is_some() && with("u1") == with("u1") && with("u1") != with("u2"));
        assert_eq!(Bond::of(&route, &HeaderMap::new(), false, &Seven), Bond::default());
    }
}
