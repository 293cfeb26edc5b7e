//! Goal: mistakes that other systems made with Raft are not made here.
//! Method: one named test for each; docs/testing.md says which test stands for which mistake,
//! those elsewhere included. Real openraft on real stores in simulated worlds.

mod logs;
mod members;
mod nodes;
mod partitions;

use crate::lab::disk;
use ashlar_engine::limits::STORE_MIN_BYTES;
use ashlar_engine::reactor::Reactor;
use ashlar_engine::reactor::sim::{World, WorldOptions};

/// A world with so many disks, named as nodes of the laboratory name theirs.
fn world(seed: u64, disks: u64) -> (World, Reactor) {
    let world = World::new(seed, WorldOptions::default());
    (1..=disks).for_each(|id| drop(world.create_disk(disk(id), STORE_MIN_BYTES)));
    let reactor = world.reactor();
    (world, reactor)
}
