//! Where a route sends its clients. Pure.

use crate::{
    error::RouteError,
    headers::value,
    rewrite::{replaced, with_query},
    target::Target,
};
use http::{StatusCode, header::LOCATION};
use lattice::{
    http::{Response, empty},
    spec::Route,
};

/// The redirect that a request is answered with. None where the route has none, and where it would lead to what was asked
/// for: who has followed it is answered by the component.
pub(crate) fn answer(route: &Route, target: &Target, https: bool) -> Result<Option<Response>, RouteError> {
    let Some(redirect) = &route.redirect else { return Ok(None) };
    let Some(location) = location(route, target, https) else { return Ok(None) };
    let mut response = Response::new(empty());
    *response.status_mut() =
        StatusCode::from_u16(redirect.status).map_err(|_| RouteError::NotImplemented("the redirect's status"))?;
    response.headers_mut().insert(LOCATION, value(location));
    Ok(Some(response))
}

fn location(route: &Route, target: &Target, https: bool) -> Option<String> {
    let redirect = route.redirect.as_ref()?;
    let asked_path = target.path_and_query.path();
    let asked_host = target.authority.host();
    let asked_scheme = if https { "https" } else { "http" };
    let scheme = redirect.scheme.map_or(asked_scheme, |scheme| scheme.as_str());
    let host = redirect.host.as_ref().map_or_else(|| asked_host.to_owned(), ToString::to_string);
    let stays = scheme == asked_scheme && host.eq_ignore_ascii_case(asked_host);
    let port = redirect.port.or(target.authority.port_u16().filter(|_| stays));
    let port = port.filter(|port| Some(*port) != default_port(scheme));
    let path = match (&redirect.path, &redirect.prefix) {
        (Some(path), _) => path.to_string(),
        (None, Some(prefix)) => replaced(route, prefix, asked_path),
        (None, None) => asked_path.to_owned(),
    };
    let asked_port = target.authority.port_u16().filter(|port| Some(*port) != default_port(asked_scheme));
    if stays && port == asked_port && path == asked_path {
        return None;
    }
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    Some(with_query(format!("{scheme}://{host}{port}{path}"), target.path_and_query.query()))
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue, Method, Version, header::HOST};

    /// `redirect` as in a spec, on a route with this path, asked for by this URL.
    fn led(redirect: &str, path: &str, url: &str) -> Option<String> {
        let yaml = format!(
            "name: a\ncomponents: [{{name: a, source: 'file:a'}}]\n\
             http: {{routes: [{{host: '*', path: {path}, redirect: {redirect}}}]}}\n"
        );
        let spec = lattice::spec::parse(yaml.as_bytes()).unwrap();
        let (scheme, rest) = url.split_once("://").unwrap();
        let (host, path) = rest.split_at(rest.find('/').unwrap());
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_str(host).unwrap())]);
        let target = Target::parse(&Method::GET, &path.parse().unwrap(), Version::HTTP_11, &headers).unwrap();
        location(spec.http.routes.first().unwrap(), &target, scheme == "https")
    }

    #[test]
    fn what_is_left_out_stays_and_nobody_is_led_in_circles() {
        for (redirect, path, asked, location) in [
            ("{scheme: https}", "/", "http://h.test/a?b=%20", Some("https://h.test/a?b=%20")),
            ("{scheme: https}", "/", "http://h.test:8080/a", Some("https://h.test/a")),
            ("{scheme: https, port: 8443}", "/", "http://h.test:8080/a", Some("https://h.test:8443/a")),
            ("{scheme: https, port: 443}", "/", "http://h.test/", Some("https://h.test/")),
            ("{scheme: https}", "/", "https://h.test:8443/a", None),
            ("{scheme: https, port: 443}", "/", "https://h.test/a", None),
            ("{host: www.h.test}", "/", "http://h.test:8080/a", Some("http://www.h.test/a")),
            ("{host: www.h.test}", "/", "https://WWW.H.test:8443/a", None),
            ("{port: 81}", "/", "http://h.test/a", Some("http://h.test:81/a")),
            ("{path: /new}", "/old", "http://h.test:8080/old/x?q", Some("http://h.test:8080/new?q")),
            ("{path: /old/x}", "/old", "http://h.test/old/x", None),
            ("{prefix: /new}", "/old", "http://h.test/old/x?q", Some("http://h.test/new/x?q")),
            ("{prefix: /}", "/old", "http://h.test/old//evil.test", Some("http://h.test//evil.test")),
            ("{prefix: /}", "{exact: /old}", "http://[::1]:80/old", Some("http://[::1]/")),
        ] {
            assert_eq!(led(redirect, path, asked).as_deref(), location, "{redirect} {asked}");
        }
    }
}
