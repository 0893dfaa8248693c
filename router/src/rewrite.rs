//! What a route puts in place of the path that it took. Pure.

use crate::{
    error::RouteError,
    headers::{X_FORWARDED_PREFIX, X_FORWARDED_URI, append, value},
};
use http::{HeaderMap, uri::PathAndQuery};
use lattice::spec::{PathMatch, PathPrefix, Route};

/// The path and query that the component is asked for, where they are not those that the client sent. The component is told
/// what it does not see: which prefix its links lack, and what was asked for.
pub(crate) fn rewrite(
    route: &Route,
    asked: &PathAndQuery,
    headers: &mut HeaderMap,
) -> Result<Option<PathAndQuery>, RouteError> {
    let Some(rewrite) = &route.rewrite else { return Ok(None) };
    let path = replaced(route, &rewrite.prefix, asked.path());
    let rewritten = with_query(path, asked.query());
    let rewritten = rewritten.parse().map_err(|_| RouteError::BadTarget("the path can't be rewritten"))?;
    if let PathMatch::Prefix(prefix) = &route.path
        && *prefix != PathPrefix::default()
    {
        // Each proxy on the way adds what it took away.
        append(headers, X_FORWARDED_PREFIX, value(prefix.to_string()));
    }
    if !headers.contains_key(X_FORWARDED_URI) {
        headers.insert(X_FORWARDED_URI, value(asked.to_string()));
    }
    Ok(Some(rewritten))
}

/// A path that a route took, with `by` in place of what the route names.
pub(crate) fn replaced(route: &Route, by: &PathPrefix, path: &str) -> String {
    match &route.path {
        PathMatch::Prefix(prefix) => by.joined(prefix.rest_of(path).unwrap_or_default()),
        PathMatch::Exact(_) => by.to_string(),
    }
}

pub(crate) fn with_query(mut path: String, query: Option<&str>) -> String {
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path: PathMatch, prefix: &str) -> Route {
        let mut route = Route::new("h.test".parse().unwrap(), path);
        route.rewrite = Some(lattice::spec::RewriteSpec { prefix: prefix.parse().unwrap() });
        route
    }

    #[test]
    fn the_path_that_matched_is_replaced_and_the_rest_stays() {
        let prefix = |text: &str| PathMatch::Prefix(text.parse().unwrap());
        let exact = |text: &str| PathMatch::Exact(text.parse().unwrap());
        for (path, by, asked, sent, forwarded) in [
            (prefix("/api"), "/", "/api", "/", Some("/api")),
            (prefix("/api"), "/", "/api/", "/", Some("/api")),
            (prefix("/api"), "/", "/api/x?a=%20", "/x?a=%20", Some("/api")),
            (prefix("/api"), "/v2", "/api/x/", "/v2/x/", Some("/api")),
            (prefix("/api"), "/v2", "/api?q", "/v2?q", Some("/api")),
            (prefix("/"), "/v2", "/", "/v2/", None),
            (prefix("/"), "/v2", "/x", "/v2/x", None),
            (prefix("/a/b"), "/", "/a/b//c", "//c", Some("/a/b")),
            (exact("/a"), "/b", "/a?q", "/b?q", None),
        ] {
            let mut headers = HeaderMap::new();
            let rewritten = rewrite(&route(path, by), &asked.parse().unwrap(), &mut headers).unwrap().unwrap();
            assert_eq!(rewritten.as_str(), sent, "{asked}");
            assert_eq!(headers.get(X_FORWARDED_PREFIX).map(|value| value.to_str().unwrap()), forwarded, "{asked}");
            assert_eq!(headers[X_FORWARDED_URI], asked);
        }
    }

    #[test]
    fn what_a_proxy_before_took_away_stays_in_front() {
        let mut headers = HeaderMap::new();
        headers.insert(X_FORWARDED_PREFIX, value("/outer".into()));
        headers.insert(X_FORWARDED_URI, value("/outer/api/x".into()));
        let route = route(PathMatch::Prefix("/api".parse().unwrap()), "/");
        rewrite(&route, &PathAndQuery::from_static("/api/x"), &mut headers).unwrap();
        assert_eq!(
            (&headers[X_FORWARDED_PREFIX], &headers[X_FORWARDED_URI]),
            (&value("/outer, /api".into()), &value("/outer/api/x".into()))
        );
    }
}
