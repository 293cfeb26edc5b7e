//! What is on the disk: bytes that survive loss of power, and writes that may not.
//!
//! Invariants: a read sees every write that was begun, the newest on top; `settle` makes exactly
//! one write durable and never brings back what an older one held; after `cut` nothing is
//! unsynced, and every sector holds one of the versions it had since it was last durable.
//! Must never know: who asks, time, which operations fail.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::random::Random;

/// The disk's atomic unit: power loss leaves it old or new, never mixed.
pub const SECTOR_SIZE_BYTES: u64 = 512;
/// Unit of the memory behind the disk.
const CHUNK_SIZE_BYTES: u64 = 64 << 10;
/// Unit in which room is counted.
const BLOCK_SIZE_BYTES: u64 = 4096;

/// Names a write that may not be durable yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WriteId(u64);

#[derive(Debug)]
struct Write {
    offset: u64,
    bytes: Vec<u8>,
    /// Answered; a later sync covers it.
    completed: bool,
}

/// What loss of power did to the writes that were not durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survival {
    /// There in full.
    pub whole: u64,
    /// There in part.
    pub torn: u64,
    /// Gone.
    pub gone: u64,
}

/// One file of bytes.
#[derive(Debug, Default)]
pub(super) struct Image {
    chunks: BTreeMap<u64, Box<[u8]>>,
    /// Blocks ever written.
    blocks: BTreeSet<u64>,
    unsynced: BTreeMap<WriteId, Write>,
    unsynced_bytes: u64,
    next: u64,
    size: u64,
    durable_size: u64,
}

impl Image {
    /// Bytes of the file.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that take room.
    pub(super) fn allocated_bytes(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_SIZE_BYTES
    }

    /// Bytes not durable.
    pub(super) fn unsynced_bytes(&self) -> u64 {
        self.unsynced_bytes
    }

    /// Room that a write here would take.
    pub(super) fn wanted_bytes(&self, range: &Range<u64>) -> u64 {
        let missing = blocks(range).filter(|block| !self.blocks.contains(block)).count();
        missing as u64 * BLOCK_SIZE_BYTES
    }

    /// Makes the file longer.
    pub(super) fn extend(&mut self, size: u64) {
        self.size = self.size.max(size);
    }

