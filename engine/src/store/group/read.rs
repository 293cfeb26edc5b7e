//! Reading entries: from memory, or from the device, proved by the checksums of their batch.
//!
//! Invariant: an entry is answered only if every byte of it proved itself. One that does not is
//! read once more, then it is an error, and the group's state names it.
//! Must never know: who asks.

#[cfg(test)]
mod tests;

use super::entry::{Change, GroupEntry};
use super::install::{changes_of, group_records};
use super::salvage::Salvage;
use super::table::{Place, Slot};
use crate::buffer::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{BlockIdentity, DecodeError, Previous, Record, TableCopy, decode_batch};
use crate::limits::{BATCH_BLOCKS_MAX, BATCH_HEADER_BLOCKS_MAX};
use crate::reactor::DeviceOp;
use crate::store::{Io, Outcome, Store};
use crate::units::{BLOCK_SIZE_BYTES, BlockIndex, GroupId, Location, LogId, SegmentSequence};
use std::io;
use std::rc::Rc;

/// Blocks behind a damaged header in which the copy of its table must end.
const COPY_BLOCKS: u32 = BATCH_BLOCKS_MAX + 3 * BATCH_HEADER_BLOCKS_MAX;

/// What is being read of an entry.
#[derive(Debug)]
pub(super) enum Stage {
    /// So many blocks of its batch's header.
    Header(u32),
    /// What lies behind the header, for the copy of its table.
    Copy,
    /// Its blocks.
    Payload(Rc<TableCopy>),
    /// One of its blocks, for what is left of it.
    Block(Rc<TableCopy>, u32),
}

/// A read of an entry under way.
#[derive(Debug)]
pub(in crate::store) struct EntryRead {
    pub(super) token: u64,
    pub(super) group: GroupId,
    pub(super) id: LogId,
    pub(super) header: Location,
    pub(super) record: u16,
    pub(super) sequence: SegmentSequence,
    pub(super) stage: Stage,
    is_retry: bool,
    /// It is not to be answered, but written anew as this one says.
    restore: Option<GroupEntry>,
    /// What is left of it is wanted.
    pub(super) salvage: Option<Salvage>,
}

impl Store {
    pub(super) fn read_entry(&mut self, token: u64, group: GroupId, index: u64) -> Result<()> {
        let missing = || {
            let why = format!("group {group}: entry {index} is not in the log");
            Error::new(ErrorKind::NotFound, why)
        };
        let entries = &self.groups.by_id.get(&group).ok_or_else(missing)?.entries;
        let slot = *entries.get(index).ok_or_else(missing)?;
        if let Some(entry) = self.groups.cache.get(group, index) {
            let entry = Rc::clone(entry);
            self.reply(token, Ok(Outcome::Entry(entry)));
            return Ok(());
        }
        if !matches!(slot.place, Place::At { .. }) {
            return Err(damaged(group, index));
        }
        self.read_entry_at(token, group, slot, None);
        Ok(())
    }

    /// Reads an entry from the device, or, with `restore`, looks for its place to write it anew.
    pub(super) fn read_entry_at(
        &mut self,
        token: u64,
        group: GroupId,
        slot: Slot,
        restore: Option<GroupEntry>,
    ) {
        if let Some(read) = self.entry_read(token, group, slot) {
            self.start_entry(EntryRead { restore, ..read });
        }
    }

    /// A read of an entry on the device, from its beginning.
    pub(super) fn entry_read(&self, token: u64, group: GroupId, slot: Slot) -> Option<EntryRead> {
        let Slot { id, place: Place::At { header, record, .. } } = slot else { return None };
        let state = self.groups.by_id.get(&group);
        let source = state.and_then(|state| state.entries.source(id.index));
        let source = source.map(|source| Rc::clone(&source.table));
        let stage = source.map_or(Stage::Header(BATCH_HEADER_BLOCKS_MAX), Stage::Payload);
        let (sequence, is_retry) = (self.sequence_of(header), false);
        let (restore, salvage) = (None, None);
        Some(EntryRead {
            token,
            group,
            id,
            header,
            record,
            sequence,
            stage,
            is_retry,
            restore,
            salvage,
        })
    }

