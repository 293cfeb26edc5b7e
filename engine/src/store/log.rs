//! The log: two append points, batches that gather while earlier ones are in flight, and the order
//! in which they become durable.
//!
//! Invariants: LSNs have no gaps; a batch is installed (and its requests acknowledged) only when it
//! and every batch before it are durable; a request lies in one batch; after a failed write nothing
//! is installed any more.
//! Must never know: the index, what records mean to it.

mod gather;

pub(crate) use gather::GroupRecords;

use super::segments::Segments;
use crate::buffer::{Buffer, BufferPool};
use crate::format::{
    BatchHeader, FLAG_COLD, FLAG_SEAL, Previous, Record, Seal, SegmentHeader, Table, TableCopy,
    encode_batch, header_blocks,
};
use crate::limits::{BATCH_BLOCKS_MAX, BATCH_RECORDS_MAX};
use crate::units::{BLOCK_SIZE_BYTES, Location, Lsn, Nanos, SegmentId, SegmentSequence};
use gather::{OpenBatch, payload_checksums};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// A batch nobody vouches for yet is followed by an empty one after this long: more than the time
/// between two writes of a client that waits for each. While writes go on, the timer for it wakes
/// the reactor for nothing once in this time.
const IDLE_CLOSE: Duration = Duration::from_millis(50);
/// Batches of one append point that may be in flight together: new data, relocated data.
const IN_FLIGHT_MAX: [usize; 2] = [3, 2];
/// A batch leaves while others are in flight only if it has this many blocks: a small one gains
/// more by gathering on than by leaving early.
const OVERLAP_BLOCKS_MIN: u32 = 16;

/// Free segments that only the cleaner and checkpoints may take.
pub(crate) fn reserved_segments(segments: &Segments) -> usize {
    4 + segments.count() as usize / 256
}

/// Free segments that the cleaner leaves for checkpoints: a checkpoint writes at most the index,
/// twice, which is less than 1/200 of the store.
pub(crate) fn checkpoint_segments(segments: &Segments) -> usize {
    2 + segments.count() as usize / 256
}

/// Which append point: new data, or data that has survived a cleaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heat {
    Hot,
    Cold,
}

#[derive(Debug)]
struct OpenSegment {
    id: SegmentId,
    sequence: SegmentSequence,
    /// Next block to write.
    next: Location,
    end: Location,
    /// Table of the last batch written here, which the next one copies.
    previous: Option<Rc<TableCopy>>,
    /// The last batch has records that no later header repeats yet.
    uncopied: bool,
    /// Its first batch, with the segment's header, while that is in flight.
    first: Option<Lsn>,
}

#[derive(Debug)]
struct AppendPoint {
    heat: Heat,
    segment: Option<OpenSegment>,
    batch: OpenBatch,
    in_flight: usize,
}

impl AppendPoint {
    fn new(heat: Heat) -> AppendPoint {
        AppendPoint { heat, segment: None, batch: OpenBatch::default(), in_flight: 0 }
    }

    /// Whether the gathering batch may leave.
    fn may_leave(&self) -> bool {
        // A segment's second batch must not reach the device without its header: recovery would not
        // learn of the segment's life and of its epoch, and both would be handed out again.
        let begun = self.segment.as_ref().is_none_or(|segment| segment.first.is_none());
        let overlaps = begun
            && self.batch.blocks >= OVERLAP_BLOCKS_MIN
            && self.in_flight < IN_FLIGHT_MAX[self.heat as usize];
        !self.batch.records.is_empty() && (self.in_flight == 0 || overlaps)
    }
}

/// A batch on its way to the device.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) lsn: Lsn,
    pub(crate) segment: SegmentId,
    pub(crate) table: Rc<TableCopy>,
    pub(crate) payload: Location,
    pub(crate) sequence: SegmentSequence,
    /// Requests to answer when it is installed.
    pub(crate) waiters: Vec<u64>,
    /// The payload, back from the device.
    pub(crate) buffers: Vec<Buffer>,
    /// Some records are of groups.
    pub(crate) groups: bool,
    heat: Heat,
    durable: bool,
}

