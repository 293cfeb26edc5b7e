//! Entries kept in memory: those not durable yet, and the newest of the others.
//!
//! Invariant: an entry that is not durable is here; the others take at most `bytes_max`.
//! Must never know: where entries are on the device.

use super::entry::GroupEntry;
use crate::units::GroupId;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// See the module. What becomes durable first goes first.
#[derive(Debug)]
pub(super) struct EntryCache {
    entries: BTreeMap<(GroupId, u64), Rc<GroupEntry>>,
    /// Those that may go, oldest first, with their bytes.
    durable: VecDeque<(GroupId, u64, Rc<GroupEntry>)>,
    bytes: usize,
    bytes_max: usize,
}

impl EntryCache {
    pub(super) fn new(bytes_max: usize) -> EntryCache {
        EntryCache { entries: BTreeMap::new(), durable: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Keeps an entry at least until it is durable.
    pub(super) fn insert(&mut self, group: GroupId, entry: Rc<GroupEntry>) {
        self.entries.insert((group, entry.id.index), entry);
    }

    pub(super) fn get(&self, group: GroupId, index: u64) -> Option<&Rc<GroupEntry>> {
        self.entries.get(&(group, index))
    }

    /// Forgets an entry.
    pub(super) fn remove(&mut self, group: GroupId, index: u64) {
        self.entries.remove(&(group, index));
    }

    /// An entry may go from now on.
    pub(super) fn durable(&mut self, group: GroupId, index: u64) {
        let Some(entry) = self.entries.get(&(group, index)) else { return };
        self.bytes += entry.bytes();
        self.durable.push_back((group, index, Rc::clone(entry)));
        while self.bytes > self.bytes_max
            && let Some((group, index, entry)) = self.durable.pop_front()
        {
            self.bytes -= entry.bytes();
            // Another entry may have its index by now.
            if self.get(group, index).is_some_and(|found| Rc::ptr_eq(found, &entry)) {
                self.remove(group, index);
            }
        }
    }
}
