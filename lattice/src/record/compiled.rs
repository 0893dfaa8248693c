//! Which components a node has ready, in few bytes: every renewal of its session carries them.

use crate::id::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, sync::Arc};

/// Components that a node names: those that it used last.
pub const COMPILED_MAX: usize = 32;

/// Components of which a node has compiled code. Of each digest the first 32 bits are told: where two are the same, a node
/// is preferred for nothing, and no more than that. Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Compiled(Arc<[u32]>);

impl Compiled {
    /// By their marks. Beyond [`COMPILED_MAX`] they are left out.
    pub fn new(marks: impl IntoIterator<Item = u32>) -> Self {
        let mut marks: Vec<u32> = marks.into_iter().take(COMPILED_MAX).collect();
        marks.sort_unstable();
        marks.dedup();
        Self(marks.into())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In ascending order.
    pub fn marks(&self) -> &[u32] {
        &self.0
    }
}

impl Digest {
    /// The first 32 bits.
    pub fn mark(&self) -> u32 {
        let [a, b, c, d, ..] = *self.as_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|mark| format!("{mark:08x}"))).finish()
    }
}

impl Serialize for Compiled {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|mark| format!("{mark:08x}")))
    }
}

impl<'de> Deserialize<'de> for Compiled {
    /// What is no mark is left out: it is a hint, and a peer's word.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let marks = Vec::<String>::deserialize(deserializer)?;
        Ok(Self::new(marks.iter().filter_map(|mark| u32::from_str_radix(mark, 16).ok())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_reads_what_it_writes() {
        let digest = Digest::of(b"one");
        assert!(digest.to_hex().starts_with(&format!("{:08x}", digest.mark())));
        let compiled = Compiled::new([digest.mark(), 7, 7, 1]);
        let text = serde_json::to_string(&compiled).unwrap();
        assert_eq!(serde_json::from_str::<Compiled>(&text).unwrap(), compiled);
        assert_eq!((compiled.marks().len(), compiled.marks()[0]), (3, 1));
        let read: Compiled = serde_json::from_str(r#"["00000007","x","123456789",""]"#).unwrap();
        assert_eq!(read, Compiled::new([7]));
        assert_eq!(Compiled::new(0..1000).marks().len(), COMPILED_MAX);
    }
}
