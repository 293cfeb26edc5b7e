//! The cleaner: empties mostly dead segments by moving what lives in them to the cold append point.
//!
//! Victims are chosen by cost-benefit (Rosenblum and Ousterhout 1992). It works in proportion to
//! what the foreground writes, and freely when the foreground is idle.
//! Invariants: a block is verified before it is moved; one that does not prove itself stays where
//! it is, and its segment with it.
//! Must never know: how batches are written.

use super::log::{Heat, checkpoint_segments, reserved_segments};
use super::segments::{Segment, Segments, State};
use super::{Io, Store};
use crate::buffer::Buffer;
use crate::format::{
    BatchTable, BlockIdentity, DecodeError, FLAG_SEAL, Record, RecordKind, decode_batch,
};
use crate::limits::{BATCH_BLOCKS_MAX, BATCH_HEADER_BLOCKS_MAX};
use crate::reactor::DeviceOp;
use crate::units::{BLOCK_SIZE_BYTES, BlockIndex, Location, Lsn, SegmentId, SegmentSequence};
use std::collections::VecDeque;
use std::io;

/// Blocks of one read of a victim: no batch is longer.
const READ_BLOCKS: u32 = 512;
const _: () = assert!(READ_BLOCKS >= BATCH_BLOCKS_MAX + BATCH_HEADER_BLOCKS_MAX);
/// Blocks of a cold batch: small, so that it does not hold up a hot one that waits behind it.
const COLD_BATCH_BLOCKS_MAX: u32 = 128;
/// ... and at most this part of a segment: what does not fit at a segment's end is wasted, and must
/// stay below what cleaning gains.
const COLD_BATCH_PART: u32 = 16;
const _: () = assert!(GAIN_PART + 2 < COLD_BATCH_PART);
/// Blocks of a cold batch's header, and of the batches that may have to end its segment.
const COLD_SLACK_BLOCKS: u32 = 3 * BATCH_HEADER_BLOCKS_MAX;
/// Live blocks that may be queued before the victim is read on: reading and writing overlap.
const QUEUE_BLOCKS: u32 = 1024;
/// Blocks of one relocation record.
const RUN_BLOCKS: u32 = 64;

/// A segment is cleaned only if more than this part of it is gained: more than a freshly packed one
/// wastes on headers and at its end, less than the part of a full store that is dead.
pub(super) const GAIN_PART: u32 = 12;
/// Without anybody writing, a segment is cleaned only if this part of it is gained.
const IDLE_GAIN_PART: u32 = 4;

#[derive(Debug)]
struct Victim {
    id: SegmentId,
    sequence: SegmentSequence,
    /// Next block to look at.
    next: Location,
    end: Location,
    reading: bool,
    walked: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Cleaner {
    victim: Option<Victim>,
    /// Live blocks read from the victim, on their way to the cold batch.
    queue: VecDeque<(Record, Buffer)>,
    queue_blocks: u32,
    /// Blocks it may still move before the foreground has to write more.
    budget: i64,
    /// A victim was left with pieces of a checkpoint in it.
    left_pieces: bool,
    seen_user_blocks: u64,
}

impl Cleaner {
    /// The segment being emptied.
    pub(super) fn victim(&self) -> Option<SegmentId> {
        self.victim.as_ref().map(|victim| victim.id)
    }
}

/// Fewer segments than this free or about to be, and cleaning begins.
pub(super) fn low_water(segments: &Segments) -> usize {
    reserved_segments(segments) + 4 + segments.count() as usize / 64
}

/// The best victim with fewer than `live_max` live blocks: most space gained, for longest, for the
/// least copying. Pure.
pub(super) fn choose(segments: &Segments, now: Lsn, live_max: u32) -> Option<SegmentId> {
    let score = |segment: &Segment| {
        let used = f64::from(segment.live) / f64::from(segments.segment_blocks());
        let age = now.0.saturating_sub(segment.sealed.0) as f64 + 1.0;
        // Ages differ by orders of magnitude: in full they would outweigh what is gained.
        (1.0 - used) * age.sqrt().sqrt() / (1.0 + used)
    };
    segments
        .iter()
        .filter(|(_, s)| s.state == State::Sealed && !s.stuck && s.writes == 0)
        // With an entry of a group in it nothing is gained by emptying it.
        .filter(|(_, s)| s.live < live_max && s.entries == 0)
        .max_by(|(_, a), (_, b)| score(a).total_cmp(&score(b)))
        .map(|(id, _)| id)
}

impl Store {
    /// Goes on with the victim, or picks one if space is short.
    pub(super) fn poll_cleaner(&mut self) {
        self.fill_cold_batch();
        if self.cleaner.victim.is_none() {
            let soon = self.segments.free() + self.segments.empty();
            let can_grow = self.segments.unprepared() > 0 && !self.device_full;
            if can_grow || soon >= low_water(&self.segments) {
                return;
            }
            self.pick_victim();
        }
        if self.may_read() {
            self.read_victim();
        }
    }

