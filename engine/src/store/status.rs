//! What the store tells about itself.
//!
//! Must never know: how it is shown.

use super::log::reserved_segments;
use super::segments::State;
use super::{Counters, Store, cleaner};
use crate::limits::SEGMENT_BLOCKS_MIN;
use crate::units::{BLOCK_SIZE_BYTES, BlockIndex, Lsn, VolumeId};

/// Segments besides the reserve that are never counted as room for data: open ones, and slack for
/// the cleaner.
const OVERHEAD_SEGMENTS: u64 = 3;

/// This part of the rest stays dead even in a full store.
const DEAD_PART: u64 = 8;

/// Segments by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentCounts {
    /// All.
    pub total: u64,
    /// Never written.
    pub unprepared: u64,
    /// Ready to be written.
    pub free: u64,
    /// Being written.
    pub open: u64,
    /// Holding live blocks.
    pub sealed: u64,
    /// Empty, waiting for a checkpoint.
    pub empty: u64,
}

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeStatus {
    /// Its identity in this store.
    pub id: VolumeId,
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Bytes that take (or reserve) space.
    pub mapped_bytes: u64,
}

/// The whole store.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// Bytes of data it can hold.
    pub capacity_bytes: u64,
    /// Bytes of data it holds.
    pub data_bytes: u64,
    /// Bytes promised to reserved zeroes.
    pub reserved_bytes: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Segments by state.
    pub segments: SegmentCounts,
    /// Memory of the index.
    pub index_bytes: u64,
    /// Memory of the checksum cache, which may be dropped at any time.
    pub checksum_cache_bytes: u64,
    /// Last durable batch.
    pub durable_lsn: Lsn,
    /// What the last checkpoint describes.
    pub checkpoint_lsn: Lsn,
    /// Whether a checkpoint is being written.
    pub checkpoint_running: bool,
    /// Whether the cleaner is emptying a segment.
    pub cleaner_running: bool,
    /// Whether the file system refused to give the store more room.
    pub device_full: bool,
    /// Running totals.
    pub counters: Counters,
    /// Why the store fenced itself, if it did.
    pub failed: Option<String>,
}

impl Store {
    /// Blocks of data the store takes before it says it is full.
    pub(super) fn capacity_blocks(&self) -> u64 {
        let segments = u64::from(self.segments.count());
        let missing = if self.device_full { self.segments.unprepared() as u64 } else { 0 };
        let overhead = OVERHEAD_SEGMENTS + reserved_segments(&self.segments) as u64;
        let usable = segments.saturating_sub(missing).saturating_sub(overhead);
        // One block in 8 stays free for headers, checkpoints, and so that cleaning always gains.
        usable * u64::from(self.segments.segment_blocks()) / DEAD_PART * (DEAD_PART - 1)
    }

