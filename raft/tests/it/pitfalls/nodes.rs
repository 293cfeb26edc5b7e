//! Mistakes of whole nodes.

use crate::node::{STORE_BYTES, contents, damage, disk, filled, options, until, with_volume};
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::sim::{Chance, Crash, DiskFaults, FaultKind, World, WorldOptions};
use ashlar_engine::reactor::{DeviceOptions, Reactor};
use ashlar_engine::units::GroupId;
use ashlar_raft::control::PgId;
use ashlar_raft::node::Node;
use ashlar_raft::placement::NodeId;
use std::time::Duration;

fn world(seed: u64, disks: u64) -> (World, Reactor) {
    let world = World::new(seed, WorldOptions::default());
    (1..=disks).for_each(|number| drop(world.create_disk(disk(number), STORE_BYTES)));
    let reactor = world.reactor();
    (world, reactor)
}

async fn stop(node: Node) -> NodeId {
    node.shutdown().await;
    node.store().close().await.expect("closes");
    node.id()
}

/// A node that was stopped, on its store; its process is the `life`th of it.
async fn start(reactor: &Reactor, number: u64, id: NodeId, life: u64) -> Node {
    let open = || reactor.open_device(disk(number), &DeviceOptions::default());
    until(reactor, "the disk is free", || open().is_ok()).await;
    let store = LocalStore::open(reactor, open().expect("opens"), false).await;
    let mut options = options(number, id, None);
    options.peers.retain(|_| number > 1);
    options.started = 1000 * life;
    Node::start(reactor, store.expect("opens"), options).await.expect("starts")
}

/// The volume's group.
fn group(node: &Node) -> PgId {
    let map = node.map();
    *map.groups().keys().find(|id| **id != PgId::CONTROL).expect("a volume's group")
}

fn applied(node: &Node, group: PgId) -> u64 {
    node.store().group(GroupId(group.0)).state().applied.map_or(0, |id| id.index)
}

fn leader(nodes: &[Node], group: PgId) -> Option<usize> {
    nodes.iter().position(|node| node.leads().iter().any(|(id, ..)| *id == group))
}

/// The leader's disk does not read for a while, and a member that was away needs what is there.
/// The leader's member ends, another one leads; when the disk reads again, that member is back
/// without anybody's doing, and all three are replicas as before.
#[test]
fn a_member_that_ended_over_a_bad_disk_comes_back() {
    let (world, reactor) = world(1, 3);
    reactor.block_on(async {
        let mut nodes = with_volume(&reactor).await;
        let handle = nodes[0].open_volume("vm0").expect("is there");
        handle.write(0, filled(&reactor, 4096, 1)).await.expect("writes");
        let id = group(&nodes[0]);
        let away = stop(nodes.pop().expect("three")).await;
        for block in 0..60 {
            handle.write(block * 4096, filled(&reactor, 4096, 7)).await.expect("writes");
        }
        drop(handle);
        let mut again = Vec::new();
        for (number, node) in (1..).zip(nodes) {
            again.push((number, stop(node).await));
        }
        let mut nodes = Vec::new();
        for (number, id) in again {
            nodes.push(start(&reactor, number, id, 1).await);
        }
        until(&reactor, "one leads", || leader(&nodes, id).is_some()).await;
        let leads = leader(&nodes, id).expect("leads");
        let bad = world.disk(disk(leads as u64 + 1)).expect("is there");
        bad.set_faults(DiskFaults { read_error: Chance::ALWAYS, ..DiskFaults::default() });
        nodes.push(start(&reactor, 3, away, 1).await);
        reactor.sleep(Duration::from_secs(20)).await;
        assert!(world.faults().of(FaultKind::ReadError) > 0, "all was in memory");
        bad.set_faults(DiskFaults::default());
        let handle = nodes[2].open_volume("vm0").expect("is there");
        for block in 60..70 {
            handle.write(block * 4096, filled(&reactor, 4096, 7)).await.expect("writes");
        }
        let last = nodes.iter().map(|node| applied(node, id)).max();
        until(&reactor, "all three are replicas", || {
            nodes.iter().all(|node| Some(applied(node, id)) >= last)
        })
        .await;
        assert!(contents(&handle, 0, 70 * 4096).await == vec![7; 70 * 4096]);
    });
    reactor.shutdown();
}

/// Every copy of some entries is damaged, each in another block, and all nodes start again: the
/// entries are put together of what is sound, everywhere.
#[test]
fn entries_that_no_node_has_whole_are_put_together() {
    let (world, reactor) = world(11, 3);
    let ids = reactor.block_on(async {
        let nodes = with_volume(&reactor).await;
        let handle = nodes[1].open_volume("vm0").expect("is there");
        for entry in 0..20_u8 {
            let mut data = filled(&reactor, 3 * 4096, 0);
            for (block, fill) in data.chunks_mut(4096).zip(100 + 3 * entry..) {
                block.fill(fill);
            }
            handle.write(u64::from(entry) * 3 * 4096, data).await.expect("writes");
        }
        nodes.iter().map(Node::id).collect::<Vec<_>>()
    });
    world.crash(Crash::Kill);
    reactor.shutdown();
    for entry in (0..20).step_by(4) {
        (1..=3).for_each(|number| damage(&world, number, 100 + 3 * entry + number as u8 - 1));
    }
    let reactor = world.reactor();
    reactor.block_on(async {
        let mut nodes = Vec::new();
        for (number, id) in (1..).zip(ids) {
            nodes.push(start(&reactor, number, id, 1).await);
        }
        until(&reactor, "all know the volume", || {
            nodes.iter().all(|node| node.open_volume("vm0").is_ok())
        })
        .await;
        let id = group(&nodes[0]);
        until(&reactor, "the volume is served", || leader(&nodes, id).is_some()).await;
        let handle = nodes[2].open_volume("vm0").expect("is there");
        let whole: Vec<u8> = (0..60).flat_map(|block| vec![100 + block; 4096]).collect();
        assert!(contents(&handle, 0, 60 * 4096).await == whole);
        let mended = |node: &Node| node.store().status().counters.mended_blocks;
        assert!(nodes.iter().all(|node| mended(node) >= 5));
        let faulty = |node: &Node| node.store().group(GroupId(id.0)).state().faulty;
        until(&reactor, "all logs are whole", || nodes.iter().all(|node| faulty(node).is_empty()))
            .await;
    });
    reactor.shutdown();
}
