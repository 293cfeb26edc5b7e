//! Recovery: from the bytes on a device back to a store.
//!
//! Superblocks, root, chunks of the newest checkpoint, segment headers, then the log after the
//! checkpoint. Sans-IO: each step names a wave of reads and takes their results.
//! Invariants: the same bytes give the same store; nothing is written; a batch that anything later
//! vouches for is never skipped; one that nothing vouches for and that is not whole is cut, with
//! everything after it.
//! Must never know: files, clocks.

mod tail;

use super::cache::ChecksumCache;
use super::checkpoint::Checkpointer;
use super::cleaner::Cleaner;
use super::index::Index;
use super::leaf::Leaf;
use super::log::Log;
use super::segments::Segments;
use super::volumes::Volumes;
use super::{CHECKSUM_CACHE_MAX_BYTES, Counters, Store};
use crate::buffer::{Buffer, BufferPool};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    ChunkRef, Root, SUPERBLOCK_LOCATIONS, Seal, SegmentHeader, Superblock, SuperblockError,
    decode_chunk, decode_root, peek_sequence,
};
use crate::limits::{BATCH_BLOCKS_MAX, BATCH_HEADER_BLOCKS_MAX};
use crate::units::{BLOCK_SIZE_BYTES, Location, Lsn, Nanos, SegmentId, SegmentSequence};
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
    Headers { next: u32, unknown: Vec<SegmentId> },
    Unknown { left: Vec<SegmentId> },
    Tail { left: VecDeque<SegmentId> },
    Done,
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
                let left = self.root.chunks.iter().skip(*next).take(WAVE_CHUNKS);
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
            Step::Unknown { left } => {
                let segments = &self.store().segments;
                let most = BATCH_BLOCKS_MAX + 2 * BATCH_HEADER_BLOCKS_MAX;
                let blocks = segments.segment_blocks().min(most);
                let left = left.iter().take(WAVE_SEGMENTS);
                left.map(|id| blocks_at(segments.start(*id), blocks)).collect()
            }
            Step::Tail { left } => {
                let segments = &self.store().segments;
                let left = left.iter().take(WAVE_SEGMENTS);
                left.map(|id| blocks_at(segments.start(*id), segments.segment_blocks())).collect()
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
            Step::Chunks { .. } => Step::Headers { next: 0, unknown: Vec::new() },
            Step::Headers { unknown, .. } => Step::Unknown { left: unknown },
            Step::Unknown { .. } => Step::Tail { left: self.tail_segments() },
            Step::Tail { .. } | Step::Done => Step::Done,
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
                let mut copies = results.iter().flatten();
                let root = copies.find_map(|bytes| decode_root(bytes, sum));
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
            Step::Unknown { left } => self.step = self.take_unknown(left, &results),
            Step::Tail { mut left } => {
                for result in results {
                    let Some(id) = left.pop_front() else { break };
                    let bytes = result.map_err(|error| {
                        corrupt(&format!("segment {} cannot be read: {error}", id.0))
                    })?;
                    self.scan_segment(id, &bytes);
                }
                self.step = Step::Tail { left };
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

    fn take_chunks(
        &mut self,
        next: usize,
        mirrors: bool,
        mut damaged: Vec<ChunkRef>,
        results: Vec<ReadResult>,
    ) -> Result<Step> {
        let taken = results.len();
        let references: Vec<ChunkRef> = if mirrors {
            damaged.drain(..taken).collect()
        } else {
            self.root.chunks[next..next + taken].to_vec()
        };
        for (reference, result) in references.into_iter().zip(results) {
            match result {
                Ok(bytes) if decode_chunk(&bytes, &reference).is_some() => {
                    self.chunks.push((reference, bytes));
                }
                _ if mirrors => {
                    return Err(corrupt("both copies of a piece of the index are damaged"));
                }
                _ => damaged.push(reference),
            }
        }
        if !mirrors && next + taken < self.root.chunks.len() {
            return Ok(Step::Chunks { next: next + taken, mirrors, damaged });
        }
        if !damaged.is_empty() {
            return Ok(Step::Chunks { next: 0, mirrors: true, damaged });
        }
        self.load_chunks()?;
        Ok(Step::Headers { next: 0, unknown: Vec::new() })
    }

    /// Fills the volume table from the root.
    fn load_volumes(&mut self) {
        let store = self.store.as_mut().expect("invariant: the superblock was read");
        store.volumes = Volumes::new(self.root.next_volume);
        for volume in &self.root.volumes {
            store.index.create(volume.id);
            store.volumes.created(volume.clone());
        }
        store.checkpointer.restore_root(&store.superblock);
    }

    /// Fills the index from the chunks, older images first.
    fn load_chunks(&mut self) -> Result<()> {
        let store = self.store.as_mut().expect("invariant: the superblock was read");
        self.chunks.sort_by_key(|(reference, _)| reference.lsn);
        for (reference, bytes) in std::mem::take(&mut self.chunks) {
            let images: Vec<_> = decode_chunk(&bytes, &reference).into_iter().flatten().collect();
            let leaves = images.iter().map(|image| (image.volume, image.leaf)).collect();
            let number = store.checkpointer.restore_chunk(reference, leaves);
            for image in images {
                let leaf = Leaf::decode(image.form, image.body)
                    .ok_or_else(|| corrupt("a piece of the index contradicts itself"))?;
                let replaced = store.index.load(image.volume, image.leaf, leaf, number);
                store.checkpointer.image_gone(replaced.unwrap_or(number));
            }
        }
        Ok(())
    }

    fn take_headers(
        &mut self,
        next: u32,
        mut unknown: Vec<SegmentId>,
        results: &[ReadResult],
    ) -> Step {
        let store = self.store.as_mut().expect("invariant: the superblock was read");
        for (i, result) in results.iter().enumerate() {
            let id = SegmentId(next + i as u32);
            let start = store.segments.start(id);
            let bytes = result.as_deref().unwrap_or(&[]);
            let header = bytes.get(..BLOCK_SIZE_BYTES);
            let header = header.and_then(|b| SegmentHeader::decode(&store.seal, start, b).ok());
            let second = bytes.get(BLOCK_SIZE_BYTES..).unwrap_or(&[]);
            let sequence = header
                .map(|header| header.sequence)
                .or_else(|| peek_sequence(&store.seal, start.offset(1), second));
            match sequence {
                Some(sequence) => store.segments.restore(id, sequence),
                None if bytes.iter().all(|byte| *byte == 0) && result.is_ok() => {}
                None => unknown.push(id),
            }
        }
        let next = next + results.len() as u32;
        if next < store.segments.count() {
            return Step::Headers { next, unknown };
        }
        Step::Unknown { left: unknown }
    }

    /// Segments whose first blocks are unreadable: any batch header in them tells their life.
    fn take_unknown(&mut self, mut left: Vec<SegmentId>, results: &[ReadResult]) -> Step {
        let store = self.store.as_mut().expect("invariant: the superblock was read");
        for (id, result) in left.drain(..results.len()).zip(results) {
            let start = store.segments.start(id);
            let bytes = result.as_deref().unwrap_or(&[]);
            let mut blocks = bytes.chunks(BLOCK_SIZE_BYTES).enumerate();
            let found = blocks.find_map(|(i, _)| {
                let place = start.offset(i as u32);
                peek_sequence(&store.seal, place, &bytes[i * BLOCK_SIZE_BYTES..])
            });
            if let Some(sequence) = found {
                store.segments.restore(id, sequence);
            }
        }
        Step::Unknown { left }
    }

    /// The finished store. Call it when [`Recovery::poll_wave`] has no more reads.
    ///
    /// # Errors
    /// If the log is damaged in a place that later batches vouch for.
    pub fn finish(mut self, now: Nanos) -> Result<Store> {
        self.settle_checkpoint();
        let (last, replayed) = self.replay()?;
        let mut store = *self.store.take().expect("invariant: the superblock was read");
        let epoch = self.root.epoch.max(self.tail.epoch()) + 1;
        store.log = Log::new(store.seal, self.pool.clone(), last, epoch);
        store.segments.replayed();
        store.now = now;
        store.counters = Counters::default();
        if replayed {
            store.checkpointer.request(None);
        }
        Ok(store)
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{why}; restore the store from a copy"))
}

fn empty_store(pool: &BufferPool, superblock: Superblock, read_only: bool) -> Store {
    let seal = Seal::new(superblock.device);
    Store {
        seal,
        superblock,
        pool: pool.clone(),
        segments: Segments::new(superblock.segments, superblock.segment_blocks),
        index: Index::default(),
        volumes: Volumes::new(crate::units::VolumeId(1)),
        log: Log::new(seal, pool.clone(), Lsn(0), 0),
        cache: ChecksumCache::new(CHECKSUM_CACHE_MAX_BYTES),
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
        checkpointer: Checkpointer::default(),
        cleaner: Cleaner::default(),
        preparing: None,
        device_full: false,
        counters: Counters::default(),
        failed: None,
        read_only,
        now: Nanos(0),
    }
}

impl Recovery {
    /// Counts what the checkpoint keeps alive, before the tail changes it.
    fn settle_checkpoint(&mut self) {
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
        store.segments.set_prepared(self.root.prepared_segments);
        store.segments.set_next_sequence(self.root.next_sequence);
        let replay_from = self.root.replay_from.max(SegmentSequence(1));
        store.segments.release_before(replay_from, self.root.lsn);
    }
}
