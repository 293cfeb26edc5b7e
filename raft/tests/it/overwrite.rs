//! Goal: a volume may be overwritten for ever, though each store holds little more than it and its
//! log, and whichever member is the slow one.
//! Method: many large writes at once through the leader, in a simulated world.

use crate::node::{PARTS, STORE_BYTES, disk, filled, with_volume};
use ashlar_engine::reactor::Reactor;
use ashlar_engine::reactor::sim::{DiskFaults, Latency, World, WorldOptions};
use futures_util::future::join_all;
use std::time::Duration;

/// Of each write, and of each part of the volume.
const WRITE_BYTES: usize = 1 << 20;
const WRITERS: u64 = 4;

async fn overwrite(reactor: &Reactor) {
    let nodes = with_volume(reactor).await;
    let volume = nodes[0].open_volume("vm0").expect("is there");
    let writers = (0..WRITERS).map(|writer| {
        let volume = &volume;
        async move {
            for turn in (writer..3 * STORE_BYTES / WRITE_BYTES as u64).step_by(WRITERS as usize) {
                let at = turn % u64::from(PARTS) * WRITE_BYTES as u64;
                let data = filled(reactor, WRITE_BYTES, turn as u8);
                volume.write(at, data).await.unwrap_or_else(|error| panic!("{turn}: {error}"));
            }
        }
    });
    // Of simulated time: far more than it takes.
    let done = reactor.within(Duration::from_secs(600), join_all(writers)).await;
    done.expect("writes go on");
    drop(volume);
    for node in nodes {
        node.shutdown().await;
        node.store().close().await.expect("closes");
    }
}

#[test]
fn the_slowest_member_does_not_stop_for_want_of_room() {
    // The leader, and one that follows.
    for slow in [1, 3] {
        let world = World::new(0, WorldOptions::default());
        (1..=3).for_each(|number| {
            let disk = world.create_disk(disk(number), STORE_BYTES);
            if number == slow {
                let latency = Latency::around(Duration::from_millis(5));
                disk.set_faults(DiskFaults { latency, ..DiskFaults::default() });
            }
        });
        let reactor = world.reactor();
        reactor.block_on(overwrite(&reactor));
        reactor.shutdown();
    }
}
