//! Every bound of the engine, and how the bounds relate. `docs/operations.md` lists them for
//! operators.
//!
//! Must never know: anything but [`crate::units`].

use crate::units::BLOCK_SIZE_BYTES;

/// Largest write that is atomic: it survives a power cut whole or not at all.
pub const ATOMIC_WRITE_MAX_BYTES: usize = 1 << 20;
/// Blocks of the largest request: an atomic write that starts and ends inside a block.
pub const REQUEST_BLOCKS_MAX: u32 = (ATOMIC_WRITE_MAX_BYTES / BLOCK_SIZE_BYTES) as u32 + 1;

/// Payload blocks of one batch: with its header it fits into 2 MiB, which one read of the cleaner
/// covers.
pub const BATCH_BLOCKS_MAX: u32 = 504;
/// Records of one batch.
pub const BATCH_RECORDS_MAX: u32 = 128;
/// Header blocks of one batch: its own table and the copy of its predecessor's.
pub const BATCH_HEADER_BLOCKS_MAX: u32 = 5;

/// Largest segment, and the default for stores of 4 GiB and more.
pub const SEGMENT_BLOCKS_MAX: u32 = 8192;
/// Smallest segment.
pub const SEGMENT_BLOCKS_MIN: u32 = 1024;
/// Fewest segments of a store.
pub const SEGMENTS_MIN: u32 = 15;
/// Blocks before the first segment: the superblock copies and room to grow.
pub const SEGMENTS_START_BLOCK: u32 = 512;

/// Largest store: locations are 32-bit block numbers.
pub const STORE_MAX_BYTES: u64 = (1 << 32) * BLOCK_SIZE_BYTES as u64;
/// Smallest store.
pub const STORE_MIN_BYTES: u64 = 64 << 20;

/// Largest volume (thin, so it may be larger than the store).
pub const VOLUME_MAX_BYTES: u64 = 1 << 48;
/// Volumes of one store.
pub const VOLUMES_MAX: usize = 4096;
/// Bytes of a volume name.
pub const VOLUME_NAME_MAX_BYTES: usize = 128;

/// Changes of one group entry.
pub const ENTRY_CHANGES_MAX: usize = 64;
/// Blocks that the changes of one group entry write.
pub const ENTRY_BLOCKS_MAX: u32 = REQUEST_BLOCKS_MAX;
/// Bytes of a group entry's head.
pub const ENTRY_HEAD_MAX_BYTES: usize = 64 << 10;
/// Bytes of the applied head of one group of a store; the others' are bounded like an entry's. They
/// are held in memory, and each checkpoint writes them.
pub const APPLIED_HEAD_MAX_BYTES: usize = 1 << 20;
/// Longer heads take payload blocks; shorter ones lie in the header area.
pub const INLINE_HEAD_MAX_BYTES: usize = 1024;
/// Bytes of heads and votes in the header area of one batch.
pub const BATCH_INLINE_MAX_BYTES: usize = 2016;
/// Bytes of a group's vote.
pub const VOTE_MAX_BYTES: usize = 64;
/// A leader's number is at most this.
pub const LEADER_MAX: u64 = u64::MAX >> 1;
/// Volumes of groups in one store.
pub const GROUP_VOLUMES_MAX: usize = 16384;
/// Bytes of recent group entries kept in memory, besides those not durable yet.
pub const ENTRY_CACHE_MAX_BYTES: usize = 16 << 20;

/// Groups of a store with segments of this size: what they leave in a checkpoint fits its reserve.
#[must_use]
pub const fn groups_max(segment_blocks: u32) -> usize {
    segment_blocks as usize / 64
}

/// Entries that the groups of such a store may retain together.
#[must_use]
pub const fn group_entries_max(segment_blocks: u32) -> usize {
    segment_blocks as usize * 32
}

/// Bytes of requests that may wait in the store before it refuses to take more.
pub const QUEUED_MAX_BYTES: usize = 64 << 20;

const _: () = assert!(BATCH_BLOCKS_MAX >= REQUEST_BLOCKS_MAX);
const _: () = assert!(ENTRY_CHANGES_MAX < BATCH_RECORDS_MAX as usize);
const _: () = assert!(
    ENTRY_BLOCKS_MAX as usize + ENTRY_HEAD_MAX_BYTES / BLOCK_SIZE_BYTES
        <= BATCH_BLOCKS_MAX as usize
);
const _: () = assert!(INLINE_HEAD_MAX_BYTES <= BATCH_INLINE_MAX_BYTES);
// The applied heads of all groups take half of a segment at most.
const _: () = assert!(
    2 * (APPLIED_HEAD_MAX_BYTES + groups_max(SEGMENT_BLOCKS_MIN) * ENTRY_HEAD_MAX_BYTES)
        <= SEGMENT_BLOCKS_MIN as usize * BLOCK_SIZE_BYTES
);
const _: () = assert!(VOTE_MAX_BYTES <= BATCH_INLINE_MAX_BYTES);
const _: () = assert!(BATCH_BLOCKS_MAX + BATCH_HEADER_BLOCKS_MAX <= 512);
const _: () = assert!(SEGMENT_BLOCKS_MIN > BATCH_BLOCKS_MAX + 2 * BATCH_HEADER_BLOCKS_MAX + 1);
const _: () = assert!(
    SEGMENTS_START_BLOCK as u64 + SEGMENT_BLOCKS_MIN as u64 * SEGMENTS_MIN as u64
        <= STORE_MIN_BYTES / BLOCK_SIZE_BYTES as u64
);
const _: () = assert!(SEGMENT_BLOCKS_MAX <= u16::MAX as u32);