    fn pick_victim(&mut self) {
        let written = self.counters.user_blocks_written > self.cleaner.seen_user_blocks;
        let needed = written || self.log.is_starved(&self.segments);
        // Nobody waits and nobody writes: only what clearly pays, or it would copy for ever.
        let part = if needed { GAIN_PART } else { IDLE_GAIN_PART };
        let live_max = self.segments.segment_blocks() / part * (part - 1);
        let Some(id) = choose(&self.segments, self.log.durable(), live_max) else {
            // Segments with nothing left but pieces of a checkpoint wait for the next one.
            if needed && std::mem::take(&mut self.cleaner.left_pieces) {
                self.checkpointer.request_if(true);
            }
            return;
        };
        // A victim is begun only if all that lives in it has a place to go.
        let spare = self.segments.free().saturating_sub(checkpoint_segments(&self.segments));
        let room = u64::from(self.log.left_in_segment(Heat::Cold))
            + spare as u64 * u64::from(self.segments.segment_blocks());
        if u64::from(self.segments.get(id).live) * 9 / 8 > room {
            return self.checkpointer.request_if(self.segments.empty() > 0);
        }
        sometimes!("cleaner: a victim was chosen");
        let start = self.segments.start(id);
        let end = start.offset(self.segments.segment_blocks());
        let chunks: Vec<_> = self
            .checkpointer
            .chunks_in(start, end)
            .map(|(number, leaves)| (number, leaves.to_vec()))
            .collect();
        for (number, leaves) in chunks {
            self.index.touch(number, &leaves);
        }
        let sequence = self.segments.get(id).sequence;
        let next = start.offset(1);
        self.cleaner.victim =
            Some(Victim { id, sequence, next, end, reading: false, walked: false });
    }

    /// Keeps the cleaner in step with the foreground: what it may move grows with what is written,
    /// the faster the less space is left.
    fn may_read(&mut self) -> bool {
        let Some(victim) = &self.cleaner.victim else { return false };
        if victim.reading || victim.walked || self.cleaner.queue_blocks > QUEUE_BLOCKS {
            return false;
        }
        let written = self.counters.user_blocks_written;
        let new = written - std::mem::replace(&mut self.cleaner.seen_user_blocks, written);
        let live = i64::from(self.segments.get(victim.id).live);
        let gained = i64::from(self.segments.segment_blocks()) - live;
        let low = low_water(&self.segments) as i64;
        let free = (self.segments.free() + self.segments.empty()) as i64;
        let urgency = 1 + 2 * (low - free).max(0);
        let step = i64::from(READ_BLOCKS);
        self.cleaner.budget += (new as i64 * live * urgency / gained.max(1)).min(8 * step);
        self.cleaner.budget = self.cleaner.budget.min(8 * step);
        let pays = gained >= i64::from(self.segments.segment_blocks() / IDLE_GAIN_PART);
        let idle = self.log.is_idle(Heat::Hot) && pays;
        idle || self.log.is_starved(&self.segments) || self.cleaner.budget > 0
    }

