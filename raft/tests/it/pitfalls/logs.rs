//! Mistakes of logs: what is acknowledged too early, what is sent with a hole, what is not shared.

use super::world;
use crate::lab::{BLOCKS, Net, agreed, create, disk, elected, group, start_again, until, write};
use ashlar_engine::limits::STORE_MIN_BYTES;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::DeviceOptions;
use ashlar_engine::reactor::Reactor;
use ashlar_engine::reactor::sim::{Chance, Crash, DiskFaults, FaultKind, World};
use ashlar_engine::units::{BLOCK_SIZE_BYTES, GroupId};
use ashlar_raft::log_store::LogStore;
use ashlar_raft::runtime::Oneshot;
use ashlar_raft::types::{Entry, Outcome, log_id};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft_rt::Oneshot as _;
use std::time::Duration;

/// etcd #14370: nobody else has what a lone voter acknowledges. The power goes in the very moment.
#[test]
fn ack_before_own_flush_in_a_one_voter_group() {
    for seed in 0..24 {
        let (world, reactor) = world(seed, 1);
        let written = 1 + seed % 8;
        reactor.block_on(async {
            let nodes = group(&reactor, &Net::default(), 1, 0).await;
            elected(&reactor, &nodes).await;
            assert_eq!(nodes[0].propose(create(1, 0)).await, Outcome::Done);
            for block in 0..written {
                let write = write(&reactor, 2 + block, 0, block, 1 + block as u8);
                assert_eq!(nodes[0].propose(write).await, Outcome::Done);
            }
        });
        world.crash(Crash::PowerLoss);
        reactor.shutdown();
        let reactor = world.reactor();
        reactor.block_on(async {
            let nodes = [start_again(&reactor, &Net::default(), 1).await];
            elected(&reactor, &nodes).await;
            let last = nodes[0].metrics().last_log_index;
            until(&reactor, "all is applied", || nodes[0].applied().map(|id| id.index()) >= last)
                .await;
            for block in 0..written {
                assert_eq!(nodes[0].fill_of(block).await, 1 + block as u8, "seed {seed}");
            }
        });
        reactor.shutdown();
    }
}

/// openraft #1795: the leader cannot read what a follower lacks. The follower gets nothing, and
/// never an entry behind a hole; when the disk reads again, or another one leads, it gets all.
#[test]
fn read_error_while_building_an_append_sends_no_hole() {
    for seed in 0..8 {
        let (world, reactor) = world(seed, 3);
        reactor.block_on(read_errors(&world, &reactor, seed));
        assert!(world.faults().of(FaultKind::ReadError) > 0, "seed {seed}: all was in memory");
        reactor.shutdown();
    }
}

async fn read_errors(world: &World, reactor: &Reactor, seed: u64) {
    let net = Net::default();
    let nodes = group(reactor, &net, 3, 0).await;
    let leads = elected(reactor, &nodes).await;
    assert_eq!(nodes[leads].propose(create(1, 0)).await, Outcome::Done);
    agreed(reactor, &nodes).await;
    let behind = (leads + 1) % 3;
    net.isolate(nodes[behind].id);
    for block in 0..40 {
        let write = write(reactor, 2 + block, 0, block, 1 + block as u8);
        assert_eq!(nodes[leads].propose(write).await, Outcome::Done);
    }
    // Memory forgets what the log holds.
    for node in nodes {
        node.stop(&net).await;
    }
    let net = Net::default();
    net.cut(
        [1, 2, 3]
            .into_iter()
            .filter(|id| *id != behind as u64 + 1)
            .map(|id| (behind as u64 + 1, id)),
    );
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(start_again(reactor, &net, id).await);
    }
    let leads = elected(reactor, &nodes).await;
    let disk = world.disk(disk(nodes[leads].id)).expect("is there");
    disk.set_faults(DiskFaults { read_error: Chance(600_000), ..DiskFaults::default() });
    net.heal();
    reactor.sleep(Duration::from_secs(10)).await;
    disk.set_faults(DiskFaults::default());
    // Who could not read what it must send has ended.
    if nodes[leads].metrics().running_state.is_err() {
        nodes.remove(leads).stop(&net).await;
        nodes.insert(leads, start_again(reactor, &net, leads as u64 + 1).await);
    }
    agreed(reactor, &nodes).await;
    let expected: Vec<u8> = (0..40).map(|block| 1 + block).collect();
    for node in &nodes {
        let contents = node.contents().await;
        let fills: Vec<u8> = contents.chunks(BLOCK_SIZE_BYTES).map(|block| block[0]).collect();
        assert!(fills.starts_with(&expected), "seed {seed}, node {}: {fills:?}", node.id);
    }
}

/// Many groups of a store share its writes: what they append at once is not flushed one by one.
#[test]
fn one_flush_for_all_groups_of_a_store() {
    const GROUPS: u32 = 8;
    let (_world, reactor) = world(1, 1);
    reactor.block_on(async {
        let device = reactor.open_device(disk(1), &DeviceOptions::default()).expect("opens");
        let store = LocalStore::create(&reactor, device, STORE_MIN_BYTES).await.expect("is made");
        let open = |group| LogStore::open(store.group(GroupId(group))).expect("is not damaged");
        let mut logs: Vec<LogStore> = (1..=GROUPS).map(open).collect();
        for index in 1..=10 {
            let before = store.status().counters.batches;
            let mut flushed = Vec::new();
            for log in &mut logs {
                let (sender, receiver) = Oneshot::channel();
                let entry = Entry::new_blank(log_id(1, index));
                log.append([entry], IOFlushed::signal(sender)).await.expect("is taken");
                flushed.push(receiver);
            }
            for flushed in flushed {
                flushed.await.expect("is told").expect("is durable");
            }
            let batches = store.status().counters.batches - before;
            assert!(batches <= 2, "{GROUPS} groups needed {batches} writes");
        }
        store.close().await.expect("closes");
    });
    reactor.shutdown();
}

/// A group that cannot apply, because its others are gone, costs the other groups of its nodes
/// nothing.
#[test]
fn a_group_that_stands_still_blocks_no_other() {
    let (_world, reactor) = world(2, 1);
    reactor.block_on(async {
        let device = reactor.open_device(disk(1), &DeviceOptions::default()).expect("opens");
        let store = LocalStore::create(&reactor, device, STORE_MIN_BYTES).await.expect("is made");
        let mut still = LogStore::open(store.group(GroupId(1))).expect("is not damaged");
        let mut other = LogStore::open(store.group(GroupId(2))).expect("is not damaged");
        // Appended, never applied.
        for index in 1..=2000 {
            still
                .append([Entry::new_blank(log_id(1, index))], IOFlushed::noop())
                .await
                .expect("is taken");
        }
        for index in 1..=BLOCKS {
            let (sender, flushed) = Oneshot::channel();
            let entry = Entry::new_blank(log_id(1, index));
            let since = reactor.now();
            other.append([entry], IOFlushed::signal(sender)).await.expect("is taken");
            flushed.await.expect("is told").expect("is durable");
            assert!(reactor.now() < since + Duration::from_millis(500), "entry {index} waited");
        }
        store.close().await.expect("closes");
    });
    reactor.shutdown();
}
