//! Installing a durable batch: what its records do to index, segments and volumes.
//!
//! Invariant: applying the same batches in LSN order to the same state gives the same state, live
//! or at restart: nothing here looks at anything but the batch and the state.
//! Must never know: whether it runs live or in recovery.

use super::leaf::{RESERVED, Run};
use super::log::InFlight;
use super::segments::Segments;
use super::{Outcome, Store};
use crate::buffer::Buffer;
use crate::format::{Record, RecordKind, RootVolume, TableCopy};
use crate::units::{
    BLOCK_SIZE_BYTES, BlockIndex, GroupId, Location, Lsn, SegmentSequence, VolumeId,
};

/// Runs at least this long are kept in the index by their header's place.
const CACHED_RUN_BLOCKS_MIN: u32 = 16;

/// A batch as far as installing it needs.
pub(super) struct Installed<'a> {
    pub(super) sequence: SegmentSequence,
    pub(super) payload: Location,
    pub(super) table: &'a TableCopy,
}

/// Blocks that the index pointed to, by kind, and where the segments learn of their end.
pub(super) struct Ledger<'a> {
    segments: &'a mut Segments,
    data_blocks: &'a mut u64,
    reserved_blocks: &'a mut u64,
}

impl Ledger<'_> {
    fn freed(&mut self, location: Location, count: u32) {
        if location == RESERVED {
            *self.reserved_blocks -= u64::from(count);
        } else {
            *self.data_blocks -= u64::from(count);
            self.segments.free_blocks(location, count);
        }
    }

    fn mapped(&mut self, location: Location, count: u32) {
        if location == RESERVED {
            *self.reserved_blocks += u64::from(count);
        } else {
            *self.data_blocks += u64::from(count);
            self.segments.add_live(location, count);
        }
    }
}

impl Store {
    /// A batch's write ended well: installs every batch that is durable now, in order.
    pub(super) fn handle_batch(&mut self, lsn: Lsn, buffers: Vec<Buffer>) {
        if self.failed.is_some() {
            return;
        }
        self.log.handle_written(lsn, buffers, self.now);
        while let Some(batch) = self.log.poll_durable() {
            self.install(batch);
        }
    }

    fn install(&mut self, mut batch: InFlight) {
        let table = batch.table.clone();
        let mut payload = batch.buffers.drain(..);
        // In front of the payload: the batch header, and in a new segment the segment's.
        let skipped = table.checksums.len() * BLOCK_SIZE_BYTES;
        let mut rest: usize = payload.as_slice().iter().map(|buffer| buffer.len()).sum();
        while rest > skipped {
            rest -= payload.next().map_or(0, |header| header.len());
        }
        let mut at = 0;
        for record in &table.records {
            match record.kind {
                RecordKind::Data => {
                    self.pending_blocks -= u64::from(record.count);
                    self.counters.user_blocks_written += u64::from(record.count);
                }
                RecordKind::ZeroReserved => self.pending_blocks -= u64::from(record.count),
                RecordKind::VolumeCreate | RecordKind::Checkpoint => {
                    let bytes = payload.next();
                    let location = batch.payload.offset(at);
                    self.install_payload(record, location, bytes);
                }
                _ => {}
            }
            use RecordKind::{Data, Entry, Relocation};
            if matches!(record.kind, Data | Relocation | Entry) {
                let mut left = record.count as usize * BLOCK_SIZE_BYTES;
                while left > 0 {
                    left -= payload.next().map_or(left, |buffer| buffer.len());
                }
            }
            at += record.payload_blocks();
        }
        drop(payload);
        self.apply(&Installed { sequence: batch.sequence, payload: batch.payload, table: &table });
        if batch.groups {
            self.install_groups(&table);
        }
        let segment = self.segments.get_mut(batch.segment);
        segment.writes -= 1;
        segment.last = batch.lsn;
        self.segments.settle(batch.segment);
        for token in batch.waiters {
            let outcome = match self.creating.iter().position(|(waiting, _)| *waiting == token) {
                Some(created) => Outcome::Created(self.creating.swap_remove(created).1),
                None => Outcome::Done,
            };
            self.reply(token, Ok(outcome));
        }
    }

    fn install_payload(&mut self, record: &Record, location: Location, bytes: Option<Buffer>) {
        let bytes = bytes.expect("invariant: every payload record has its buffer");
        if record.kind == RecordKind::Checkpoint {
            self.segments.add_live(location, record.count);
            self.checkpoint_installed(location, bytes);
        } else {
            self.apply_create(&bytes);
        }
    }

    /// Installs a volume's creation from its payload block.
    pub(super) fn apply_create(&mut self, block: &[u8]) {
        if let Some(volume) = RootVolume::decode(block) {
            self.index.create(volume.id);
            self.volumes.created(volume);
        }
    }