/// A write to hand to the device.
#[derive(Debug)]
pub(crate) struct BatchWrite {
    pub(crate) lsn: Lsn,
    pub(crate) location: Location,
    pub(crate) buffers: Vec<Buffer>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Log {
    seal: Seal,
    pool: BufferPool,
    points: [AppendPoint; 2],
    in_flight: VecDeque<InFlight>,
    next_lsn: Lsn,
    durable: Lsn,
    epoch: u64,
    epoch_first: Lsn,
    /// Batches without records at the end of the log.
    empty_run: u32,
    last_activity: Nanos,
    /// Data may take the segments that are kept for cleaning.
    reserve_open: bool,
    /// Blocks written since the log was opened, headers included.
    written_blocks: u64,
}

impl Log {
    /// A log that continues after `last`, under a new epoch.
    pub(crate) fn new(seal: Seal, pool: BufferPool, last: Lsn, epoch: u64) -> Log {
        Log {
            seal,
            pool,
            points: [AppendPoint::new(Heat::Hot), AppendPoint::new(Heat::Cold)],
            in_flight: VecDeque::new(),
            next_lsn: last.next(),
            durable: last,
            epoch,
            epoch_first: last.next(),
            empty_run: 0,
            last_activity: Nanos(0),
            reserve_open: false,
            written_blocks: 0,
        }
    }

    fn point(&mut self, heat: Heat) -> &mut AppendPoint {
        &mut self.points[heat as usize]
    }

    /// Everything up to here is durable and installed.
    pub(crate) fn durable(&self) -> Lsn {
        self.durable
    }

    /// This opening of the store.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Blocks written since the log was opened, headers included.
    pub(crate) fn written_blocks(&self) -> u64 {
        self.written_blocks
    }

    /// Whether a record with this many payload blocks fits into the gathering batch.
    pub(crate) fn has_room(&self, heat: Heat, blocks: u32) -> bool {
        let batch = &self.points[heat as usize].batch;
        batch.records.len() < BATCH_RECORDS_MAX as usize
            && batch.blocks + blocks <= BATCH_BLOCKS_MAX
    }

    /// Whether these fit into the gathering batch, together.
    pub(crate) fn has_room_for(&self, heat: Heat, group: &GroupRecords) -> bool {
        self.points[heat as usize].batch.has_room_for(group)
    }

    /// Payload blocks gathered at an append point.
    pub(crate) fn gathered_blocks(&self, heat: Heat) -> u32 {
        self.points[heat as usize].batch.blocks
    }

    /// Blocks that an append point's open segment still takes.
    pub(crate) fn left_in_segment(&self, heat: Heat) -> u32 {
        let segment = self.points[heat as usize].segment.as_ref();
        segment.map_or(0, |segment| segment.end.0 - segment.next.0)
    }

    /// Whether nothing is gathered or in flight at an append point.
    pub(crate) fn is_idle(&self, heat: Heat) -> bool {
        let point = &self.points[heat as usize];
        point.batch.records.is_empty() && point.in_flight == 0
    }

    /// Whether nothing is on its way to the device.
    pub(crate) fn has_landed(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether nothing at all waits to become durable.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight.is_empty() && self.points.iter().all(|p| p.batch.records.is_empty())
    }

    /// Adds a record to the gathering batch; call [`Log::has_room`] first.
    pub(crate) fn push(
        &mut self,
        heat: Heat,
        record: Record,
        payload: Option<Buffer>,
        waiter: Option<u64>,
    ) {
        let batch = &mut self.point(heat).batch;
        batch.blocks += record.payload_blocks();
        batch.waiters.extend(waiter);
        batch.payload.extend(payload);
        // Sequential writes become one run in the index only if they are one record.
        if let Some(last) = batch.records.last_mut()
            && last.kind == record.kind
            && last.kind == crate::format::RecordKind::Data
            && last.volume == record.volume
            && last.first.offset(last.count.into()) == record.first
        {
            last.count += record.count;
            return;
        }
        batch.records.push(record);
    }

    /// Adds records of a group to the gathering batch; call [`Log::has_room_for`] first.
    pub(crate) fn push_group(&mut self, heat: Heat, group: GroupRecords, waiter: Option<u64>) {
        self.point(heat).batch.push_group(group, waiter);
    }

    /// Answers `waiter` with the last hot batch that is gathering or in flight; false if none is.
    pub(crate) fn push_waiter(&mut self, waiter: u64) -> bool {
        let batch = &mut self.point(Heat::Hot).batch;
        if !batch.records.is_empty() {
            batch.waiters.push(waiter);
            return true;
        }
        let newest = self.in_flight.iter_mut().rev().find(|batch| batch.heat == Heat::Hot);
        newest.map(|batch| batch.waiters.push(waiter)).is_some()
    }

