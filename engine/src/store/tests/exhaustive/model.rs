//! What a store must hold: the operations, what they do, and what a store is found to hold.
//!
//! Every written block names its version and its place, in its first sector, and those of a lone
//! write in another one too: so a block torn in the middle is neither old nor new, and the sectors
//! that differ stay few enough to enumerate every subset.

use super::device::{Image, SECTOR};
use super::world::World;
use crate::buffer::{Buffer, BufferPool};
use crate::error::Result;
use crate::store::leaf::RESERVED;
use crate::store::{Outcome, Recovery, Request, Store};
use crate::units::{BLOCK_SIZE_BYTES, BlockIndex, Nanos, VolumeId};
use std::collections::BTreeMap;

/// The volume that the operations change.
pub(super) const VOLUME: &str = "vm0";
/// A volume that they leave alone.
pub(super) const FILLER: &str = "filler";
/// A volume that one of them creates.
const CREATED: &str = "vm1";
const CREATED_BYTES: u64 = 3 << 20;
/// Blocks of [`VOLUME`]: three leaves.
pub(super) const BLOCKS: u64 = 1300;
/// Blocks at the filler's start that are looked at.
const PROBED_BLOCKS: u64 = 16;
/// The place of most operations.
pub(super) const NEAR: u64 = 3;
/// A place in another leaf.
pub(super) const FAR: u64 = 600;
/// The other sector of a lone block.
const OTHER_SECTOR: usize = 5;

/// What a client may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Op {
    /// One block.
    Write,
    /// Two blocks, the first of them that of `Write`.
    WriteTwo,
    /// One block in another leaf.
    WriteFar,
    /// The two blocks read as zeroes.
    Trim,
    /// The same, and their space is kept.
    Zeroes,
    Create,
    Delete,
    Checkpoint,
}

pub(super) const ALL_OPS: [Op; 8] = [
    Op::Write,
    Op::WriteTwo,
    Op::WriteFar,
    Op::Trim,
    Op::Zeroes,
    Op::Create,
    Op::Delete,
    Op::Checkpoint,
];

/// What one block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Reserved,
    /// A write of this version.
    Data(u64),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct VolumeContents {
    pub(super) size_bytes: u64,
    pub(super) mapped_blocks: u64,
    /// Blocks that are mapped; of the filler its first ones.
    pub(super) cells: BTreeMap<u64, Cell>,
}

/// Everything a client can see.
pub(super) type Contents = BTreeMap<String, VolumeContents>;

/// Versions are even for lone blocks, odd for those of longer writes.
fn is_lone(version: u64) -> bool {
    version.is_multiple_of(2)
}

pub(super) fn fill_block(version: u64, block: u64, bytes: &mut [u8]) {
    bytes.fill(0);
    for at in [0, OTHER_SECTOR * SECTOR].into_iter().take(1 + usize::from(is_lone(version))) {
        bytes[at..at + 8].copy_from_slice(&version.to_le_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&block.to_le_bytes());
        bytes[at + 16..at + SECTOR].fill(0x80 | version as u8);
    }
}

pub(super) fn blocks(pool: &BufferPool, version: u64, first: u64, count: u64) -> Buffer {
    let mut buffer = pool.allocate(count as usize * BLOCK_SIZE_BYTES);
    for (i, bytes) in buffer.chunks_exact_mut(BLOCK_SIZE_BYTES).enumerate() {
        fill_block(version, first + i as u64, bytes);
    }
    buffer
}

fn version_of(block: u64, bytes: &[u8]) -> u64 {
    let version = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
    let mut expected = [0; BLOCK_SIZE_BYTES];
    fill_block(version, block, &mut expected);
    assert!(bytes == expected, "block {block} is mixed, or of another place");
    version
}

impl Op {
    /// Blocks of the volume that it writes or frees.
    fn range(self) -> (u64, u64) {
        match self {
            Op::Write => (NEAR, 1),
            Op::WriteFar => (FAR, 1),
            _ => (NEAR, 2),
        }
    }

