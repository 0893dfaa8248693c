//! Which node a client is bound to: the one that ranks highest for what the client always sends ("rendezvous" or "highest
//! random weight" hashing). All nodes agree without a word. Where a node goes, only its own clients move; where one comes,
//! it takes its share from all others alike.

use lattice::id::NodeId;

/// FNV-1a, and the finalizer of MurmurHash3, so that few bytes reach all digits. It must never change: nodes of several
/// versions have to agree.
pub fn hash(bytes: &[u8]) -> u64 {
    mix(bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)))
}

pub(crate) fn mix(bits: u64) -> u64 {
    let mixed = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

/// Replicas of a node that count: more of them would cost more than they even out.
const SLOTS_MAX: u32 = 16;

/// How a node ranks for a key: the better, the more replicas it has.
fn rank(key: u64, node: &NodeId, slots: u32) -> u64 {
    let node = hash(node.as_str().as_bytes());
    (0..slots.min(SLOTS_MAX)).map(|slot| mix(key ^ mix(node.wrapping_add(slot.into())))).max().unwrap_or(0)
}

/// The node that ranks highest, with so many replicas each.
pub(crate) fn highest<'a>(key: u64, nodes: impl Iterator<Item = (&'a NodeId, u32)>) -> Option<&'a NodeId> {
    let ranked = nodes.filter(|(_, slots)| *slots > 0).map(|(node, slots)| (rank(key, node, slots), node));
    ranked.max().map(|(_, node)| node)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 4000;

    fn nodes(names: &[&str]) -> Vec<NodeId> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn of(key: u64, nodes: &[NodeId], slots: u32) -> &NodeId {
        highest(hash(&key.to_le_bytes()), nodes.iter().map(|node| (node, slots))).unwrap()
    }

    #[test]
    fn only_the_clients_of_a_node_that_goes_move() {
        let all = nodes(&["n1", "n2", "n3", "n4"]);
        let left = nodes(&["n1", "n2", "n4"]);
        for key in 0..KEYS {
            let before = of(key, &all, 1);
            let after = of(key, &left, 1);
            assert!(before == after || before.as_str() == "n3", "{key}");
        }
        for node in &all {
            let share = (0..KEYS).filter(|key| of(*key, &all, 1) == node).count() as f64 / KEYS as f64;
            assert!((0.22..0.28).contains(&share), "{node} has {share}");
        }
    }

    #[test]
    fn more_replicas_have_more_clients() {
        let (one, three) = ("n1".parse().unwrap(), "n2".parse().unwrap());
        let with_three = |key: &u64| {
            let nodes = [(&one, 1), (&three, 3)].into_iter();
            highest(hash(&key.to_le_bytes()), nodes) == Some(&three)
        };
        let share = (0..KEYS).filter(with_three).count() as f64 / KEYS as f64;
        assert!((0.71..0.79).contains(&share), "{share}");
        assert_eq!(highest(7, [(&one, 0)].into_iter()), None);
    }

    #[test]
    fn nodes_of_all_versions_agree() {
        let all = nodes(&["n1", "n2", "n3", "n4"]);
        let picked: Vec<&str> = (0..8).map(|key| of(key, &all, 2).as_str()).collect();
        assert_eq!(picked, PINNED);
    }

    const PINNED: [&str; 8] = ["n2", "n3", "n2", "n2", "n1", "n2", "n2", "n3"];
}
