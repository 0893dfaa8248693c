//! Which scripts of other origins may call a route: the CORS protocol (<https://fetch.spec.whatwg.org/#http-cors-protocol>),
//! spoken by the router in place of the component. Pure.

use crate::{error::RouteError, headers::value};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS as ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS as ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS as ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN as ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS as EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE as MAX_AGE,
        ACCESS_CONTROL_REQUEST_HEADERS as REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD as REQUEST_METHOD, ORIGIN,
        VARY,
    },
};
use lattice::{
    http::{Response, empty},
    spec::{CorsHeader, CorsOrigin, CorsSpec, Route},
};
use std::{fmt::Display, sync::Arc};

/// What a component's response must not say, since the route says it.
const SAID_HERE: [HeaderName; 6] =
    [ALLOW_ORIGIN, ALLOW_CREDENTIALS, ALLOW_METHODS, ALLOW_HEADERS, EXPOSE_HEADERS, MAX_AGE];

/// A browser asks whether a script may send a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Preflight<'a> {
    origin: &'a HeaderValue,
    /// Of the request that is to come. A preflight takes the route that this one would.
    pub(crate) method: Method,
    headers: Option<&'a HeaderValue>,
}

impl<'a> Preflight<'a> {
    pub(crate) fn of(method: &Method, headers: &'a HeaderMap) -> Option<Self> {
        if *method != Method::OPTIONS {
            return None;
        }
        let origin = headers.get(ORIGIN)?;
        let method = Method::from_bytes(headers.get(REQUEST_METHOD)?.as_bytes()).ok()?;
        Some(Self { origin, method, headers: headers.get(REQUEST_HEADERS) })
    }

