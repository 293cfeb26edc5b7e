//! The entries of one group: what is known of each, by index.
//!
//! Invariants: indexes have no gaps; entries that are durable come before those that are not;
//! the table of a batch is kept for entries that are durable and not applied.
//! Must never know: segments, other groups.

use crate::format::TableCopy;
use crate::units::{Location, LogId};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Place {
    /// On its way to the device; its content is in memory.
    Memory,
    /// In the batch with this header, at this record of its table.
    At {
        /// The batch.
        header: Location,
        /// The record.
        record: u16,
        /// Something of it did not prove itself.
        faulty: bool,
    },
    /// Known to be there, but not what or where.
    Lost {
        /// Its identity is known.
        known: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Slot {
    pub(in crate::store) id: LogId,
    pub(in crate::store) place: Place,
}

/// The batch of an entry and its record there.
#[derive(Clone, Debug)]
pub(in crate::store) struct Source {
    pub(in crate::store) table: Rc<TableCopy>,
    pub(in crate::store) record: u16,
}

/// See the module.
#[derive(Debug, Default)]
pub(in crate::store) struct Entries {
    /// Index of the first slot; where the next entry goes if there is none and `set`.
    first: u64,
    /// The first index is decided: something was appended or given up.
    set: bool,
    slots: VecDeque<Slot>,
    /// Entries that were truncated, but whose truncation is not durable: still in the log after a
    /// crash, behind the slots that are durable.
    cut: VecDeque<Slot>,
    sources: BTreeMap<u64, Source>,
}

impl Entries {
    /// Index that the next entry must have; `None`: 0 or 1, as the owner counts.
    pub(in crate::store) fn next(&self) -> Option<u64> {
        self.set.then(|| self.first + self.slots.len() as u64)
    }

    /// Index of the first entry, or where it will be.
    pub(in crate::store) fn first(&self) -> u64 {
        self.first
    }

    /// Whether the log holds no entry, of those that were cut neither.
    pub(in crate::store) fn is_blank(&self) -> bool {
        self.slots.is_empty() && self.cut.is_empty()
    }

    pub(in crate::store) fn len(&self) -> usize {
        self.slots.len()
    }

    fn place_in_slots(&self, index: u64) -> Option<usize> {
        index.checked_sub(self.first).and_then(|at| usize::try_from(at).ok())
    }

    pub(in crate::store) fn get(&self, index: u64) -> Option<&Slot> {
        self.slots.get(self.place_in_slots(index)?)
    }

    pub(in crate::store) fn get_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let at = self.place_in_slots(index)?;
        self.slots.get_mut(at)
    }

    pub(in crate::store) fn last(&self) -> Option<&Slot> {
        self.slots.back()
    }

    pub(in crate::store) fn iter(&self) -> impl DoubleEndedIterator<Item = &Slot> {
        self.slots.iter()
    }

    /// Adds an entry; its index must be the next one.
    pub(in crate::store) fn push(&mut self, slot: Slot) {
        assert!(self.next().is_none_or(|next| next == slot.id.index), "an entry skips an index");
        if !self.set {
            (self.first, self.set) = (slot.id.index, true);
        }
        self.slots.push_back(slot);
    }

    /// Notes where an entry's batch is, until it is applied.
    pub(in crate::store) fn set_source(&mut self, index: u64, source: Source) {
        self.sources.insert(index, source);
    }

    /// At start: where an entry is, and its batch if that was found.
    pub(in crate::store) fn set_place(
        &mut self,
        index: u64,
        place: Place,
        table: Option<&Rc<TableCopy>>,
    ) {
        let slot = self.get_mut(index).expect("invariant: it was just found");
        slot.place = place;
        if let (Place::At { record, .. }, Some(table)) = (place, table) {
            self.set_source(index, Source { table: Rc::clone(table), record });
        }
    }

    /// Of all entries that are durable and not applied.
    pub(in crate::store) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.sources.values()
    }

    pub(in crate::store) fn source(&self, index: u64) -> Option<&Source> {
        self.sources.get(&index)
    }

    pub(in crate::store) fn take_source(&mut self, index: u64) -> Option<Source> {
        self.sources.remove(&index)
    }

    /// Takes the entries from `index` on out of the table. The durable ones are void only once
    /// [`Entries::cut_durable`] says so.
    pub(in crate::store) fn cut(&mut self, index: u64, gone: &mut impl FnMut(Slot)) {
        while let Some(slot) = self.slots.pop_back_if(|slot| slot.id.index >= index) {
            if slot.place != Place::Memory {
                self.cut.push_front(slot);
            }
            gone(slot);
        }
        drop(self.sources.split_off(&index));
    }

    /// An entry that was cut before it was durable, is durable.
    pub(in crate::store) fn push_cut(&mut self, slot: Slot) {
        self.cut.push_back(slot);
    }

    /// A truncation from `index` on is durable.
    pub(in crate::store) fn cut_durable(&mut self, index: u64, gone: &mut impl FnMut(Slot)) {
        while let Some(slot) = self.cut.pop_back_if(|slot| slot.id.index >= index) {
            gone(slot);
        }
    }

    /// What the log holds: the durable entries, those among them that were cut included.
    pub(in crate::store) fn durable(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().take_while(|slot| slot.place != Place::Memory).chain(&self.cut)
    }

    /// At start: the table is empty, and the next entry has this index.
    pub(in crate::store) fn restore_first(&mut self, first: Option<u64>) {
        (self.first, self.set) = (first.unwrap_or_default(), first.is_some());
    }

    /// Takes the entries up to `index` away; the next one follows it.
    pub(in crate::store) fn purge(&mut self, index: u64, gone: &mut impl FnMut(Slot)) {
        while self.slots.front().is_some_and(|slot| slot.id.index <= index) {
            self.slots.pop_front().into_iter().for_each(&mut *gone);
            self.first += 1;
        }
        if self.slots.is_empty() && (!self.set || self.first <= index) {
            self.first = index + 1;
        }
        self.set = true;
        self.sources = self.sources.split_off(&(index + 1));
    }
}
