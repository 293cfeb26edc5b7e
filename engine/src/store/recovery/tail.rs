//! The log after the checkpoint: which batches there are, and which of them count.
//!
//! The verdicts (docs/format.md, "Torn or corrupt"): a batch that a later one names as durable must
//! be there, whole or from its copy; the first batch that nothing vouches for and that is not whole
//! ends the log, unless a block of it, or of what may follow, cannot be read: then the store is
//! refused. Scanning never stops at the first bad block.
//! Must never know: the device.

use super::super::Store;
use super::super::apply::Installed;
use super::super::segments::State;
use super::end::{Scanned, Span, heat_of, hidden_header};
use super::groups::Older;
use super::image::Image;
use super::{Recovery, corrupt, unreadable};
use crate::error::Result;
use crate::format::{
    BlockIdentity, FLAG_COLD, FLAG_SEAL, Previous, Record, RecordKind, RootVolume, Seal, TableCopy,
    decode_batch,
};
use crate::units::{Location, Lsn, SegmentId, SegmentSequence};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// A batch found in the tail.
#[derive(Debug)]
pub(super) struct Found {
    /// Every payload block matches its checksum.
    whole: bool,
    /// A payload block that cannot be read.
    unreadable: Option<Location>,
    sequence: SegmentSequence,
    payload: Location,
    pub(super) table: Rc<TableCopy>,
    /// Payload blocks that do not match their checksums, by their place in the payload.
    pub(super) bad: Vec<u32>,
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
    pub(super) older: Older,
    /// Every segment that was scanned.
    pub(super) scanned: Vec<Scanned>,
}

impl Tail {
    /// Newest epoch seen; 0 if none.
    pub(super) fn epoch(&self) -> u64 {
        self.epochs.last_key_value().map_or(0, |(epoch, _)| *epoch)
    }

    /// Whether a newer epoch began at or before this batch.
    fn is_void(&self, lsn: Lsn, epoch: u64) -> bool {
        let void = self.epochs.range(epoch + 1..).any(|(_, first)| *first <= lsn);
        if void {
            sometimes!("recovery: a void batch was passed over");
        }
        void
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
        let older = self.tail.older.wanted().filter_map(|header| self.store().segments.of(header));
        let older: BTreeSet<SegmentId> = older.collect();
        let is_tail = |id, sequence| {
            (sequence >= from && !self.progress.is_behind(id, sequence)) || older.contains(&id)
        };
        let tail = segments.filter(|(id, s)| s.state == State::Sealed && is_tail(*id, s.sequence));
        tail.map(|(id, _)| id).collect()
    }

    /// Notes every batch of a tail segment, and from each the copy of the one before it.
    pub(super) fn scan_segment(&mut self, id: SegmentId, image: &Image) {
        let store = self.store.as_ref().expect("invariant: the superblock was read");
        let (seal, start) = (store.seal, store.segments.start(id));
        let sequence = store.segments.get(id).sequence;
        let blocks = image.blocks();
        let mut scanned = Scanned {
            sequence,
            is_cold: heat_of(&seal, start, image),
            epoch: None,
            first: None,
            hidden: None,
        };
        let mut spans: Vec<Span> = Vec::new();
        let mut copies = Vec::new();
        let mut at = 1;
        while at < blocks {
            let Ok(table) = decode_batch(&seal, sequence, start.offset(at), image.from(at)) else {
                at += 1;
                continue;
            };
            let header = table.header;
            self.tail.epochs.insert(header.epoch, header.epoch_first);
            self.tail.vouched = self.tail.vouched.max(header.durable);
            scanned.epoch = scanned.epoch.max(Some(header.epoch));
            scanned.is_cold = Some(header.flags & FLAG_COLD != 0);
            spans.push(Span {
                location: header.location,
                end: table.end(),
                lsn: header.lsn,
                seals: header.flags & FLAG_SEAL != 0,
            });
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
            let own = TableCopy {
                of,
                records: table.records,
                checksums: table.checksums,
                inline: table.inline,
            };
            self.note(&seal, header.epoch, sequence, own, start, image);
        }
        for (epoch, copy) in copies {
            let of = copy.of;
            if !spans.iter().any(|span| span.location == of.location) {
                sometimes!("recovery: a batch was found by its copy");
                let end = of.location.offset(of.header_blocks + copy.checksums.len() as u32);
                spans.push(Span { location: of.location, end, lsn: of.lsn, seals: false });
                self.note(&seal, epoch, sequence, copy, start, image);
            }
        }
        scanned.first = spans.iter().map(|span| span.lsn).min();
        scanned.hidden = hidden_header(&seal, sequence, start, image, &spans);
        // An older one was scanned for entries of groups: the log does not end there.
        if sequence >= self.root.replay_from {
            self.tail.scanned.push(scanned);
        }
    }

    fn note(
        &mut self,
        seal: &Seal,
        epoch: u64,
        sequence: SegmentSequence,
        table: TableCopy,
        start: Location,
        image: &Image,
    ) {
        let lsn = table.of.lsn;
        if lsn <= self.root.lsn && !self.tail.older.wants(table.of.location) {
            return;
        }
        let payload = table.of.location.offset(table.of.header_blocks);
        let (mut whole, mut unreadable, mut created, mut at) = (true, None, Vec::new(), 0u32);
        let mut bad = Vec::new();
        for record in &table.records {
            for i in 0..record.payload_blocks() {
                let location = payload.offset(at);
                let block = image.block(location.0 - start.0);
                if image.is_unreadable(location.0 - start.0) {
                    unreadable = Some(location);
                }
                let identity = BlockIdentity {
                    sequence,
                    location,
                    volume: record.volume,
                    block: record.first.offset(i.into()),
                };
                let good = !block.is_empty()
                    && seal.block_checksum(identity, block) == table.checksums[at as usize];
                whole &= good;
                bad.extend((!good).then_some(at));
                if record.kind == RecordKind::VolumeCreate && good {
                    created.push(block.to_vec());
                }
                at += 1;
            }
        }
        let table = Rc::new(table);
        let found = Found { whole, unreadable, sequence, payload, table, bad, created };
        if lsn <= self.root.lsn {
            self.tail.older.insert(found);
        } else {
            self.tail.batches.insert((lsn, epoch), found);
        }
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
                    if !batch.whole {
                        sometimes!("recovery: a damaged batch was installed");
                    }
                    install(store, lsn, &batch)?;
                    let kinds = batch.table.records.iter().map(|record| record.kind);
                    changed |= kinds.into_iter().any(|kind| kind != RecordKind::Checkpoint);
                }
                None if vouched && self.tail.was_empty(lsn) => {
                    sometimes!("recovery: a lost empty batch was counted");
                }
                _ if vouched => {
                    if let Some(place) = self.tail.hidden() {
                        return Err(unreadable(place));
                    }
                    sometimes!("recovery: the log was refused as damaged");
                    let why = format!("the log is damaged: batch {lsn} of {highest} is lost");
                    return Err(corrupt(&why));
                }
                // Not torn for all that can be known: see the module.
                Some(Found { unreadable: Some(place), .. }) => return Err(unreadable(place)),
                Some(_) => {
                    sometimes!("recovery: the torn tail was cut");
                    break;
                }
                None => break,
            }
            last = lsn;
        }
        let epoch = self.root.epoch.max(self.tail.epoch());
        if let Some(place) = self.tail.hidden_after(last, epoch) {
            return Err(unreadable(place));
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
    store.replay_groups(&batch.table, &batch.bad).map_err(|why| corrupt(&why))
}