    /// A snapshot of everything worth knowing. Walks the index: not for every request.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        let bytes = |blocks: u64| blocks * BLOCK_SIZE_BYTES as u64;
        let count = |is: fn(State) -> bool| {
            self.segments.iter().filter(|(_, segment)| is(segment.state)).count() as u64
        };
        StoreStatus {
            capacity_bytes: bytes(self.capacity_blocks()),
            data_bytes: bytes(self.data_blocks),
            reserved_bytes: bytes(self.reserved_blocks),
            segment_bytes: bytes(self.segments.segment_blocks().into()),
            segments: SegmentCounts {
                total: self.segments.count().into(),
                unprepared: count(|s| matches!(s, State::Unprepared | State::Preparing)),
                free: count(|s| s == State::Free),
                open: count(|s| s == State::Open),
                sealed: count(|s| s == State::Sealed),
                empty: count(|s| matches!(s, State::Empty)),
            },
            index_bytes: self.index.memory_bytes(),
            checksum_cache_bytes: self.cache.memory_bytes() as u64,
            durable_lsn: self.log.durable(),
            checkpoint_lsn: self.checkpointer.last_lsn(),
            checkpoint_running: self.checkpointer.is_running(),
            cleaner_running: self.cleaner.victim().is_some(),
            device_full: self.device_full,
            counters: self.counters,
            failed: self.failed.as_ref().map(ToString::to_string),
        }
    }

    /// All volumes, by name.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeStatus> {
        let mut volumes: Vec<VolumeStatus> = self
            .volumes
            .plain()
            .filter(|volume| self.volumes.usable(volume.id).is_ok())
            .map(|volume| VolumeStatus {
                id: volume.id,
                name: volume.name.clone(),
                size_bytes: volume.size_bytes,
                mapped_bytes: self.index.mapped_blocks(volume.id) * BLOCK_SIZE_BYTES as u64,
            })
            .collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        volumes
    }

    /// Identity and size of the volume of that name.
    #[must_use]
    pub fn volume_by_name(&self, name: &str) -> Option<(VolumeId, u64)> {
        let volume = self.volumes.by_name(name)?;
        let volume = self.volumes.usable(volume.id).ok()?;
        Some((volume.id, volume.size_bytes))
    }

    /// How a volume's blocks are mapped from `first` on: blocks of the stretch (at most `count`),
    /// and whether they hold data or reserved space.
    #[must_use]
    pub fn block_status(&self, volume: VolumeId, first: BlockIndex, count: u64) -> (u64, Mapping) {
        let (mut done, mut kind) = (0, None);
        while done < count {
            let stretch = self.index.lookup(volume, first.offset(done));
            let found = match stretch.place {
                None => Mapping::Hole,
                Some((super::leaf::RESERVED, _)) => Mapping::Reserved,
                Some(_) => Mapping::Data,
            };
            if kind.is_some_and(|kind| kind != found) {
                break;
            }
            kind = Some(found);
            done += u64::from(stretch.count);
        }
        (done.min(count), kind.unwrap_or(Mapping::Hole))
    }

    /// Checks what must always hold between the parts: live blocks per segment against a walk of
    /// the index and the checkpoints. Returns a sentence per contradiction.
    #[must_use]
    pub fn audit(&self) -> Vec<String> {
        let mut live = vec![0u32; self.segments.count() as usize];
        let mut data_blocks = 0;
        let mut count = |location, blocks: u32| {
            if let Some(id) = self.segments.of(location) {
                live[id.0 as usize] += blocks;
            }
        };
        for volume in self.volumes.iter() {
            for (_, blocks, location) in self.index.mapped(volume.id) {
                count(location, blocks);
                data_blocks += u64::from(blocks);
            }
        }
        self.checkpointer.places().for_each(|(location, blocks)| count(location, blocks));
        let mut wrong = Vec::new();
        // Pieces of a checkpoint under way are live before it counts.
        let settled = !self.checkpointer.is_running();
        let held = self.held_entries();
        for (id, segment) in self.segments.iter() {
            let entries = held[id.0 as usize];
            if segment.entries != entries {
                wrong.push(format!(
                    "segment {}: {} entries of groups counted, {entries} found",
                    id.0, segment.entries
                ));
            }
            let expected = live[id.0 as usize];
            if settled && segment.live != expected {
                wrong.push(format!(
                    "segment {}: {} live blocks counted, {expected} found",
                    id.0, segment.live
                ));
            }
            let is_free = matches!(segment.state, State::Free | State::Unprepared);
            if is_free && expected > 0 {
                wrong.push(format!("segment {} is free but {expected} blocks are in it", id.0));
            }
            if is_free && segment.last > self.segments.checkpoint() {
                wrong.push(format!("segment {} is free but a restart needs its log", id.0));
            }
        }
        let (cleanable, found) = self.segments.cleanable_sums();
        if cleanable != found {
            wrong.push(format!("{cleanable} blocks to clean counted, {found} found"));
        }
        if data_blocks != self.data_blocks + self.reserved_blocks {
            wrong.push(format!(
                "{} blocks counted, {data_blocks} mapped",
                self.data_blocks + self.reserved_blocks
            ));
        }
        wrong
    }

    /// A number that follows from all volumes and from which of their blocks are where: two
    /// openings of the same bytes must agree on it.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        // FNV-1a over words: not against forgers.
        let mut hash = 0xcbf2_9ce4_8422_2325;
        let mut add =
            |word: u64| hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(7);
        for volume in self.volumes.iter() {
            add(u64::from(volume.id.0));
            add(volume.size_bytes);
            volume.name.bytes().for_each(|byte| add(byte.into()));
            for (first, blocks, location) in self.index.mapped(volume.id) {
                (0..blocks).for_each(|i| {
                    add(first.0 + u64::from(i));
                    // Reserved blocks are nowhere.
                    let is_placed = location != super::leaf::RESERVED;
                    add(u64::from(if is_placed { location.0 + i } else { location.0 }));
                });
            }
        }
        hash
    }

    /// Segments below which cleaning begins: for tests and operators.
    #[must_use]
    pub fn low_water_segments(&self) -> usize {
        cleaner::low_water(&self.segments)
    }
}

/// What a stretch of a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// Nothing: reads as zeroes, takes no space.
    Hole,
    /// Reads as zeroes, keeps its space.
    Reserved,
    /// Data.
    Data,
}

const _: () = assert!(OVERHEAD_SEGMENTS + 4 < crate::limits::SEGMENTS_MIN as u64);
const _: () = assert!(SEGMENT_BLOCKS_MIN >= 12);
// The fullest store still has a victim worth cleaning.
const _: () = assert!(DEAD_PART < cleaner::GAIN_PART as u64);
