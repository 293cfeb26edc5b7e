//! Recovery: from the bytes on a device back to a store.
//!
//! Superblocks, root, chunks of the newest checkpoint, segment headers, then the log after the
//! checkpoint. Sans-IO: each step names a wave of reads and takes their results.
//! Invariants: the same bytes give the same store; nothing is written; a batch that anything later
//! vouches for is never skipped; one that nothing vouches for and that is not whole is cut, with
//! everything after it; a block that cannot be read is neither absent nor torn, but damaged.
//! Must never know: files, clocks.

mod end;
mod groups;
mod image;
mod lives;
mod load;
mod tail;

use super::cache::ChecksumCache;
use super::checkpoint::Checkpointer;
use super::cleaner::Cleaner;
use super::group::Groups;
use super::index::Index;
use super::log::Log;
use super::segments::Segments;
use super::volumes::Volumes;
use super::{CHECKSUM_CACHE_MAX_BYTES, Counters, Store};
use crate::buffer::{Buffer, BufferPool};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    ChunkRef, Root, SUPERBLOCK_LOCATIONS, Seal, Superblock, SuperblockError, decode_root,
};
use crate::limits::{BATCH_BLOCKS_MAX, BATCH_HEADER_BLOCKS_MAX};
use crate::units::{BLOCK_SIZE_BYTES, Location, Lsn, Nanos, SegmentId};
use image::{Again, Image};
use lives::Progress;
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use tail::Tail;

/// Reads of one wave of small reads.
const WAVE_READS: usize = 256;
/// Chunks of one wave.
const WAVE_CHUNKS: usize = 32;
/// Segments of one wave of whole segments.
const WAVE_SEGMENTS: usize = 2;

/// One read that recovery needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRange {
    /// Where.
    pub offset_bytes: u64,
    /// How much.
    pub bytes: usize,
}

fn blocks_at(location: Location, blocks: u32) -> ReadRange {
    ReadRange { offset_bytes: location.offset_bytes(), bytes: blocks as usize * BLOCK_SIZE_BYTES }
}

#[derive(Debug)]
enum Step {
    Superblocks,
    Root,
    Chunks { next: usize, mirrors: bool, damaged: Vec<ChunkRef> },
    Headers { next: u32, unknown: VecDeque<SegmentId> },
    Segments { wanted: Wanted, left: VecDeque<SegmentId>, again: Again },
    Done,
}

impl Step {
    fn lives(left: VecDeque<SegmentId>) -> Step {
        Step::Segments { wanted: Wanted::Life, left, again: Again::default() }
    }
}

/// What segments are read for.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// Which life they are in.
    Life,
    /// Their batches.
    Batches,
}

/// See the module.
#[derive(Debug)]
pub struct Recovery {
    pool: BufferPool,
    device_bytes: u64,
    step: Step,
    /// Chunks as read: reference and bytes.
    chunks: Vec<(ChunkRef, Buffer)>,
    root: Root,
    store: Option<Box<Store>>,
    progress: Progress,
    tail: Tail,
    read_only: bool,
}

/// A read's result: its bytes, or why there are none.
pub type ReadResult = io::Result<Buffer>;

impl Recovery {
    /// Recovery of a device of this size. Read-only: the store will answer reads and write nothing.
    #[must_use]
    pub fn new(pool: BufferPool, device_bytes: u64, read_only: bool) -> Recovery {
        Recovery {
            pool,
            device_bytes,
            step: Step::Superblocks,
            chunks: Vec::new(),
            root: Root::default(),
            store: None,
            progress: Progress::default(),
            tail: Tail::default(),
            read_only,
        }
    }

    /// The next reads; empty when recovery is done.
    #[must_use]
    pub fn poll_wave(&mut self) -> Vec<ReadRange> {
        loop {
            let wave = self.wave();
            if !wave.is_empty() || matches!(self.step, Step::Done) {
                return wave;
            }
            self.next_step();
        }
    }

    fn superblock(&self) -> &Superblock {
        &self.store().superblock
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("invariant: the store exists after the superblock step")
    }

    /// How much of a segment is read.
    fn blocks_for(&self, wanted: Wanted) -> u32 {
        let blocks = self.store().segments.segment_blocks();
        match wanted {
            Wanted::Life => blocks.min(BATCH_BLOCKS_MAX + 2 * BATCH_HEADER_BLOCKS_MAX),
            Wanted::Batches => blocks,
        }
    }

