//! A volume on this thread: byte ranges of any alignment onto whole blocks.
//!
//! Invariant: a write of at most [`ATOMIC_WRITE_MAX_BYTES`] is one request of the store, so it is
//! atomic; partial blocks are changed under a lock that other writes respect.
//! Must never know: where blocks are.

use super::{Answers, LocalStore};
use crate::buffer::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::ATOMIC_WRITE_MAX_BYTES;
use crate::store::{Mapping, Outcome, Place, Request};
use crate::units::{BLOCK_SIZE_BYTES, BlockIndex, VolumeId};
use std::ops::Range;
use std::rc::Rc;

const BLOCK: u64 = BLOCK_SIZE_BYTES as u64;

/// A stretch of a volume that is mapped one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub length_bytes: u64,
    /// Hole, reserved or data.
    pub mapping: Mapping,
}

/// A volume of a [`LocalStore`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LocalVolume {
    store: LocalStore,
    id: VolumeId,
    size_bytes: u64,
}

impl LocalVolume {
    pub(super) fn new(store: LocalStore, id: VolumeId, size_bytes: u64) -> LocalVolume {
        LocalVolume { store, id, size_bytes }
    }

    /// Its identity in the store.
    #[must_use]
    pub fn id(&self) -> VolumeId {
        self.id
    }

    /// The store it is in.
    #[must_use]
    pub fn store(&self) -> &LocalStore {
        &self.store
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn check(&self, offset: u64, length: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size_bytes => Ok(()),
            _ => Err(Error::new(ErrorKind::Invalid, "the request reaches past the volume's end")),
        }
    }

    async fn read_blocks(&self, first: u64, count: u64) -> Result<Vec<Buffer>> {
        let request =
            Request::Read { volume: self.id, first: BlockIndex(first), count: count as u32 };
        match self.store.call(request).await? {
            Outcome::Read(buffers) => Ok(buffers),
            _ => Err(Error::new(ErrorKind::Failed, "the store answered another question")),
        }
    }

    /// Reads at most [`ATOMIC_WRITE_MAX_BYTES`]; the buffers together have exactly `length` bytes.
    ///
    /// # Errors
    /// `Invalid` past the end or too long, `Corrupt` if what is stored does not prove itself.
    pub async fn read(&self, offset: u64, length: usize) -> Result<Vec<Buffer>> {
        self.check(offset, length as u64)?;
        check_length(length)?;
        if length == 0 {
            return Ok(Vec::new());
        }
        let end = offset + length as u64;
        let (first, after) = (offset / BLOCK, end.div_ceil(BLOCK));
        let mut buffers = self.read_blocks(first, after - first).await?;
        if !offset.is_multiple_of(BLOCK) || !end.is_multiple_of(BLOCK) {
            trim_to(&mut buffers, (offset - first * BLOCK) as usize, length);
        }
        Ok(buffers)
    }

    /// Writes at most [`ATOMIC_WRITE_MAX_BYTES`], atomically; durable when it returns.
    ///
    /// # Errors
    /// `Invalid` past the end or too long, `NoSpace` if the store is full, `Failed` if it failed.
    pub async fn write(&self, offset: u64, data: Buffer) -> Result<()> {
        let length = data.len();
        self.check(offset, length as u64)?;
        check_length(length)?;
        if length == 0 {
            return Ok(());
        }
        let end = offset + length as u64;
        let (first, after) = (offset / BLOCK, end.div_ceil(BLOCK));
        if offset.is_multiple_of(BLOCK) && end.is_multiple_of(BLOCK) {
            let request = Request::Write { volume: self.id, first: BlockIndex(first), data };
            return self.store.call_unheld(self.id, first..after, request).await.map(drop);
        }
        let _held = self.store.locks().hold(self.id, first..after).await;
        self.store.call(Request::Barrier).await?;
        let pool = self.store.reactor().pool();
        let mut blocks = pool.allocate(((after - first) * BLOCK) as usize);
        let last = after - 1;
        if !offset.is_multiple_of(BLOCK) || first == last {
            self.fill_block(first, &mut blocks[..BLOCK_SIZE_BYTES]).await?;
        }
        if !end.is_multiple_of(BLOCK) && first != last {
            let tail = blocks.len() - BLOCK_SIZE_BYTES;
            self.fill_block(last, &mut blocks[tail..]).await?;
        }
        let at = (offset - first * BLOCK) as usize;
        blocks[at..at + length].copy_from_slice(&data);
        drop(data);
        let request = Request::Write { volume: self.id, first: BlockIndex(first), data: blocks };
        self.store.call(request).await.map(drop)
    }

