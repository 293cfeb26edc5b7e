//! A batch while it gathers, and what its payload must prove.
//!
//! Invariant: the records of one group request lie in one batch, one after another.
//! Must never know: segments, what is in flight.

use crate::buffer::Buffer;
use crate::format::{BlockIdentity, Record, Seal};
use crate::limits::{BATCH_BLOCKS_MAX, BATCH_INLINE_MAX_BYTES, BATCH_RECORDS_MAX};
use crate::units::{BLOCK_SIZE_BYTES, Location, SegmentSequence};

#[derive(Debug, Default)]
pub(super) struct OpenBatch {
    pub(super) records: Vec<Record>,
    pub(super) payload: Vec<Buffer>,
    pub(super) blocks: u32,
    pub(super) waiters: Vec<u64>,
    /// Short heads and votes of its records.
    pub(super) inline: Vec<u8>,
    /// Some records are of groups.
    pub(super) groups: bool,
}

/// Records of a group that belong into one batch.
#[derive(Debug, Default)]
pub(crate) struct GroupRecords {
    pub(crate) records: Vec<Record>,
    pub(crate) payload: Vec<Buffer>,
    /// Blocks of the payload.
    pub(crate) blocks: u32,
    /// Their short heads and votes, padded.
    pub(crate) inline: Vec<u8>,
}

impl OpenBatch {
    pub(super) fn has_room_for(&self, group: &GroupRecords) -> bool {
        self.records.len() + group.records.len() <= BATCH_RECORDS_MAX as usize
            && self.blocks + group.blocks <= BATCH_BLOCKS_MAX
            && self.inline.len() + group.inline.len() <= BATCH_INLINE_MAX_BYTES
    }

    pub(super) fn push_group(&mut self, group: GroupRecords, waiter: Option<u64>) {
        self.blocks += group.blocks;
        self.waiters.extend(waiter);
        self.payload.extend(group.payload);
        self.records.extend(group.records);
        self.inline.extend(group.inline);
        self.groups = true;
    }
}

/// One checksum per payload block, bound to what and where the block is.
pub(super) fn payload_checksums(
    seal: &Seal,
    sequence: SegmentSequence,
    payload: Location,
    batch: &OpenBatch,
) -> Vec<u32> {
    let mut blocks = batch.payload.iter().flat_map(|buffer| buffer.chunks_exact(BLOCK_SIZE_BYTES));
    let mut sums = Vec::with_capacity(batch.blocks as usize);
    for record in &batch.records {
        for i in 0..record.payload_blocks() {
            let bytes = blocks.next().expect("invariant: payload covers the records");
            let identity = BlockIdentity {
                sequence,
                location: payload.offset(sums.len() as u32),
                volume: record.volume,
                block: record.first.offset(i.into()),
            };
            sums.push(seal.block_checksum(identity, bytes));
        }
    }
    assert!(blocks.next().is_none(), "payload is longer than its records");
    sums
}
