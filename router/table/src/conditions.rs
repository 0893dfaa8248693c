//! Whether a request is what a route asks for beside host and path. A client's input is read here: what is looked at is
//! bounded, and read once for all routes.

use http::{HeaderMap, HeaderName, Method, header::COOKIE};
use lattice::spec::{Route, ValueMatch};
use std::{borrow::Cow, cell::OnceCell, collections::BTreeMap};

/// Parameters of a query that are looked at.
const PARAMETERS_MAX: usize = 1024;

/// What a route may ask about a request.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// In the form of [`crate::normalize_host`].
    pub host: &'a str,
    /// Without the query.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
}

/// The parameters of a query, which few routes ask for: read when one does.
pub(crate) struct Query<'a> {
    text: Option<&'a str>,
    parameters: OnceCell<Parameters<'a>>,
}

/// By name, without percent-encoding.
type Parameters<'a> = BTreeMap<Cow<'a, [u8]>, Cow<'a, [u8]>>;

impl<'a> Query<'a> {
    pub(crate) fn new(text: Option<&'a str>) -> Self {
        Self { text, parameters: OnceCell::new() }
    }

    /// The first value of a parameter, without percent-encoding.
    fn get(&self, name: &str) -> Option<&[u8]> {
        let parameters = self.parameters.get_or_init(|| {
            let mut parameters = Parameters::new();
            for pair in self.text.unwrap_or_default().split('&').take(PARAMETERS_MAX) {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                parameters.entry(decoded(name)).or_insert_with(|| decoded(value));
            }
            parameters
        });
        parameters.get(name.as_bytes()).map(|value| &**value)
    }
}

/// Whether a request fulfils the conditions of a route that stands at its host and path.
pub(crate) fn hold(route: &Route, asked: &Asked<'_>, query: &Query<'_>) -> bool {
    let methods = &route.methods;
    (methods.is_empty() || methods.iter().any(|method| method.method() == asked.method))
        && route.headers.iter().all(|(key, value)| header_holds(asked.headers, key.name(), value))
        && route.query.iter().all(|(name, value)| query.get(name).is_some_and(|sent| value.holds(sent)))
}

fn header_holds(headers: &HeaderMap, name: &HeaderName, value: &ValueMatch) -> bool {
    let mut lines = headers.get_all(name).iter();
    let Some(first) = lines.next() else { return false };
    let mut rest = lines.peekable();
    if rest.peek().is_none() {
        return value.holds(first.as_bytes());
    }
    // RFC 9110 §5.3; HTTP/2 clients may split `cookie` into lines (RFC 9113 §8.2.3).
    let separator: &[u8] = if *name == COOKIE { b"; " } else { b", " };
    let mut joined = first.as_bytes().to_vec();
    for line in rest {
        joined.extend_from_slice(separator);
        joined.extend_from_slice(line.as_bytes());
    }
    value.holds(&joined)
}

/// Without percent-encoding and with spaces for pluses, as forms write them. What is no encoding stays.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text.as_bytes());
    }
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        plain.push(match (byte, digit(ahead.next()), digit(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                bytes = ahead;
                high * 16 + low
            }
            (b'+', ..) => b' ',
            _ => byte,
        });
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn parameters_are_decoded_and_the_first_counts() {
        let query = Query::new(Some("a=1&a=2&b&c=%61+b%2&%64=x%zz&=e&&f==g"));
        for (name, value) in [
            ("a", Some("1")),
            ("b", Some("")),
            ("c", Some("a b%2")),
            ("d", Some("x%zz")),
            ("", Some("e")),
            ("f", Some("=g")),
            ("g", None),
        ] {
            assert_eq!(query.get(name), value.map(str::as_bytes), "{name}");
        }
        assert_eq!(Query::new(None).get("a"), None);
        let many = "a=1&".repeat(PARAMETERS_MAX) + "b=1";
        assert_eq!(Query::new(Some(&many)).get("b"), None, "no more than that is looked at");
    }

    #[test]
    fn lines_of_a_header_are_one_value() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-a", "1"), ("x-b", "1"), ("x-b", "2"), ("cookie", "a=1"), ("cookie", "b=2")] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let exact = |text: &str| ValueMatch::Exact(text.to_owned());
        for (name, value, holds) in [
            ("x-a", exact("1"), true),
            ("x-a", exact(""), false),
            ("x-b", exact("1, 2"), true),
            ("x-b", exact("1"), false),
            ("x-b", ValueMatch::Prefix("1".into()), true),
            ("cookie", exact("a=1; b=2"), true),
            ("x-b", ValueMatch::Present, true),
            ("x-c", ValueMatch::Present, false),
        ] {
            assert_eq!(header_holds(&headers, &HeaderName::from_static(name), &value), holds, "{name} {value:?}");
        }
    }
}
