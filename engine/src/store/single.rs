//! Reads as they are taken, and the common one: a block whose checksum is at hand.
//!
//! Such a read keeps its few words with its operation. Everything else, and a block that does not
//! prove itself, goes the long way of `read`.
//! Must never know: how the index is kept.

use super::leaf::{Check, RESERVED};
use super::{Io, Outcome, Store};
use crate::buffer::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::format::BlockIdentity;
use crate::limits::REQUEST_BLOCKS_MAX;
use crate::reactor::DeviceOp;
use crate::units::{BLOCK_SIZE_BYTES, BlockIndex, Location, VolumeId};
use std::io;

/// Reads whose index entries are fetched together: few enough to stay in the nearest cache.
const FETCHED_TOGETHER: usize = 32;

/// A read that was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    token: u64,
    volume: VolumeId,
    first: BlockIndex,
    count: u32,
}

/// A read of one block under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockRead {
    token: u64,
    volume: VolumeId,
    block: BlockIndex,
    location: Location,
    sum: u32,
}

impl Store {
    pub(super) fn read(
        &mut self,
        token: u64,
        volume: VolumeId,
        first: BlockIndex,
        count: u32,
    ) -> Result<()> {
        if count == 0 || count > REQUEST_BLOCKS_MAX {
            let why = format!("a read is 1 to {REQUEST_BLOCKS_MAX} blocks");
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        self.check_range(volume, first, count.into())?;
        self.wanted.push(Wanted { token, volume, first, count });
        Ok(())
    }

    /// Starts the reads that were taken. An index entry is far away in memory: the entries of
    /// several reads are fetched in one short loop, so that the processor waits for all at once.
    pub(super) fn start_reads(&mut self) {
        if self.wanted.is_empty() {
            return;
        }
        let mut wanted = std::mem::take(&mut self.wanted);
        for together in wanted.chunks(FETCHED_TOGETHER) {
            if together.len() > 1 {
                let fetched = together.iter().map(|read| self.index.fetch(read.volume, read.first));
                std::hint::black_box(fetched.fold(0, |all, word| all ^ word));
            }
            for &read in together {
                if !self.start_block(read) {
                    self.start_read(read.token, read.volume, read.first, read.count, false);
                }
            }
        }
        wanted.clear();
        self.wanted = wanted; // For its memory.
    }

    /// Starts a read of one block, if its checksum need not be read first. Else false.
    fn start_block(&mut self, read: Wanted) -> bool {
        if read.count != 1 {
            return false;
        }
        let Some((location, check)) = self.index.lookup(read.volume, read.first).place else {
            return false;
        };
        let sum = match check {
            _ if location == RESERVED => return false,
            Check::Sum(sum) => sum,
            Check::Header(header) => {
                let sequence = self.sequence_of(header);
                let table = self.cache.get(header, sequence);
                let Some(sum) = table.and_then(|sums| sums.of(location)) else { return false };
                sum
            }
        };
        self.pin(location, 1);
        let Wanted { token, volume, first: block, .. } = read;
        let buffer = self.pool.allocate(BLOCK_SIZE_BYTES);
        let op = DeviceOp::Read { offset_bytes: location.offset_bytes(), buffer };
        self.start(Io::Block(BlockRead { token, volume, block, location, sum }), op);
        true
    }

    /// A block was read: proves it and answers, or goes the long way, which reads once more.
    pub(super) fn handle_block(
        &mut self,
        read: BlockRead,
        result: io::Result<()>,
        buffers: Vec<Buffer>,
    ) {
        let BlockRead { token, volume, block, location, sum } = read;
        self.pin(location, -1);
        self.counters.read_errors += u64::from(result.is_err());
        let sequence = self.sequence_of(location);
        let identity = BlockIdentity { sequence, location, volume, block };
        let proved = |data: &Buffer| self.seal.block_checksum(identity, data) == sum;
        if result.is_ok() && buffers.first().is_some_and(proved) {
            self.counters.user_blocks_read += 1;
            self.reply(token, Ok(Outcome::Read(buffers)));
        } else {
            self.start_read(token, volume, block, 1, true);
        }
    }
}
