//! What the node whose instance answered says of that: for the access log and the traces of the node that took the request.
//! It travels with the head of the response, under a header of the lattice's own that no client and no component sees.

use crate::id::Generation;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Only the host of the node that answers sets it, in the place of what the component says; the router takes it out.
pub const HEADER_SERVED: HeaderName = HeaderName::from_static("lattice-served");

/// An instance that answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// Of the spec that its replica runs.
    pub generation: Generation,
    /// It had answered others before.
    pub reused: bool,
}

impl Served {
    /// `3;reused` or `3;fresh`.
    pub fn to_value(self) -> HeaderValue {
        let use_of_it = if self.reused { "reused" } else { "fresh" };
        HeaderValue::try_from(format!("{};{use_of_it}", self.generation)).unwrap_or(HeaderValue::from_static(""))
    }

    /// Takes it out of a head. None where it is not there, since the node is one of before, or can't be read.
    pub fn take(headers: &mut HeaderMap) -> Option<Self> {
        let value = headers.remove(HEADER_SERVED)?;
        let (generation, use_of_it) = value.to_str().ok()?.split_once(';')?;
        let reused = match use_of_it {
            "reused" => true,
            "fresh" => false,
            _ => return None,
        };
        Some(Self { generation: Generation(generation.parse().ok()?), reused })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_is_written_and_taken_out() {
        for served in [
            Served { generation: Generation(1), reused: true },
            Served { generation: Generation(u64::MAX), reused: false },
        ] {
            let mut headers = HeaderMap::from_iter([(HEADER_SERVED, served.to_value())]);
            assert_eq!((Served::take(&mut headers), headers.len()), (Some(served), 0));
        }
        for odd in ["", "3", "3;", "3;new", "-3;fresh", ";reused", "99999999999999999999;fresh"] {
            let mut headers = HeaderMap::from_iter([(HEADER_SERVED, HeaderValue::from_static(odd))]);
            headers.append(HEADER_SERVED, HeaderValue::from_static("3;fresh"));
            assert_eq!((Served::take(&mut headers), headers.len()), (None, 0), "{odd}");
        }
    }
}
