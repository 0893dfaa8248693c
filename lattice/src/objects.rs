//! Object stores as guests use them: the trait behind which a JetStream object store stands, whoever asks for it. Objects
//! are read and written piece by piece, so that nobody has a whole one in memory. What is known of an operation that
//! failed is said as in [`crate::nats`].

use crate::{
    Fut,
    id::Revision,
    limits::one_line,
    nats::{Code, Failure, Feed},
};
use bytes::Bytes;

/// Longest name of an object. In the letters that NATS has for it, it is four thirds of that.
pub const NAME_BYTES_MAX: usize = 1024;
/// Bytes of each message that an object is written in, but for the last one; less where a message can't be as long. It is
/// what other clients of NATS write.
pub const CHUNK_BYTES: usize = 128 << 10;
/// Chunks of an object that may be on their way to the server, unacknowledged.
pub const CHUNKS_ON_THEIR_WAY_MAX: usize = 4;

/// An object as it was when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub name: String,
    pub size: u64,
    /// `SHA-256=` and the digest in base64, where who wrote it said so.
    pub digest: Option<String>,
    /// Nanoseconds since 1970, by the server's clock.
    pub modified: u64,
    /// Grows with each change in the store.
    pub revision: Revision,
    /// Which bytes: what is written under the same name later has others.
    pub content: String,
}

/// Bytes of an object that is being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Bytes(Bytes),
    /// It is whole, and to be seen. Where there is no more without this, it never is.
    End,
}

/// What comes in until it ends or fails; a failure is the last that comes.
pub type TryFeed<T> = Box<dyn Feed<Result<T, Failure>>>;

/// An open object store.
pub trait Objects: Send + Sync + 'static {
    /// When it was made: nanoseconds since 1970.
    fn created(&self) -> u64;
    /// Bytes that one reading of an object holds at most.
    fn reading_bytes_max(&self) -> usize;
    /// The object, from the store's leader: not older than any write acknowledged before. Of a link within the store what
    /// it leads to.
    fn object(&self, name: &str) -> Fut<'_, Result<Option<Object>, Failure>>;
    /// Its bytes from one offset up to before another, in order. Where all are read and there is a digest, a failure in
    /// the place of the end says that they are not those. So does one where the object was replaced or deleted meanwhile.
    fn read(&self, object: &Object, from: u64, to: u64) -> Fut<'_, Result<TryFeed<Bytes>, Failure>>;
    /// Write an object, seen as a whole at the end or not at all; it takes the place of one that is there. Of several
    /// writers the one that ends last wins.
    fn write(&self, name: &str, pieces: Box<dyn Feed<Piece>>) -> Fut<'_, Result<Object, Failure>>;
    /// Whether there was one.
    fn delete(&self, name: &str) -> Fut<'_, Result<bool, Failure>>;
    /// The objects, in the order of their last changes. It is whole where it ends without an error.
    fn list(&self) -> Fut<'_, Result<TryFeed<Object>, Failure>>;
}

/// Whether an object can be called that: any text but none, and not too long.
pub fn check_name(name: &str) -> Result<(), Failure> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(());
    }
    let text = format!("{:?} is no name of an object: 1 to {NAME_BYTES_MAX} bytes", one_line(name, 64));
    Err(Failure::not(Code::Invalid("name".into()), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_a_name_but_none() {
        for name in ["a", "a/b c.d", "ü", ">", "..", &"n".repeat(NAME_BYTES_MAX)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for bad in ["", &"n".repeat(NAME_BYTES_MAX + 1)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
