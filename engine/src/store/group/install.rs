//! A durable batch with records of groups: what it does to their tables.
//!
//! Must never know: whether entries will be applied.

use super::table::{Place, Slot, Source};
use super::{Group, Groups};
use crate::format::{Record, RecordKind, TableCopy, inline_of, padded};
use crate::store::Store;
use crate::units::{GroupId, LogId, SegmentId};
use std::rc::Rc;

/// Blocks that a change writes or reserves.
pub(super) fn change_blocks(change: &Record) -> u64 {
    match change.kind {
        RecordKind::Data | RecordKind::ZeroReserved => change.count.into(),
        _ => 0,
    }
}

/// An entry's changes in its table.
pub(super) fn changes_of(table: &TableCopy, record: u16) -> &[Record] {
    let at = usize::from(record);
    let count = table.records.get(at).map_or(0, |entry| usize::from(entry.changes));
    table.records.get(at + 1..at + 1 + count).unwrap_or(&[])
}

/// Every record of a group in a table but changes, with its number, and the bytes behind the table
/// that belong to it.
pub(in crate::store) fn group_records(
    table: &TableCopy,
) -> impl Iterator<Item = (u16, &Record, &[u8])> {
    let mut inline = 0;
    let records = table.records.iter().enumerate();
    let records = records.map(move |(at, record)| {
        let bytes = inline_of(record);
        let own = table.inline.get(inline..inline + bytes).unwrap_or(&[]);
        inline += padded(bytes);
        (at as u16, record, own)
    });
    records.filter(|(_, record, _)| {
        use RecordKind::{Entry, Purge, Truncate, Vote};
        matches!(record.kind, Entry | Vote | Truncate | Purge)
    })
}

impl Store {
    /// A batch with records of groups is durable.
    pub(in crate::store) fn install_groups(&mut self, table: &Rc<TableCopy>) {
        for (at, record, inline) in group_records(table) {
            let group = record.group;
            match record.kind {
                RecordKind::Entry => self.install_entry(table, at),
                RecordKind::Vote => self.groups.group(group).vote = inline.to_vec(),
                RecordKind::Purge => self.forget(group, record.log_id()),
                // The table was cut when it was asked for.
                RecordKind::Truncate => self.cut_durable(group, record.index),
                _ => {}
            }
        }
    }

    fn install_entry(&mut self, table: &Rc<TableCopy>, record: u16) {
        let entry = table.records[usize::from(record)];
        // Installing the batch took these off; they are off once the entry is applied.
        let blocks: u64 = changes_of(table, record).iter().map(change_blocks).sum();
        let appended = self.groups.appended.pop_front();
        let appended = appended.expect("invariant: entries become durable in order");
        assert_eq!((appended.group, appended.index), (entry.group, entry.index));
        if appended.void {
            let (header, id) = (table.of.location, entry.log_id());
            let place = Place::At { header, record, faulty: false };
            self.groups.group(entry.group).entries.push_cut(Slot { id, place });
            self.segments.retain(header);
            return;
        }
        self.pending_blocks += blocks;
        self.groups.cache.durable(entry.group, entry.index);
        self.place_entry(table, record, false);
    }

    /// The entry at this index is in this batch.
    pub(in crate::store) fn place_entry(
        &mut self,
        table: &Rc<TableCopy>,
        record: u16,
        faulty: bool,
    ) {
        let Record { group, index, .. } = table.records[usize::from(record)];
        let header = table.of.location;
        let entries = &mut self.groups.group(group).entries;
        if let Some(slot) = entries.get_mut(index) {
            slot.place = Place::At { header, record, faulty };
            entries.set_source(index, Source { table: Rc::clone(table), record });
            self.segments.retain(header);
        }
    }

    /// Takes the entries from `index` on out of the table.
    pub(in crate::store) fn cut(&mut self, group: GroupId, index: u64) {
        let first = self.groups.group(group).next_to_apply();
        for index in index.max(first).. {
            let Some((blocks, durable)) = self.unapplied_blocks_of(group, index) else { break };
            self.groups.unapplied_blocks -= blocks;
            // Of those on their way, installing their batch takes it off.
            self.pending_blocks -= if durable { blocks } else { 0 };
        }
        let mut gone = Vec::new();
        self.groups.group(group).entries.cut(index, &mut |slot| gone.push(slot));
        self.groups.retained -= gone.len();
        gone.iter().for_each(|slot| self.groups.cache.remove(group, slot.id.index));
    }

    /// A truncation is durable: the log does not hold these entries any more.
    pub(in crate::store) fn cut_durable(&mut self, group: GroupId, index: u64) {
        let mut gone = Vec::new();
        self.groups.group(group).entries.cut_durable(index, &mut |slot| gone.push(slot));
        self.released(&gone);
    }

    /// Blocks that an entry of the table has taken and not mapped, and whether it is durable.
    fn unapplied_blocks_of(&self, group: GroupId, index: u64) -> Option<(u64, bool)> {
        let entries = &self.groups.by_id.get(&group)?.entries;
        let slot = entries.get(index)?;
        if slot.place == Place::Memory {
            return self.groups.cache.get(group, index).map(|entry| (entry.blocks(), false));
        }
        let source = entries.source(index);
        let blocks = source.map(|s| changes_of(&s.table, s.record).iter().map(change_blocks).sum());
        Some((blocks.unwrap_or(0), true))
    }

    /// A purge is durable.
    pub(in crate::store) fn forget(&mut self, group: GroupId, upto: LogId) {
        let state = self.groups.group(group);
        if state.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        state.purged = Some(upto);
        let mut gone = Vec::new();
        state.entries.purge(upto.index, &mut |slot| gone.push(slot));
        self.groups.retained -= gone.len();
        gone.iter().for_each(|slot| self.groups.cache.remove(group, slot.id.index));
        self.released(&gone);
    }

    /// The log does not hold these entries any more; their segments stay until the next checkpoint.
    fn released(&mut self, gone: &[Slot]) {
        for slot in gone {
            if let Place::At { header, .. } = slot.place {
                self.groups.releasing.extend(self.segments.of(header));
            }
        }
    }

    /// A checkpoint that does not name these entries is durable.
    pub(in crate::store) fn release_entries(&mut self, segments: &[SegmentId]) {
        for id in segments {
            self.segments.let_go(*id);
        }
    }
}

impl Groups {
    /// The group; made if the log is the first to tell of it.
    pub(in crate::store) fn group(&mut self, id: GroupId) -> &mut Group {
        self.by_id.entry(id).or_default()
    }
}
