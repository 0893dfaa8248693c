//! What a failure is called: in `error.type`, which has the names of `lattice:nats`'s error codes whatever the interface, and
//! among the outcomes.

use super::Outcome;
use crate::network::MessageError;
use lattice::{
    bucket::BucketError,
    nats::{Code, Failure, Outcome as Known},
    spec::SubjectError,
};

/// How an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    /// A word of a closed set.
    pub(crate) error: &'static str,
    pub(crate) outcome: Outcome,
}

impl Fault {
    fn of(code: &Code, known: Known) -> Self {
        let outcome = match (code, known) {
            (Code::Denied, _) => Outcome::Denied,
            (Code::Timeout, Known::DefinitelyNot) => Outcome::Timeout,
            (Code::Timeout, Known::Maybe) => Outcome::TimeoutMaybe,
            (_, Known::Maybe) => Outcome::FailedMaybe,
            (Code::AlreadyExists(_) | Code::WrongRevision | Code::WrongSequence | Code::AlreadySettled, _) => {
                Outcome::Conflict
            }
            (_, Known::DefinitelyNot) => Outcome::Failed,
        };
        Self { error: code.as_str(), outcome }
    }

    /// Of an operation that changes nothing: nothing happened.
    pub(super) fn of_read(self) -> Self {
        let outcome = match self.outcome {
            Outcome::TimeoutMaybe => Outcome::Timeout,
            Outcome::FailedMaybe => Outcome::Failed,
            outcome => outcome,
        };
        Self { outcome, ..self }
    }
}

/// Why an operation failed, whatever its caller is told of that.
pub(crate) trait Faulty {
    fn fault(&self) -> Fault;
}

impl Faulty for Failure {
    fn fault(&self) -> Fault {
        Fault::of(&self.code, self.outcome)
    }
}

impl Faulty for BucketError {
    fn fault(&self) -> Fault {
        let code = match self {
            BucketError::Absent(_) => Code::NotFound,
            BucketError::Unfit { .. } => Code::Unsupported,
            BucketError::Key(_) => Code::Invalid(String::new()),
            BucketError::TooLarge { .. } => Code::TooLarge(0),
            BucketError::Conflict => Code::WrongRevision,
            BucketError::Unreachable(_) => Code::Disconnected,
            // It is told alike of an answer that did not come and of a connection that was lost.
            BucketError::OutcomeUnknown => return Fault::of(&Code::Timeout, Known::Maybe),
            BucketError::Refused(_) => Code::Other,
        };
        Fault::of(&code, Known::DefinitelyNot)
    }
}

impl Faulty for MessageError {
    fn fault(&self) -> Fault {
        let code = match self {
            MessageError::Denied(_) | MessageError::Subject(SubjectError::Reserved(_)) => Code::Denied,
            MessageError::Subject(_) => Code::Invalid(String::new()),
            MessageError::TooLarge { .. } => Code::TooLarge(0),
            MessageError::NoTime => Code::Timeout,
            MessageError::Unreachable(_) => Code::Disconnected,
            MessageError::NoResponders(_) => Code::NoResponders,
            MessageError::NoReply { .. } => return Fault::of(&Code::Timeout, Known::Maybe),
            MessageError::Lost => return Fault::of(&Code::Disconnected, Known::Maybe),
        };
        Fault::of(&code, Known::DefinitelyNot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::id::Revision;
    use std::time::Duration;

    #[track_caller]
    fn check(faulty: &impl Faulty, error: &str, outcome: &str) {
        let fault = faulty.fault();
        assert_eq!((fault.error, fault.outcome.as_str()), (error, outcome));
    }

    #[test]
    fn denied_timeouts_and_what_may_have_happened_are_told_apart() {
        for (code, error, not, maybe) in [
            (Code::Denied, "denied", "denied", "denied"),
            (Code::Timeout, "timeout", "timeout", "timeout-maybe"),
            (Code::Disconnected, "disconnected", "failed", "failed-maybe"),
            (Code::WrongRevision, "wrong-revision", "conflict", "failed-maybe"),
            (Code::AlreadyExists(Revision(7)), "already-exists", "conflict", "failed-maybe"),
            (Code::AlreadySettled, "already-settled", "conflict", "failed-maybe"),
            (Code::Invalid("key of a guest".into()), "invalid", "failed", "failed-maybe"),
            (Code::Jetstream(10_071), "jetstream", "failed", "failed-maybe"),
        ] {
            check(&Failure::not(code.clone(), "x"), error, not);
            check(&Failure::maybe(code.clone(), "x"), error, maybe);
            check(&Failure::maybe(code, "x").of_read(), error, not);
        }
    }

    #[test]
    fn what_the_portable_interfaces_tell_is_called_the_same() {
        check(&BucketError::Absent("b".into()), "not-found", "failed");
        check(&BucketError::Conflict, "wrong-revision", "conflict");
        check(&BucketError::OutcomeUnknown, "timeout", "timeout-maybe");
        assert_eq!(BucketError::OutcomeUnknown.fault().of_read().outcome, Outcome::Timeout);
        check(&BucketError::Unreachable("x".into()), "disconnected", "failed");
        check(&MessageError::Denied("x".into()), "denied", "denied");
        let reserved = "$SYS.x".parse::<lattice::spec::Subject>().unwrap_err();
        check(&MessageError::Subject(reserved), "denied", "denied");
        let malformed = "a b".parse::<lattice::spec::Subject>().unwrap_err();
        check(&MessageError::Subject(malformed), "invalid", "failed");
        check(&MessageError::NoTime, "timeout", "timeout");
        check(&MessageError::NoReply { subject: "x".into(), after: Duration::ZERO }, "timeout", "timeout-maybe");
        check(&MessageError::Lost, "disconnected", "failed-maybe");
        check(&MessageError::NoResponders("x".into()), "no-responders", "failed");
    }
}
