//! Preparing segments: each is written with zeroes once before its first use, a few ahead of the
//! log, because writing into extents that exist is 3 to 4 times cheaper than extending a file.
//!
//! A file system that is full stops here, not in the log: the store then has fewer segments.
//! A new store creates volumes as soon as it has one segment, and takes data when it has the
//! reserve: else a full file system could leave it data that nothing can be trimmed from.
//! Must never know: what segments are used for.

use super::log::{Heat, reserved_segments};
use super::{Io, Store, Waiting};
use crate::buffer::Buffer;
use crate::error::{Error, ErrorKind};
use crate::reactor::DeviceOp;
use crate::units::{BLOCK_SIZE_BYTES, Nanos, SegmentId};
use std::io;
use std::time::Duration;

/// Free segments that are kept ahead of the log, besides the reserve.
const AHEAD_SEGMENTS: usize = 3;
/// Bytes of one write.
const WRITE_BYTES: usize = 1 << 20;
/// Writes in flight together: beside the log's writes, and before there are any.
const WRITES_IN_FLIGHT: [usize; 2] = [2, 8];
/// After a failure, wait this long before trying again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// A store that can write nothing more waits for room in the file system for this long.
const NO_ROOM_MAX: Duration = Duration::from_secs(60);

/// The segment being prepared.
#[derive(Debug)]
pub(super) struct Preparing {
    segment: SegmentId,
    next_bytes: u64,
    in_flight: usize,
    error: Option<io::Error>,
    spare: Vec<Buffer>,
    retry_at: Option<Nanos>,
}

impl Store {
    /// Keeps a few segments ready.
    pub(super) fn poll_prepare(&mut self) {
        if let Some(Preparing { retry_at: Some(at), .. }) = self.preparing {
            if self.now < at {
                return;
            }
            self.preparing = None;
        }
        if self.preparing.is_none()
            && self.segments.free() < reserved_segments(&self.segments) + AHEAD_SEGMENTS
        {
            self.preparing = self.segments.start_preparing().map(|segment| Preparing {
                segment,
                next_bytes: 0,
                in_flight: 0,
                error: None,
                spare: Vec::new(),
                retry_at: None,
            });
        }
        let total = u64::from(self.segments.segment_blocks()) * BLOCK_SIZE_BYTES as u64;
        let in_flight_max = WRITES_IN_FLIGHT[usize::from(self.segments.are_new())];
        while let Some(preparing) = &mut self.preparing {
            let done = preparing.next_bytes >= total || preparing.error.is_some();
            if done || preparing.in_flight >= in_flight_max {
                return;
            }
            let zeroes = preparing.spare.pop().unwrap_or_else(|| {
                let mut buffer = self.pool.allocate(WRITE_BYTES);
                buffer.fill(0);
                buffer
            });
            let start = self.segments.start(preparing.segment).offset_bytes();
            let offset_bytes = start + preparing.next_bytes;
            preparing.next_bytes += WRITE_BYTES as u64;
            preparing.in_flight += 1;
            let segment = preparing.segment;
            let op = DeviceOp::Write { offset_bytes, buffers: vec![zeroes], sync: false };
            self.start(Io::Prepare(segment), op);
        }
    }

    pub(super) fn handle_prepared(
        &mut self,
        segment: SegmentId,
        result: io::Result<()>,
        buffers: Vec<Buffer>,
    ) {
        let total = u64::from(self.segments.segment_blocks()) * BLOCK_SIZE_BYTES as u64;
        let preparing = self.preparing.as_mut().expect("invariant: kept while it is written");
        preparing.in_flight -= 1;
        preparing.spare.extend(buffers);
        preparing.error = result.err().or(preparing.error.take());
        if preparing.in_flight > 0 {
            return;
        }
        if let Some(error) = preparing.error.take() {
            self.prepare_failed(segment, &error);
        } else if preparing.next_bytes >= total {
            self.start(Io::PrepareSync(segment), DeviceOp::Sync);
        }
    }

    pub(super) fn handle_prepare_synced(&mut self, segment: SegmentId, result: io::Result<()>) {
        match result {
            Ok(()) => {
                self.preparing = None;
                self.device_full = false;
                self.segments.prepared_now(segment);
                let ready = self.segments.free() + usize::from(!self.segments.are_new());
                self.has_reserve |= ready > reserved_segments(&self.segments);
            }
            // A failed sync may have lost writes of the log too: nothing is certain after it.
            Err(error) => self.fail(&format!("a sync of the device failed: {error}")),
        }
    }

