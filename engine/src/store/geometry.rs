//! How a device is divided, and what makes it an empty store.
//!
//! Must never know: what segments are used for.

use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{DeviceId, FORMAT_VERSION, SUPERBLOCK_LOCATIONS, Superblock};
use crate::limits::{
    SEGMENT_BLOCKS_MAX, SEGMENT_BLOCKS_MIN, SEGMENTS_MIN, SEGMENTS_START_BLOCK, STORE_MAX_BYTES,
    STORE_MIN_BYTES,
};
use crate::reactor::DeviceOp;
use crate::units::{BLOCK_SIZE_BYTES, Location, Lsn};

/// How a device is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks of a segment.
    pub segment_blocks: u32,
    /// Number of segments.
    pub segments: u32,
}

impl Geometry {
    /// The division of a device of this size.
    ///
    /// # Errors
    /// If the size is below [`STORE_MIN_BYTES`] or above [`STORE_MAX_BYTES`].
    pub fn for_size(bytes: u64) -> Result<Geometry> {
        if !(STORE_MIN_BYTES..=STORE_MAX_BYTES).contains(&bytes) {
            let why = format!(
                "a store has {STORE_MIN_BYTES} to {STORE_MAX_BYTES} bytes, {bytes} is outside"
            );
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let blocks = bytes / BLOCK_SIZE_BYTES as u64 - u64::from(SEGMENTS_START_BLOCK);
        let wanted = (blocks / 128).max(1).ilog2();
        let segment_blocks = (1u32 << wanted.min(31)).clamp(SEGMENT_BLOCKS_MIN, SEGMENT_BLOCKS_MAX);
        let segments = (blocks / u64::from(segment_blocks)) as u32;
        assert!(segments >= SEGMENTS_MIN);
        Ok(Geometry { segment_blocks, segments })
    }
}

/// The writes that make a device an empty store, in any order.
#[must_use]
pub fn format_store(pool: &BufferPool, device: DeviceId, geometry: Geometry) -> Vec<DeviceOp> {
    let superblock = Superblock {
        version: FORMAT_VERSION,
        device,
        generation: 1,
        segment_blocks: geometry.segment_blocks,
        segments: geometry.segments,
        root_location: Location(0),
        root_mirror: Location(0),
        root_blocks: 0,
        root_checksum: 0,
        root_lsn: Lsn(0),
    };
    let write = |copy: u32| {
        let mut buffer = pool.allocate(BLOCK_SIZE_BYTES);
        buffer.copy_from_slice(&superblock.encode(copy));
        let offset_bytes = SUPERBLOCK_LOCATIONS[copy as usize].offset_bytes();
        DeviceOp::Write { offset_bytes, buffers: vec![buffer], sync: true }
    };
    vec![write(0), write(1)]
}
