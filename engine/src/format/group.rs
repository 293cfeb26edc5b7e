//! Records of groups: which of them may follow each other, and the short bytes they carry.
//!
//! An entry is followed by its changes, in the same table. Heads of at most
//! [`INLINE_HEAD_MAX_BYTES`] and votes lie behind the table's checksums, in the order of their
//! records, each padded with zeroes to a multiple of 4; longer heads are payload of the entry.
//! Must never know: what heads and votes mean.

use super::record::{Record, RecordKind};
use crate::limits::{
    BATCH_INLINE_MAX_BYTES, ENTRY_BLOCKS_MAX, ENTRY_CHANGES_MAX, ENTRY_HEAD_MAX_BYTES,
    INLINE_HEAD_MAX_BYTES, LEADER_MAX, VOTE_MAX_BYTES,
};
use crate::units::{BLOCK_SIZE_BYTES, GroupId};

/// Bytes that a head or vote of this length takes behind the table.
#[must_use]
pub fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(4)
}

/// Bytes of the record's head or vote that lie behind the table, without padding.
#[must_use]
pub fn inline_of(record: &Record) -> usize {
    let is_inline = match record.kind {
        RecordKind::Entry => record.count == 0,
        RecordKind::Vote => true,
        _ => false,
    };
    if is_inline { record.head_bytes as usize } else { 0 }
}

/// Bytes behind the checksums of a table with these records; `None` if they are too many.
pub(super) fn inline_bytes(records: &[Record]) -> Option<usize> {
    let mut sum = 0;
    for record in records.iter().filter(|record| record.head_bytes > 0) {
        let bytes = inline_of(record);
        if bytes > INLINE_HEAD_MAX_BYTES {
            return None;
        }
        sum += padded(bytes);
    }
    (sum <= BATCH_INLINE_MAX_BYTES).then_some(sum)
}

/// Payload blocks that a head of this length takes.
#[must_use]
pub fn head_blocks(bytes: usize) -> u32 {
    if bytes <= INLINE_HEAD_MAX_BYTES { 0 } else { bytes.div_ceil(BLOCK_SIZE_BYTES) as u32 }
}

/// Whether records of groups stand where they may and hold what they may.
pub(super) fn is_valid(records: &[Record]) -> bool {
    let mut rest = records;
    while let Some((record, behind)) = rest.split_first() {
        rest = behind;
        let alone = match record.kind {
            RecordKind::Entry => {
                let changes = usize::from(record.changes);
                if changes > ENTRY_CHANGES_MAX || changes > behind.len() {
                    return false;
                }
                let (changes, after) = behind.split_at(changes);
                rest = after;
                if !is_entry(record, changes) {
                    return false;
                }
                continue;
            }
            RecordKind::Vote => record.group.0 > 0 && record.head_bytes as usize <= VOTE_MAX_BYTES,
            RecordKind::Truncate => record.group.0 > 0 && record.head_bytes == 0,
            RecordKind::Purge => {
                record.group.0 > 0 && record.first.0 <= LEADER_MAX && record.head_bytes == 0
            }
            RecordKind::GroupVolume => false,
            _ => record.group == GroupId(0) && record.head_bytes == 0,
        };
        if !alone || record.changes > 0 {
            return false;
        }
    }
    true
}

fn is_entry(entry: &Record, changes: &[Record]) -> bool {
    let bytes = entry.head_bytes as usize;
    let of_entry = |change: &Record| {
        let kind = matches!(
            change.kind,
            RecordKind::Data
                | RecordKind::Zero
                | RecordKind::ZeroReserved
                | RecordKind::VolumeDelete
                | RecordKind::GroupVolume
        );
        let same =
            (change.group, change.term, change.index) == (entry.group, entry.term, entry.index);
        kind && same && change.changes == 0 && change.head_bytes == 0 && change.volume.is_of_group()
    };
    let blocks: u64 = changes.iter().map(|change| u64::from(change.payload_blocks())).sum();
    entry.group.0 > 0
        && entry.first.0 <= LEADER_MAX
        && bytes <= ENTRY_HEAD_MAX_BYTES
        && entry.count == head_blocks(bytes)
        && blocks <= u64::from(ENTRY_BLOCKS_MAX)
        && changes.iter().all(of_entry)
}
