//! Checkpoints: the index written into the log, leaf by leaf, only what changed.
//!
//! A checkpoint freezes the dirty leaves (copy-on-write), writes them in chunks, then a root that
//! lists all chunks that count, then both superblock copies. Chunks and roots are written twice, in
//! different batches.
//! Invariants: a chunk or root that a durable checkpoint consists of is not reused before the next
//! one is durable; nor is a segment with a batch that must be replayed after it.
//! Must never know: what a leaf holds.

use super::group::FrozenGroups;
use super::index::{ChunkNumber, FrozenLeaf};
use super::log::{Heat, reserved_segments};
use super::{Io, Outcome, Store};
use crate::buffer::Buffer;
use crate::format::{
    ChunkRef, ChunkWriter, Record, RecordKind, Root, SUPERBLOCK_LOCATIONS, encode_root,
};
use crate::limits::BATCH_BLOCKS_MAX;
use crate::reactor::DeviceOp;
use crate::units::{BLOCK_SIZE_BYTES, BlockIndex, Location, Lsn, SegmentId, VolumeId};
use std::collections::{BTreeMap, VecDeque};

/// Blocks of a chunk.
const CHUNK_BLOCKS_MAX: usize = 64;
/// A checkpoint is due after this much log: it bounds what a restart reads.
const DUE_LOG_BLOCKS: u64 = (128 << 20) / BLOCK_SIZE_BYTES as u64;
/// ... or after this many times what it would write: it bounds what checkpoints cost.
const DUE_COST_FACTOR: u64 = 16;
/// Half-dead chunks whose leaves one checkpoint writes anew.
const COMPACTED_CHUNKS_MAX: usize = 16;

#[derive(Debug)]
struct Chunk {
    reference: ChunkRef,
    leaves: Vec<(VolumeId, u32)>,
    live_images: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Copies {
    location: Location,
    mirror: Location,
    blocks: u32,
    checksum: u32,
}

impl Copies {
    fn reference(self, lsn: Lsn) -> ChunkRef {
        let Copies { location, mirror, blocks, checksum } = self;
        ChunkRef { location, mirror, blocks, checksum, lsn }
    }
}

/// What is being written: the bytes' leaves (none for the root), and the first copy's place.
#[derive(Debug)]
struct Piece {
    leaves: Vec<FrozenLeaf>,
    is_root: bool,
    is_groups: bool,
    blocks: u32,
    checksum: u32,
    first_copy: Option<Location>,
}

#[derive(Debug)]
struct Run {
    /// What the root will say, but for its chunks.
    root: Root,
    frozen: VecDeque<FrozenLeaf>,
    groups: FrozenGroups,
    piece: Option<Piece>,
    /// Waits for room in the cold batch.
    to_push: Option<(Record, Buffer)>,
    superseded: Vec<ChunkNumber>,
    new_root: Option<Copies>,
    tokens: Vec<u64>,
    started_blocks: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Checkpointer {
    requested: bool,
    tokens: Vec<u64>,
    run: Option<Run>,
    chunks: BTreeMap<ChunkNumber, Chunk>,
    /// Chunks with images that count only until the running checkpoint ends.
    gone: Vec<ChunkNumber>,
    next_number: ChunkNumber,
    root: Option<Copies>,
    /// What the durable checkpoint says of the groups.
    groups: Vec<ChunkRef>,
    /// Log blocks when the last checkpoint began.
    last_blocks: u64,
    last_lsn: Lsn,
}

impl Checkpointer {
    /// Asks for a checkpoint of at least everything durable now.
    pub(super) fn request(&mut self, token: Option<u64>) {
        self.requested = true;
        self.tokens.extend(token);
    }

    /// Asks for a checkpoint on behalf of the store itself.
    pub(super) fn request_if(&mut self, needed: bool) {
        self.requested |= needed && self.run.is_none();
    }

    /// Everybody who waits will wait in vain.
    pub(super) fn fail(&mut self) -> Vec<u64> {
        let mut tokens = std::mem::take(&mut self.tokens);
        if let Some(run) = self.run.take() {
            sometimes!("checkpoint: cut short by a failure");
            tokens.extend(run.tokens);
        }
        tokens
    }

