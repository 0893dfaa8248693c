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
use std::{collections::BTreeSet, time::Duration};

/// Longest name of an object. In the letters that NATS has for it, it is four thirds of that.
pub const NAME_BYTES_MAX: usize = 1024;
/// Bytes of each message that an object is written in, but for the last one; less where a message can't be as long. It is
/// what other clients of NATS write.
pub const CHUNK_BYTES: usize = 128 << 10;
/// Chunks of an object that may be on their way to the server, unacknowledged.
pub const CHUNKS_ON_THEIR_WAY_MAX: usize = 4;

/// What is said of an object: a description, and so much by names.
pub const DESCRIPTION_BYTES_MAX: usize = 1 << 10;
pub const METADATA_MAX: usize = 64;
pub const METADATA_BYTES_MAX: usize = 16 << 10;

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
    pub about: About,
    /// The object that it stands for.
    pub link: Option<String>,
}

impl Object {
    /// What it takes while it waits for its reader.
    pub fn bytes(&self) -> usize {
        let Self { name, digest, content, about, link, .. } = self;
        let texts = [Some(name), digest.as_ref(), Some(content), link.as_ref()];
        about.bytes() + texts.into_iter().flatten().map(String::len).sum::<usize>()
    }
}

/// What its writer says of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    pub description: Option<String>,
    /// By names that differ.
    pub metadata: Vec<(String, String)>,
}

impl About {
    fn bytes(&self) -> usize {
        let named: usize = self.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.description.as_ref().map_or(0, String::len) + named
    }

    /// Whether a description of an object has room for it.
    pub fn check(&self) -> Result<(), Failure> {
        let invalid = |text: String| Err(Failure::not(Code::Invalid("options".into()), text));
        if self.description.as_ref().is_some_and(|text| text.len() > DESCRIPTION_BYTES_MAX) {
            return invalid(format!("a description is at most {DESCRIPTION_BYTES_MAX} bytes"));
        }
        if self.metadata.len() > METADATA_MAX || self.bytes() > METADATA_BYTES_MAX {
            return invalid(format!("metadata is at most {METADATA_MAX} values and {METADATA_BYTES_MAX} bytes"));
        }
        let names: BTreeSet<&String> = self.metadata.iter().map(|(name, _)| name).collect();
        if names.len() < self.metadata.len() {
            return invalid("a name is twice in the metadata".to_owned());
        }
        Ok(())
    }
}

/// How an object is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Put {
    pub about: About,
    pub expect: Expect,
}

/// What must be so for a change of an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Expect {
    #[default]
    Anything,
    /// There is none of that name.
    Absent,
    /// The last change has this revision.
    At(Revision),
}

impl Expect {
    /// Of what is there: the last change, and whether that is an object still.
    pub fn check(self, last: Option<(Revision, bool)>) -> Result<(), Failure> {
        match (self, last) {
            (Self::Absent, Some((revision, true))) => {
                Err(Failure::not(Code::AlreadyExists(revision), "there is an object of that name"))
            }
            (Self::At(expected), last) if last.map(|(revision, _)| revision) != Some(expected) => {
                Err(Failure::not(Code::WrongRevision, "the object was changed by another writer"))
            }
            _ => Ok(()),
        }
    }
}

/// How a store is configured, and what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreInfo {
    pub replicas: u32,
    pub in_memory: bool,
    /// Zero where nothing expires.
    pub max_age: Duration,
    /// 0 where there is no limit.
    pub bytes_max: u64,
    pub bytes: u64,
}

/// What is told of the changes of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectEvent {
    Changed(Object),
    /// The object of this name is gone.
    Deleted(String),
    CaughtUp,
    /// Changes may have been missed; all objects follow.
    Resynchronised,
    /// The last event.
    Failed(Failure),
}

impl ObjectEvent {
    /// What it takes while it waits for its reader.
    pub fn bytes(&self) -> usize {
        match self {
            ObjectEvent::Changed(object) => object.bytes(),
            ObjectEvent::Deleted(name) => name.len(),
            _ => 0,
        }
    }
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
    /// writers that expect nothing the one that ends last wins. What is expected must be so at the end.
    fn write(&self, name: &str, put: Put, pieces: Box<dyn Feed<Piece>>) -> Fut<'_, Result<Object, Failure>>;
    /// Whether there was one.
    fn delete(&self, name: &str, expect: Expect) -> Fut<'_, Result<bool, Failure>>;
    /// Have a name stand for another object, which is there and none itself.
    fn link(&self, name: &str, to: &str) -> Fut<'_, Result<(), Failure>>;
    /// The objects, in the order of their last changes. It is whole where it ends without an error.
    fn list(&self) -> Fut<'_, Result<TryFeed<Object>, Failure>>;
    /// Changes from now on, or behind all that there is.
    fn watch(&self, state_first: bool) -> Fut<'_, Result<Box<dyn Feed<ObjectEvent>>, Failure>>;
    /// As the leader says now.
    fn info(&self) -> Fut<'_, Result<StoreInfo, Failure>>;
    /// Whether what is expected is so now, of a name that can be one.
    fn check(&self, name: &str, expect: Expect) -> Fut<'_, Result<(), Failure>>;
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

    #[test]
    fn what_is_expected_is_of_the_last_change() {
        let (one, two) = (Revision(1), Revision(2));
        for (expect, last, outcome) in [
            (Expect::Anything, Some((one, true)), None),
            (Expect::Absent, None, None),
            (Expect::Absent, Some((one, false)), None),
            (Expect::Absent, Some((one, true)), Some(Code::AlreadyExists(one))),
            (Expect::At(one), Some((one, true)), None),
            // A deletion is a change as well.
            (Expect::At(one), Some((one, false)), None),
            (Expect::At(one), Some((two, true)), Some(Code::WrongRevision)),
            (Expect::At(one), None, Some(Code::WrongRevision)),
        ] {
            assert_eq!(expect.check(last).err().map(|failure| failure.code), outcome, "{expect:?} {last:?}");
        }
    }

    #[test]
    fn what_is_said_of_an_object_is_bounded() {
        let about = |description: usize, metadata: &[(&str, usize)]| About {
            description: Some("d".repeat(description)),
            metadata: metadata.iter().map(|(name, length)| ((*name).to_owned(), "v".repeat(*length))).collect(),
        };
        assert_eq!(about(DESCRIPTION_BYTES_MAX, &[("a", 1), ("b", 10_000)]).check(), Ok(()));
        assert!(about(DESCRIPTION_BYTES_MAX + 1, &[]).check().is_err());
        assert!(about(0, &[("a", METADATA_BYTES_MAX)]).check().is_err());
        assert!(about(0, &[("a", 1), ("a", 2)]).check().is_err());
        let names: Vec<String> = (0..=METADATA_MAX).map(|n| n.to_string()).collect();
        let many: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        assert!(about(0, &many).check().is_err() && about(0, &many[1..]).check().is_ok());
    }
}