    pub(super) fn start_entry(&mut self, mut read: EntryRead) {
        if let Stage::Payload(table) = &read.stage
            && let Some(entry) = read.restore.take()
        {
            let table = Rc::clone(table);
            return self.write_anew(read, &table, &entry);
        }
        if let Stage::Payload(table) = &read.stage
            && read.salvage.is_some()
        {
            let table = Rc::clone(table);
            return self.begin_salvage(read, table);
        }
        let end = self.segments.of(read.header).map_or(read.header, |segment| {
            self.segments.start(segment).offset(self.segments.segment_blocks())
        });
        let (start, blocks) = match &read.stage {
            Stage::Header(blocks) => (read.header, *blocks),
            Stage::Copy => (read.header.offset(1), COPY_BLOCKS),
            Stage::Payload(table) => place_of(table, read.record),
            Stage::Block(table, at) => (place_of(table, read.record).0.offset(*at), 1),
        };
        let blocks = blocks.min(end.0.saturating_sub(start.0));
        self.pin(read.header, 1);
        if blocks == 0 {
            return self.handle_entry(read, Ok(()), vec![self.pool.allocate(0)]);
        }
        let buffer = self.pool.allocate(blocks as usize * BLOCK_SIZE_BYTES);
        let op = DeviceOp::Read { offset_bytes: start.offset_bytes(), buffer };
        self.start(Io::Entry(Box::new(read)), op);
    }

    /// Part of an entry was read.
    pub(in crate::store) fn handle_entry(
        &mut self,
        mut read: EntryRead,
        result: io::Result<()>,
        mut buffers: Vec<Buffer>,
    ) {
        self.pin(read.header, -1);
        self.counters.read_errors += u64::from(result.is_err());
        let bytes = buffers.pop().filter(|_| result.is_ok());
        let seen = bytes.as_deref().unwrap_or(&[]);
        let next = match &read.stage {
            Stage::Header(blocks) => Some(self.find_entry_table(&read, seen, *blocks)),
            Stage::Copy => {
                let copy = self.find_entry_copy(&read, seen);
                copy.filter(|table| is_at(table, &read)).map(|table| Stage::Payload(Rc::new(table)))
            }
            Stage::Payload(table) => {
                let entry = bytes.and_then(|bytes| self.prove_entry(&read, table, bytes));
                if let Some(entry) = entry {
                    // The device may have failed to read it before.
                    self.set_faulty(&read, false);
                    return self.reply(read.token, Ok(Outcome::Entry(Rc::new(entry))));
                }
                None
            }
            Stage::Block(table, _) => {
                let table = Rc::clone(table);
                return self.take_block(read, table, bytes.as_deref());
            }
        };
        match next {
            Some(stage) => read.stage = stage,
            None if read.is_retry => return self.entry_damaged(&read),
            None => {
                read.stage = Stage::Header(BATCH_HEADER_BLOCKS_MAX);
                read.is_retry = true;
            }
        }
        self.start_entry(read);
    }

    /// What to read after the first blocks of a batch.
    fn find_entry_table(&self, read: &EntryRead, bytes: &[u8], blocks: u32) -> Stage {
        match decode_batch(&self.seal, read.sequence, read.header, bytes) {
            Ok(found) => {
                let of = Previous {
                    location: read.header,
                    header_blocks: found.header_blocks,
                    checksum: found.checksum,
                    lsn: found.header.lsn,
                };
                let (records, checksums) = (found.records, found.checksums);
                let table = TableCopy { of, records, checksums, inline: found.inline };
                if is_at(&table, read) { Stage::Payload(Rc::new(table)) } else { Stage::Copy }
            }
            // What lies behind a short header may be unreadable: once more without it.
            Err(_) if bytes.is_empty() && blocks > 1 => Stage::Header(1),
            Err(DecodeError::Short { blocks: needed }) if blocks == 1 && needed > 1 => {
                Stage::Header(needed)
            }
            Err(_) => Stage::Copy,
        }
    }

