//! The nodes by number. A name is looked up once; after that a node is a place in a list, which it keeps for good.

use crate::hash;
use lattice::{
    id::{NodeId, Revision},
    record::Session,
};
use std::collections::BTreeMap;

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