    /// At start: a chunk that the root lists; returns its number.
    pub(super) fn restore_chunk(
        &mut self,
        reference: ChunkRef,
        leaves: Vec<(VolumeId, u32)>,
    ) -> ChunkNumber {
        self.next_number += 1;
        let live_images = leaves.len();
        self.chunks.insert(self.next_number, Chunk { reference, leaves, live_images });
        self.next_number
    }

    /// At start: where the root is.
    pub(super) fn restore_root(&mut self, superblock: &crate::format::Superblock) {
        self.last_lsn = superblock.root_lsn;
        self.root = (superblock.root_blocks > 0).then_some(Copies {
            location: superblock.root_location,
            mirror: superblock.root_mirror,
            blocks: superblock.root_blocks,
            checksum: superblock.root_checksum,
        });
    }

    /// At start: where the root's groups are.
    pub(super) fn restore_groups(&mut self, pieces: Vec<ChunkRef>) {
        self.groups = pieces;
    }

    /// Entries of groups that the checkpoint under way leaves out.
    pub(super) fn releasing(&self) -> &[SegmentId] {
        self.run.as_ref().map_or(&[], |run| &run.groups.releasing)
    }

    /// An image in this chunk does not count any more.
    pub(super) fn image_gone(&mut self, chunk: ChunkNumber) {
        if let Some(chunk) = self.chunks.get_mut(&chunk) {
            chunk.live_images -= 1;
        }
    }

    /// The volume of an image in this chunk is gone. A checkpoint that began before has the volume:
    /// for as long as it is written, the image counts.
    pub(super) fn volume_gone(&mut self, chunk: ChunkNumber) {
        if self.run.is_some() {
            self.gone.push(chunk);
        } else {
            self.image_gone(chunk);
        }
    }

    /// Every stretch of blocks that checkpoints keep alive.
    pub(super) fn places(&self) -> impl Iterator<Item = (Location, u32)> {
        let chunks = self.chunks.values().map(|chunk| chunk.reference);
        let chunks = chunks.chain(self.groups.iter().copied());
        let chunks = chunks.flat_map(|c| [(c.location, c.blocks), (c.mirror, c.blocks)]);
        let root = self.root.into_iter();
        chunks.chain(root.flat_map(|r| [(r.location, r.blocks), (r.mirror, r.blocks)]))
    }

    /// Chunks with a copy in this range of blocks.
    pub(super) fn chunks_in(
        &self,
        from: Location,
        to: Location,
    ) -> impl Iterator<Item = (ChunkNumber, &[(VolumeId, u32)])> {
        let inside = move |place: Location| from <= place && place < to;
        self.chunks.iter().filter_map(move |(number, chunk)| {
            let reference = chunk.reference;
            (inside(reference.location) || inside(reference.mirror))
                .then_some((*number, &chunk.leaves[..]))
        })
    }

    /// Leaves of a volume with an image in a chunk, or on its way into one.
    pub(super) fn leaves_of(&self, volume: VolumeId) -> Vec<u32> {
        let written = self.chunks.values().flat_map(|chunk| chunk.leaves.iter().copied());
        let runs = || self.run.iter();
        let pieces = runs().filter_map(|run| run.piece.as_ref()).flat_map(|piece| &piece.leaves);
        let under_way = runs().flat_map(|run| &run.frozen).chain(pieces);
        let leaves = written.chain(under_way.map(|leaf| (leaf.volume, leaf.leaf)));
        leaves.filter(|(of, _)| *of == volume).map(|(_, leaf)| leaf).collect()
    }

    /// Whether a checkpoint is being written.
    pub(super) fn is_running(&self) -> bool {
        self.run.is_some()
    }

    /// What the last durable checkpoint describes.
    pub(super) fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }
}

impl Store {
    fn checkpoint_due(&self) -> bool {
        let since = self.log.written_blocks() - self.checkpointer.last_blocks;
        let groups: u32 = self.checkpointer.groups.iter().map(|piece| piece.blocks).sum();
        let cost = 2 * (self.index.dirty_leaves() as u64 + u64::from(groups));
        let total = u64::from(self.segments.count()) * u64::from(self.segments.segment_blocks());
        let due_log = DUE_LOG_BLOCKS.min(total / 16).max(DUE_COST_FACTOR * cost);
        // Most of the space that is left must not lie in segments only a checkpoint can free.
        let starving = (self.segments.empty() > 0 || self.groups_hold_back())
            && self.segments.free() <= reserved_segments(&self.segments) + 1
            && since > 0;
        self.checkpointer.requested || since >= due_log || starving
    }