    /// The bytes at `offset` as a reader sees them; zeroes past what was written.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) {
        self.read_durable(offset, into);
        for write in self.unsynced.values() {
            copy_overlap(write.offset, &write.bytes, offset, into);
        }
    }

    /// A write that is under way.
    pub(super) fn begin(&mut self, offset: u64, bytes: &[u8]) -> WriteId {
        let range = offset..offset + bytes.len() as u64;
        self.extend(range.end);
        self.blocks.extend(blocks(&range));
        self.next += 1;
        self.unsynced_bytes += bytes.len() as u64;
        let write = Write { offset, bytes: bytes.to_vec(), completed: false };
        self.unsynced.insert(WriteId(self.next), write);
        WriteId(self.next)
    }

    /// The write was answered; only a sync makes it durable.
    pub(super) fn complete(&mut self, id: WriteId) {
        if let Some(write) = self.unsynced.get_mut(&id) {
            write.completed = true;
        }
    }

    /// What a sync that begins now covers.
    pub(super) fn completed(&self) -> Vec<WriteId> {
        self.unsynced.iter().filter(|(_, write)| write.completed).map(|(id, _)| *id).collect()
    }

    /// The oldest answered write that is not durable.
    pub(super) fn oldest(&self) -> Option<WriteId> {
        self.unsynced.iter().find(|(_, write)| write.completed).map(|(id, _)| *id)
    }

    /// The write is durable.
    pub(super) fn settle(&mut self, id: WriteId) {
        self.settle_where(id, |_| true);
    }

    /// The length of the file is durable.
    pub(super) fn settle_size(&mut self) {
        self.durable_size = self.size;
    }

    /// The write did not work: each of its sectors is there or not.
    pub(super) fn spoil(&mut self, id: WriteId, random: &mut Random) {
        self.settle_where(id, |_| random.below(2) == 0);
    }

    /// Power is gone: any part of what was not durable survives.
    pub(super) fn cut(&mut self, random: &mut Random) -> Survival {
        let mut survival = Survival::default();
        while let Some(id) = self.unsynced.keys().next().copied() {
            let sectors = self.unsynced[&id].sectors();
            let count = sectors.end - sectors.start;
            let kept = match random.below(5) {
                0 => 0,
                1 => self.settle_where(id, |_| true),
                2 => {
                    let end = sectors.start + random.below(count + 1);
                    self.settle_where(id, |sector| sector < end)
                }
                3 => {
                    let start = sectors.start + random.below(count + 1);
                    self.settle_where(id, |sector| sector >= start)
                }
                _ => {
                    let eighths = 1 + random.below(7);
                    self.settle_where(id, |_| random.below(8) < eighths)
                }
            };
            self.forget(id);
            match kept {
                0 => survival.gone += 1,
                _ if kept == count => survival.whole += 1,
                _ => survival.torn += 1,
            }
        }
        if random.below(2) == 0 {
            self.settle_size();
        }
        self.size = self.durable_size;
        survival
    }

    /// Changes durable bytes behind everybody's back.
    pub(super) fn damage(&mut self, offset: u64, change: impl FnOnce(&mut u8)) {
        let chunk = self.chunk(offset / CHUNK_SIZE_BYTES);
        change(&mut chunk[(offset % CHUNK_SIZE_BYTES) as usize]);
    }

    /// Where `wanted` stands, at multiples of 4096.
    pub(super) fn find(&self, wanted: &[u8]) -> Vec<u64> {
        let mut found = vec![0u8; wanted.len()];
        let mut places = Vec::new();
        for block in &self.blocks {
            self.read(block * BLOCK_SIZE_BYTES, &mut found);
            if found == wanted {
                places.push(block * BLOCK_SIZE_BYTES);
            }
        }
        places
    }

    /// Takes the write out of the unsynced ones; its sectors that `survives` are durable. Gives
    /// their number.
    fn settle_where(&mut self, id: WriteId, mut survives: impl FnMut(u64) -> bool) -> u64 {
        let Some(write) = self.forget(id) else { return 0 };
        let mut kept = 0;
        for sector in write.sectors() {
            if !survives(sector) {
                continue;
            }
            kept += 1;
            let start = (sector * SECTOR_SIZE_BYTES).max(write.offset);
            let end = ((sector + 1) * SECTOR_SIZE_BYTES).min(write.end());
            let bytes =
                &write.bytes[(start - write.offset) as usize..(end - write.offset) as usize];
            self.write_durable(start, bytes);
            // What is older must not come back over it.
            for (_, older) in self.unsynced.range_mut(..id) {
                copy_overlap(start, bytes, older.offset, &mut older.bytes);
            }
        }
        kept
    }

    fn forget(&mut self, id: WriteId) -> Option<Write> {
        let write = self.unsynced.remove(&id)?;
        self.unsynced_bytes -= write.bytes.len() as u64;
        Some(write)
    }

    fn read_durable(&self, offset: u64, into: &mut [u8]) {
        into.fill(0);
        let end = offset + into.len() as u64;
        for number in offset / CHUNK_SIZE_BYTES..end.div_ceil(CHUNK_SIZE_BYTES) {
            if let Some(chunk) = self.chunks.get(&number) {
                copy_overlap(number * CHUNK_SIZE_BYTES, chunk, offset, into);
            }
        }
    }

    fn write_durable(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        for number in offset / CHUNK_SIZE_BYTES..end.div_ceil(CHUNK_SIZE_BYTES) {
            copy_overlap(offset, bytes, number * CHUNK_SIZE_BYTES, self.chunk(number));
        }
    }

    fn chunk(&mut self, number: u64) -> &mut [u8] {
        let fresh = || vec![0u8; CHUNK_SIZE_BYTES as usize].into();
        self.chunks.entry(number).or_insert_with(fresh)
    }
}