    /// The blocks of a request that can be submitted now as it is: whole blocks, in bounds, and
    /// neither room nor locks to wait for.
    fn whole_blocks(&self, offset: u64, length: usize) -> Option<Range<u64>> {
        let end = offset.checked_add(length as u64).filter(|&end| end <= self.size_bytes)?;
        let is_whole = offset.is_multiple_of(BLOCK) && end.is_multiple_of(BLOCK);
        let blocks = offset / BLOCK..end / BLOCK;
        let fits = is_whole && (1..=ATOMIC_WRITE_MAX_BYTES).contains(&length);
        (fits && self.store.is_free(self.id, &blocks)).then_some(blocks)
    }

    /// Starts a read whose answer goes to `answers`. False, and nothing is started, if it is not of
    /// whole blocks or has to wait: then [`LocalVolume::read`] does it.
    #[must_use]
    pub fn start_read(
        &self,
        offset: u64,
        length: usize,
        answers: Rc<dyn Answers>,
        tag: u64,
    ) -> bool {
        let Some(blocks) = self.whole_blocks(offset, length) else { return false };
        let count = (blocks.end - blocks.start) as u32;
        let request = Request::Read { volume: self.id, first: BlockIndex(blocks.start), count };
        self.store.submit_direct(request, answers, tag);
        true
    }

    /// Starts a write whose answer goes to `answers`. Gives the data back if it is not of whole
    /// blocks or has to wait: then [`LocalVolume::write`] does it.
    ///
    /// # Errors
    /// With the data.
    pub fn start_write(
        &self,
        offset: u64,
        data: Buffer,
        answers: Rc<dyn Answers>,
        tag: u64,
    ) -> std::result::Result<(), Buffer> {
        let Some(blocks) = self.whole_blocks(offset, data.len()) else { return Err(data) };
        let request = Request::Write { volume: self.id, first: BlockIndex(blocks.start), data };
        self.store.submit_direct(request, answers, tag);
        Ok(())
    }

    async fn fill_block(&self, block: u64, into: &mut [u8]) -> Result<()> {
        let buffers = self.read_blocks(block, 1).await?;
        if let Some(bytes) = buffers.first() {
            into.copy_from_slice(bytes);
        }
        Ok(())
    }

    /// Makes a range read as zeroes. Whole blocks give their space back, or keep it if `reserve`.
    ///
    /// Atomic within whole blocks; a partial first and last block are changed on their own.
    ///
    /// # Errors
    /// As [`LocalVolume::write`].
    pub async fn write_zeroes(&self, offset: u64, length: u64, reserve: bool) -> Result<()> {
        self.check(offset, length)?;
        let end = offset + length;
        let (first, after) = (offset.div_ceil(BLOCK), self.whole_end(end));
        if first >= after {
            return self.write_zero_bytes(offset, end).await;
        }
        self.write_zero_bytes(offset, first * BLOCK).await?;
        self.zero_blocks(first, after, reserve).await?;
        self.write_zero_bytes((after * BLOCK).min(end), end).await
    }

    /// Blocks before `end` that are covered whole: the volume's last block counts, even if short.
    fn whole_end(&self, end: u64) -> u64 {
        if end == self.size_bytes { end.div_ceil(BLOCK) } else { end / BLOCK }
    }

