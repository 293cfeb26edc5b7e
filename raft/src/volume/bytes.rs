//! Byte ranges and blocks.
//!
//! Must never know: volumes.

use ashlar_engine::buffer::Buffer;
use ashlar_engine::units::BLOCK_SIZE_BYTES;
use std::ops::Range;

pub(super) const BLOCK: u64 = BLOCK_SIZE_BYTES as u64;

/// Blocks that a byte range touches.
pub(super) fn touched(bytes: &Range<u64>) -> Range<u64> {
    bytes.start / BLOCK..bytes.end.div_ceil(BLOCK)
}

/// Whether a range begins and ends with a block.
pub(super) fn is_whole(bytes: &Range<u64>) -> bool {
    bytes.start.is_multiple_of(BLOCK) && bytes.end.is_multiple_of(BLOCK)
}

/// Cuts buffers down to `length` bytes from `skip` on.
pub(super) fn cut(buffers: Vec<Buffer>, mut skip: usize, mut length: usize) -> Vec<Buffer> {
    let mut kept = Vec::with_capacity(buffers.len());
    for mut buffer in buffers {
        if skip >= buffer.len() {
            skip -= buffer.len();
            continue;
        }
        if skip > 0 {
            buffer = buffer.split_at(skip).1;
            skip = 0;
        }
        buffer.truncate(buffer.len().min(length));
        length -= buffer.len();
        if !buffer.is_empty() {
            kept.push(buffer);
        }
    }
    kept
}
