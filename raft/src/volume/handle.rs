//! Somebody who has a volume open: requests of any alignment, cut into parts of slices.
//!
//! Must never know: groups, epochs.

use super::bytes::BLOCK;
use super::sliced::ClusterVolume;
use ashlar_engine::buffer::Buffer;
use ashlar_engine::limits::ATOMIC_WRITE_MAX_BYTES;
use ashlar_engine::local::Extent;
use ashlar_engine::{Error, ErrorKind, Result};
use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

/// Blocks that one change zeroes.
const ZERO_BLOCKS_MAX: u64 = 1 << 28;

/// Somebody who has the volume open. The first write takes the right to write from any other node;
/// what one is refused because another node took it after that, it is refused for ever: who opens
/// the volume again may take it back.
pub struct VolumeHandle {
    volume: Rc<ClusterVolume>,
    right: Right,
}

/// What a handle has of the right to write.
#[derive(Debug, Default)]
pub(super) struct Right {
    /// How often this process had lost it when the handle wrote first.
    pub(super) fencings: Cell<Option<u64>>,
}

impl VolumeHandle {
    pub(super) fn new(volume: Rc<ClusterVolume>) -> VolumeHandle {
        VolumeHandle { volume, right: Right::default() }
    }

    /// The volume.
    #[must_use]
    pub fn volume(&self) -> &Rc<ClusterVolume> {
        &self.volume
    }

    /// Reads; the buffers together have exactly `length` bytes.
    ///
    /// # Errors
    /// `Invalid` past the end, `Failed` if nobody leads a group in time, `Corrupt` if what is
    /// stored does not prove itself.
    pub async fn read(&self, offset: u64, length: u32) -> Result<Vec<Buffer>> {
        self.volume.read(offset, length).await
    }

    /// Writes at most [`ATOMIC_WRITE_MAX_BYTES`]; durable on a quorum when it returns, and atomic
    /// inside one slice.
    ///
    /// # Errors
    /// `Invalid` past the end or too long; `Busy` if another node has attached the volume;
    /// `NoSpace` if a store is full; `Failed` if nobody knows what became of it, or if
    /// it waited too long for others, and is not carried out.
    pub async fn write(&self, offset: u64, mut data: Buffer) -> Result<()> {
        let bytes = self.volume.check(offset, data.len() as u64)?;
        if data.len() > ATOMIC_WRITE_MAX_BYTES {
            let why = format!("a write has at most {ATOMIC_WRITE_MAX_BYTES} bytes");
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let mut parts = self.volume.parts(&bytes, u64::MAX);
        let mut result = Ok(());
        while parts.len() > 1 {
            let part = parts.remove(0);
            let (own, rest) = data.split_at((part.bytes.end - part.bytes.start) as usize);
            data = rest;
            result = result.and(self.volume.write_part(&self.right, part, own).await);
        }
        match parts.pop() {
            Some(part) => result.and(self.volume.write_part(&self.right, part, data).await),
            None => result,
        }
    }

    /// Makes a range read as zeroes; whole blocks give their space back, or keep it if `reserve`.
    ///
    /// # Errors
    /// As [`VolumeHandle::write`].
    pub async fn write_zeroes(&self, offset: u64, length: u64, reserve: bool) -> Result<()> {
        let bytes = self.volume.check(offset, length)?;
        let first = bytes.start.next_multiple_of(BLOCK);
        let after = self.whole_end(bytes.end);
        if first >= after {
            return self.write_zero_bytes(bytes).await;
        }
        self.write_zero_bytes(bytes.start..first).await?;
        for part in self.volume.parts(&(first..after), ZERO_BLOCKS_MAX * BLOCK) {
            self.volume.zero_part(&self.right, part, reserve).await?;
        }
        self.write_zero_bytes(after.min(bytes.end)..bytes.end).await
    }

    /// Gives a range's whole blocks back; they read as zeroes. Partial blocks are left alone.
    ///
    /// # Errors
    /// As [`VolumeHandle::write`].
    pub async fn trim(&self, offset: u64, length: u64) -> Result<()> {
        let bytes = self.volume.check(offset, length)?;
        let (first, after) = (bytes.start.next_multiple_of(BLOCK), self.whole_end(bytes.end));
        if first < after {
            for part in self.volume.parts(&(first..after), ZERO_BLOCKS_MAX * BLOCK) {
                self.volume.zero_part(&self.right, part, false).await?;
            }
        }
        Ok(())
    }

    /// The extents from `offset` on: at least one, at most `extents_max`, covering at most `length`
    /// bytes.
    ///
    /// # Errors
    /// As [`VolumeHandle::read`].
    pub async fn extents(
        &self,
        offset: u64,
        length: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>> {
        self.volume.extents(offset, length, extents_max).await
    }

    /// Blocks before `end` that are covered whole: the volume's last block counts, even if short.
    fn whole_end(&self, end: u64) -> u64 {
        match end == self.volume.spec.size_bytes {
            true => end,
            false => end - end % BLOCK,
        }
    }

    async fn write_zero_bytes(&self, bytes: Range<u64>) -> Result<()> {
        if bytes.start >= bytes.end {
            return Ok(());
        }
        let length = (bytes.end - bytes.start) as usize;
        let mut zeroes = self.volume.reactor.pool().allocate(length);
        zeroes.fill(0);
        self.write(bytes.start, zeroes).await
    }
}

impl Drop for VolumeHandle {
    fn drop(&mut self) {
        self.volume.release();
    }
}

impl fmt::Debug for VolumeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeHandle({:?})", self.volume.spec.name)
    }
}