    /// Whether it makes sense for a client of this store.
    pub(super) fn applies(self, volumes: &Contents) -> bool {
        match self {
            Op::Checkpoint => true,
            Op::Create => !volumes.contains_key(CREATED),
            _ => volumes.contains_key(VOLUME),
        }
    }

    pub(super) fn version(self, number: usize) -> u64 {
        2 * (number as u64 + 1) + u64::from(self == Op::WriteTwo)
    }

    pub(super) fn request(self, pool: &BufferPool, volume: VolumeId, version: u64) -> Request {
        let (first, count) = self.range();
        let data = |first, count| blocks(pool, version, first, count);
        let block = BlockIndex(first);
        match self {
            Op::Write | Op::WriteTwo | Op::WriteFar => {
                Request::Write { volume, first: block, data: data(first, count) }
            }
            Op::Trim => Request::Zero { volume, first: block, count, reserve: false },
            Op::Zeroes => Request::Zero { volume, first: block, count, reserve: true },
            Op::Create => Request::CreateVolume { name: CREATED.into(), size_bytes: CREATED_BYTES },
            Op::Delete => Request::DeleteVolume { volume },
            Op::Checkpoint => Request::Checkpoint,
        }
    }

    /// What it does.
    pub(super) fn apply(self, volumes: &mut Contents, version: u64) {
        let (first, count) = self.range();
        match self {
            Op::Checkpoint => return,
            Op::Delete => {
                volumes.remove(VOLUME);
                return;
            }
            Op::Create => {
                let empty = VolumeContents { size_bytes: CREATED_BYTES, ..Default::default() };
                volumes.insert(CREATED.into(), empty);
                return;
            }
            _ => {}
        }
        let volume = volumes.get_mut(VOLUME).expect("the volume exists");
        for block in first..first + count {
            match self {
                Op::Trim => volume.cells.remove(&block),
                Op::Zeroes => volume.cells.insert(block, Cell::Reserved),
                _ => volume.cells.insert(block, Cell::Data(version)),
            };
        }
        volume.mapped_blocks = volume.cells.len() as u64;
    }
}

/// Recovers a store from an image. Recovery writes nothing: that is the type of its output.
pub(super) fn recover(image: &Image, pool: &BufferPool) -> Result<Store> {
    let mut recovery = Recovery::new(pool.clone(), image.base.bytes(), false);
    loop {
        let wave = recovery.poll_wave();
        if wave.is_empty() {
            return recovery.finish(Nanos(0));
        }
        let read = |range: &_| Ok(image.recovery_read(pool, *range));
        recovery.handle_wave(wave.iter().map(read).collect())?;
    }
}

/// Everything in the store, proved: reads all that is mapped and audits the counts.
pub(super) fn contents(world: &mut World) -> Contents {
    assert_eq!(world.store.audit(), Vec::<String>::new());
    let mut contents = Contents::new();
    for volume in world.store.volumes() {
        let mapped: Vec<_> = world.store.index.mapped(volume.id).collect();
        let mut found = VolumeContents {
            size_bytes: volume.size_bytes,
            mapped_blocks: volume.mapped_bytes / BLOCK_SIZE_BYTES as u64,
            cells: BTreeMap::new(),
        };
        for (first, count, location) in mapped {
            for block in first.0..first.0 + u64::from(count) {
                if volume.name == FILLER && block >= PROBED_BLOCKS {
                    continue;
                }
                let cell = if location == RESERVED {
                    assert!(world.read(volume.id, block).iter().all(|byte| *byte == 0));
                    Cell::Reserved
                } else {
                    Cell::Data(version_of(block, &world.read(volume.id, block)))
                };
                found.cells.insert(block, cell);
            }
        }
        contents.insert(volume.name, found);
    }
    contents
}

/// The bytes of a finished read.
pub(super) fn read_bytes(result: Result<Outcome>) -> Vec<u8> {
    match result {
        Ok(Outcome::Read(parts)) => parts.iter().flat_map(|part| part.to_vec()).collect(),
        other => panic!("a block cannot be read: {other:?}"),
    }
}