    /// The next write, if a batch may leave now.
    pub(crate) fn poll_write(&mut self, segments: &mut Segments, now: Nanos) -> Option<BatchWrite> {
        for heat in [Heat::Hot, Heat::Cold] {
            if self.points[heat as usize].may_leave()
                && let Some(write) = self.leave(heat, segments)
            {
                self.last_activity = now;
                return Some(write);
            }
        }
        self.poll_horizon(segments, now)
    }

    /// When [`Log::poll_write`] has something to do without any further event.
    pub(crate) fn poll_timeout(&self) -> Option<Nanos> {
        let uncopied = |point: &AppendPoint| point.segment.as_ref().is_some_and(|s| s.uncopied);
        (self.is_quiet() && self.points.iter().any(uncopied))
            .then(|| self.last_activity + IDLE_CLOSE)
    }

    /// After a moment without writes: an empty batch that vouches for the last one and repeats it.
    fn poll_horizon(&mut self, segments: &mut Segments, now: Nanos) -> Option<BatchWrite> {
        if self.poll_timeout()? > now {
            return None;
        }
        let open = |p: &AppendPoint| p.segment.as_ref().is_some_and(|s| s.uncopied);
        let point = self.points.iter().find(|p| open(p));
        let heat = point.expect("invariant: the time-out is for such a point").heat;
        sometimes!("log: a closing batch");
        Some(self.write(heat, OpenBatch::default(), 0, segments))
    }

    fn leave(&mut self, heat: Heat, segments: &mut Segments) -> Option<BatchWrite> {
        let needed = {
            let point = &self.points[heat as usize];
            let previous = point.segment.as_ref().and_then(|s| s.previous.as_deref());
            let (records, blocks) = (point.batch.records.len(), point.batch.blocks as usize);
            let (old_records, old_sums) =
                previous.map_or((0, 0), |p| (p.records.len(), p.checksums.len()));
            let own = point.batch.inline.len();
            let inline = own + previous.map_or(0, |p| p.inline.len());
            let with_copy = header_blocks(records, blocks, old_records, old_sums, inline);
            // Room for the batch itself, for an empty one that repeats it when the log falls idle,
            // and for the one that ends the segment.
            with_copy + point.batch.blocks + header_blocks(0, 0, records, blocks, own) + 1
        };
        if let Some(segment) = &self.points[heat as usize].segment {
            if segment.next.offset(needed).0 <= segment.end.0 {
                let batch = std::mem::take(&mut self.point(heat).batch);
                return Some(self.write(heat, batch, 0, segments));
            }
            sometimes!("log: a segment was sealed");
            let last = self.next_lsn;
            let id = segment.id;
            let write = self.write(heat, OpenBatch::default(), FLAG_SEAL, segments);
            self.point(heat).segment = None;
            segments.seal(id, last);
            return Some(write);
        }
        // The first segment of a store does not wait for the reserve: it creates volumes, and the
        // store takes no data before the reserve is there.
        let reserved = heat == Heat::Hot && !self.reserve_open && !segments.are_new();
        let kept = if reserved { reserved_segments(segments) } else { 0 };
        if segments.free() <= kept {
            sometimes!("log: waited for a free segment");
            return None;
        }
        let id = segments.open()?;
        let start = segments.start(id);
        let (sequence, end) = (segments.get(id).sequence, start.offset(segments.segment_blocks()));
        self.point(heat).segment = Some(OpenSegment {
            id,
            sequence,
            next: start,
            end,
            previous: None,
            uncopied: false,
            first: None,
        });
        let batch = std::mem::take(&mut self.point(heat).batch);
        Some(self.write(heat, batch, 0, segments))
    }

