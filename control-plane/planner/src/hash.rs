//! The rendezvous hash: where two nodes are equal, every node finds the same one first, and another one for another slot.

use lattice::id::{NodeId, SlotId, WorkloadName};
use std::fmt;

/// Weight of a node for a slot in rendezvous hashing: the least wins. Each name has a weight of its own, and two of them
/// meet in one mix, so that a plan for many slots and nodes hashes each name once. All nodes must compute the same value
/// whatever their version: changing this is a change of protocol.
pub(crate) fn rendezvous(slot: &SlotId, node: &NodeId) -> u64 {
    meet(SlotWeights::of(&slot.workload).weight(slot.index), weight(node))
}

#[inline]
pub(crate) fn meet(slot: u64, node: u64) -> u64 {
    mix(slot ^ node)
}

/// FNV-1a (64 bits) over the text, then [`mix`], since the last bytes alone hardly move FNV's upper bits.
pub(crate) fn weight(node: &NodeId) -> u64 {
    mix(Fnv::new(node).0)
}

/// The weights of a workload's slots: what all of them begin with is hashed once.
#[derive(Clone, Copy)]
pub(crate) struct SlotWeights(Fnv);

impl SlotWeights {
    pub(crate) fn of(workload: &WorkloadName) -> Self {
        Self(Fnv::new(&format_args!("{workload}.")))
    }

    pub(crate) fn weight(self, index: u32) -> u64 {
        let mut digits = [0; 10];
        let mut first = digits.len();
        let mut rest = index;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            (rest, first) = (rest / 10, first - 1);
            if rest == 0 {
                break;
            }
        }
        mix(self.0.over(digits.get(first..).unwrap_or_default()).0)
    }
}

#[derive(Clone, Copy)]
struct Fnv(u64);

impl Fnv {
    fn new(text: &impl fmt::Display) -> Self {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        // Hashing cannot fail.
        let _ = fmt::write(&mut hash, format_args!("{text}"));
        hash
    }

    fn over(self, bytes: &[u8]) -> Self {
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        Self(bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME)))
    }
}

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        *self = self.over(text.as_bytes());
        Ok(())
    }
}

/// The finaliser of SplitMix64.
#[inline]
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