    fn wave(&self) -> Vec<ReadRange> {
        match &self.step {
            Step::Superblocks => {
                SUPERBLOCK_LOCATIONS.iter().map(|place| blocks_at(*place, 1)).collect()
            }
            Step::Root => {
                let superblock = self.superblock();
                let copies = [superblock.root_location, superblock.root_mirror];
                let copies = copies.iter().filter(|_| superblock.root_blocks > 0);
                copies.map(|place| blocks_at(*place, superblock.root_blocks)).collect()
            }
            Step::Chunks { next, mirrors: false, .. } => {
                let left = self.pieces().skip(*next).take(WAVE_CHUNKS);
                left.map(|chunk| blocks_at(chunk.location, chunk.blocks)).collect()
            }
            Step::Chunks { damaged, .. } => {
                let left = damaged.iter().take(WAVE_CHUNKS);
                left.map(|chunk| blocks_at(chunk.mirror, chunk.blocks)).collect()
            }
            Step::Headers { next, .. } => {
                let segments = &self.store().segments;
                let left = (*next..segments.count()).take(WAVE_READS);
                left.map(|id| blocks_at(segments.start(SegmentId(id)), 2)).collect()
            }
            Step::Segments { wanted, again, .. } if again.is_busy() => {
                again.wave(&self.store().segments, self.blocks_for(*wanted))
            }
            Step::Segments { wanted, left, .. } => {
                let (segments, blocks) = (&self.store().segments, self.blocks_for(*wanted));
                let left = left.iter().take(WAVE_SEGMENTS);
                left.map(|id| blocks_at(segments.start(*id), blocks)).collect()
            }
            Step::Done => Vec::new(),
        }
    }

    /// A step without (further) reads is over.
    fn next_step(&mut self) {
        self.step = match std::mem::replace(&mut self.step, Step::Done) {
            Step::Superblocks => Step::Root,
            Step::Root => Step::Chunks { next: 0, mirrors: false, damaged: Vec::new() },
            Step::Chunks { mirrors: false, damaged, .. } => {
                Step::Chunks { next: 0, mirrors: true, damaged }
            }
            Step::Chunks { .. } => Step::Headers { next: 0, unknown: VecDeque::new() },
            Step::Headers { unknown, .. } => Step::lives(unknown),
            Step::Segments { wanted: Wanted::Life, .. } => Step::Segments {
                wanted: Wanted::Batches,
                left: self.tail_segments(),
                again: Again::default(),
            },
            Step::Segments { .. } | Step::Done => Step::Done,
        };
    }

    /// Takes the results of a wave, in its order.
    ///
    /// # Errors
    /// If the device holds no store, one this version cannot read, or one damaged beyond its
    /// copies.
    pub fn handle_wave(&mut self, results: Vec<ReadResult>) -> Result<()> {
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::Superblocks => {
                self.take_superblocks(&results)?;
                self.step = Step::Root;
            }
            Step::Root => {
                let sum = self.superblock().root_checksum;
                let mut copies = results.iter().enumerate();
                let root = copies.find_map(|(copy, bytes)| {
                    let root = decode_root(bytes.as_ref().ok()?, sum)?;
                    if copy > 0 {
                        sometimes!("recovery: a root's mirror was used");
                    }
                    Some(root)
                });
                self.root = root
                    .ok_or_else(|| corrupt("both copies of the checkpoint's root are damaged"))?;
                self.load_volumes();
                self.step = Step::Chunks { next: 0, mirrors: false, damaged: Vec::new() };
            }
            Step::Chunks { next, mirrors, damaged } => {
                self.step = self.take_chunks(next, mirrors, damaged, results)?;
            }
            Step::Headers { next, unknown } => {
                self.step = self.take_headers(next, unknown, &results);
            }
            Step::Segments { wanted, left, again } => {
                self.step = self.take_segments(wanted, left, again, results)?;
            }
            Step::Done => {}
        }
        Ok(())
    }

    fn take_superblocks(&mut self, results: &[ReadResult]) -> Result<()> {
        let copies: Vec<_> = results
            .iter()
            .enumerate()
            .map(|(copy, result)| match result {
                Ok(block) => Superblock::decode(block, copy as u32),
                Err(_) => Err(SuperblockError::Checksum),
            })
            .collect();
        if copies.iter().any(|copy| copy.is_err()) {
            sometimes!("recovery: a superblock copy was damaged");
        }
        let newest = copies.iter().flatten().max_by_key(|superblock| superblock.generation);
        let Some(superblock) = newest else {
            // The most telling reason: a damaged or newer store is not "no store".
            let reasons = copies.iter().filter_map(|copy| copy.as_ref().err());
            let why = reasons.max_by_key(|why| match why {
                SuperblockError::NotAStore => 0,
                SuperblockError::Inconsistent => 1,
                SuperblockError::Checksum => 2,
                SuperblockError::Version { .. } => 3,
            });
            let kind = match why {
                Some(SuperblockError::Checksum | SuperblockError::Inconsistent) => {
                    ErrorKind::Corrupt
                }
                _ => ErrorKind::Device,
            };
            let sentence = why.map_or_else(String::new, ToString::to_string);
            return Err(Error::new(kind, sentence));
        };
        let needed = superblock.device_blocks() * BLOCK_SIZE_BYTES as u64;
        if self.device_bytes < needed {
            let why = format!(
                "the store is truncated: it needs {needed} bytes, the device has {}",
                self.device_bytes
            );
            return Err(Error::new(ErrorKind::Device, why));
        }
        self.store = Some(Box::new(empty_store(&self.pool, *superblock, self.read_only)));
        Ok(())
    }

    /// Takes segments read in one piece, or blocks of one that could not be.
    fn take_segments(
        &mut self,
        wanted: Wanted,
        mut left: VecDeque<SegmentId>,
        mut again: Again,
        results: Vec<ReadResult>,
    ) -> Result<Step> {
        if again.is_busy() {
            let read = again.take(&self.pool, self.blocks_for(wanted), &results);
            if let Some((id, image)) = read {
                self.take_segment(wanted, id, &image)?;
            }
        } else {
            for result in results {
                let id = left.pop_front().expect("invariant: a read for each of them");
                match result {
                    Ok(bytes) => self.take_segment(wanted, id, &Image::whole(bytes))?,
                    Err(_) => again.push(id),
                }
            }
        }
        Ok(Step::Segments { wanted, left, again })
    }

    fn take_segment(&mut self, wanted: Wanted, id: SegmentId, image: &Image) -> Result<()> {
        match wanted {
            Wanted::Life => self.take_life(id, image),
            Wanted::Batches => {
                self.scan_segment(id, image);
                Ok(())
            }
        }
    }

    /// The finished store. Call it when [`Recovery::poll_wave`] has no more reads.
    ///
    /// # Errors
    /// If the log is damaged in a place that later batches vouch for.
    pub fn finish(mut self, now: Nanos) -> Result<Store> {
        self.settle_checkpoint();
        let (last, replayed) = self.replay()?;
        self.settle_groups();
        let mut store = *self.store.take().expect("invariant: the superblock was read");
        let epoch = self.root.epoch.max(self.tail.epoch()) + 1;
        store.log = Log::new(store.seal, self.pool.clone(), last, epoch);
        store.segments.replayed();
        store.now = now;
        store.has_reserve = !store.segments.are_new();
        store.counters = Counters::default();
        if replayed {
            sometimes!("recovery: the tail was replayed");
            store.checkpointer.request(None);
        } else {
            sometimes!("recovery: nothing to replay");
        }
        Ok(store)
    }
}