    /// What the script may do, whatever it wants: the browser compares.
    pub(crate) fn answer(&self, cors: &CorsSpec) -> Result<Response, RouteError> {
        let origin = granted(cors, self.origin).ok_or(RouteError::CorsDenied)?;
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(ALLOW_ORIGIN, origin);
        let methods = match cors.methods.as_slice() {
            [] => HeaderValue::from_static("GET, HEAD, POST"),
            methods => list(methods),
        };
        headers.insert(ALLOW_METHODS, methods);
        // `*` would not stand for `authorization`, nor for anything where there are credentials.
        let any = cors.headers.contains(&CorsHeader::Any);
        let allowed = if any { self.headers.cloned() } else { Some(list(&cors.headers)) };
        if let Some(allowed) = allowed.filter(|allowed| !allowed.is_empty()) {
            headers.insert(ALLOW_HEADERS, allowed);
        }
        if cors.credentials {
            headers.insert(ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(age) = cors.max_age {
            headers.insert(MAX_AGE, HeaderValue::from(age.0 / 1000));
        }
        headers.insert(
            VARY,
            HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers"),
        );
        Ok(response)
    }
}

/// What the response to a request has to say.
#[derive(Debug, Clone)]
pub(crate) struct Granted {
    rule: Arc<Route>,
    /// Who may read the response. None where not everybody may, and the request has no origin, or one that may not.
    origin: Option<HeaderValue>,
}

impl Granted {
    pub(crate) fn of(rule: &Arc<Route>, headers: &HeaderMap) -> Option<Self> {
        let cors = rule.cors.as_ref()?;
        // Open to all it is also for who names no origin: a cache may keep this response for those who do.
        let open = cors.origins.contains(&CorsOrigin::Any).then(|| HeaderValue::from_static("*"));
        let origin = open.or_else(|| headers.get(ORIGIN).and_then(|origin| granted(cors, origin)));
        Some(Self { rule: rule.clone(), origin })
    }

    /// Say it, in a response of the component or of the router itself.
    pub(crate) fn say(self, headers: &mut HeaderMap) {
        let Some(cors) = &self.rule.cors else { return };
        for name in SAID_HERE {
            headers.remove(name);
        }
        if !cors.origins.contains(&CorsOrigin::Any) {
            // Also without an origin: a cache must not answer one with what was meant for another.
            headers.append(VARY, HeaderValue::from_static("origin"));
        }
        let Some(origin) = self.origin else { return };
        headers.insert(ALLOW_ORIGIN, origin);
        if cors.credentials {
            headers.insert(ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if !cors.expose.is_empty() {
            headers.insert(EXPOSE_HEADERS, list(&cors.expose));
        }
    }
}

/// What `access-control-allow-origin` says to an origin.
fn granted(cors: &CorsSpec, origin: &HeaderValue) -> Option<HeaderValue> {
    if cors.origins.contains(&CorsOrigin::Any) {
        return Some(HeaderValue::from_static("*"));
    }
    let text = origin.to_str().ok()?;
    cors.origins.iter().any(|allowed| allowed.holds(text)).then(|| origin.clone())
}

fn list<T: Display>(items: &[T]) -> HeaderValue {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    value(items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(cors: &str) -> Arc<Route> {
        let yaml = format!(
            "name: a\ncomponents: [{{name: a, source: 'file:a'}}]\nhttp: {{routes: [{{host: '*', cors: {cors}}}]}}\n"
        );
        Arc::new(lattice::spec::parse(yaml.as_bytes()).unwrap().http.routes.remove(0))
    }

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    fn ask(cors: &str, lines: &[(&'static str, &'static str)]) -> Result<HeaderMap, RouteError> {
        let headers = map(lines);
        let preflight = Preflight::of(&Method::OPTIONS, &headers).unwrap();
        let response = preflight.answer(rule(cors).cors.as_ref().unwrap())?;
        assert_eq!(response.status(), 204);
        Ok(response.into_parts().0.headers)
    }

    const FULL: &str = "{origins: ['https://a.test', 'https://*.b.test:8443'], methods: [GET, PUT], \
                        headers: [X-A, content-type], expose: [x-b], credentials: true, max-age: 10m}";
    const VARIES: (&str, &str) = ("vary", "origin, access-control-request-method, access-control-request-headers");

    #[test]
    fn preflights_are_told_what_is_allowed() {
        let asked = [("origin", "https://a.test"), ("access-control-request-method", "PATCH")];
        let expect = [
            ("access-control-allow-origin", "https://a.test"),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-headers", "x-a, content-type"),
            ("access-control-allow-credentials", "true"),
            ("access-control-max-age", "600"),
            VARIES,
        ];
        assert_eq!(ask(FULL, &asked), Ok(map(&expect)));
        let open = "{origins: ['*'], headers: ['*']}";
        let with = [asked[0], asked[1], ("access-control-request-headers", "authorization,x-y")];
        let expect = [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-methods", "GET, HEAD, POST"),
            ("access-control-allow-headers", "authorization,x-y"),
            VARIES,
        ];
        assert_eq!(ask(open, &with), Ok(map(&expect)));
        assert!(!ask(open, &asked).unwrap().contains_key(ALLOW_HEADERS));
    }

    #[test]
    fn origins_are_compared_as_a_whole() {
        for (origin, allowed) in [
            ("https://a.test", true),
            ("http://a.test", false),
            ("https://a.test:8443", false),
            ("https://a.test.evil.test", false),
            ("https://evil-a.test", false),
            ("https://x.b.test:8443", true),
            ("https://x.y.b.test:8443", true),
            ("https://b.test:8443", false),
            ("https://xb.test:8443", false),
            ("https://x.b.test", false),
            ("https://evil.test/.b.test:8443", false),
            ("https://evil.test#.b.test:8443", false),
            ("null", false),
            ("", false),
        ] {
            let asked = [("origin", origin), ("access-control-request-method", "GET")];
            assert_eq!(ask(FULL, &asked).is_ok(), allowed, "{origin}");
        }
    }

    #[test]
    fn only_a_preflight_is_one() {
        let full = [("origin", "https://a.test"), ("access-control-request-method", "GET")];
        assert!(Preflight::of(&Method::GET, &map(&full)).is_none());
        assert!(Preflight::of(&Method::OPTIONS, &map(&full[..1])).is_none());
        assert!(Preflight::of(&Method::OPTIONS, &map(&full[1..])).is_none());
    }

    #[test]
    fn responses_say_what_the_route_says_and_not_what_the_component_did() {
        let said = [("access-control-allow-origin", "*"), ("access-control-max-age", "1"), ("vary", "accept")];
        let say = |cors: &str, lines: &[(&'static str, &'static str)]| {
            let mut headers = map(&said);
            Granted::of(&rule(cors), &map(lines)).unwrap().say(&mut headers);
            headers
        };
        let varies = HeaderMap::from_iter(
            map(&said[2..])
                .into_iter()
                .chain([(Some(VARY), HeaderValue::from_static("origin"))])
                .filter_map(|(name, value)| Some((name?, value))),
        );
        let mut expect = varies.clone();
        expect.extend(map(&[
            ("access-control-allow-origin", "https://a.test"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-b"),
        ]));
        assert_eq!(say(FULL, &[("origin", "https://a.test")]), expect);
        assert_eq!(say(FULL, &[("origin", "https://c.test")]).get(ALLOW_ORIGIN), None);
        assert_eq!(say(FULL, &[]).get_all(VARY).iter().count(), 2);
        let open = say("{origins: ['*']}", &[("origin", "https://c.test")]);
        assert_eq!(
            (open.get(ALLOW_ORIGIN).unwrap(), open.get_all(VARY).iter().count()),
            (&HeaderValue::from_static("*"), 1)
        );
        assert_eq!(say("{origins: ['*']}", &[]).get(ALLOW_ORIGIN).unwrap(), "*");
        assert!(
            Granted::of(&Arc::new(Route::new("*".parse().unwrap(), lattice::spec::PathMatch::default())), &map(&said))
                .is_none()
        );
    }
}
