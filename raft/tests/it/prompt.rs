//! Goal: a cluster does the next step when it can be done, not when somebody looks again.
//! Method: real nodes in a simulated world, whose time this measures.

use crate::node::{STORE_BYTES, cluster, disk, until, voters};
use ashlar_engine::reactor::Reactor;
use ashlar_engine::reactor::sim::{World, WorldOptions};
use ashlar_raft::control::PgId;
use std::time::Duration;

async fn grow(reactor: &Reactor) {
    let nodes = cluster(reactor, 3).await;
    let admitted = reactor.now();
    until(reactor, "the control group has three voters", || {
        nodes.iter().all(|node| voters(node, PgId::CONTROL) == 3)
    })
    .await;
    // Two stores learn, catch up and vote: eight steps, with elections and disks between them.
    let took = reactor.now().since(admitted);
    assert!(took < Duration::from_secs(1), "{took:?}");
    for node in nodes {
        node.shutdown().await;
        node.store().close().await.expect("closes");
    }
}

#[test]
fn members_join_without_a_pause_between_steps() {
    for seed in 0..3 {
        let world = World::new(seed, WorldOptions::default());
        (1..=3).for_each(|number| drop(world.create_disk(disk(number), STORE_BYTES)));
        let reactor = world.reactor();
        reactor.block_on(grow(&reactor));
        reactor.shutdown();
    }
}
