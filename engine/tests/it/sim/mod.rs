//! Goal: the simulated world keeps the promises of the seam, and does nothing beyond its model.
//! Method: the same suites as the real ring; each fault class alone; the same seed again.
mod basics;
mod disks;
mod groups;
mod machines;
mod repeats;
mod sockets;
mod stores;

use ashlar_engine::reactor::sim::{World, WorldOptions};
use ashlar_engine::reactor::{BlockDevice, DeviceCompletion, DeviceOp, DeviceOptions, Reactor};
use std::future::poll_fn;
use std::rc::Rc;

fn world(seed: u64, options: WorldOptions) -> World {
    World::new(seed, options)
}

/// A world without faults and a process in it.
fn sim(seed: u64) -> (World, Reactor) {
    let world = World::new(seed, WorldOptions::default());
    let reactor = world.reactor();
    (world, reactor)
}

fn open(reactor: &Reactor) -> Rc<dyn BlockDevice> {
    reactor.open_device("disk", &DeviceOptions::default()).expect("opens")
}

/// Carries out one operation.
async fn carry_out(device: &dyn BlockDevice, op: DeviceOp) -> DeviceCompletion {
    device.submit(7, op);
    let mut done = Vec::new();
    poll_fn(|context| device.poll_completions(context, &mut done)).await;
    assert_eq!(done.len(), 1);
    done.pop().expect("is there")
}
