//! What may be done with a call besides making it: decided once, by what it is, and brought along on its way through the
//! unit. A request of a client, a message and a probe take the same way otherwise.

use http::Method;
use lattice::http::Request;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// It may go to an instance that has others at the same time.
    pub(crate) shares: bool,
    /// It may find out whether an instance survives a second use: that it fails of it is seen, and does no harm.
    pub(crate) tries: bool,
    /// It may be made a second time, on a fresh instance, if it has no body.
    pub(crate) repeats: bool,
    /// A copy of it with its body may try, and then be repeated, where nobody could tell that it was made twice: see
    /// [`Inner::may_copy`](crate::unit::Inner::may_copy).
    pub(crate) copies: bool,
    /// What comes of it is a client's: a failure of the unit, progress.
    pub(crate) counts: bool,
}

impl Terms {
    /// Never made twice. A handler that was called answers or traps: it can't come to nothing unnoticed, as a request's can.
    pub(crate) const MESSAGE: Self = Self { shares: false, tries: true, repeats: false, copies: false, counts: true };

    /// A `GET` that changes nothing.
    pub(crate) const PROBE: Self = Self { shares: false, tries: true, repeats: true, copies: false, counts: false };

    /// What the method of a client's request says.
    pub(crate) fn of(request: &Request) -> Self {
        let tries = matches!(*request.method(), Method::GET | Method::HEAD);
        Self { shares: true, tries, repeats: request.method().is_idempotent(), copies: !tries, counts: true }
    }
}
