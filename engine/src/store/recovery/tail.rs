//! The log after the checkpoint: which batches there are, and which of them count.
//!
//! The verdicts (docs/format.md, "Torn or corrupt"): a batch that a later one names as durable must
//! be there, whole or from its copy; the first batch that nothing vouches for and that is not whole
//! ends the log. Scanning never stops at the first bad block.
//! Must never know: the device.

use super::super::Store;
use super::super::apply::Installed;
use super::super::segments::State;
use super::{Recovery, corrupt};
use crate::error::Result;
use crate::format::{
    BlockIdentity, Previous, Record, RecordKind, RootVolume, Seal, TableCopy, decode_batch,
};
use crate::units::{BLOCK_SIZE_BYTES, Location, Lsn, SegmentId, SegmentSequence};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A batch found in the tail.
#[derive(Debug)]
struct Found {
    /// Every payload block matches its checksum.
    whole: bool,
    sequence: SegmentSequence,
    payload: Location,
    table: TableCopy,
    /// Payload blocks of volume creations.
    created: Vec<Vec<u8>>,
}

/// Everything found after the checkpoint.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// By LSN, then epoch.
    batches: BTreeMap<(Lsn, u64), Found>,
    /// First batch of each epoch.
    epochs: BTreeMap<u64, Lsn>,
    /// Batches that a later one says had no records: LSN and epoch.
    empty: BTreeSet<(Lsn, u64)>,
    /// Highest LSN that a batch of an epoch calls durable.
    vouched: Lsn,
}

impl Tail {
    /// Newest epoch seen; 0 if none.
    pub(super) fn epoch(&self) -> u64 {
        self.epochs.last_key_value().map_or(0, |(epoch, _)| *epoch)
    }

    /// Whether a newer epoch began at or before this batch.
    fn is_void(&self, lsn: Lsn, epoch: u64) -> bool {
        self.epochs.range(epoch + 1..).any(|(_, first)| *first <= lsn)
    }

    /// Whether a batch that was not found is known to have had no records.
    fn was_empty(&self, lsn: Lsn) -> bool {
        let epochs = self.empty.range((lsn, 0)..=(lsn, u64::MAX)).map(|(_, epoch)| *epoch);
        epochs.into_iter().any(|epoch| !self.is_void(lsn, epoch))
    }

    fn take(&mut self, lsn: Lsn) -> Option<Found> {
        let keys = self.batches.range((lsn, 0)..=(lsn, u64::MAX)).map(|(key, _)| *key);
        let key = keys.rev().find(|(lsn, epoch)| !self.is_void(*lsn, *epoch))?;
        self.batches.remove(&key)
    }
}

impl Recovery {
    /// Segments that may hold batches after the checkpoint.
    pub(super) fn tail_segments(&self) -> VecDeque<SegmentId> {
        let from = self.root.replay_from;
        let segments = self.store().segments.iter();
        let tail = segments.filter(|(_, s)| s.state == State::Sealed && s.sequence >= from);
        tail.map(|(id, _)| id).collect()
    }

    /// Notes every batch of a tail segment, and from each the copy of the one before it.
    pub(super) fn scan_segment(&mut self, id: SegmentId, bytes: &[u8]) {
        let store = self.store.as_ref().expect("invariant: the superblock was read");
        let (seal, start) = (store.seal, store.segments.start(id));
        let sequence = store.segments.get(id).sequence;
        let blocks = (bytes.len() / BLOCK_SIZE_BYTES) as u32;
        let mut seen = Vec::new();
        let mut copies = Vec::new();
        let mut at = 1;
        while at < blocks {
            let rest = &bytes[at as usize * BLOCK_SIZE_BYTES..];
            let Ok(table) = decode_batch(&seal, sequence, start.offset(at), rest) else {
                at += 1;
                continue;
            };
            let header = table.header;
            self.tail.epochs.insert(header.epoch, header.epoch_first);
            self.tail.vouched = self.tail.vouched.max(header.durable);
            seen.push(header.location);
            // Not more than a tail can hold: the count is checked only by its header's checksum.
            let first = header.lsn.0.saturating_sub(header.preceding_empty.min(blocks).into());
            let empty = (first.max(self.root.lsn.0 + 1)..header.lsn.0).map(Lsn);
            self.tail.empty.extend(empty.map(|lsn| (lsn, header.epoch)));
            let of = Previous {
                location: header.location,
                header_blocks: table.header_blocks,
                checksum: table.checksum,
                lsn: header.lsn,
            };
            at = (table.end().0 - start.0).min(blocks).max(at + 1);
            copies.extend(table.previous.map(|copy| (header.epoch, copy)));
            let own = TableCopy { of, records: table.records, checksums: table.checksums };
            self.note(&seal, header.epoch, sequence, own, start, bytes);
        }
        for (epoch, copy) in copies {
            if !seen.contains(&copy.of.location) {
                self.note(&seal, epoch, sequence, copy, start, bytes);
            }
        }
    }

