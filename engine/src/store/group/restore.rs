//! A damaged entry is written anew where it is, with what another copy of the log says it holds.
//!
//! Invariants: only bytes that match the checksums of the entry's own batch are written, so the log
//! becomes what it was, or stays as it is; the entry's place, and what the index says of it, do not
//! change.
//! Must never know: where the other copy is.

use super::entry::GroupEntry;
use super::install::{changes_of, group_records};
use super::read::{EntryRead, damaged, place_of};
use super::table::Place;
use crate::buffer::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{BlockIdentity, TableCopy};
use crate::reactor::DeviceOp;
use crate::store::log::GroupRecords;
use crate::store::{Io, Outcome, Store};
use crate::units::{BLOCK_SIZE_BYTES, BlockIndex, GroupId, Location, LogId};
use std::io;

/// A write of an entry's blocks under way.
#[derive(Debug)]
pub(in crate::store) struct EntryRestore {
    token: u64,
    group: GroupId,
    id: LogId,
    header: Location,
    blocks: u32,
}

impl Store {
    /// Takes a request to write an entry anew. Nothing to do if it is sound.
    pub(super) fn restore_entry(
        &mut self,
        token: u64,
        group: GroupId,
        entry: GroupEntry,
    ) -> Result<()> {
        entry.check()?;
        let index = entry.id.index;
        let slot = self.groups.by_id.get(&group).and_then(|state| state.entries.get(index));
        let Some(slot) = slot.filter(|slot| slot.id == entry.id).copied() else {
            let why = format!("group {group}: entry {} is not in the log", entry.id);
            return Err(Error::new(ErrorKind::NotFound, why));
        };
        match slot.place {
            Place::At { faulty: true, .. } => {}
            Place::Lost { .. } => return Err(damaged(group, index)),
            _ => {
                self.reply(token, Ok(Outcome::Done));
                return Ok(());
            }
        }
        self.read_entry_at(token, group, slot, Some(entry));
        Ok(())
    }

    /// The table of the entry's batch is known: writes the entry's blocks, if they are those.
    pub(super) fn write_anew(&mut self, read: EntryRead, table: &TableCopy, entry: &GroupEntry) {
        let (group, id, header, token) = (read.group, read.id, read.header, read.token);
        let records = entry.records(group, &self.pool);
        if !self.is_the_same(&read, table, &records) {
            let why = format!("group {group}: another entry than {id} was given for it");
            return self.reply(token, Err(Error::new(ErrorKind::Invalid, why)));
        }
        let (start, blocks) = place_of(table, read.record);
        let restore = EntryRestore { token, group, id, header, blocks };
        if blocks == 0 {
            return self.handle_restored(&restore, None);
        }
        self.pin(header, 1);
        let offset_bytes = start.offset_bytes();
        let op = DeviceOp::Write { offset_bytes, buffers: records.payload, sync: true };
        self.start(Io::Restore(restore), op);
    }

    /// Whether these records are those of the entry, and their blocks what its batch's checksums
    /// say.
    fn is_the_same(&self, read: &EntryRead, table: &TableCopy, records: &GroupRecords) -> bool {
        let own = table.records.get(usize::from(read.record));
        let own: Vec<_> = own.into_iter().chain(changes_of(table, read.record)).collect();
        let inline = group_records(table).find(|(at, ..)| *at == read.record);
        let same_inline = inline.is_some_and(|(_, _, inline)| inline == records.inline);
        if !own.iter().copied().eq(&records.records) || !same_inline {
            return false;
        }
        let (start, _) = place_of(table, read.record);
        let first = (start.0 - table.of.location.offset(table.of.header_blocks).0) as usize;
        let Some(sums) = table.checksums.get(first..) else { return false };
        let data = records.payload.iter().flat_map(|part| part.chunks_exact(BLOCK_SIZE_BYTES));
        let (mut data, mut sums, mut location) = (data, sums.iter(), start);
        for record in own {
            for i in 0..record.payload_blocks() {
                let identity = BlockIdentity {
                    sequence: read.sequence,
                    location,
                    volume: record.volume,
                    block: BlockIndex(record.first.0 + u64::from(i)),
                };
                let proved = data
                    .next()
                    .zip(sums.next())
                    .is_some_and(|(data, sum)| self.seal.block_checksum(identity, data) == *sum);
                if !proved {
                    return false;
                }
                location = location.offset(1);
            }
        }
        true
    }

    /// The write has ended.
    pub(in crate::store) fn handle_restore(
        &mut self,
        restore: &EntryRestore,
        result: io::Result<()>,
        _buffers: Vec<Buffer>,
    ) {
        self.pin(restore.header, -1);
        self.handle_restored(restore, result.err());
    }

    fn handle_restored(&mut self, restore: &EntryRestore, error: Option<io::Error>) {
        let EntryRestore { token, group, id, header, blocks } = *restore;
        if let Some(error) = error {
            let why = format!("group {group}: entry {id} cannot be written anew: {error}");
            return self.reply(token, Err(Error::new(ErrorKind::Device, why)));
        }
        let slot = self.groups.group(group).entries.get_mut(id.index);
        if let Some(slot) = slot.filter(|slot| slot.id == id)
            && let Place::At { header: at, faulty, .. } = &mut slot.place
            && *at == header
        {
            *faulty = false;
        }
        self.counters.mended_blocks += u64::from(blocks);
        self.reply(token, Ok(Outcome::Done));
    }
}
