//! The stores that histories begin with.
//!
//! A start is an image, and operations that are carried out after recovering it, so that histories
//! also meet a segment in the middle. These write the same bytes in every run: the base of the
//! enumeration holds them already, and the runs only repeat them in the store's memory.

use super::device::{Base, Device, Image};
use super::model::{self, BLOCKS, Contents, FAR, FILLER, NEAR, VOLUME};
use super::world::World;
use crate::buffer::{BufferPool, PoolOptions};
use crate::limits::{SEGMENT_BLOCKS_MIN, SEGMENTS_START_BLOCK, STORE_MIN_BYTES};
use crate::store::log::Heat;
use crate::store::segments::State;
use crate::store::tests::Bench;
use crate::store::{Request, Store};
use crate::units::{BLOCK_SIZE_BYTES, BlockIndex, VolumeId};
use std::rc::Rc;

const SEED: u64 = 7;
/// Blocks of the filler volume that are written over and over.
const FILL_BLOCKS: u64 = 240;
const FILL_FIRST: u64 = 100;
/// Versions of what is there before the history; even.
const OLD: u64 = 200;
/// Where those of a recovered store begin.
const SECOND_VERSIONS: usize = 20;
/// Blocks that a nearly full segment still takes: one lone write, then it must be ended.
const LEFT_BLOCKS: u32 = 4;
/// Segments that a store with two open ones has prepared once it is idle.
const PREPARED_SEGMENTS: usize = 9;
const ARENA_BYTES: usize = 64 << 20;

/// See the module.
pub(super) struct Start {
    pub(super) name: &'static str,
    before: Image,
    setup: Option<fn(&mut World)>,
    base: Rc<Base>,
    contents: Contents,
    /// Segments are not written with zeroes before use.
    is_prepared: bool,
    pub(super) pool: BufferPool,
}

impl Start {
    fn new(
        name: &'static str,
        image: &[u8],
        is_prepared: bool,
        setup: Option<fn(&mut World)>,
    ) -> Start {
        let pool = BufferPool::new(PoolOptions { arena_bytes: ARENA_BYTES, ..Default::default() });
        let before = Image::new(Rc::new(Base::new(image)));
        let base = before.base.clone();
        let contents = Contents::new();
        let mut start = Start { name, before, setup, base, contents, is_prepared, pool };
        if let Some(setup) = setup {
            let mut world = start.open(start.recover(&start.before), &start.before);
            setup(&mut world);
            start.base = Rc::new(Base::new(&world.device.durable.to_bytes()));
        }
        let after = Image::new(start.base.clone());
        start.contents = model::contents(&mut start.open(start.recover(&after), &after));
        start
    }

    fn recover(&self, image: &Image) -> Store {
        model::recover(image, &self.pool).expect("a start recovers")
    }

    fn open(&self, mut store: Store, image: &Image) -> World {
        if self.is_prepared {
            store.set_preallocated();
        }
        World::new(store, Device::new(image.clone()), self.pool.clone(), self.contents.clone())
    }

    /// The start, ready for its history.
    pub(super) fn begin(&self) -> World {
        let mut world = self.open(self.recover(&self.before), &Image::new(self.base.clone()));
        if let Some(setup) = self.setup {
            world.device.is_setup = true;
            setup(&mut world);
        }
        world.begin();
        world
    }

    /// A store that was recovered from an image of this start.
    pub(super) fn reopen(&self, image: &Image, contents: &Contents) -> World {
        let mut world = self.open(self.recover(image), image);
        world.after = vec![contents.clone()];
        world.first_version = SECOND_VERSIONS;
        world.begin();
        world
    }
}

/// Formatted, nothing else.
pub(super) fn empty() -> Start {
    Start::new("empty", &image(Bench::small(SEED)), true, None)
}

/// One volume, no checkpoint yet: recovery asks for one at once.
pub(super) fn fresh() -> Start {
    Start::new("fresh", &image(one_volume()), true, None)
}

/// Blocks where the operations write, all of it in a checkpoint. Nothing goes on by itself.
pub(super) fn data() -> Start {
    Start::new("data", &image(some_data()), true, None)
}

/// The same, with a segment open.
pub(super) fn in_a_segment() -> Start {
    Start::new("in a segment", &image(some_data()), true, Some(one_write))
}

/// Writes that the checkpoint does not describe: recovery asks for one at once.
pub(super) fn checkpoint_due() -> Start {
    Start::new("checkpoint due", &image(tail()), true, None)
}

/// The open segment takes one more write.
pub(super) fn nearly_full_segment() -> Start {
    Start::new("nearly full segment", &image(some_data()), true, Some(fill_segment))
}

/// The next segment holds the batches of two earlier lives.
pub(super) fn recycled_segments() -> Start {
    Start::new("recycled segments", &image(recycled()), true, None)
}

/// Few free segments, and many with one live block each: the cleaner works.
pub(super) fn cleaner_due() -> Start {
    Start::new("cleaner due", &image(nearly_empty_segments()), true, None)
}

/// The next segment that is begun makes the store prepare another, which holds foreign bytes.
pub(super) fn foreign_segments() -> Start {
    Start::new("unprepared foreign segments", &foreign(), false, None)
}

/// The bytes of a store with nothing under way.
fn image(mut bench: Bench) -> Vec<u8> {
    bench.run();
    bench.disk.contents().to_vec()
}

