//! Goal: volumes keep what their module says: splitting, alignment, locks, retries, fencing,
//! batching and back-pressure.
//! Method: nodes over groups in memory (`fake`) that judge writes by the state machine's own rules
//! and lose, delay and refuse proposals as they are told; `ranges`, `fates`, `fencing` and
//! `batching` say single rules by example, `model` runs random operations at the same time against
//! a model of single bytes. All in simulated time.

mod batching;
mod fake;
mod fates;
mod fencing;
mod model;
mod ranges;

use super::bytes::BLOCK;
use super::*;
use crate::control::PolicyId;
use ashlar_engine::ErrorKind;
use ashlar_engine::reactor::sim::{Stop, World, WorldOptions};
use ashlar_engine::reactor::{Reactor, Task};
use fake::{Cluster, Node};
use std::ops::Range;
use std::time::Duration;

const VOLUME: ClusterVolumeId = ClusterVolumeId(5);
const FIRST_SLICE: u32 = 40;
/// Slices of the volumes here that have more than one.
const SLICE: u64 = 8 * BLOCK;
/// Three slices and a part of a fourth, whose last block is short.
const SIZE: u64 = 3 * SLICE + 2 * BLOCK + 1000;
const EVEN: PgId = PgId(2);
const ODD: PgId = PgId(3);

/// Runs a test in a world of its own.
fn simulated<F: Future>(seed: u64, test: impl FnOnce(Reactor) -> F) -> F::Output {
    let world = World::new(seed, WorldOptions::default());
    let reactor = world.reactor();
    let output = world.run(&reactor, Stop::Never, test(reactor.clone()));
    reactor.shutdown();
    output.expect("it has no stop")
}

/// A volume whose slices are in two groups in turn.
fn sliced(size_bytes: u64, slice_bytes: u64) -> VolumeSpec {
    let slices = 0..size_bytes.div_ceil(slice_bytes);
    let volume = Volume {
        name: "v".into(),
        size_bytes,
        policy: PolicyId(0),
        slice_bytes,
        first_slice: FIRST_SLICE,
        slices: slices.map(|slice| if slice % 2 == 0 { EVEN } else { ODD }).collect(),
        epoch: 0,
        writer: None,
        deleting: false,
    };
    VolumeSpec::new(VOLUME, &volume)
}

/// A volume of one slice.
fn whole(blocks: u64) -> VolumeSpec {
    sliced(blocks * BLOCK, blocks * BLOCK)
}

fn filled(reactor: &Reactor, length: u64, fill: u8) -> Buffer {
    let mut data = reactor.pool().allocate(length as usize);
    data.fill(fill);
    data
}

async fn write(node: &Node, handle: &VolumeHandle, range: Range<u64>, fill: u8) -> Result<()> {
    handle.write(range.start, filled(&node.reactor, range.end - range.start, fill)).await
}

async fn read(handle: &VolumeHandle, range: Range<u64>) -> Vec<u8> {
    let parts = handle.read(range.start, (range.end - range.start) as u32).await.expect("reads");
    assert!(parts.iter().all(|part| !part.is_empty()));
    parts.iter().flat_map(|part| part.iter().copied()).collect()
}

/// Starts something that goes on by itself.
fn start<T: 'static>(node: &Node, task: impl Future<Output = T> + 'static) -> Task<T> {
    node.reactor.spawn(task)
}

#[track_caller]
fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("must not succeed").kind()
}
