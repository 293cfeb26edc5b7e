//! What is left of a damaged entry: each of its blocks is read and proved by itself.
//!
//! Invariant: a block is called sound only if it proved itself; others are zeroes.
//! Must never know: where the rest comes from.

use super::entry::GroupEntry;
use super::install::{changes_of, group_records};
use super::read::{EntryRead, Stage, build, damaged, place_of};
use super::table::Place;
use crate::buffer::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{BlockIdentity, TableCopy, head_blocks};
use crate::store::{Outcome, Store};
use crate::units::{BLOCK_SIZE_BYTES, BlockIndex, GroupId};
use std::rc::Rc;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Salvage {
    bytes: Option<Buffer>,
    sound: Vec<bool>,
}

impl Store {
    /// Takes a request for what is left of an entry.
    pub(super) fn salvage_entry(&mut self, token: u64, group: GroupId, index: u64) -> Result<()> {
        let slot = self.groups.by_id.get(&group).and_then(|state| state.entries.get(index));
        let Some(slot) = slot.copied() else {
            let why = format!("group {group}: entry {index} is not in the log");
            return Err(Error::new(ErrorKind::NotFound, why));
        };
        if let Some(entry) = self.groups.cache.get(group, index) {
            let blocks = u64::from(head_blocks(entry.head.len())) + entry.data_blocks();
            let (entry, sound) = (Rc::clone(entry), vec![true; blocks as usize]);
            self.reply(token, Ok(Outcome::Salvaged(entry, sound)));
            return Ok(());
        }
        if !matches!(slot.place, Place::At { .. }) {
            return Err(damaged(group, index));
        }
        if let Some(mut read) = self.entry_read(token, group, slot) {
            read.salvage = Some(Salvage::default());
            self.start_entry(read);
        }
        Ok(())
    }

    /// The table of the entry's batch is known: reads its blocks, one by one.
    pub(super) fn begin_salvage(&mut self, mut read: EntryRead, table: Rc<TableCopy>) {
        let (_, blocks) = place_of(&table, read.record);
        let mut bytes = self.pool.allocate(blocks as usize * BLOCK_SIZE_BYTES);
        bytes.fill(0);
        read.salvage = Some(Salvage { bytes: Some(bytes), sound: Vec::new() });
        self.next_block(read, table);
    }

    /// A block was read.
    pub(super) fn take_block(
        &mut self,
        mut read: EntryRead,
        table: Rc<TableCopy>,
        found: Option<&[u8]>,
    ) {
        let (sequence, record) = (read.sequence, read.record);
        let Some(salvage) = &mut read.salvage else { return };
        let at = salvage.sound.len();
        let proved = found.filter(|data| self.proves(&table, record, sequence, at, data));
        salvage.sound.push(proved.is_some());
        if let (Some(data), Some(bytes)) = (proved, &mut salvage.bytes) {
            bytes[at * BLOCK_SIZE_BYTES..][..BLOCK_SIZE_BYTES].copy_from_slice(data);
        }
        self.next_block(read, table);
    }

    fn next_block(&mut self, mut read: EntryRead, table: Rc<TableCopy>) {
        let (_, blocks) = place_of(&table, read.record);
        let at = read.salvage.as_ref().map_or(0, |salvage| salvage.sound.len()) as u32;
        if at < blocks {
            read.stage = Stage::Block(table, at);
            return self.start_entry(read);
        }
        let Salvage { bytes, sound } = read.salvage.take().unwrap_or_default();
        let entry = table.records.get(usize::from(read.record));
        let inline = group_records(&table).find(|(own, ..)| *own == read.record);
        let made = entry.zip(inline).zip(bytes).and_then(|((entry, (_, _, inline)), bytes)| {
            build(read.id, entry, inline, changes_of(&table, read.record), bytes)
        });
        let outcome = made.map(|entry| Outcome::Salvaged(Rc::new(entry), sound));
        self.reply(read.token, outcome.ok_or_else(|| damaged(read.group, read.id.index)));
    }

    /// Whether this is block `at` of an entry.
    fn proves(
        &self,
        table: &TableCopy,
        record: u16,
        sequence: crate::units::SegmentSequence,
        at: usize,
        data: &[u8],
    ) -> bool {
        let (start, _) = place_of(table, record);
        let location = start.offset(at as u32);
        let first = (start.0 - table.of.location.offset(table.of.header_blocks).0) as usize;
        let own = table.records.get(usize::from(record));
        let mut identities = own.into_iter().chain(changes_of(table, record)).flat_map(|record| {
            (0..record.payload_blocks()).map(|i| BlockIdentity {
                sequence,
                location,
                volume: record.volume,
                block: BlockIndex(record.first.0 + u64::from(i)),
            })
        });
        let identity = identities.nth(at);
        identity.zip(table.checksums.get(first + at)).is_some_and(|(identity, sum)| {
            data.len() == BLOCK_SIZE_BYTES && self.seal.block_checksum(identity, data) == *sum
        })
    }
}

impl GroupEntry {
    /// Blocks that its changes write.
    fn data_blocks(&self) -> u64 {
        let data = self.changes.iter().filter_map(|change| match change {
            super::Change::Write { data, .. } => Some(data.len() / BLOCK_SIZE_BYTES),
            _ => None,
        });
        data.sum::<usize>() as u64
    }
}
