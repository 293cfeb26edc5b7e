//! Checksum cache: the tables of recently written or read batches, for runs whose index entry only
//! names the header.
//!
//! Invariant: holds at most `bytes_max`; losing an entry costs one read, never correctness.
//! Must never know: I/O.

use crate::units::{Location, SegmentSequence};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Checksums of one batch's payload.
#[derive(Clone, Debug)]
pub(crate) struct Sums {
    /// Life of the segment: a header's place alone may mean an older batch.
    pub(crate) sequence: SegmentSequence,
    /// Where the payload starts.
    pub(crate) payload: Location,
    /// One per payload block.
    pub(crate) checksums: Rc<[u32]>,
}

impl Sums {
    fn bytes(&self) -> usize {
        // The table, its reference counts, and its places in map and queue.
        self.checksums.len() * 4 + 80
    }

    /// The checksum of the block at `location`, if the batch holds it.
    pub(crate) fn of(&self, location: Location) -> Option<u32> {
        let at = location.0.checked_sub(self.payload.0)?;
        self.checksums.get(at as usize).copied()
    }
}

/// See the module. Eviction is first in, first out with a second chance (CLOCK).
#[derive(Debug)]
pub(crate) struct ChecksumCache {
    entries: BTreeMap<Location, (Sums, bool)>,
    order: VecDeque<Location>,
    bytes: usize,
    bytes_max: usize,
}

impl ChecksumCache {
    /// An empty cache.
    pub(crate) fn new(bytes_max: usize) -> ChecksumCache {
        ChecksumCache { entries: BTreeMap::new(), order: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// The table of the batch whose header is at `header`, in that life of its segment.
    pub(crate) fn get(&mut self, header: Location, sequence: SegmentSequence) -> Option<&Sums> {
        let (sums, used) = self.entries.get_mut(&header)?;
        *used = true;
        (sums.sequence == sequence).then_some(sums)
    }

    /// Keeps a table.
    pub(crate) fn insert(&mut self, header: Location, sums: Sums) {
        self.bytes += sums.bytes();
        match self.entries.insert(header, (sums, false)) {
            Some((old, _)) => self.bytes -= old.bytes(),
            None => self.order.push_back(header),
        }
        while self.bytes > self.bytes_max {
            let oldest = self.order.pop_front().expect("invariant: bytes are those of entries");
            let entry = self.entries.get_mut(&oldest);
            let (_, used) = entry.expect("invariant: each entry is in the order once");
            if std::mem::take(used) {
                self.order.push_back(oldest);
            } else if let Some((old, _)) = self.entries.remove(&oldest) {
                self.bytes -= old.bytes();
            }
        }
    }

    /// Bytes in use.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
    }
}