    /// Starts a checkpoint if one is due, and its next piece if the last one is done.
    pub(super) fn poll_checkpoint(&mut self) {
        if self.checkpointer.run.is_none() && self.checkpoint_due() {
            self.begin_checkpoint();
        }
        let Some(run) = &mut self.checkpointer.run else { return };
        if run.piece.is_none() && run.new_root.is_none() {
            self.next_piece();
        }
        let run = self.checkpointer.run.as_mut().expect("invariant: a piece does not end a run");
        if let Some((record, _)) = &run.to_push
            && self.log.has_room(Heat::Cold, record.count)
            && let Some((record, bytes)) = run.to_push.take()
        {
            self.log.push(Heat::Cold, record, Some(bytes), None);
        }
    }

    fn begin_checkpoint(&mut self) {
        let half_dead = |chunk: &&Chunk| chunk.live_images * 2 < chunk.leaves.len();
        let compacted: Vec<_> = self
            .checkpointer
            .chunks
            .iter()
            .filter(|(_, chunk)| half_dead(chunk))
            .take(COMPACTED_CHUNKS_MAX)
            .map(|(number, chunk)| (*number, chunk.leaves.clone()))
            .collect();
        for (number, leaves) in compacted {
            self.index.touch(number, &leaves);
        }
        let frozen = self.index.freeze();
        for leaf in &frozen {
            self.checkpointer.image_gone(leaf.replaces);
        }
        let root = Root {
            lsn: self.log.durable(),
            epoch: self.log.epoch(),
            replay_from: self.log.replay_from(&self.segments),
            next_sequence: self.segments.next_sequence(),
            next_volume: self.volumes.next(),
            prepared_segments: self.segments.prepared(),
            volumes: self.volumes.plain().cloned().collect(),
            chunks: Vec::new(),
            groups: Vec::new(),
        };
        let groups = self.freeze_groups(root.lsn);
        self.checkpointer.requested = false;
        self.checkpointer.run = Some(Run {
            root,
            frozen: frozen.into(),
            groups,
            piece: None,
            to_push: None,
            superseded: Vec::new(),
            new_root: None,
            tokens: std::mem::take(&mut self.checkpointer.tokens),
            started_blocks: self.log.written_blocks(),
        });
    }

    /// Packs the next chunk, or the root once no leaf is left.
    fn next_piece(&mut self) {
        let checkpointer = &mut self.checkpointer;
        let run = checkpointer.run.as_mut().expect("invariant: pieces are those of a run");
        let mut writer = ChunkWriter::new(run.root.lsn);
        let mut leaves = Vec::new();
        while let Some(leaf) = run.frozen.front() {
            let form = leaf.content.form();
            if writer.len_with(form) > CHUNK_BLOCKS_MAX * BLOCK_SIZE_BYTES {
                break;
            }
            writer.push(leaf.volume, leaf.leaf, form, |body| leaf.content.encode(body));
            leaves.extend(run.frozen.pop_front());
        }
        let groups = if writer.is_empty() { run.groups.pieces.pop_front() } else { None };
        let is_groups = groups.is_some();
        let is_root = writer.is_empty() && !is_groups;
        let (bytes, checksum) = if is_root {
            let dead = |chunk: &&Chunk| chunk.live_images == 0;
            run.superseded = checkpointer
                .chunks
                .iter()
                .filter(|(_, chunk)| dead(chunk))
                .map(|(number, _)| *number)
                .collect();
            let live = checkpointer.chunks.values().filter(|chunk| chunk.live_images > 0);
            run.root.chunks = live.map(|chunk| chunk.reference).collect();
            encode_root(&run.root)
        } else {
            groups.unwrap_or_else(|| writer.finish())
        };
        let blocks = (bytes.len() / BLOCK_SIZE_BYTES) as u32;
        assert!(blocks <= BATCH_BLOCKS_MAX, "a checkpoint root outgrew a batch");
        let mut buffer = self.pool.allocate(bytes.len());
        buffer.copy_from_slice(&bytes);
        let lsn = run.root.lsn;
        run.piece = Some(Piece { leaves, is_root, is_groups, blocks, checksum, first_copy: None });
        run.to_push = Some((checkpoint_record(lsn, blocks), buffer));
    }

