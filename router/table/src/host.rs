//! The normal form of a host.

use std::borrow::Cow;

/// Longest host name in its text form (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;

/// A host as it stands in `Host` or `:authority`, in the form that [`crate::RouteTable::find`] takes: lower case, without
/// port and final dot. An IPv6 address keeps its brackets. `None` if it is not a host.
pub fn normalize_host(text: &str) -> Option<Cow<'_, str>> {
    let end = if text.starts_with('[') {
        text.find(']')? + 1
    } else {
        text.bytes().position(|byte| byte == b':').unwrap_or(text.len())
    };
    let (host, rest) = text.split_at_checked(end)?;
    let port_is_good = rest.is_empty() || is_port(rest.strip_prefix(':')?);
    let is_good = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<core::net::Ipv6Addr>().is_ok(),
        None => is_name(host.strip_suffix('.').unwrap_or(host)),
    };
    if !port_is_good || !is_good {
        return None;
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(Cow::Owned(host.to_ascii_lowercase()));
    }
    Some(Cow::Borrowed(host))
}

/// RFC 3986 §3.2.3: it may be empty.
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && (text.is_empty() || text.parse::<u16>().is_ok())
}

/// Names and IPv4 addresses. As lenient as a name can be without being ambiguous: no empty labels, no odd characters.
fn is_name(host: &str) -> bool {
    // Of the label so far. One walk over the bytes: each request comes here.
    let mut len = 0;
    let is_good = host.bytes().all(|byte| match byte {
        b'.' => std::mem::take(&mut len) > 0,
        byte => {
            len += 1;
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
        }
    });
    is_good && len > 0 && host.len() <= HOST_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (text, normal) in [
            ("h.test", Some("h.test")),
            ("H.Test.:8080", Some("h.test")),
            ("h.test:", Some("h.test")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("[::1]:80", Some("[::1]")),
            ("[FE80::1]", Some("[fe80::1]")),
            ("my_host", Some("my_host")),
            ("", None),
            (".", None),
            (":80", None),
            ("h..test", None),
            ("h.test..", None),
            ("h.test:8a", None),
            ("h.test:65535", Some("h.test")),
            ("h.test:0080", Some("h.test")),
            ("h.test:65536", None),
            ("h.test:99999", None),
            ("[::1]:99999", None),
            ("h test", None),
            ("h/test", None),
            ("ä.test", None),
            ("*.test", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[h.test]", None),
            ("::1", None),
            (&("a.".repeat(126) + "a."), Some(("a.".repeat(126) + "a").as_str())),
            (&("a.".repeat(127) + "a"), None),
        ] {
            assert_eq!(normalize_host(text).as_deref(), normal, "{text:?}");
        }
        assert!(matches!(normalize_host("h.test:1"), Some(Cow::Borrowed(_))), "the usual case allocates nothing");
    }
}
