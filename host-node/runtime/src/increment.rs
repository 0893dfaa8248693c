//! Numbers that several write at a time: exact, by compare-and-set.

use bytes::Bytes;
use lattice::id::Revision;
use std::time::Duration;

/// Between two tries to add where another one wrote meanwhile: up to so long, and twice as long each time.
const BACKOFF: Duration = Duration::from_millis(1);
const BACKOFFS_MAX: u32 = 6;
/// Tries to add. The one whose write is taken is never late, so this is reached under attack only.
const TRIES_MAX: u32 = 1_000;

/// Where a number is kept.
pub(crate) trait Cell {
    type Error;
    /// What is there, and at which revision.
    async fn read(&self) -> Result<Option<(Bytes, Revision)>, Self::Error>;
    /// Write if it is still at this revision, or, with `None`, if there is nothing. `false`: another writer was first.
    async fn write(&self, value: Bytes, at: Option<Revision>) -> Result<bool, Self::Error>;
}

/// Why nothing was added.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddError<E> {
    #[error("the value is not a number of 64 bits in decimal digits")]
    NotANumber,
    #[error("the sum has more than 64 bits")]
    TooLarge,
    #[error("{TRIES_MAX} other writers were quicker")]
    Contended,
    #[error("the store failed")]
    Store(E),
}

/// Add to the number, written in decimal digits; nothing counts as 0. Of any number of callers on any number of nodes each
/// sees its own sum.
pub(crate) async fn add<C: Cell>(cell: &C, delta: u64) -> Result<u64, AddError<C::Error>> {
    for tries in 0..TRIES_MAX {
        let (number, at): (u64, Option<Revision>) = match cell.read().await.map_err(AddError::Store)? {
            None => (0, None),
            Some((digits, revision)) => {
                let digits = std::str::from_utf8(&digits).map_err(|_| AddError::NotANumber)?;
                (digits.parse().map_err(|_| AddError::NotANumber)?, Some(revision))
            }
        };
        let sum = number.checked_add(delta).ok_or(AddError::TooLarge)?;
        if cell.write(Bytes::from(sum.to_string()), at).await.map_err(AddError::Store)? {
            return Ok(sum);
        }
        let most = BACKOFF * (1 << tries.min(BACKOFFS_MAX));
        tokio::time::sleep(most.mul_f64(rand::random())).await;
    }
    Err(AddError::Contended)
}
