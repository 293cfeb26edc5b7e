//! A group's live blocks, in pieces that can be sent.
//!
//! Invariant: every block that was mapped when the snapshot was taken, and is mapped still, is in
//! one piece, as it is when the piece is made.
//! Must never know: where pieces go.

use crate::limits::{PROPOSAL_CHANGES_MAX, SNAPSHOT_PIECE_BLOCKS};
use crate::log_store::Mending;
use crate::types::Change;
use ashlar_engine::buffer::Buffer;
use ashlar_engine::local::{Extent, LocalGroup, LocalVolume};
use ashlar_engine::store::Mapping;
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex, VolumeId};
use ashlar_engine::{ErrorKind, Result};
use std::collections::VecDeque;
use std::rc::Rc;

const BLOCK: u64 = BLOCK_SIZE_BYTES as u64;
/// Blocks that one change zeroes.
const ZERO_BLOCKS_MAX: u64 = 1 << 28;
/// Extents that are looked up at once.
const EXTENTS: usize = 256;

/// See the module.
pub(crate) struct Pieces {
    group: LocalGroup,
    mending: Rc<Mending>,
    volumes: VecDeque<(VolumeId, u64)>,
    current: Option<Current>,
}

/// The volume that is being read.
struct Current {
    id: VolumeId,
    volume: LocalVolume,
    size_bytes: u64,
    /// What was looked up ends here.
    known_bytes: u64,
    /// What is read next, and what comes after it.
    at_bytes: u64,
    extents: VecDeque<Extent>,
}

impl Pieces {
    /// The pieces of these volumes.
    pub(crate) fn new(
        group: LocalGroup,
        mending: Rc<Mending>,
        volumes: &[(VolumeId, u64)],
    ) -> Pieces {
        Pieces { group, mending, volumes: volumes.iter().copied().collect(), current: None }
    }

    /// The next piece, `None` after the last one.
    ///
    /// # Errors
    /// As the store says: a block that does not prove itself, and that no other member has, is not
    /// passed on.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Change>>> {
        let (mut changes, mut room) = (Vec::new(), SNAPSHOT_PIECE_BLOCKS);
        while changes.len() < PROPOSAL_CHANGES_MAX && room > 0 {
            let Some(current) = &mut self.current else {
                match self.open_next(&mut changes) {
                    true => continue,
                    false => break,
                }
            };
            let Some((first, count, mapping)) = current.part(room)? else {
                self.current = None;
                continue;
            };
            let volume = current.id;
            match mapping {
                Mapping::Hole => {}
                Mapping::Reserved => {
                    let (first, count) = (BlockIndex(first), count as u32);
                    changes.push(Change::Zero { volume, first, count, reserve: true });
                }
                Mapping::Data => {
                    room -= count;
                    let length = (count * BLOCK) as usize;
                    let mut read = current.volume.read(first * BLOCK, length).await;
                    if read.as_ref().is_err_and(|error| error.kind() == ErrorKind::Corrupt)
                        && self.mending.blocks(volume, BlockIndex(first), count).await
                    {
                        read = current.volume.read(first * BLOCK, length).await;
                    }
                    match read {
                        Ok(parts) => {
                            let data = self.joined(parts);
                            changes.push(Change::Write { volume, first: BlockIndex(first), data });
                        }
                        // It was deleted meanwhile; the entry that did it comes, too.
                        Err(error) if self.is_gone(volume, &error) => self.current = None,
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(Some(changes).filter(|changes| !changes.is_empty()))
    }

    /// Goes on to the next volume; false if there is none.
    fn open_next(&mut self, changes: &mut Vec<Change>) -> bool {
        let Some((id, size_bytes)) = self.volumes.pop_front() else { return false };
        changes.push(Change::CreateVolume { volume: id, size_bytes });
        // If it was deleted meanwhile, there is nothing to read.
        self.current = self.group.volume(id).ok().map(|volume| Current {
            id,
            volume,
            size_bytes,
            known_bytes: 0,
            at_bytes: 0,
            extents: VecDeque::new(),
        });
        true
    }

    fn is_gone(&self, volume: VolumeId, error: &ashlar_engine::Error) -> bool {
        error.kind() == ErrorKind::NotFound
            || self.group.volumes().iter().all(|(other, _)| *other != volume)
    }

    fn joined(&self, mut parts: Vec<Buffer>) -> Buffer {
        if parts.len() == 1
            && let Some(part) = parts.pop()
        {
            return part;
        }
        let total = parts.iter().map(|part| part.len()).sum();
        let mut joined = self.group.store().reactor().pool().allocate(total);
        let mut at = 0;
        for part in parts {
            joined[at..at + part.len()].copy_from_slice(&part);
            at += part.len();
        }
        joined
    }
}

impl Current {
    /// First block, blocks and mapping of what is next, of at most so many blocks of data.
    fn part(&mut self, data_max: u64) -> Result<Option<(u64, u64, Mapping)>> {
        if self.extents.is_empty() {
            let left = self.size_bytes - self.known_bytes;
            if left == 0 {
                return Ok(None);
            }
            self.extents = self.volume.block_status(self.known_bytes, left, EXTENTS)?.into();
            let known: u64 = self.extents.iter().map(|extent| extent.length_bytes).sum();
            self.known_bytes += known;
        }
        let Some(extent) = self.extents.front_mut() else { return Ok(None) };
        let blocks_max = match extent.mapping {
            Mapping::Data => data_max,
            Mapping::Reserved => ZERO_BLOCKS_MAX,
            Mapping::Hole => u64::MAX,
        };
        let blocks = extent.length_bytes.div_ceil(BLOCK).min(blocks_max);
        let bytes = extent.length_bytes.min(blocks.saturating_mul(BLOCK));
        let (first, mapping) = (self.at_bytes / BLOCK, extent.mapping);
        self.at_bytes += bytes;
        extent.length_bytes -= bytes;
        if extent.length_bytes == 0 {
            self.extents.pop_front();
        }
        Ok(Some((first, blocks, mapping)))
    }
}