    /// A copy of the current piece is durable at `location`.
    pub(super) fn checkpoint_installed(&mut self, location: Location, bytes: Buffer) {
        let Some(run) = &mut self.checkpointer.run else { return };
        let piece = run.piece.as_mut().expect("invariant: what is installed is the piece");
        let Some(first_copy) = piece.first_copy else {
            piece.first_copy = Some(location);
            run.to_push = Some((checkpoint_record(run.root.lsn, piece.blocks), bytes));
            return;
        };
        let piece = run.piece.take().expect("invariant: looked at just before");
        let copies = Copies {
            location: first_copy,
            mirror: location,
            blocks: piece.blocks,
            checksum: piece.checksum,
        };
        if piece.is_groups {
            let reference = copies.reference(run.root.lsn);
            run.root.groups.push(reference);
        } else if piece.is_root {
            run.new_root = Some(copies);
            self.write_superblock(0);
        } else {
            self.chunk_written(copies, &piece.leaves);
        }
    }

    /// Both copies of a chunk are durable: its images count from the coming root on.
    fn chunk_written(&mut self, copies: Copies, leaves: &[FrozenLeaf]) {
        let run = self.checkpointer.run.as_ref().expect("invariant: chunks are those of a run");
        let reference = copies.reference(run.root.lsn);
        let leaves: Vec<_> = leaves.iter().map(|leaf| (leaf.volume, leaf.leaf)).collect();
        let number = self.checkpointer.restore_chunk(reference, leaves.clone());
        for (volume, leaf) in leaves {
            if !self.index.set_chunk(volume, leaf, number) {
                self.checkpointer.volume_gone(number);
            }
        }
    }

    fn write_superblock(&mut self, copy: u32) {
        let run = self.checkpointer.run.as_ref().expect("invariant: superblocks end a run");
        let root = run.new_root.expect("invariant: the root is durable before the superblocks");
        if copy == 0 {
            self.superblock.generation += 1;
            self.superblock.root_location = root.location;
            self.superblock.root_mirror = root.mirror;
            self.superblock.root_blocks = root.blocks;
            self.superblock.root_checksum = root.checksum;
            self.superblock.root_lsn = run.root.lsn;
        }
        let mut buffer = self.pool.allocate(BLOCK_SIZE_BYTES);
        buffer.copy_from_slice(&self.superblock.encode(copy));
        let offset_bytes = SUPERBLOCK_LOCATIONS[copy as usize].offset_bytes();
        let op = DeviceOp::Write { offset_bytes, buffers: vec![buffer], sync: true };
        self.counters.device_blocks_written += 1;
        self.start(Io::Superblock(copy), op);
    }

    /// A superblock copy is durable. After the second one the checkpoint counts.
    pub(super) fn handle_superblock(&mut self, copy: u32) {
        if self.failed.is_some() {
            return;
        }
        if copy == 0 {
            self.write_superblock(1);
            return;
        }
        let run = self.checkpointer.run.take().expect("invariant: superblocks end a run");
        let lsn = run.root.lsn;
        let mut freed: Vec<(Location, u32)> = Vec::new();
        for number in run.superseded {
            if let Some(chunk) = self.checkpointer.chunks.remove(&number) {
                let ChunkRef { location, mirror, blocks, .. } = chunk.reference;
                freed.extend([(location, blocks), (mirror, blocks)]);
            }
        }
        for chunk in std::mem::take(&mut self.checkpointer.gone) {
            self.checkpointer.image_gone(chunk);
        }
        for old in std::mem::replace(&mut self.checkpointer.groups, run.root.groups) {
            freed.extend([(old.location, old.blocks), (old.mirror, old.blocks)]);
        }
        if let Some(old) = std::mem::replace(&mut self.checkpointer.root, run.new_root) {
            freed.extend([(old.location, old.blocks), (old.mirror, old.blocks)]);
        }
        for (location, blocks) in freed {
            self.segments.free_blocks(location, blocks);
        }
        self.groups_saved(&run.groups);
        self.segments.release(lsn);
        self.checkpointer.last_blocks = run.started_blocks;
        self.checkpointer.last_lsn = lsn;
        sometimes!("checkpoint: completed");
        self.counters.checkpoints += 1;
        for token in run.tokens {
            self.reply(token, Ok(Outcome::Done));
        }
    }
}

fn checkpoint_record(lsn: Lsn, blocks: u32) -> Record {
    Record::plain(RecordKind::Checkpoint, VolumeId(0), BlockIndex(lsn.0), blocks, Location(0))
}
