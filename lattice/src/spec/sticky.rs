//! What binds a client to one of the nodes that serve a workload: `sticky` of a route.

use super::{SpecError, http::HeaderKey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest name of a cookie, in bytes.
const COOKIE_NAME_BYTES_MAX: usize = 64;

/// Requests that agree in it are answered by the same node, as long as that node serves the workload, is well and takes
/// them; then by another one, which all nodes agree on. Of the replicas on a node any may answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Sticky {
    /// A cookie of this name, which the router gives to a client that has none: a random number, which names no node.
    Cookie(String),
    /// The value of this header, such as a user's id. A request without it goes where there is most room.
    Header(HeaderKey),
}

/// What types cannot say.
pub(super) fn check(field: &str, sticky: Option<&Sticky>) -> Result<(), SpecError> {
    let Some(Sticky::Cookie(name)) = sticky else { return Ok(()) };
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || name.len() > COOKIE_NAME_BYTES_MAX || !name.bytes().all(is_token) {
        let message = format!("{name:?} is not the name of a cookie");
        return Err(SpecError::new(format!("{field}.sticky.cookie"), message)
            .hint(format!("write sticky: {{cookie: shop-node}}, with at most {COOKIE_NAME_BYTES_MAX} letters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    fn parse(sticky: &str) -> Result<Option<Sticky>, String> {
        let yaml = format!(
            "name: w\ncomponents: [{{name: c, source: 'file:c'}}]\nhttp: {{routes: [{{host: h.test, sticky: {sticky}}}]}}\n"
        );
        let spec = spec::parse(yaml.as_bytes()).map_err(|error| error.field)?;
        Ok(spec.http.routes.into_iter().next().and_then(|route| route.sticky))
    }

    #[test]
    fn by_cookie_or_by_header() {
        assert_eq!(parse("{cookie: shop-node}"), Ok(Some(Sticky::Cookie("shop-node".into()))));
        assert_eq!(parse("{header: X-User}"), Ok(Some(Sticky::Header("x-user".parse().unwrap()))));
        for bad in ["{cookie: ''}", "{cookie: 'a=b'}", "{cookie: 'a;b'}", "{cookie: 'a b'}"] {
            assert_eq!(parse(bad), Err("http.routes[0].sticky.cookie".into()), "{bad}");
        }
        for bad in ["{header: 'a b'}", "{ip: true}", "{cookie: a, header: b}", "true"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
