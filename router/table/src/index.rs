//! Values by text: made at once, and then only looked up. A look-up costs the same among ten keys and among a hundred
//! thousand, but for what is not in the processor's caches. The order is that of the hashes, the same on every node.

use std::cmp::Ordering;

/// So few entries are searched without buckets: they are one or two cache lines apart.
const WITHOUT_BUCKETS: usize = 8;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Index<V> {
    /// By hash, and by key where hashes are equal: whoever makes up keys with one hash costs steps of a binary search.
    entries: Box<[Entry<V>]>,
    /// Of each bucket its first entry, and behind the last one the number of entries. Empty where there are few.
    starts: Box<[u32]>,
}

/// The hash stands beside the key, so that a look-up reads the text of one key only.
#[derive(Debug, Clone, PartialEq)]
struct Entry<V> {
    hash: u64,
    key: Box<str>,
    value: V,
}

impl<V> Default for Index<V> {
    fn default() -> Self {
        Self { entries: Box::default(), starts: Box::default() }
    }
}

/// Of keys that differ.
impl<V> FromIterator<(Box<str>, V)> for Index<V> {
    fn from_iter<I: IntoIterator<Item = (Box<str>, V)>>(values: I) -> Self {
        let entries = values.into_iter().map(|(key, value)| Entry { hash: hash(&key), key, value });
        let mut entries: Box<[Entry<V>]> = entries.collect();
        entries.sort_unstable_by(|one, other| one.compare(other.hash, &other.key));
        let starts = if entries.len() > WITHOUT_BUCKETS { starts(&entries) } else { Box::default() };
        Self { entries, starts }
    }
}

impl<V> Index<V> {
    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        if self.entries.is_empty() {
            return None;
        }
        let hash = hash(key);
        let bucket = match self.starts.len().checked_sub(1) {
            None => &*self.entries,
            Some(buckets) => {
                let bucket = bucket(hash, buckets);
                let (from, to) = (*self.starts.get(bucket)?, *self.starts.get(bucket + 1)?);
                self.entries.get(from as usize..to as usize)?
            }
        };
        let at = bucket.binary_search_by(|entry| entry.compare(hash, key)).ok()?;
        bucket.get(at).map(|entry| &entry.value)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.iter().map(|entry| &entry.value)
    }
}

impl<V> Entry<V> {
    fn compare(&self, hash: u64, key: &str) -> Ordering {
        self.hash.cmp(&hash).then_with(|| (*self.key).cmp(key))
    }
}

/// One bucket for each entry, up to the next power of two.
fn starts<V>(entries: &[Entry<V>]) -> Box<[u32]> {
    let buckets = entries.len().next_power_of_two();
    let mut starts = vec![0_u32; buckets + 1].into_boxed_slice();
    for entry in entries {
        if let Some(behind) = starts.get_mut(bucket(entry.hash, buckets) + 1) {
            *behind += 1;
        }
    }
    let mut sum = 0;
    for start in &mut starts {
        sum += *start;
        *start = sum;
    }
    starts
}

/// By the first digits of the hash, so that entries of one bucket stand together. `buckets` is a power of two.
fn bucket(hash: u64, buckets: usize) -> usize {
    ((u128::from(hash) * buckets as u128) >> u64::BITS) as usize
}

/// Eight bytes at a time, each of them folded in by one multiplication whose upper half is kept (as wyhash has it). It holds
/// within a process only: nothing is agreed on by it.
fn hash(text: &str) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let fold = |state: u64, word: u64| {
        let product = u128::from(state ^ word) * u128::from(MULTIPLIER);
        product as u64 ^ (product >> u64::BITS) as u64
    };
    let (words, rest) = text.as_bytes().as_chunks::<8>();
    let state = (text.len() as u64).wrapping_add(0xa076_1d64_78bd_642f);
    let state = words.iter().fold(state, |state, word| fold(state, u64::from_le_bytes(*word)));
    let last = rest.iter().fold(0, |last, byte| (last << 8) | u64::from(*byte));
    fold(fold(state, last), MULTIPLIER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_is_a_map(map in proptest::collection::btree_map("[a-c./]{0,12}", any::<u8>(), 0..60), asked in "[a-c./]{0,12}") {
            let index: Index<u8> = map.iter().map(|(key, value)| (key.as_str().into(), *value)).collect();
            for key in map.keys().chain([&asked]) {
                prop_assert_eq!(index.get(key), map.get(key));
            }
            let values: BTreeMap<u8, usize> = count(map.values());
            prop_assert_eq!(count(index.values()), values);
            prop_assert_eq!(index.is_empty(), map.is_empty());
        }
    }

    fn count<'a>(values: impl Iterator<Item = &'a u8>) -> BTreeMap<u8, usize> {
        values.fold(BTreeMap::new(), |mut counts, value| {
            *counts.entry(*value).or_default() += 1;
            counts
        })
    }

    #[test]
    fn names_that_are_alike_are_spread() {
        let index: Index<u32> = (0..100_000).map(|n| (format!("shop-{n}.example.org").into(), n)).collect();
        let sizes = index.starts.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(sizes.max().unwrap() < 16, "a bucket has as many as chance gives it");
        for n in [0, 1, 17, 99_999] {
            assert_eq!(index.get(&format!("shop-{n}.example.org")), Some(&n));
        }
        assert_eq!(index.get("shop-100000.example.org"), None);
    }

    #[test]
    fn equal_hashes_are_told_apart() {
        let entry = |key: &str, value| Entry { hash: 7, key: key.into(), value };
        let index = Index { entries: [entry("a", 1), entry("b", 2)].into(), starts: Box::default() };
        assert_eq!(index.entries[0].compare(7, "b"), Ordering::Less);
        let found = index.entries.binary_search_by(|entry| entry.compare(7, "b"));
        assert_eq!(found.map(|at| index.entries[at].value), Ok(2));
    }
}