impl Write {
    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    fn sectors(&self) -> Range<u64> {
        self.offset / SECTOR_SIZE_BYTES..self.end().div_ceil(SECTOR_SIZE_BYTES)
    }
}

fn blocks(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK_SIZE_BYTES..range.end.div_ceil(BLOCK_SIZE_BYTES)
}

/// Copies what two ranges share; each is given by its offset and its bytes.
fn copy_overlap(from: u64, source: &[u8], to: u64, target: &mut [u8]) {
    let start = from.max(to);
    let end = (from + source.len() as u64).min(to + target.len() as u64);
    if start < end {
        let (source, target) = (
            &source[(start - from) as usize..(end - from) as usize],
            &mut target[(start - to) as usize..(end - to) as usize],
        );
        target.copy_from_slice(source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTOR: usize = SECTOR_SIZE_BYTES as usize;

    fn sectors(image: &Image, count: usize) -> Vec<u8> {
        let mut bytes = vec![0u8; count * SECTOR];
        image.read(0, &mut bytes);
        assert!(bytes.chunks(SECTOR).all(|s| s.iter().all(|b| *b == s[0])), "a torn sector");
        bytes.iter().step_by(SECTOR).copied().collect()
    }

    #[test]
    fn settled_writes_survive_and_others_may_not() {
        let mut seen = [false; 3];
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut image = Image::default();
            let durable = image.begin(0, &[1; 4 * SECTOR]);
            image.settle(durable);
            image.settle_size();
            image.begin(0, &[2; 4 * SECTOR]);
            assert_eq!(sectors(&image, 4), [2; 4]);
            let survival = image.cut(&mut random);
            let found = sectors(&image, 4);
            assert!(found.iter().all(|s| [1, 2].contains(s)), "{found:?}");
            let kept = found.iter().filter(|s| **s == 2).count();
            let expected = match kept {
                0 => Survival { gone: 1, ..Survival::default() },
                4 => Survival { whole: 1, ..Survival::default() },
                _ => Survival { torn: 1, ..Survival::default() },
            };
            assert_eq!(survival, expected);
            seen[kept.div_ceil(3).min(2)] = true;
            assert_eq!((image.unsynced_bytes(), image.size()), (0, 4 * 512));
        }
        assert_eq!(seen, [true; 3], "whole, torn and gone all happen");
    }

    #[test]
    fn older_writes_never_come_back() {
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let mut image = Image::default();
            let older = image.begin(0, &[1; 3 * SECTOR]);
            image.complete(older);
            let newer = image.begin(SECTOR_SIZE_BYTES, &[2; SECTOR]);
            image.settle(newer);
            assert_eq!(sectors(&image, 3), [1, 2, 1]);
            image.extend(3 * SECTOR_SIZE_BYTES);
            image.settle_size();
            image.cut(&mut random);
            assert_eq!(sectors(&image, 3)[1], 2);
        }
    }

    #[test]
    fn a_sync_covers_what_was_answered() {
        let mut image = Image::default();
        let answered = image.begin(0, &[1; SECTOR]);
        image.complete(answered);
        image.begin(4096, &[2; SECTOR]);
        assert_eq!(image.completed(), [answered]);
        assert_eq!(image.oldest(), Some(answered));
        assert_eq!(image.allocated_bytes(), 8192);
        assert_eq!(image.wanted_bytes(&(0..12288)), 4096);
        assert_eq!(image.find(&[1; SECTOR]), [0]);
    }

    #[test]
    fn the_length_is_lost_unless_synced() {
        let lengths: Vec<_> = (0..20)
            .map(|seed| {
                let mut image = Image::default();
                image.extend(4096);
                image.cut(&mut Random::new(seed));
                image.size()
            })
            .collect();
        assert!(lengths.contains(&0) && lengths.contains(&4096));
    }
}