    fn prepare_failed(&mut self, segment: SegmentId, error: &io::Error) {
        if !is_full(error) {
            return self.fail(&format!("a write to a new segment failed: {error}"));
        }
        sometimes!("prepare: failed, the device is full");
        self.segments.prepare_failed(segment);
        self.device_full = true;
        let retry_at = Some(self.now + RETRY_AFTER);
        if let Some(preparing) = &mut self.preparing {
            preparing.retry_at = retry_at;
            preparing.spare.clear();
        }
    }

    /// When to try again to get room that somebody waits for. Without anybody the next request
    /// tries.
    pub(super) fn prepare_timeout(&self) -> Option<Nanos> {
        let waits = self.waits_for_segment()
            || !self.waiting.is_empty()
            || self.log.waits_without_segment(Heat::Cold);
        self.preparing.as_ref()?.retry_at.filter(|_| waits)
    }

    /// Whether clients wait for a segment to be prepared, cleaned or released.
    fn waits_for_segment(&self) -> bool {
        let early = !self.has_reserve && !self.waiting.is_empty();
        early || self.log.is_starved(&self.segments)
    }

    /// Nothing has to be prepared: the device has a place for every byte already.
    pub fn set_preallocated(&mut self) {
        self.segments.set_prepared(self.segments.count());
        self.has_reserve = true;
    }

    /// No segment is left, the file system has no room for more (or there are no more), and nothing
    /// in the store can be cleaned, as damage keeps it where it is: what has gathered leaves into
    /// the reserve, which is there for this; data that only waits, or comes now, is refused. Once
    /// the reserve is used up as well, nothing can be written down: who waits for that does not
    /// wait for ever.
    pub(super) fn relieve(&mut self) {
        // Begins when nothing is under way that could help; lasts until there is a segment.
        let stands_still = self.waits_for_segment() && self.log.has_landed();
        let is_stranded = self.is_used_up(Heat::Cold);
        self.spent = is_stranded || ((self.spent || stands_still) && self.is_hopeless());
        self.log.set_reserve_open(self.spent);
        if !self.spent {
            self.used_up_since = None;
            return;
        }
        if is_stranded || self.is_used_up(Heat::Hot) {
            let since = *self.used_up_since.get_or_insert(self.now);
            let is_over = self.now.since(since) >= NO_ROOM_MAX || !self.device_full;
            if is_over {
                let why = self.no_segment();
                return self.fail(&format!("the reserve is used up: {why}"));
            }
        }
        sometimes!("prepare: data took the reserve");
        for waiting in std::mem::take(&mut self.waiting) {
            let Waiting::Write { token, data, .. } = waiting else {
                self.waiting.push_back(waiting);
                continue;
            };
            self.waiting_bytes -= data.len();
            self.pending_blocks -= (data.len() / BLOCK_SIZE_BYTES) as u64;
            let error = self.no_segment();
            self.reply(token, Err(error));
        }
        self.refuse_entries();
    }

    /// Whether no segment is left for data, and nothing can make one.
    fn is_hopeless(&self) -> bool {
        self.segments.free() <= reserved_segments(&self.segments)
            && self.cleaner.victim().is_none()
            && !self.checkpointer.is_running()
            && (self.device_full || self.segments.unprepared() == 0)
            && self.segments.empty() == 0
            && !self.entries_hold_segments()
    }

    /// Whether what an append point has gathered lacks a segment, and none is there or being
    /// prepared. At the cold one that is the end: only a checkpoint makes segments free, and it is
    /// written there.
    fn is_used_up(&self, heat: Heat) -> bool {
        let tries = self.preparing.as_ref().is_some_and(|segment| segment.retry_at.is_none());
        self.log.waits_without_segment(heat)
            && self.log.has_landed()
            && self.segments.free() == 0
            && !tries
            && (self.device_full || self.segments.unprepared() == 0)
    }

    /// Why data is refused in a store that is [`Store::spent`].
    pub(super) fn no_segment(&self) -> Error {
        let why = if self.device_full {
            "the file system under the store is full: free some space there"
        } else {
            "the store has no segment left that it can clean: delete or trim something, look for \
             damage with `ashlar check`, or use a larger store"
        };
        Error::new(ErrorKind::NoSpace, why)
    }
}

/// Whether the file cannot grow; any other failed write says that the device is not to be trusted.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