    fn note(
        &mut self,
        seal: &Seal,
        epoch: u64,
        sequence: SegmentSequence,
        table: TableCopy,
        start: Location,
        bytes: &[u8],
    ) {
        let lsn = table.of.lsn;
        if lsn <= self.root.lsn {
            return;
        }
        let payload = table.of.location.offset(table.of.header_blocks);
        let (mut whole, mut created, mut at) = (true, Vec::new(), 0u32);
        for record in &table.records {
            for i in 0..record.payload_blocks() {
                let location = payload.offset(at);
                let from = (location.0 - start.0) as usize * BLOCK_SIZE_BYTES;
                let block = bytes.get(from..from + BLOCK_SIZE_BYTES).unwrap_or(&[]);
                let identity = BlockIdentity {
                    sequence,
                    location,
                    volume: record.volume,
                    block: record.first.offset(i.into()),
                };
                let good = seal.block_checksum(identity, block) == table.checksums[at as usize];
                whole &= good;
                if record.kind == RecordKind::VolumeCreate && good {
                    created.push(block.to_vec());
                }
                at += 1;
            }
        }
        let found = Found { whole, sequence, payload, table, created };
        self.tail.batches.insert((lsn, epoch), found);
    }

    /// Installs the tail in order; returns the last batch that counts, and whether any of them
    /// changed something that the checkpoint does not know.
    pub(super) fn replay(&mut self) -> Result<(Lsn, bool)> {
        let highest = self.tail.vouched;
        let mut last = self.root.lsn;
        let mut changed = false;
        loop {
            let lsn = last.next();
            let vouched = lsn <= highest;
            match self.tail.take(lsn) {
                Some(batch) if vouched || batch.whole => {
                    let store = self.store.as_mut().expect("invariant: the superblock was read");
                    install(store, lsn, &batch)?;
                    let kinds = batch.table.records.iter().map(|record| record.kind);
                    changed |= kinds.into_iter().any(|kind| kind != RecordKind::Checkpoint);
                }
                None if vouched && self.tail.was_empty(lsn) => {}
                _ if vouched => {
                    let why = format!("the log is damaged: batch {lsn} of {highest} is lost");
                    return Err(corrupt(&why));
                }
                _ => break,
            }
            last = lsn;
        }
        let store = self.store.as_mut().expect("invariant: the superblock was read");
        let newest = store.segments.iter().map(|(_, segment)| segment.sequence).max();
        let newest = newest.unwrap_or(SegmentSequence(0));
        store.segments.set_next_sequence(SegmentSequence(newest.0 + 1));
        Ok((last, changed))
    }
}

fn install(store: &mut Store, lsn: Lsn, batch: &Found) -> Result<()> {
    let described = |record: &Record| {
        let found = |block: &Vec<u8>| RootVolume::decode(block).map(|volume| volume.id);
        record.kind != RecordKind::VolumeCreate
            || batch.created.iter().any(|block| found(block) == Some(record.volume))
    };
    if !batch.table.records.iter().all(described) {
        return Err(corrupt(&format!("the log is damaged: batch {lsn} created a volume")));
    }
    batch.created.iter().for_each(|block| store.apply_create(block));
    if let Some(id) = store.segments.of(batch.table.of.location) {
        store.segments.get_mut(id).last = lsn;
    }
    store.apply(&Installed {
        sequence: batch.sequence,
        payload: batch.payload,
        table: &batch.table,
    });
    Ok(())
}
