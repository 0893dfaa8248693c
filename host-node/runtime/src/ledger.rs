//! What a node has a bounded number of, and who has how much of it: places of instances, bytes of memory. Half of it is
//! divided evenly among the units that run here and kept for them, the other half is for whoever comes first. So one unit
//! that takes whatever it can get leaves the others room to go on, and one that is alone may have nearly everything.

use crate::{computing::Share, gpu::Workspace, limits::NodeMemory, lock};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

/// What one unit has of its node.
pub(crate) struct NodeShare {
    /// Of the workload: all its units together.
    pub(crate) processors: Arc<Share>,
    /// Instances, those of its parts too.
    pub(crate) places: Arc<Account>,
    pub(crate) memory: NodeMemory,
    /// `None`: nobody in it uses GPUs, or there are none.
    pub(crate) gpu: Option<Arc<Workspace>>,
}

/// The amount, and its accounts.
pub(crate) struct Ledger(Mutex<Book>);

struct Book {
    total: u64,
    used: u64,
    /// Kept for units that do not use it.
    kept: u64,
    accounts: BTreeMap<u64, Entry>,
    next: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    used: u64,
    /// It never uses more.
    most: u64,
    /// Its own, used or not.
    own: u64,
}

impl Entry {
    fn kept(&self) -> u64 {
        self.own.saturating_sub(self.used)
    }
}

impl Ledger {
    pub(crate) fn new(total: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Book { total, used: 0, kept: 0, accounts: BTreeMap::new(), next: 0 })))
    }

    /// For one more unit, which never uses more than `most`.
    pub(crate) fn open(self: &Arc<Self>, most: u64) -> Arc<Account> {
        let mut book = lock(&self.0);
        let id = book.next;
        book.next += 1;
        book.accounts.insert(id, Entry { used: 0, most, own: 0 });
        book.divide();
        Arc::new(Account { ledger: self.clone(), id })
    }

    pub(crate) fn total(&self) -> u64 {
        lock(&self.0).total
    }

    pub(crate) fn used(&self) -> u64 {
        lock(&self.0).used
    }
}

impl Book {
    /// Anew, since there is one unit more or less. Who has more than its own then gives it back in its own time.
    fn divide(&mut self) {
        let each = self.total / 2 / (self.accounts.len() as u64).max(1);
        let mut kept = 0u64;
        for entry in self.accounts.values_mut() {
            entry.own = each.min(entry.most);
            kept = kept.saturating_add(entry.kept());
        }
        self.kept = kept;
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.accounts.get_mut(&id) else { return };
        let before = *entry;
        change(entry);
        self.used = self.used.saturating_sub(before.used).saturating_add(entry.used);
        self.kept = self.kept.saturating_sub(before.kept()).saturating_add(entry.kept());
    }
}

/// What one unit has. Closed with its last clone, and what was taken is given back before.
pub(crate) struct Account {
    ledger: Arc<Ledger>,
    id: u64,
}

impl Account {
    /// False where so much is neither free nor kept for this unit.
    pub(crate) fn take(&self, amount: u64) -> bool {
        let mut book = lock(&self.ledger.0);
        let Some(entry) = book.accounts.get(&self.id) else { return false };
        let for_others = book.kept.saturating_sub(entry.kept());
        let free = book.total.saturating_sub(book.used).saturating_sub(for_others);
        if amount > free {
            return false;
        }
        book.change(self.id, |entry| entry.used = entry.used.saturating_add(amount));
        true
    }

    pub(crate) fn give_back(&self, amount: u64) {
        lock(&self.ledger.0).change(self.id, |entry| entry.used = entry.used.saturating_sub(amount));
    }

    /// True if what this unit gives back is of use to that one: both are the same, or this one has more than its own.
    pub(crate) fn may_give_to(&self, other: &Account) -> bool {
        let has_more = || lock(&self.ledger.0).accounts.get(&self.id).is_some_and(|entry| entry.used > entry.own);
        self.id == other.id || has_more()
    }

    /// One of what is counted, until it is dropped.
    pub(crate) fn take_one(self: &Arc<Self>) -> Option<One> {
        self.take(1).then(|| One(self.clone()))
    }

    /// What there is, of all units.
    pub(crate) fn total(&self) -> u64 {
        self.ledger.total()
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut book = lock(&self.ledger.0);
        book.change(self.id, |entry| entry.used = 0);
        book.accounts.remove(&self.id);
        book.divide();
    }
}

/// One of what a ledger counts.
pub(crate) struct One(Arc<Account>);

impl Drop for One {
    fn drop(&mut self) {
        self.0.give_back(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_alone_may_have_everything() {
        let ledger = Ledger::new(10);
        let one = ledger.open(u64::MAX);
        assert!(one.take(10));
        assert!(!one.take(1));
        one.give_back(4);
        assert_eq!(ledger.used(), 6);
        drop(one);
        assert_eq!(ledger.used(), 0);
    }

    #[test]
    fn others_keep_their_own() {
        let ledger = Ledger::new(100);
        let (greedy, modest, small) = (ledger.open(u64::MAX), ledger.open(u64::MAX), ledger.open(2));
        assert!(greedy.take(82), "what is not kept: 16 for the one, 2 for the other");
        assert!(!greedy.take(1));
        assert!(modest.take(16) && !modest.take(1));
        assert!(small.take(2) && !small.take(1));
        assert!(greedy.may_give_to(&modest) && !modest.may_give_to(&greedy) && modest.may_give_to(&modest));
        assert!(!greedy.take(u64::MAX), "no overflow");
    }

    #[test]
    fn a_newcomer_gets_its_own_as_it_becomes_free() {
        let ledger = Ledger::new(10);
        let first = ledger.open(u64::MAX);
        assert!(first.take(9));
        let second = ledger.open(u64::MAX);
        assert!(second.take(1) && !second.take(1));
        first.give_back(1);
        assert!(!first.take(1), "it is the other's");
        assert!(second.take(1) && !second.take(1));
        drop(second);
        assert!(first.take(2));
    }

    proptest! {
        /// Never more than there is, and who has less than its own gets one more wherever any is free.
        #[test]
        fn the_books_balance(total in 0u64..40, steps in prop::collection::vec((0usize..4, 0u8..4, 0u64..12), 0..200)) {
            let ledger = Ledger::new(total);
            let mut accounts: Vec<Option<(Arc<Account>, u64)>> = vec![None, None, None, None];
            for (at, what, amount) in steps {
                match (what, &mut accounts[at]) {
                    (0, place) => *place = place.take().is_none().then(|| (ledger.open(amount * 4), 0)),
                    (1 | 2, Some((account, has))) => *has += if account.take(amount) { amount } else { 0 },
                    (_, Some((account, has))) => {
                        let back = amount.min(*has);
                        *has -= back;
                        account.give_back(back);
                    }
                    (_, None) => {}
                }
                let all: u64 = accounts.iter().flatten().map(|(_, has)| has).sum();
                prop_assert_eq!(ledger.used(), all);
                prop_assert!(all <= total);
                for (account, has) in accounts.iter().flatten() {
                    let book = lock(&ledger.0);
                    let entry = book.accounts[&account.id];
                    prop_assert_eq!(entry.used, *has);
                    prop_assert_eq!(book.kept, book.accounts.values().map(Entry::kept).sum::<u64>());
                }
            }
        }
    }
}
