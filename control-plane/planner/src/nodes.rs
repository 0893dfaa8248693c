//! The nodes by number. A name is looked up once; after that a node is a place in a list, which it keeps for good.

use crate::hash;
use lattice::{
    id::{Digest, NodeId, Revision},
    record::Session,
};
use std::collections::{BTreeMap, BTreeSet};

/// A node's place. What a plan says must not depend on it: it follows from the order in which nodes were first heard of.
pub(crate) type Place = usize;

#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) node: NodeId,
    pub(crate) weight: u64,
    /// None while the node is dead, or was never seen alive. It says `draining` as well where an operator wants it empty.
    pub(crate) session: Option<Session>,
    pub(crate) cordoned: bool,
    /// Of the order to drain it, where that is the only reason for `draining`: it is in no hurry then.
    pub(crate) drained_since: Option<Revision>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Nodes {
    accounts: Vec<Account>,
    places: BTreeMap<NodeId, Place>,
    /// Living nodes that have compiled code of a component, by its mark.
    warm: BTreeMap<u32, BTreeSet<Place>>,
}

impl Nodes {
    /// The place of a node, made if it has none.
    pub(crate) fn place(&mut self, node: &NodeId) -> Place {
        if let Some(place) = self.find(node) {
            return place;
        }
        let place = self.accounts.len();
        let account = Account {
            node: node.clone(),
            weight: hash::weight(node),
            session: None,
            cordoned: false,
            drained_since: None,
        };
        self.accounts.push(account);
        self.places.insert(node.clone(), place);
        place
    }

    pub(crate) fn find(&self, node: &NodeId) -> Option<Place> {
        self.places.get(node).copied()
    }

    pub(crate) fn get(&self, place: Place) -> Option<&Account> {
        self.accounts.get(place)
    }

    pub(crate) fn get_mut(&mut self, place: Place) -> Option<&mut Account> {
        self.accounts.get_mut(place)
    }

    /// What a node says of itself, or nothing while it is dead.
    pub(crate) fn seat(&mut self, place: Place, session: Option<Session>) {
        let Some(account) = self.accounts.get_mut(place) else { return };
        let before = std::mem::replace(&mut account.session, session);
        let marks =
            |session: &Option<Session>| session.as_ref().map(|session| session.compiled.clone()).unwrap_or_default();
        let (before, after) = (marks(&before), marks(&account.session));
        if before == after {
            return;
        }
        for mark in before.marks() {
            if let Some(places) = self.warm.get_mut(mark) {
                places.remove(&place);
                if places.is_empty() {
                    self.warm.remove(mark);
                }
            }
        }
        for mark in after.marks() {
            self.warm.entry(*mark).or_default().insert(place);
        }
    }

    /// By place, which nodes have compiled code of all these components. Empty where none has.
    pub(crate) fn warm(&self, digests: impl Iterator<Item = Digest>) -> Vec<bool> {
        let mut warm = Vec::new();
        for (digest, is_first) in digests.zip(std::iter::once(true).chain(std::iter::repeat(false))) {
            let Some(places) = self.warm.get(&digest.mark()) else { return Vec::new() };
            let has = |place: &Place| places.contains(place);
            if is_first {
                warm = vec![false; self.accounts.len()];
                for place in places {
                    warm.get_mut(*place).into_iter().for_each(|is_warm| *is_warm = true);
                }
            } else {
                (0..).zip(&mut warm).for_each(|(place, is_warm)| *is_warm &= has(&place));
            }
        }
        warm
    }

    pub(crate) fn session(&self, place: Place) -> Option<&Session> {
        self.accounts.get(place)?.session.as_ref()
    }

    pub(crate) fn id(&self, place: Place) -> Option<&NodeId> {
        self.accounts.get(place).map(|account| &account.node)
    }

    /// Places that were ever given away.
    pub(crate) fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Those alive, in the order of their ids.
    pub(crate) fn live(&self) -> impl Iterator<Item = (Place, &Account, &Session)> {
        let account = |place: &Place| {
            let account = self.accounts.get(*place)?;
            Some((*place, account, account.session.as_ref()?))
        };
        self.places.values().filter_map(account)
    }
}
