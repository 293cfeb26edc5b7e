//! A segment as it was read: its bytes, and which of its blocks could not be read.
//!
//! A read of a whole segment that fails is done again block by block, one segment at a time.
//! Invariant: an unreadable block is nobody's bytes: not zeroes, and part of no header.
//! Must never know: what the blocks mean.

use super::{ReadRange, ReadResult, WAVE_READS, blocks_at};
use crate::buffer::{Buffer, BufferPool};
use crate::store::segments::Segments;
use crate::units::{BLOCK_SIZE_BYTES, SegmentId};
use std::collections::VecDeque;

/// See the module.
#[derive(Debug)]
pub(super) struct Image {
    bytes: Buffer,
    /// Blocks that could not be read, ascending.
    unreadable: Vec<u32>,
}

impl Image {
    /// All of it was read.
    pub(super) fn whole(bytes: Buffer) -> Image {
        Image { bytes, unreadable: Vec::new() }
    }

    /// Its blocks, readable or not.
    pub(super) fn blocks(&self) -> u32 {
        (self.bytes.len() / BLOCK_SIZE_BYTES) as u32
    }

    /// Whether every block could be read.
    pub(super) fn is_whole(&self) -> bool {
        self.unreadable.is_empty()
    }

    /// Whether this block could not be read.
    pub(super) fn is_unreadable(&self, at: u32) -> bool {
        self.unreadable.binary_search(&at).is_ok()
    }

    /// The bytes from this block up to the next unreadable one.
    pub(super) fn from(&self, at: u32) -> &[u8] {
        let next = self.unreadable.partition_point(|block| *block < at);
        let end = self.unreadable.get(next).map_or(self.blocks(), |block| *block);
        let bytes = at as usize * BLOCK_SIZE_BYTES..end as usize * BLOCK_SIZE_BYTES;
        self.bytes.get(bytes).unwrap_or(&[])
    }

    /// A block's bytes; none if it is unreadable or not here.
    pub(super) fn block(&self, at: u32) -> &[u8] {
        self.from(at).get(..BLOCK_SIZE_BYTES).unwrap_or(&[])
    }
}

/// Segments that are read block by block.
#[derive(Debug, Default)]
pub(super) struct Again {
    left: VecDeque<SegmentId>,
    image: Option<Image>,
    /// Blocks of the first of them that were tried.
    tried: u32,
}

impl Again {
    /// A read of this segment failed.
    pub(super) fn push(&mut self, id: SegmentId) {
        sometimes!("recovery: a read was done again block by block");
        self.left.push_back(id);
    }

    /// The next reads, while [`Again::is_busy`]: some of the next `blocks` of the first segment.
    pub(super) fn wave(&self, segments: &Segments, blocks: u32) -> Vec<ReadRange> {
        let id = self.left.front().expect("invariant: asked only while a segment is left");
        let start = segments.start(*id);
        let left = (self.tried..blocks).take(WAVE_READS);
        left.map(|at| blocks_at(start.offset(at), 1)).collect()
    }

    /// Whether a segment is left.
    pub(super) fn is_busy(&self) -> bool {
        !self.left.is_empty()
    }

    /// Takes the results of a wave; the segment, if they were the last of its `blocks`.
    pub(super) fn take(
        &mut self,
        pool: &BufferPool,
        blocks: u32,
        results: &[ReadResult],
    ) -> Option<(SegmentId, Image)> {
        let new = || Image::whole(pool.allocate(blocks as usize * BLOCK_SIZE_BYTES));
        let image = self.image.get_or_insert_with(new);
        for result in results {
            let from = self.tried as usize * BLOCK_SIZE_BYTES;
            match result {
                Ok(block) => image.bytes[from..from + BLOCK_SIZE_BYTES].copy_from_slice(block),
                Err(_) => image.unreadable.push(self.tried),
            }
            self.tried += 1;
        }
        if self.tried < blocks {
            return None;
        }
        self.tried = 0;
        self.left.pop_front().zip(self.image.take())
    }
}