fn write(bench: &mut Bench, volume: VolumeId, version: u64, first: u64, count: u64) {
    let data = model::blocks(&bench.pool, version, first, count);
    bench.write(volume, first, data).expect("write");
}

fn one_volume() -> Bench {
    let mut bench = Bench::small(SEED);
    bench.create(VOLUME, BLOCKS);
    bench
}

fn write_data(bench: &mut Bench, volume: VolumeId, version: u64) {
    write(bench, volume, version + 1, NEAR - 1, 3);
    write(bench, volume, version, FAR, 1);
}

fn some_data() -> Bench {
    let mut bench = one_volume();
    let filler = bench.create(FILLER, BLOCKS);
    let volume = bench.store.volume_by_name(VOLUME).expect("it exists").0;
    write_data(&mut bench, volume, OLD);
    write(&mut bench, filler, OLD, 0, 1);
    bench.call(Request::Checkpoint).expect("checkpoint");
    bench
}

/// A log that the checkpoint does not describe: recovery asks for one at once.
fn tail() -> Bench {
    let mut bench = some_data();
    let volume = bench.store.volume_by_name(VOLUME).expect("it exists").0;
    write_data(&mut bench, volume, OLD + 2);
    bench
}

/// Writes the filler's blocks until the open segment is another one.
fn fill(bench: &mut Bench, filler: VolumeId) {
    let mut left = u32::MAX;
    while bench.store.log.left_in_segment(Heat::Hot) < left {
        left = bench.store.log.left_in_segment(Heat::Hot);
        write(bench, filler, OLD + 1, FILL_FIRST, FILL_BLOCKS);
    }
}

/// The lowest free segment was in use twice, and begins with small writes of the volume.
fn recycled() -> Bench {
    let mut bench = some_data();
    let id = |bench: &Bench, name| bench.store.volume_by_name(name).expect("it exists").0;
    let (volume, filler) = (id(&bench, VOLUME), id(&bench, FILLER));
    for round in 0..2 {
        fill(&mut bench, filler);
        write_data(&mut bench, volume, OLD + 20);
        write(&mut bench, filler, OLD, 0, 1);
        bench.call(Request::Checkpoint).expect("checkpoint");
        bench.call(Request::Checkpoint).expect("checkpoint");
        if round == 0 {
            bench = bench.crash().expect("recovers");
            for version in 0..8 {
                write(&mut bench, volume, OLD + 50 + 2 * version, NEAR, 1);
            }
        }
    }
    let start = SEGMENTS_START_BLOCK as usize * BLOCK_SIZE_BYTES;
    let free = bench.store.segments.iter().find(|(_, s)| s.state == State::Free);
    assert_eq!(free.expect("a free one").0.0, 0, "the first segment is free again");
    assert!(bench.disk.contents()[start..].starts_with(b"ashSEGMT"));
    bench
}

/// So many segments hold one live block each that the cleaner has to work.
fn nearly_empty_segments() -> Bench {
    let mut bench = some_data();
    let filler = bench.store.volume_by_name(FILLER).expect("it exists").0;
    for block in 1..7 {
        write(&mut bench, filler, OLD, block, 1);
        fill(&mut bench, filler);
    }
    // Nothing else is under way, so this one describes everything: recovery asks for none.
    bench.run();
    bench.call(Request::Checkpoint).expect("checkpoint");
    bench
}

/// Another store's bytes in the segments that were never written; the next one begun makes the
/// store prepare one of them.
fn foreign() -> Vec<u8> {
    let mut other = Bench::format(STORE_MIN_BYTES, SEED + 1);
    other.create(VOLUME, BLOCKS);
    let other = image(other);
    let mut bench = some_data();
    bench.run();
    bench.call(Request::Checkpoint).expect("checkpoint");
    assert_eq!(bench.store.segments.prepared(), PREPARED_SEGMENTS as u32);
    let mut image = image(bench);
    let (start, block) = (SEGMENTS_START_BLOCK as usize * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES);
    let segments = image[start..].chunks_exact_mut(SEGMENT_BLOCKS_MIN as usize * block);
    for segment in segments.skip(PREPARED_SEGMENTS) {
        segment[..3 * block].copy_from_slice(&other[start..start + 3 * block]);
    }
    image
}

fn filler_write(world: &mut World, version: u64, first: u64, count: u64) {
    let volume = world.store.volume_by_name(FILLER).expect("it exists").0;
    let data = model::blocks(&world.pool, version, first, count);
    world.submit(Request::Write { volume, first: BlockIndex(first), data });
    world.pump();
    world.settle(false);
}

fn one_write(world: &mut World) {
    filler_write(world, OLD, 1, 1);
    world.settle(true);
}

/// Leaves [`LEFT_BLOCKS`] in the open segment.
fn fill_segment(world: &mut World) {
    filler_write(world, OLD, 1, 1);
    loop {
        // Its header, and the closing batch at the end.
        let left = u64::from(world.store.log.left_in_segment(Heat::Hot) - LEFT_BLOCKS - 1);
        if left == 0 {
            break;
        }
        assert!(left > 1, "one block cannot be filled");
        // One block is never left over.
        let count = if left > FILL_BLOCKS + 2 { FILL_BLOCKS } else { left - 1 };
        filler_write(world, OLD + 1, FILL_FIRST, count);
    }
    world.settle(true);
    assert_eq!(world.store.log.left_in_segment(Heat::Hot), LEFT_BLOCKS);
}
