//! Records of groups found after the checkpoint, and entries of before it that are not applied.
//!
//! Must never know: how batches were found.

use super::install::{change_blocks, changes_of, group_records};
use super::table::{Place, Slot};
use crate::format::{Record, RecordKind, TableCopy};
use crate::store::Store;
use crate::units::{GroupId, Location, LogId};
use std::rc::Rc;

/// Entries in a row whose loss a log may name. More are no damage but nonsense.
const GAP_MAX: u64 = 1 << 16;

/// Whether one of an entry's own payload blocks is among the bad ones of its batch.
fn is_bad(table: &TableCopy, record: u16, bad: &[u32]) -> bool {
    let at = usize::from(record);
    let first: u32 = table.records.iter().take(at).map(Record::payload_blocks).sum();
    let own = table.records.get(at).into_iter().chain(changes_of(table, record));
    let blocks: u32 = own.map(Record::payload_blocks).sum();
    bad.iter().any(|block| (first..first + blocks).contains(block))
}

impl Store {
    /// A batch of the tail counts: does to the tables what its records of groups say. `bad`: its
    /// payload blocks that did not prove themselves. The error is why that cannot be.
    pub(in crate::store) fn replay_groups(
        &mut self,
        table: &Rc<TableCopy>,
        bad: &[u32],
    ) -> Result<(), String> {
        for (at, record, inline) in group_records(table) {
            let group = record.group;
            match record.kind {
                RecordKind::Entry => self.replay_entry(table, at, is_bad(table, at, bad))?,
                RecordKind::Vote => self.groups.group(group).vote = inline.to_vec(),
                RecordKind::Purge => self.forget(group, record.log_id()),
                _ => self.replay_truncation(group, record.index)?,
            }
        }
        Ok(())
    }

    fn replay_entry(&mut self, table: &Rc<TableCopy>, at: u16, faulty: bool) -> Result<(), String> {
        let record = table.records[usize::from(at)];
        let (group, id) = (record.group, record.log_id());
        let next = self.groups.group(group).entries.next().unwrap_or(id.index);
        if id.index < next {
            return Err(format!("group {group} appended entry {id} again"));
        }
        if id.index - next > GAP_MAX {
            return Err(format!("group {group} lost entries {next} to {id}"));
        }
        for index in next..id.index {
            let (id, place) = (LogId { index, ..LogId::default() }, Place::Lost { known: false });
            self.groups.group(group).entries.push(Slot { id, place });
            self.groups.retained += 1;
        }
        let state = self.groups.group(group);
        state.entries.push(Slot { id, place: Place::Memory });
        self.groups.retained += 1;
        self.place_entry(table, at, faulty);
        Ok(())
    }

    fn replay_truncation(&mut self, group: GroupId, index: u64) -> Result<(), String> {
        let applied = self.groups.group(group).applied;
        if applied.is_some_and(|applied| index <= applied.index) {
            return Err(format!("group {group} truncated entry {index}, which it had applied"));
        }
        let mut cut = 0;
        self.groups.group(group).entries.cut(index, &mut |_| cut += 1);
        self.groups.retained -= cut;
        self.cut_durable(group, index);
        Ok(())
    }

    /// Headers of the batches of entries that are not applied and whose batch is not at hand.
    pub(in crate::store) fn unsourced(&self) -> impl Iterator<Item = Location> {
        self.groups.by_id.values().flat_map(|group| {
            let next = group.next_to_apply();
            let pending = group.entries.iter().rev().take_while(move |slot| slot.id.index >= next);
            let open = pending.filter(|slot| group.entries.source(slot.id.index).is_none());
            open.filter_map(|slot| match slot.place {
                Place::At { header, .. } => Some(header),
                _ => None,
            })
        })
    }

    /// Gives such a batch to the entries that are in it; without it they are damaged.
    pub(in crate::store) fn source(
        &mut self,
        header: Location,
        batch: Option<(&Rc<TableCopy>, &[u32])>,
    ) {
        for (group, state) in &mut self.groups.by_id {
            let next = state.next_to_apply();
            let pending = state.entries.iter().rev().take_while(|slot| slot.id.index >= next);
            let inside = pending.filter_map(|slot| match slot.place {
                Place::At { header: at, record, faulty } if at == header => {
                    Some((slot.id, record, faulty))
                }
                _ => None,
            });
            let inside: Vec<_> = inside.collect();
            for (id, record, faulty) in inside {
                let found = batch.filter(|(table, _)| {
                    let record = table.records.get(usize::from(record));
                    let is_it = |record: &Record| {
                        record.kind == RecordKind::Entry
                            && (record.group, record.log_id()) == (*group, id)
                    };
                    record.is_some_and(is_it)
                });
                let bad = found.is_none_or(|(table, bad)| is_bad(table, record, bad));
                let place = Place::At { header, record, faulty: faulty || bad };
                state.entries.set_place(id.index, place, found.map(|(table, _)| table));
            }
        }
    }

    /// At start: what entries that are not applied take.
    pub(in crate::store) fn count_unapplied(&mut self) {
        let blocks: u64 = self
            .groups
            .by_id
            .values()
            .map(|group| {
                let sources = group.entries.sources();
                let changes = sources.flat_map(|source| changes_of(&source.table, source.record));
                changes.map(change_blocks).sum::<u64>()
            })
            .sum();
        self.pending_blocks += blocks;
        self.groups.unapplied_blocks += blocks;
    }
}