    /// Writes zeroes as data into at most two partial blocks.
    async fn write_zero_bytes(&self, offset: u64, end: u64) -> Result<()> {
        if offset >= end {
            return Ok(());
        }
        let mut zeroes = self.store.reactor().pool().allocate((end - offset) as usize);
        zeroes.fill(0);
        self.write(offset, zeroes).await
    }

    async fn zero_blocks(&self, first: u64, after: u64, reserve: bool) -> Result<()> {
        let request = Request::Zero {
            volume: self.id,
            first: BlockIndex(first),
            count: after - first,
            reserve,
        };
        self.store.call_unheld(self.id, first..after, request).await.map(drop)
    }

    /// Gives a range's whole blocks back; they read as zeroes. Partial blocks are left alone.
    ///
    /// # Errors
    /// `Invalid` past the end, `Failed` if the store failed.
    pub async fn trim(&self, offset: u64, length: u64) -> Result<()> {
        self.check(offset, length)?;
        let (first, after) = (offset.div_ceil(BLOCK), self.whole_end(offset + length));
        if first >= after {
            return Ok(());
        }
        self.zero_blocks(first, after, false).await
    }

    /// Where a block's bytes are; `None` if it has none. Taken before a read that fails, it is what
    /// [`LocalVolume::mend`] needs.
    #[must_use]
    pub fn place(&self, block: BlockIndex) -> Option<Place> {
        self.store.place(self.id, block)
    }

    /// Writes a damaged block anew, with what another copy of it holds, if it still is where it was
    /// found damaged; durable when it returns. Volumes of groups are mended like others.
    ///
    /// # Errors
    /// `Invalid` if `data` is not one block, `NoSpace` or `Failed` as a write.
    pub async fn mend(&self, block: BlockIndex, place: Place, data: Buffer) -> Result<()> {
        let request = Request::Mend { volume: self.id, block, place, data };
        self.store.call(request).await.map(drop)
    }

    /// Every write that has returned is durable already; this only tells of a failed store.
    ///
    /// # Errors
    /// `Failed` if the store failed.
    pub async fn flush(&self) -> Result<()> {
        match self.store.failed() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The extents from `offset` on: at most `extents_max`, covering at most `length` bytes.
    ///
    /// # Errors
    /// `Invalid` past the end.
    pub fn block_status(
        &self,
        offset: u64,
        length: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>> {
        self.check(offset, length)?;
        let (end, mut at, mut extents) = (offset + length, offset, Vec::new());
        while at < end && extents.len() < extents_max {
            let first = at / BLOCK;
            let count = end.div_ceil(BLOCK) - first;
            let (blocks, mapping) = self.store.mapping(self.id, BlockIndex(first), count);
            let after = ((first + blocks.max(1)) * BLOCK).min(end);
            extents.push(Extent { length_bytes: after - at, mapping });
            at = after;
        }
        Ok(extents)
    }
}

fn check_length(length: usize) -> Result<()> {
    if length <= ATOMIC_WRITE_MAX_BYTES {
        return Ok(());
    }
    let why = format!("one request moves at most {ATOMIC_WRITE_MAX_BYTES} bytes, not {length}");
    Err(Error::new(ErrorKind::Invalid, why))
}

/// Cuts `skip` bytes off the front and keeps `length` after them.
fn trim_to(buffers: &mut Vec<Buffer>, skip: usize, length: usize) {
    if skip > 0 && !buffers.is_empty() {
        let (_, kept) = buffers.remove(0).split_at(skip);
        buffers.insert(0, kept);
    }
    let mut left = length;
    for buffer in buffers.iter_mut() {
        let kept = buffer.len().min(left);
        buffer.truncate(kept);
        left -= kept;
    }
    buffers.retain(|buffer| !buffer.is_empty());
}
