//! Goal: a volume is a range of bytes, whatever groups do with what is proposed to them; what is
//! acknowledged is done once, and nothing is told that nobody knows.
//! Method: groups in memory that judge as the state machine does, in a simulated world; the fate of
//! every proposal is drawn or chosen, and every attempt is noted.

mod fates;
mod gathering;
mod groups;
mod model;
mod ranges;
mod rights;

use super::{ClusterVolume, VolumeHandle, VolumeSpec};
use crate::control::{ClusterVolumeId, PgId, PolicyId, Volume};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::reactor::Reactor;
use ashlar_engine::reactor::sim::{World, WorldOptions};
use groups::{Cluster, Fate, Process};
use std::rc::Rc;

/// Bytes of a slice: four blocks.
const SLICE: u64 = 16 << 10;
/// Three slices, of which the last one ends inside its third block.
const SIZE: u64 = 2 * SLICE + 2 * 4096 + 1024;

/// The volume of these tests: slices 0 and 2 share a group.
fn volume(size_bytes: u64, slice_bytes: u64) -> VolumeSpec {
    let slices = size_bytes.div_ceil(slice_bytes);
    let volume = Volume {
        name: "vm0".into(),
        size_bytes,
        policy: PolicyId(0),
        slice_bytes,
        first_slice: 7,
        slices: (0..slices).map(|slice| PgId(2 + slice as u32 % 2)).collect(),
        epoch: 0,
        writers: Vec::new(),
        deleting: false,
    };
    VolumeSpec::new(ClusterVolumeId(5), &volume)
}

/// A process that has the volume.
fn process(cluster: &Rc<Cluster>, number: u64) -> Rc<ClusterVolume> {
    process_of(cluster, number, volume(SIZE, SLICE))
}

fn process_of(cluster: &Rc<Cluster>, number: u64, spec: VolumeSpec) -> Rc<ClusterVolume> {
    let groups = Rc::new(Process::new(cluster, number));
    ClusterVolume::new(cluster.reactor.clone(), groups, spec)
}

/// Runs a program with a cluster.
fn with_cluster<F: Future>(seed: u64, run: impl FnOnce(Rc<Cluster>) -> F) -> F::Output {
    let world = World::new(seed, WorldOptions::default());
    let reactor = world.reactor();
    let output = reactor.block_on(run(Cluster::new(&reactor)));
    reactor.shutdown();
    output
}

fn filled(reactor: &Reactor, length: usize, fill: u8) -> Buffer {
    let mut data = reactor.pool().allocate(length);
    data.fill(fill);
    data
}

impl VolumeHandle {
    /// Writes so many bytes of one value.
    async fn fill(&self, offset: u64, length: usize, fill: u8) -> ashlar_engine::Result<()> {
        self.write(offset, filled(&self.volume().reactor, length, fill)).await
    }

    async fn bytes(&self, offset: u64, length: u32) -> Vec<u8> {
        let parts = self.read(offset, length).await.expect("reads");
        parts.iter().flat_map(|part| part.iter().copied()).collect()
    }

    async fn whole(&self) -> Vec<u8> {
        self.bytes(0, self.volume().spec().size_bytes as u32).await
    }
}
