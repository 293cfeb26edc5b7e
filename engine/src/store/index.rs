//! The index: volume -> leaf -> place of every block, as a two-level radix of copy-on-write leaves.
//!
//! Invariants: a leaf that a checkpoint still reads is never changed, only copied; a leaf changed
//! since the last freeze is in the dirty list exactly once.
//! Must never know: I/O, segments, what a checkpoint's chunks look like on the device.

use super::leaf::{LEAF_BLOCKS, Leaf, Run, Stretch};
use crate::units::{BlockIndex, Location, VolumeId};
use std::collections::BTreeMap;
use std::rc::Rc;

const NODE_LEAVES: u32 = 512;

/// Number of the checkpoint chunk that holds a leaf's newest image; 0 if none does.
pub(crate) type ChunkNumber = u32;

#[derive(Clone, Debug, Default)]
struct LeafSlot {
    leaf: Option<Rc<Leaf>>,
    chunk: ChunkNumber,
    dirty: bool,
}

#[derive(Debug, Default)]
struct VolumeMap {
    nodes: Vec<Option<Box<[LeafSlot]>>>,
    mapped_blocks: u64,
}

impl VolumeMap {
    fn slot(&self, leaf: u32) -> Option<&LeafSlot> {
        let node = self.nodes.get((leaf / NODE_LEAVES) as usize)?.as_ref()?;
        Some(&node[(leaf % NODE_LEAVES) as usize])
    }

    fn slot_mut(&mut self, leaf: u32) -> &mut LeafSlot {
        let node = (leaf / NODE_LEAVES) as usize;
        if node >= self.nodes.len() {
            self.nodes.resize_with(node + 1, || None);
        }
        let empty = || vec![LeafSlot::default(); NODE_LEAVES as usize].into_boxed_slice();
        &mut self.nodes[node].get_or_insert_with(empty)[(leaf % NODE_LEAVES) as usize]
    }

    fn leaves(&self) -> impl Iterator<Item = (u32, &LeafSlot)> {
        self.nodes.iter().enumerate().filter_map(|(n, node)| Some((n, node.as_ref()?))).flat_map(
            |(n, node)| {
                let first = n as u32 * NODE_LEAVES;
                node.iter().enumerate().map(move |(i, slot)| (first + i as u32, slot))
            },
        )
    }
}

/// A leaf frozen for a checkpoint.
#[derive(Debug)]
pub(crate) struct FrozenLeaf {
    pub(crate) volume: VolumeId,
    pub(crate) leaf: u32,
    /// Chunk that held its image so far.
    pub(crate) replaces: ChunkNumber,
    pub(crate) content: Rc<Leaf>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Index {
    volumes: BTreeMap<VolumeId, VolumeMap>,
    dirty: Vec<(VolumeId, u32)>,
}

impl Index {
    /// Makes room for a volume.
    pub(crate) fn create(&mut self, volume: VolumeId) {
        self.volumes.entry(volume).or_default();
    }

    /// Forgets a volume; `freed` is told every place it had, `chunks` every chunk with its images.
    pub(crate) fn delete(
        &mut self,
        volume: VolumeId,
        freed: &mut impl FnMut(Location, u32),
        chunks: &mut impl FnMut(ChunkNumber),
    ) {
        let Some(map) = self.volumes.remove(&volume) else { return };
        for (_, slot) in map.leaves() {
            if slot.chunk != 0 {
                chunks(slot.chunk);
            }
            for (_, count, location) in slot.leaf.iter().flat_map(|leaf| leaf.mapped()) {
                freed(location, count);
            }
        }
        self.dirty.retain(|(dirty, _)| *dirty != volume);
    }

    /// How a block is mapped, and for how many blocks of its leaf on.
    pub(crate) fn lookup(&self, volume: VolumeId, block: BlockIndex) -> Stretch {
        let (leaf, within) = split(block);
        let slot = self.volumes.get(&volume).and_then(|map| map.slot(leaf));
        let hole = Stretch { count: LEAF_BLOCKS - within, place: None };
        slot.and_then(|slot| slot.leaf.as_ref()).map_or(hole, |leaf| leaf.lookup(within))
    }

    /// Fetches what [`Index::lookup`] of this block will look at. The result means nothing.
    pub(crate) fn fetch(&self, volume: VolumeId, block: BlockIndex) -> u32 {
        let (leaf, within) = split(block);
        let slot = self.volumes.get(&volume).and_then(|map| map.slot(leaf));
        slot.and_then(|slot| slot.leaf.as_ref()).map_or(0, |leaf| leaf.fetch(within))
    }

    fn with_leaf(&mut self, volume: VolumeId, leaf: u32, change: impl FnOnce(&mut Leaf, &mut u64)) {
        let map = self.volumes.entry(volume).or_default();
        let mut mapped = map.mapped_blocks;
        let slot = map.slot_mut(leaf);
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push((volume, leaf));
        }
        change(Rc::make_mut(slot.leaf.get_or_insert_default()), &mut mapped);
        map.mapped_blocks = mapped;
    }

    /// Maps a run, leaf by leaf; `freed` is told what it displaces.
    pub(crate) fn map(
        &mut self,
        volume: VolumeId,
        first: BlockIndex,
        run: Run<'_>,
        freed: &mut impl FnMut(Location, u32),
    ) {
        let mut done = 0;
        let total = run.checksums.len() as u32;
        while done < total {
            let (leaf, within) = split(first.offset(done.into()));
            let count = (total - done).min(LEAF_BLOCKS - within);
            let reserved = run.location == super::leaf::RESERVED;
            let part = Run {
                location: run.location.offset(if reserved { 0 } else { done }),
                header: run.header,
                checksums: &run.checksums[done as usize..(done + count) as usize],
            };
            self.with_leaf(volume, leaf, |leaf, mapped| {
                *mapped += u64::from(count);
                leaf.map(within, part, &mut |location, count| {
                    *mapped -= u64::from(count);
                    freed(location, count);
                });
            });
            done += count;
        }
    }