    fn read_victim(&mut self) {
        let victim = self.cleaner.victim.as_mut().expect("invariant: only a victim is read");
        let left = victim.end.0 - victim.next.0;
        let blocks = left.min(READ_BLOCKS);
        victim.reading = true;
        let (id, offset_bytes) = (victim.id, victim.next.offset_bytes());
        self.segments.get_mut(id).pins += 1;
        let buffer = self.pool.allocate(blocks as usize * BLOCK_SIZE_BYTES);
        self.start(Io::Clean, DeviceOp::Read { offset_bytes, buffer });
    }

    /// A piece of the victim was read: queues what lives in it.
    pub(super) fn handle_clean(&mut self, result: io::Result<()>, buffers: Vec<Buffer>) {
        let victim = self.cleaner.victim.as_mut().expect("invariant: kept while it is read");
        victim.reading = false;
        let (id, sequence, start, end) = (victim.id, victim.sequence, victim.next, victim.end);
        self.segments.get_mut(id).pins -= 1;
        if self.failed.is_some() {
            return; // What would be gathered now never leaves, and a close would wait for it.
        }
        let bytes = match (result, buffers.into_iter().next()) {
            (Ok(()), Some(buffer)) => buffer,
            _ => {
                sometimes!("cleaner: a victim could not be read");
                self.counters.read_errors += 1;
                self.end_walk();
                return;
            }
        };
        let mut at = start;
        loop {
            let offset = (at.0 - start.0) as usize * BLOCK_SIZE_BYTES;
            if at >= end {
                return self.end_walk();
            }
            if offset >= bytes.len() {
                break;
            }
            let table = match decode_batch(&self.seal, sequence, at, &bytes[offset..]) {
                Ok(table) => table,
                // The next read begins with this batch; a read is as long as any batch.
                Err(DecodeError::Short { .. }) if at != start => break,
                // A damaged header keeps its own batch here, not those behind it.
                Err(_) => {
                    at = at.offset(1);
                    continue;
                }
            };
            let after = (table.end().0 - start.0) as usize * BLOCK_SIZE_BYTES;
            if after > bytes.len() {
                if at == start {
                    return self.end_walk();
                }
                break;
            }
            let payload = offset + table.header_blocks as usize * BLOCK_SIZE_BYTES;
            self.queue_live(&table, &bytes[payload..after]);
            at = table.end();
            if table.header.flags & FLAG_SEAL != 0 {
                return self.end_walk();
            }
        }
        if let Some(victim) = &mut self.cleaner.victim {
            victim.next = at;
        }
        self.fill_cold_batch();
    }

    /// Queues the blocks of a batch that the index still points to.
    fn queue_live(&mut self, table: &BatchTable, payload: &[u8]) {
        let mut record_at = 0u32;
        for record in &table.records {
            let base = record_at;
            record_at += record.payload_blocks();
            if !matches!(record.kind, RecordKind::Data | RecordKind::Relocation) {
                continue;
            }
            let mut i = 0;
            while i < record.count {
                let run = self.live_run(table, record, base, i);
                if run > 0 {
                    self.queue_run(table, record, base, i, run, payload);
                }
                i += run.max(1);
            }
        }
    }

    /// How many blocks of a record, from block `from` on, the index still finds in this batch.
    fn live_run(&self, table: &BatchTable, record: &Record, base: u32, from: u32) -> u32 {
        let mut at = from;
        while at < record.count && at - from < RUN_BLOCKS {
            let place = table.payload_location().offset(base + at);
            let stretch = self.index.lookup(record.volume, record.first.offset(at.into()));
            match stretch.place {
                Some((found, _)) if found == place => at += stretch.count.min(record.count - at),
                _ => break,
            }
        }
        (at - from).min(RUN_BLOCKS)
    }

