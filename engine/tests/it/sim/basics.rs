//! Goal: without faults a world is a machine that works.

use super::sim;
use ashlar_engine::reactor::conformance;
use ashlar_engine::reactor::sim::{Crash, Stop, World, WorldOptions};
use ashlar_engine::reactor::{DeviceOp, DeviceOptions};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

#[test]
fn a_disk_conforms() {
    let world = World::new(1, WorldOptions::default());
    world.create_disk("disk", conformance::SIZE_MIN_BYTES);
    let reactor = world.reactor();
    let device = reactor.open_device("disk", &DeviceOptions::default()).expect("opens");
    reactor.block_on(conformance::check_all(&*device, reactor.pool(), 1));
    drop(device);
    assert_eq!(reactor.pool().in_use_bytes(), 0, "buffers leaked");
    reactor.shutdown();
}

#[test]
fn a_run_stops_where_it_should() {
    let world = World::new(1, WorldOptions::default());
    world.create_disk("disk", 1 << 20);
    let reactor = world.reactor();
    let device = reactor.open_device("disk", &DeviceOptions::default()).expect("opens");
    for token in 0..10 {
        device.submit(token, DeviceOp::Sync);
    }
    let hour = reactor.sleep(Duration::from_secs(3600));
    assert_eq!(world.run(&reactor, Stop::AfterDeviceOps(4), hour), None);
    assert!(world.now().since(Default::default()) < Duration::from_secs(1));
    world.crash(Crash::Kill);
    reactor.shutdown();
}

#[test]
fn time_jumps_and_timers_ring_in_order() {
    let (world, reactor) = sim(1);
    let rang = Rc::new(RefCell::new(Vec::new()));
    reactor.block_on(async {
        let tasks: Vec<_> = [3600, 5, 86_000, 60]
            .map(|seconds| {
                let (own, rang) = (reactor.clone(), Rc::clone(&rang));
                reactor.spawn(async move {
                    own.sleep(Duration::from_secs(seconds)).await;
                    rang.borrow_mut().push((seconds, own.now().0 / 1_000_000_000));
                })
            })
            .into();
        for task in tasks {
            task.await;
        }
    });
    assert_eq!(*rang.borrow(), [(5, 5), (60, 60), (3600, 3600), (86_000, 86_000)]);
    assert_eq!(world.now(), reactor.now());
    reactor.shutdown();
}

#[test]
fn ready_tasks_run_in_every_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..200 {
        let (_world, reactor) = sim(seed);
        let order = Rc::new(RefCell::new(Vec::new()));
        for name in 0..4 {
            let order = Rc::clone(&order);
            reactor.spawn(async move { order.borrow_mut().push(name) }).detach();
        }
        reactor.block_on(reactor.yield_now());
        orders.insert(order.take());
        reactor.shutdown();
    }
    assert_eq!(orders.len(), 24, "4 tasks have 24 orders");
}

#[test]
fn a_posted_call_runs() {
    let (_world, reactor) = sim(1);
    let (sender, receiver) = std::sync::mpsc::channel();
    assert!(reactor.remote().post(move || sender.send(7).expect("somebody waits")));
    reactor.block_on(reactor.sleep(Duration::from_millis(1)));
    assert_eq!(receiver.try_recv(), Ok(7));
    reactor.shutdown();
    assert!(!reactor.remote().post(|| ()));
}

#[test]
fn the_dead_are_told_of_nothing_and_can_do_nothing() {
    let (world, reactor) = sim(1);
    world.create_disk("disk", 1 << 20);
    let device = reactor.open_device("disk", &DeviceOptions::default()).expect("opens");
    device.submit(0, DeviceOp::Sync);
    world.crash(Crash::Kill);
    let next = world.reactor();
    next.block_on(next.sleep(Duration::from_secs(1)));
    let late = next.block_on(super::carry_out(&*device, DeviceOp::Sync));
    assert!(late.result.is_err(), "only what was submitted after its death, and that fails");
    assert!(reactor.open_device("disk", &DeviceOptions::default()).is_err());
    reactor.shutdown();
    next.shutdown();
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_deadlock_is_named() {
    let (_world, reactor) = sim(1);
    reactor.block_on(std::future::pending::<()>());
}

#[test]
#[should_panic(expected = "livelock")]
fn a_livelock_in_turns_is_named() {
    let options = WorldOptions { turns_max: 10_000, ..WorldOptions::default() };
    let reactor = World::new(1, options).reactor();
    reactor.block_on(async {
        loop {
            reactor.yield_now().await;
        }
    });
}

#[test]
#[should_panic(expected = "livelock")]
fn a_livelock_in_time_is_named() {
    let reactor = World::new(1, WorldOptions::default()).reactor();
    reactor.block_on(async {
        loop {
            reactor.sleep(Duration::from_secs(60)).await;
        }
    });
}

#[test]
fn a_world_that_is_dropped_frees_everything() {
    let (world, reactor) = sim(1);
    world.create_disk("disk", 1 << 20);
    let pool = reactor.pool().clone();
    let device = reactor.open_device("disk", &DeviceOptions::default()).expect("opens");
    let buffers = vec![pool.allocate(4096)];
    device.submit(0, DeviceOp::Write { offset_bytes: 0, buffers, sync: true });
    world.crash(Crash::PowerLoss);
    assert_eq!(pool.in_use_bytes(), 0, "what was in flight is gone");
    reactor.shutdown();
}