    /// Unmaps a range; leaves that do not exist stay that way.
    pub(crate) fn unmap(
        &mut self,
        volume: VolumeId,
        first: BlockIndex,
        count: u64,
        freed: &mut impl FnMut(Location, u32),
    ) {
        let mut block = first.0;
        let end = first.0 + count;
        while block < end {
            let (leaf, within) = split(BlockIndex(block));
            let part = u64::from(LEAF_BLOCKS - within).min(end - block) as u32;
            let Some(map) = self.volumes.get(&volume) else { return };
            let node = (leaf / NODE_LEAVES) as usize;
            if map.nodes.get(node).is_none_or(Option::is_none) {
                // A whole node without leaves is skipped at once: trims may be terabytes long.
                block = (node as u64 + 1) * u64::from(NODE_LEAVES * LEAF_BLOCKS);
                continue;
            }
            if map.slot(leaf).is_some_and(|slot| slot.leaf.is_some()) {
                self.with_leaf(volume, leaf, |leaf, mapped| {
                    leaf.unmap(within, part, &mut |location, count| {
                        *mapped -= u64::from(count);
                        freed(location, count);
                    });
                });
            }
            block += u64::from(part);
        }
    }

    /// Blocks of the volume that have a place or a reservation.
    pub(crate) fn mapped_blocks(&self, volume: VolumeId) -> u64 {
        self.volumes.get(&volume).map_or(0, |map| map.mapped_blocks)
    }

    /// Takes the dirty leaves for a checkpoint: they are clean, and in no chunk, from now on.
    pub(crate) fn freeze(&mut self) -> Vec<FrozenLeaf> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut frozen = Vec::with_capacity(dirty.len());
        for (volume, leaf) in dirty {
            let Some(map) = self.volumes.get_mut(&volume) else { continue };
            let slot = map.slot_mut(leaf);
            slot.dirty = false;
            let content = slot.leaf.clone().unwrap_or_default();
            let replaces = std::mem::take(&mut slot.chunk);
            frozen.push(FrozenLeaf { volume, leaf, replaces, content });
        }
        frozen
    }

    /// Notes the chunk that holds a leaf's image now; `false` if the volume is gone.
    pub(crate) fn set_chunk(&mut self, volume: VolumeId, leaf: u32, chunk: ChunkNumber) -> bool {
        let Some(map) = self.volumes.get_mut(&volume) else { return false };
        map.slot_mut(leaf).chunk = chunk;
        true
    }

    /// Makes the next checkpoint write these leaves anew if their image is still in `chunk`.
    pub(crate) fn touch(&mut self, chunk: ChunkNumber, leaves: &[(VolumeId, u32)]) {
        for (volume, leaf) in leaves {
            let Some(map) = self.volumes.get_mut(volume) else { continue };
            let slot = map.slot_mut(*leaf);
            if slot.chunk == chunk && !slot.dirty {
                slot.dirty = true;
                self.dirty.push((*volume, *leaf));
            }
        }
    }

    /// Makes the next checkpoint write this leaf, which has nothing, as empty.
    pub(crate) fn blank(&mut self, volume: VolumeId, leaf: u32) {
        self.with_leaf(volume, leaf, |_, _| {});
    }

    /// Puts a leaf read from a checkpoint; returns the chunk whose older image it replaces.
    pub(crate) fn load(
        &mut self,
        volume: VolumeId,
        leaf: u32,
        content: Leaf,
        chunk: ChunkNumber,
    ) -> Option<ChunkNumber> {
        let map = self.volumes.get_mut(&volume)?;
        let blocks = |leaf: &Leaf| leaf.mapped().map(|(_, count, _)| u64::from(count)).sum::<u64>();
        let added = blocks(&content);
        let slot = map.slot_mut(leaf);
        let old = slot.leaf.replace(Rc::new(content));
        let replaced = std::mem::replace(&mut slot.chunk, chunk);
        map.mapped_blocks += added;
        map.mapped_blocks -= old.as_deref().map_or(0, blocks);
        Some(replaced)
    }

    /// Every mapped stretch of a volume: first block, blocks, place.
    pub(crate) fn mapped(
        &self,
        volume: VolumeId,
    ) -> impl Iterator<Item = (BlockIndex, u32, Location)> {
        self.volumes.get(&volume).into_iter().flat_map(VolumeMap::leaves).flat_map(|(n, slot)| {
            let start = u64::from(n) * u64::from(LEAF_BLOCKS);
            slot.leaf.iter().flat_map(|leaf| leaf.mapped()).map(move |(first, count, location)| {
                (BlockIndex(start + u64::from(first)), count, location)
            })
        })
    }

    /// Bytes of memory the index takes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let slot_bytes = size_of::<LeafSlot>() as u64;
        let bytes = |map: &VolumeMap| {
            map.leaves()
                .map(|(_, slot)| {
                    let leaf = slot.leaf.as_ref().map_or(0, |leaf| leaf.memory_bytes() + 16);
                    slot_bytes + leaf as u64
                })
                .sum::<u64>()
        };
        self.volumes.values().map(bytes).sum()
    }

    /// Leaves waiting for the next checkpoint.
    pub(crate) fn dirty_leaves(&self) -> usize {
        self.dirty.len()
    }
}

fn split(block: BlockIndex) -> (u32, u32) {
    ((block.0 / u64::from(LEAF_BLOCKS)) as u32, (block.0 % u64::from(LEAF_BLOCKS)) as u32)
}