    /// Builds a batch's bytes at the append point and notes it as in flight.
    fn write(
        &mut self,
        heat: Heat,
        batch: OpenBatch,
        flags: u16,
        segments: &mut Segments,
    ) -> BatchWrite {
        let cold = if heat == Heat::Cold { FLAG_COLD } else { 0 };
        let lsn = self.next_lsn;
        self.next_lsn = lsn.next();
        let point = &mut self.points[heat as usize];
        let segment = point.segment.as_mut().expect("invariant: callers opened the segment");
        let mut buffers = Vec::with_capacity(batch.payload.len() + 2);
        let location = segment.next;
        if segment.previous.is_none() {
            let mut block = self.pool.allocate(BLOCK_SIZE_BYTES);
            let header = SegmentHeader { sequence: segment.sequence, location, flags: cold };
            header.encode(&self.seal, &mut block);
            buffers.push(block);
            segment.first = Some(lsn);
        }
        let header = BatchHeader {
            sequence: segment.sequence,
            location: location.offset(buffers.len() as u32),
            flags: flags | cold,
            lsn,
            durable: self.durable,
            epoch: self.epoch,
            epoch_first: self.epoch_first,
            preceding_empty: self.empty_run,
        };
        let old = segment.previous.as_deref();
        let (old_records, old_sums) = old.map_or((0, 0), |p| (p.records.len(), p.checksums.len()));
        let inline = batch.inline.len() + old.map_or(0, |p| p.inline.len());
        let (records, sums) = (batch.records.len(), batch.blocks as usize);
        let blocks = header_blocks(records, sums, old_records, old_sums, inline);
        let payload = header.location.offset(blocks);
        let checksums = payload_checksums(&self.seal, segment.sequence, payload, &batch);
        let mut area = self.pool.allocate(blocks as usize * BLOCK_SIZE_BYTES);
        let table = Table { records: &batch.records, checksums: &checksums, inline: &batch.inline };
        let checksum = encode_batch(&self.seal, &header, table, old, &mut area);
        buffers.push(area);
        buffers.extend(batch.payload);
        segment.next = payload.offset(batch.blocks);
        assert!(segment.next <= segment.end, "a batch reaches past its segment");
        segment.uncopied = !batch.records.is_empty();
        self.empty_run = if batch.records.is_empty() { self.empty_run + 1 } else { 0 };
        let of = Previous { location: header.location, header_blocks: blocks, checksum, lsn };
        let inline = batch.inline;
        let table = Rc::new(TableCopy { of, records: batch.records, checksums, inline });
        segment.previous = Some(table.clone());
        point.in_flight += 1;
        segments.get_mut(segment.id).writes += 1;
        self.written_blocks += u64::from(segment.next.0 - location.0);
        self.in_flight.push_back(InFlight {
            lsn,
            segment: segment.id,
            table,
            payload,
            sequence: segment.sequence,
            waiters: batch.waiters,
            buffers: Vec::new(),
            groups: batch.groups,
            heat,
            durable: false,
        });
        BatchWrite { lsn, location, buffers }
    }

    /// A batch's write ended well; [`Log::poll_durable`] tells what that makes durable.
    pub(crate) fn handle_written(&mut self, lsn: Lsn, buffers: Vec<Buffer>, now: Nanos) {
        self.last_activity = now;
        let batch = self.in_flight.iter_mut().find(|batch| batch.lsn == lsn);
        let batch = batch.expect("invariant: a completion belongs to a batch in flight");
        batch.durable = true;
        for segment in self.points.iter_mut().filter_map(|point| point.segment.as_mut()) {
            segment.first = segment.first.filter(|first| *first != lsn);
        }
        batch.buffers = buffers;
    }

    /// The next batch, in LSN order, that has become durable.
    pub(crate) fn poll_durable(&mut self) -> Option<InFlight> {
        let batch = self.in_flight.pop_front_if(|batch| batch.durable)?;
        self.durable = batch.lsn;
        self.point(batch.heat).in_flight -= 1;
        Some(batch)
    }

    /// The oldest segment life that holds, or will hold, a batch after the durable ones.
    pub(crate) fn replay_from(&self, segments: &Segments) -> SegmentSequence {
        let open = self.points.iter().filter_map(|p| p.segment.as_ref()).map(|s| s.sequence);
        let in_flight = self.in_flight.iter().map(|batch| batch.sequence);
        open.chain(in_flight).min().unwrap_or(segments.next_sequence())
    }

    /// After a failure: every request that will never be acknowledged.
    pub(crate) fn fail(&mut self) -> Vec<u64> {
        let mut waiters: Vec<u64> =
            self.in_flight.drain(..).flat_map(|batch| batch.waiters).collect();
        for point in &mut self.points {
            waiters.append(&mut std::mem::take(&mut point.batch).waiters);
            point.segment = None;
        }
        waiters
    }

    /// Lets data take the segments that are kept for cleaning.
    pub(crate) fn set_reserve_open(&mut self, open: bool) {
        self.reserve_open = open;
    }

    /// Whether something has gathered at an append point that has no segment.
    pub(crate) fn waits_without_segment(&self, heat: Heat) -> bool {
        let point = &self.points[heat as usize];
        !point.batch.records.is_empty() && point.segment.is_none()
    }

    /// Whether data writes wait for a free segment.
    pub(crate) fn is_starved(&self, segments: &Segments) -> bool {
        self.waits_without_segment(Heat::Hot)
            && segments.free() <= if segments.are_new() { 0 } else { reserved_segments(segments) }
    }
}