    fn queue_run(
        &mut self,
        table: &BatchTable,
        record: &Record,
        base: u32,
        from: u32,
        count: u32,
        payload: &[u8],
    ) {
        let first = (base + from) as usize;
        let bytes = &payload[first * BLOCK_SIZE_BYTES..(first + count as usize) * BLOCK_SIZE_BYTES];
        let source = table.payload_location().offset(base + from);
        let block = record.first.offset(from.into());
        for (i, data) in bytes.chunks_exact(BLOCK_SIZE_BYTES).enumerate() {
            let identity = BlockIdentity {
                sequence: table.header.sequence,
                location: source.offset(i as u32),
                volume: record.volume,
                block: BlockIndex(block.0 + i as u64),
            };
            if self.seal.block_checksum(identity, data) != table.checksums[first + i] {
                // Reading it says so to whoever asks; moving it would hide the damage.
                self.counters.corrupt_blocks += 1;
                return;
            }
        }
        let mut buffer = self.pool.allocate(bytes.len());
        buffer.copy_from_slice(bytes);
        let moved = Record::plain(RecordKind::Relocation, record.volume, block, count, source);
        self.cleaner.queue_blocks += count;
        self.cleaner.queue.push_back((moved, buffer));
    }

    /// Whether the cleaner may take another segment: the last ones are for checkpoints, unless a
    /// checkpoint would free nothing.
    fn may_open_segment(&self) -> bool {
        let free = self.segments.free();
        let pointless = self.segments.empty() == 0 && !self.checkpointer.is_running();
        free > checkpoint_segments(&self.segments) || (free > 0 && pointless)
    }

    fn end_walk(&mut self) {
        if let Some(victim) = &mut self.cleaner.victim {
            victim.walked = true;
        }
        self.fill_cold_batch();
    }

    /// Hands queued blocks to the cold append point; lets go of a victim once all are installed.
    fn fill_cold_batch(&mut self) {
        while let Some((record, _)) = self.cleaner.queue.front() {
            let count = record.count;
            let gathered = self.log.gathered_blocks(Heat::Cold);
            let most = COLD_BATCH_BLOCKS_MAX.min(self.segments.segment_blocks() / COLD_BATCH_PART);
            let fits = gathered + count <= most;
            if !fits || !self.log.has_room(Heat::Cold, count) {
                return;
            }
            if self.log.left_in_segment(Heat::Cold) < gathered + count + COLD_SLACK_BLOCKS
                && !self.may_open_segment()
            {
                return self.checkpointer.request_if(true);
            }
            let front = self.cleaner.queue.pop_front();
            let (record, buffer) = front.expect("invariant: there is a front");
            self.cleaner.queue_blocks -= count;
            self.cleaner.budget -= i64::from(count);
            sometimes!("cleaner: blocks were moved");
            self.counters.relocated_blocks += u64::from(count);
            self.log.push(Heat::Cold, record, Some(buffer), None);
        }
        let walked = self.cleaner.victim.as_ref().filter(|victim| victim.walked);
        let Some(id) = walked.map(|victim| victim.id) else { return };
        if !self.log.is_idle(Heat::Cold) {
            return;
        }
        let start = self.segments.start(id);
        let end = start.offset(self.segments.segment_blocks());
        let inside = |place: Location| start <= place && place < end;
        let checkpoints = self.checkpointer.places().filter(|(place, _)| inside(*place));
        let kept: u32 = checkpoints.map(|(_, blocks)| blocks).sum();
        let live = self.segments.get(id).live;
        // What is left are checkpoint pieces, which the next checkpoint replaces, or blocks that
        // could not be moved: not a victim again before that checkpoint.
        self.segments.set_stuck(id, live > 0);
        self.counters.cleaned_segments += u64::from(live <= kept);
        // Otherwise the next regular checkpoint is early enough.
        let short = self.segments.free() <= reserved_segments(&self.segments) + 1;
        self.checkpointer.request_if(kept > 0 && short);
        self.cleaner.left_pieces |= kept > 0;
        self.cleaner.victim = None;
    }
}
