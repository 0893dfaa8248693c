//! Where in a split of a route a request falls. Pure but for the chance that is passed in.

use http::{HeaderMap, header::COOKIE};
use lattice::{
    spec::{Route, SplitBy},
    store::Rng,
};
use lattice_route_table::hash;

/// A uniform number for [`lattice_route_table::RouteEntry::share`]: the same on every node for requests that agree in what
/// the split goes by.
pub(crate) fn roll(route: &Route, headers: &HeaderMap, rng: &dyn Rng) -> u64 {
    if route.split.is_empty() {
        return 0;
    }
    let key = match &route.split_by {
        Some(SplitBy::Header(key)) => headers.get(key.name()).map(|value| value.as_bytes()),
        Some(SplitBy::Cookie(name)) => cookie(headers, name),
        None => None,
    };
    key.map_or_else(|| rng.u64(), hash)
}

/// The first cookie of a name (RFC 6265 §5.4).
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    struct Seven;
    impl Rng for Seven {
        fn u64(&self) -> u64 {
            7
        }
    }

    fn route(by: &str) -> Route {
        let yaml = format!(
            "name: a\ncomponents: [{{name: a, source: 'file:a'}}]\n\
             http: {{routes: [{{host: '*', split: [{{workload: b, percent: 10}}]{by}}}]}}\n"
        );
        lattice::spec::parse(yaml.as_bytes()).unwrap().http.routes.remove(0)
    }

    #[test]
    fn requests_that_agree_fall_together() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("ids=1; id=u1;x=y"));
        headers.append("x-user", HeaderValue::from_static("u1"));
        assert_eq!(roll(&route(""), &headers, &Seven), 7);
        assert_eq!(roll(&route(", split-by: {header: x-user}"), &headers, &Seven), hash(b"u1"));
        assert_eq!(roll(&route(", split-by: {cookie: id}"), &headers, &Seven), hash(b"u1"));
        assert_eq!(roll(&route(", split-by: {cookie: i}"), &headers, &Seven), 7, "who has none goes by chance");
        assert_eq!(roll(&route(", split-by: {header: x-none}"), &headers, &Seven), 7);
    }

    #[test]
    fn users_are_spread_evenly_and_always_the_same() {
        let below = (0..10_000).filter(|user| hash(format!("user-{user}").as_bytes()) % 100 < 10).count();
        assert!((900..1100).contains(&below), "{below} of 10000");
        assert_eq!(hash(b"u1"), 0x63b9_b7f5_2c45_b2b1, "it never changes");
    }
}
