//! W3C Trace Context (level 1, §3.2): every request that reaches a guest has one, so that the router's log, the guest's
//! and the client's speak of the same request by the same name. Pure but for the chance that is passed in.

use http::{HeaderMap, HeaderName, HeaderValue};
use lattice::store::Rng;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Keep the context that the client sent if it is valid; else begin a new one.
pub(crate) fn ensure(headers: &mut HeaderMap, rng: &dyn Rng) {
    let mut sent = headers.get_all(TRACEPARENT).iter();
    if let (Some(value), None) = (sent.next(), sent.next())
        && is_valid(value.as_bytes())
    {
        return;
    }
    headers.remove(TRACESTATE);
    // Not sampled: nobody here records spans. Ids must not be zero.
    let mut fresh = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let (high, low, parent) = (rng.u64(), rng.u64(), rng.u64());
    for (from, id) in [(3, high), (19, low.max(1)), (36, parent.max(1))] {
        if let Some(digits) = fresh.get_mut(from..from + 16) {
            write_hex(id, digits);
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(&fresh) {
        headers.insert(TRACEPARENT, value);
    }
}

/// The lowest digits of a number, as many as there is room for. Formatting would cost as much as all else here.
fn write_hex(mut number: u64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        let nibble = (number & 0xf) as u8;
        *digit = if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
        number >>= 4;
    }
}

/// The context's trace id and the rest, for logs.
pub(crate) fn of(headers: &HeaderMap) -> &str {
    headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn is_valid(value: &[u8]) -> bool {
    let mut fields = value.splitn(5, |byte| *byte == b'-');
    let mut hex = |digits: usize| {
        let is_hex = |field: &&[u8]| field.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        fields.next().filter(|field| field.len() == digits).filter(is_hex)
    };
    let not_zero = |field: &[u8]| field.iter().any(|byte| *byte != b'0');
    let (version, trace, parent, flags) = (hex(2), hex(32), hex(16), hex(2));
    let ids_are_good = trace.is_some_and(not_zero) && parent.is_some_and(not_zero) && flags.is_some();
    match version {
        Some(b"ff") | None => false,
        Some(b"00") => ids_are_good && fields.next().is_none(),
        // A later version may append fields.
        Some(_) => ids_are_good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Zero;
    impl Rng for Zero {
        fn u64(&self) -> u64 {
            0
        }
    }

    #[test]
    fn valid_contexts_are_kept_and_others_replaced() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (value, kept) in [
            (good, true),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", true),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", false),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, HeaderValue::from_str(value).unwrap());
            headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
            ensure(&mut headers, &Zero);
            assert_eq!(of(&headers) == value, kept, "{value}");
            assert_eq!(headers.contains_key(TRACESTATE), kept, "{value}");
            assert!(is_valid(of(&headers).as_bytes()), "{value}");
        }
        let mut digits = [0; 16];
        write_hex(0x0123_4567_89ab_cdef, &mut digits);
        assert_eq!(digits, *b"0123456789abcdef");
        let mut twice = HeaderMap::new();
        twice.append(TRACEPARENT, HeaderValue::from_static(good));
        twice.append(TRACEPARENT, HeaderValue::from_static(good));
        ensure(&mut twice, &Zero);
        assert_eq!(twice.get_all(TRACEPARENT).iter().count(), 1);
    }
}
