//! Why a call failed: more than the interface has words for, since it is counted too.

use super::store::Error;
use crate::{
    increment::AddError,
    operations::{Fault, Faulty, Outcome},
};
use lattice::{
    bucket::BucketError,
    nats::{Code, Failure},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failed {
    /// Nothing is granted under the name.
    NoGrant,
    /// A change of what is granted to be read only.
    ReadOnly,
    Bucket(BucketError),
    /// What was asked for can't be.
    Invalid(String),
    /// The replica ends.
    Ends,
}

impl From<BucketError> for Failed {
    fn from(error: BucketError) -> Self {
        Failed::Bucket(error)
    }
}

impl From<AddError<BucketError>> for Failed {
    fn from(error: AddError<BucketError>) -> Self {
        match error {
            AddError::Store(error) => error.into(),
            AddError::Contended => BucketError::Conflict.into(),
            error => Failed::Invalid(error.to_string()),
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::NoGrant | Failed::Bucket(BucketError::Absent(_)) => Error::NoSuchStore,
            Failed::ReadOnly => Error::AccessDenied,
            Failed::Bucket(error) => Error::Other(error.to_string()),
            Failed::Invalid(text) => Error::Other(text),
            Failed::Ends => Error::Other("the replica ends".into()),
        }
    }
}

impl Faulty for Failed {
    fn fault(&self) -> Fault {
        match self {
            Failed::NoGrant | Failed::ReadOnly => Fault { error: Code::Denied.as_str(), outcome: Outcome::Denied },
            Failed::Bucket(error) => error.fault(),
            Failed::Invalid(_) => Failure::not(Code::Invalid(String::new()), "").fault(),
            Failed::Ends => Failure::not(Code::Other, "").fault(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_interface_has_one_word_for_is_counted_apart() {
        for (failed, error, outcome) in [
            (Failed::NoGrant, "denied", Outcome::Denied),
            (Failed::ReadOnly, "denied", Outcome::Denied),
            (BucketError::Absent("b".into()).into(), "not-found", Outcome::Failed),
            (BucketError::OutcomeUnknown.into(), "timeout", Outcome::TimeoutMaybe),
            (AddError::Contended.into(), "wrong-revision", Outcome::Conflict),
            (AddError::NotANumber.into(), "invalid", Outcome::Failed),
            (Failed::Ends, "other", Outcome::Failed),
        ] {
            assert_eq!(failed.fault(), Fault { error, outcome }, "{failed:?}");
        }
    }
}