    fn find_entry_copy(&self, read: &EntryRead, bytes: &[u8]) -> Option<TableCopy> {
        let mut starts = (0..bytes.len()).step_by(BLOCK_SIZE_BYTES);
        starts.find_map(|at| {
            let location = read.header.offset(1 + (at / BLOCK_SIZE_BYTES) as u32);
            let table = decode_batch(&self.seal, read.sequence, location, &bytes[at..]).ok()?;
            table.previous.filter(|copy| copy.of.location == read.header)
        })
    }

    /// The entry, if all its blocks match their checksums.
    fn prove_entry(
        &self,
        read: &EntryRead,
        table: &TableCopy,
        bytes: Buffer,
    ) -> Option<GroupEntry> {
        let (start, blocks) = place_of(table, read.record);
        if bytes.len() != blocks as usize * BLOCK_SIZE_BYTES {
            return None;
        }
        let entry = table.records.get(usize::from(read.record))?;
        let changes = changes_of(table, read.record);
        let sums = (start.0 - table.of.location.offset(table.of.header_blocks).0) as usize;
        let mut data = bytes.chunks_exact(BLOCK_SIZE_BYTES).zip(table.checksums.get(sums..)?);
        let mut location = start;
        for record in std::iter::once(entry).chain(changes) {
            for i in 0..record.payload_blocks() {
                let (data, sum) = data.next()?;
                let block = BlockIndex(record.first.0 + u64::from(i));
                let identity = BlockIdentity {
                    sequence: read.sequence,
                    location,
                    volume: record.volume,
                    block,
                };
                if self.seal.block_checksum(identity, data) != *sum {
                    return None;
                }
                location = location.offset(1);
            }
        }
        let inline = group_records(table).find(|(at, ..)| *at == read.record)?.2;
        build(read.id, entry, inline, changes, bytes)
    }

    fn entry_damaged(&mut self, read: &EntryRead) {
        self.counters.corrupt_blocks += 1;
        self.set_faulty(read, true);
        self.reply(read.token, Err(damaged(read.group, read.id.index)));
    }

    /// Notes whether an entry proved itself, if it is still where it was read.
    fn set_faulty(&mut self, read: &EntryRead, now: bool) {
        let slot = self.groups.group(read.group).entries.get_mut(read.id.index);
        if let Some(slot) = slot.filter(|slot| slot.id == read.id)
            && let Place::At { header, faulty, .. } = &mut slot.place
            && *header == read.header
        {
            *faulty = now;
        }
    }
}

pub(super) fn damaged(group: GroupId, index: u64) -> Error {
    Error::new(ErrorKind::Corrupt, format!("group {group}: entry {index} is damaged"))
}

/// Whether the table has the entry where it is looked for.
fn is_at(table: &TableCopy, read: &EntryRead) -> bool {
    let record = table.records.get(usize::from(read.record));
    record.is_some_and(|record| {
        (record.group, record.log_id()) == (read.group, read.id)
            && record.kind == crate::format::RecordKind::Entry
    })
}

/// Where the blocks of an entry are: its head's and its changes'.
pub(super) fn place_of(table: &TableCopy, record: u16) -> (Location, u32) {
    let at = usize::from(record);
    let before: u32 = table.records.iter().take(at).map(Record::payload_blocks).sum();
    let own = table.records.get(at).map_or(0, Record::payload_blocks);
    let changes: u32 = changes_of(table, record).iter().map(Record::payload_blocks).sum();
    (table.of.location.offset(table.of.header_blocks + before), own + changes)
}

/// The entry of these records and bytes.
pub(super) fn build(
    id: LogId,
    entry: &Record,
    inline: &[u8],
    changes: &[Record],
    bytes: Buffer,
) -> Option<GroupEntry> {
    let (head_block, mut rest) = bytes.split_at(entry.count as usize * BLOCK_SIZE_BYTES);
    let head = if entry.count == 0 { inline } else { &head_block };
    let head = head.get(..entry.head_bytes as usize)?.to_vec();
    let mut made = Vec::with_capacity(changes.len());
    for record in changes {
        let blocks = record.payload_blocks() as usize;
        let data = if blocks > 0 {
            let (data, after) = rest.split_at(blocks * BLOCK_SIZE_BYTES);
            rest = after;
            Some(data)
        } else {
            None
        };
        made.push(Change::of(record, data)?);
    }
    Some(GroupEntry { id, head, changes: made })
}