fn unreadable(location: Location) -> Error {
    let why = format!("block {} cannot be read, acknowledged writes may be in it", location.0);
    Error::new(ErrorKind::Corrupt, format!("{why}; copy the store to a device that can be read"))
}

fn corrupt(why: &str) -> Error {
    sometimes!("recovery: the store was refused as damaged");
    Error::new(ErrorKind::Corrupt, format!("{why}; restore the store from a copy"))
}

fn empty_store(pool: &BufferPool, superblock: Superblock, read_only: bool) -> Store {
    let seal = Seal::new(superblock.device, superblock.version);
    Store {
        seal,
        superblock,
        pool: pool.clone(),
        segments: Segments::new(superblock.segments, superblock.segment_blocks),
        index: Index::default(),
        volumes: Volumes::new(crate::units::VolumeId(1)),
        log: Log::new(seal, pool.clone(), Lsn(0), 0),
        cache: ChecksumCache::new(CHECKSUM_CACHE_MAX_BYTES),
        wanted: Vec::new(),
        reads: Slab::new(),
        ios: Slab::new(),
        ready: VecDeque::new(),
        replies: VecDeque::new(),
        waiting: VecDeque::new(),
        waiting_bytes: 0,
        pending_blocks: 0,
        data_blocks: 0,
        reserved_blocks: 0,
        creating: Vec::new(),
        groups: Groups::new(),
        checkpointer: Checkpointer::default(),
        cleaner: Cleaner::default(),
        preparing: None,
        has_reserve: false,
        device_full: false,
        spent: false,
        used_up_since: None,
        counters: Counters::default(),
        failed: None,
        read_only,
        now: Nanos(0),
    }
}

impl Recovery {
    /// Counts what the checkpoint keeps alive, before the tail changes it.
    pub(super) fn count_live(&mut self) {
        let store = self.store.as_mut().expect("invariant: the superblock was read");
        let volumes: Vec<_> = store.volumes.iter().map(|volume| volume.id).collect();
        for volume in volumes {
            for (_, count, location) in store.index.mapped(volume) {
                if location == super::leaf::RESERVED {
                    store.reserved_blocks += u64::from(count);
                } else {
                    store.data_blocks += u64::from(count);
                    store.segments.add_live(location, count);
                }
            }
        }
        let places: Vec<_> = store.checkpointer.places().collect();
        for (location, blocks) in places {
            store.segments.add_live(location, blocks);
        }
    }
}