    /// Installs everything in a batch that needs no payload.
    pub(super) fn apply(&mut self, batch: &Installed<'_>) {
        let table = batch.table;
        let mut at = 0u32;
        for record in &table.records {
            let run = Run {
                location: batch.payload.offset(at),
                header: table.of.location,
                checksums: &table.checksums[at as usize..(at + record.payload_blocks()) as usize],
            };
            at += record.payload_blocks();
            if record.group != GroupId(0) {
                continue; // It counts once it is applied.
            }
            match record.kind {
                RecordKind::Data => self.apply_data(record, run),
                RecordKind::Relocation => self.apply_relocation(record, run),
                RecordKind::Zero => {
                    self.apply_zero(record.volume, record.first, record.count, false);
                }
                RecordKind::ZeroReserved => {
                    self.apply_zero(record.volume, record.first, record.count, true);
                }
                RecordKind::VolumeDelete => self.apply_delete(record.volume),
                _ => {}
            }
        }
        let long = |record: &Record| {
            matches!(record.kind, RecordKind::Data | RecordKind::Relocation)
                && record.count >= CACHED_RUN_BLOCKS_MIN
        };
        if table.records.iter().any(long) {
            let sums = super::cache::Sums {
                sequence: batch.sequence,
                payload: batch.payload,
                checksums: table.checksums.as_slice().into(),
            };
            self.cache.insert(table.of.location, sums);
        }
    }

    fn ledger(&mut self) -> (&mut super::index::Index, Ledger<'_>) {
        let ledger = Ledger {
            segments: &mut self.segments,
            data_blocks: &mut self.data_blocks,
            reserved_blocks: &mut self.reserved_blocks,
        };
        (&mut self.index, ledger)
    }

    pub(super) fn apply_data(&mut self, record: &Record, run: Run<'_>) {
        if !self.volumes.contains(record.volume) {
            return;
        }
        let (index, mut ledger) = self.ledger();
        ledger.mapped(run.location, record.count);
        index.map(record.volume, record.first, run, &mut |location, count| {
            ledger.freed(location, count);
        });
    }

    /// Moves the blocks that the index still finds at the old place; the others are dead already.
    fn apply_relocation(&mut self, record: &Record, run: Run<'_>) {
        let mut at = 0;
        while at < record.count {
            let first = record.first.offset(at.into());
            let stretch = self.index.lookup(record.volume, first);
            let mut count = stretch.count.min(record.count - at);
            let expected = record.source.offset(at);
            if stretch.place.is_some_and(|(place, _)| place == expected) {
                count = self.same_place(record, at);
                let part = Run {
                    location: run.location.offset(at),
                    header: run.header,
                    checksums: &run.checksums[at as usize..(at + count) as usize],
                };
                let (index, mut ledger) = self.ledger();
                ledger.mapped(part.location, count);
                index.map(record.volume, first, part, &mut |location, count| {
                    ledger.freed(location, count);
                });
            } else if stretch.place.is_some() {
                sometimes!("cleaner: a block died while it was moved");
                count = 1;
            }
            at += count;
        }
    }

    /// How many blocks of a relocation, from block `from` of it on, are still where they were.
    fn same_place(&self, record: &Record, from: u32) -> u32 {
        let mut at = from;
        while at < record.count {
            let stretch = self.index.lookup(record.volume, record.first.offset(at.into()));
            match stretch.place {
                Some((place, _)) if place == record.source.offset(at) => {
                    at += stretch.count.min(record.count - at);
                }
                _ => break,
            }
        }
        at - from
    }

    pub(super) fn apply_zero(
        &mut self,
        volume: VolumeId,
        first: BlockIndex,
        count: u32,
        reserve: bool,
    ) {
        if !self.volumes.contains(volume) {
            return;
        }
        let (index, mut ledger) = self.ledger();
        index.unmap(volume, first, count.into(), &mut |location, count| {
            ledger.freed(location, count);
        });
        if !reserve {
            return;
        }
        let mut done = 0;
        while done < count {
            let part = (count - done).min(super::leaf::LEAF_BLOCKS);
            let sums = [0; super::leaf::LEAF_BLOCKS as usize];
            let run =
                Run { location: RESERVED, header: RESERVED, checksums: &sums[..part as usize] };
            ledger.mapped(RESERVED, part);
            index.map(volume, first.offset(done.into()), run, &mut |location, count| {
                ledger.freed(location, count);
            });
            done += part;
        }
    }

    pub(super) fn apply_delete(&mut self, volume: VolumeId) {
        self.volumes.deleted(volume);
        let mut chunks = Vec::new();
        let (index, mut ledger) = self.ledger();
        let freed = &mut |location, count| ledger.freed(location, count);
        index.delete(volume, freed, &mut |chunk| chunks.push(chunk));
        for chunk in chunks {
            self.checkpointer.volume_gone(chunk);
        }
    }
}
