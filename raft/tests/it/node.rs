//! Goal: nodes form a cluster by themselves: they are admitted, groups are started and spread.
//! Method: nodes with real stores, transport and openraft in a simulated world.

use ashlar_engine::ErrorKind;
use ashlar_engine::buffer::Buffer;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::sim::{Crash, Damage, World, WorldOptions};
use ashlar_engine::reactor::{DeviceOptions, Reactor};
use ashlar_engine::units::GroupId;
use ashlar_raft::control::{ClusterId, NodeSpec, Operation, Outcome, PgId, Policy, Refusal, Role};
use ashlar_raft::node::{Node, NodeOptions, Timing, parse_address};
use ashlar_raft::placement::{Labels, NodeId};
use ashlar_raft::volume::VolumeHandle;
use std::time::Duration;

pub(crate) const STORE_BYTES: u64 = 128 << 20;

pub(crate) fn address(number: u64) -> String {
    format!("10.0.0.{number}:7400")
}

pub(crate) fn options(number: u64, id: NodeId, cluster: Option<ClusterId>) -> NodeOptions {
    NodeOptions {
        id,
        cluster,
        listen: parse_address(&address(number)).expect("an address"),
        address: address(number),
        nbd: Vec::new(),
        labels: format!("host=h{number}").parse::<Labels>().expect("labels"),
        peers: vec![(NodeId(1), address(1))],
        witness: false,
        started: 0,
        timing: Timing::default(),
    }
}

pub(crate) async fn store(reactor: &Reactor, number: u64) -> LocalStore {
    let device = reactor.open_device(disk(number), &DeviceOptions::default()).expect("opens");
    LocalStore::create(reactor, device, STORE_BYTES).await.expect("is made")
}

pub(crate) fn disk(number: u64) -> String {
    format!("disk {number}")
}

pub(crate) fn policy(text: &str) -> Policy {
    text.parse().expect("a policy")
}

pub(crate) async fn until(reactor: &Reactor, what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        reactor.sleep(Duration::from_millis(100)).await;
    }
    panic!("a minute has passed and not: {what}");
}

/// Makes a cluster of so many nodes.
pub(crate) async fn cluster(reactor: &Reactor, count: u64) -> Vec<Node> {
    let first = Node::start(reactor, store(reactor, 1).await, options(1, NodeId(1), None)).await;
    let first = first.expect("starts");
    let id = first.init(policy("replicas=3")).await.expect("makes a cluster");
    let mut nodes = vec![first];
    for number in 2..=count {
        let node = NodeSpec {
            address: address(number),
            nbd: Vec::new(),
            labels: Labels::default(),
            incarnation: 0,
        };
        let admit = Operation::AdmitNode { cluster: id, node };
        let admitted = match nodes[0].command(admit).await.expect("is answered") {
            Outcome::Node(node) => node,
            other => panic!("{other:?}"),
        };
        let store = store(reactor, number).await;
        let node = Node::start(reactor, store, options(number, admitted, Some(id))).await;
        nodes.push(node.expect("starts"));
    }
    nodes
}

pub(crate) fn voters(node: &Node, group: PgId) -> usize {
    node.map().groups().get(&group).map_or(0, |group| group.count(Role::Voter))
}

async fn form(reactor: &Reactor) {
    let nodes = cluster(reactor, 3).await;
    until(reactor, "the control group has three voters", || {
        nodes.iter().all(|node| voters(node, PgId::CONTROL) == 3)
    })
    .await;
    let create = |name: &str| Operation::CreateVolume {
        name: name.into(),
        size_bytes: 32 << 20,
        policy: policy("replicas=3"),
        slice_bytes: None,
        avoid: Vec::new(),
    };
    let created = nodes[2].command(create("vm0")).await.expect("is answered");
    assert!(matches!(created, Outcome::Volume(_)), "{created:?}");
    let again = nodes[1].command(create("vm0")).await.expect("is answered");
    assert!(matches!(again, Outcome::Refused(Refusal::NameTaken(_))), "{again:?}");
    until(reactor, "all groups have started", || {
        let map = nodes[1].map();
        map.groups().len() > 1 && map.groups().values().all(|group| group.started)
    })
    .await;
    share(reactor, &nodes).await;
    reactor.sleep(Duration::from_secs(5)).await;
    let status = nodes[0].status().await.expect("is known");
    assert_eq!(status.nodes.len(), 3);
    assert!(status.nodes.iter().all(|node| node.up), "{status:?}");
    assert!(status.groups.iter().all(|group| group.leader.is_some()), "{status:?}");
    assert!(status.notes.is_empty(), "{:?}", status.notes);
    for node in nodes {
        node.shutdown().await;
        node.store().close().await.expect("closes");
    }
}

pub(crate) fn filled(reactor: &Reactor, length: usize, fill: u8) -> Buffer {
    let mut data = reactor.pool().allocate(length);
    data.fill(fill);
    data
}

pub(crate) async fn contents(handle: &VolumeHandle, offset: u64, length: u32) -> Vec<u8> {
    let parts = handle.read(offset, length).await.expect("reads");
    parts.iter().flat_map(|part| part.iter().copied()).collect()
}

/// One node writes, all see it; another one takes over, the first is fenced until it opens anew.
async fn share(reactor: &Reactor, nodes: &[Node]) {
    let open = |node: usize| nodes[node].open_volume("vm0").expect("is there");
    let (first, second) = (open(2), open(0));
    assert_eq!(contents(&first, 4000, 9000).await, vec![0; 9000]);
    first.write(4000, filled(reactor, 9000, 7)).await.expect("writes");
    let expected = [vec![0; 96], vec![7; 9000], vec![0; 904]].concat();
    for node in 0..3 {
        assert_eq!(contents(&open(node), 3904, 10_000).await, expected);
    }
    first.write_zeroes(4096, 4096, false).await.expect("zeroes");
    let expected = [vec![7; 96], vec![0; 4096], vec![7; 100]].concat();
    assert_eq!(contents(&second, 4000, 4292).await, expected);
    let extents = second.extents(0, 32 << 20, 10).await.expect("extents");
    assert_eq!(extents.iter().map(|extent| extent.length_bytes).sum::<u64>(), 32 << 20);
    second.write(0, filled(reactor, 4096, 9)).await.expect("takes over");
    let error = first.write(0, filled(reactor, 4096, 8)).await.expect_err("is fenced");
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert_eq!(contents(&first, 0, 4096).await, vec![9; 4096]);
    let again = open(2);
    again.write(0, filled(reactor, 1 << 20, 3)).await.expect("attaches anew");
    assert_eq!(contents(&second, 0, 1 << 20).await, vec![3; 1 << 20]);
    let odd = [vec![3; (1 << 20) - 512], vec![0; 512]].concat();
    assert_eq!(contents(&second, 512, 1 << 20).await, odd, "one block more than its bytes");
    again.write(512, filled(reactor, 1 << 20, 4)).await.expect("writes as much");
    assert_eq!(contents(&first, 512, 1 << 20).await, vec![4; 1 << 20]);
    assert!(second.write(0, filled(reactor, 512, 1)).await.is_err());
    take_turns(reactor, nodes).await;
}

/// Who opens the volume anew takes it over, also on a node that does not know yet that it lost it;
/// and what another node wrote before that is not undone by writes of parts of blocks.
async fn take_turns(reactor: &Reactor, nodes: &[Node]) {
    let open = |node: usize| nodes[node].open_volume("vm0").expect("is there");
    let kept = [open(0), open(2)];
    for turn in 0..6 {
        let opened = open(if turn % 2 == 0 { 0 } else { 2 });
        let part = filled(reactor, 512, 100 + turn as u8);
        opened.write(4096 + 512 * turn, part).await.expect("takes over");
        // What nobody wrote meanwhile needs no other right than before.
        opened.write((16 << 20) + 8192, filled(reactor, 4096, 1)).await.expect("writes");
    }
    let expected: Vec<u8> = (100..106).flat_map(|fill| vec![fill; 512]).collect();
    assert_eq!(contents(&kept[0], 4096, 6 * 512).await, expected);
    // Two that write at once to one block: whoever is refused has changed nothing.
    for round in 0..8_u8 {
        let (left, right) = (open(0), open(2));
        let (a, b) = (filled(reactor, 512, round), filled(reactor, 512, 50 + round));
        let writes = futures_util::future::join(left.write(8192, a), right.write(8704, b));
        let (a, b) = writes.await;
        let read = contents(&kept[1], 8192, 1024).await;
        assert!(a.is_err() || read[..512] == [round; 512], "round {round}: {a:?}, {b:?}");
        assert!(b.is_err() || read[512..] == [50 + round; 512], "round {round}: {a:?}, {b:?}");
    }
}

fn run(seed: u64) -> u64 {
    let world = World::new(seed, WorldOptions::default());
    (1..=3).for_each(|number| drop(world.create_disk(disk(number), STORE_BYTES)));
    let reactor = world.reactor();
    reactor.block_on(form(&reactor));
    reactor.shutdown();
    world.trace_hash()
}

#[test]
fn three_nodes_form_a_cluster_and_a_seed_decides_the_run() {
    for seed in 0..3 {
        assert_eq!(run(seed), run(seed), "seed {seed} gave two runs");
    }
}

/// MiB of the volume that is lost.
pub(crate) const PARTS: u8 = 24;

pub(crate) async fn fill(reactor: &Reactor, handle: &VolumeHandle, round: u8) {
    for part in 0..PARTS {
        let offset = u64::from(part) << 20;
        match (part + round) % 8 {
            0 => handle.trim(offset, 1 << 20).await.expect("trims"),
            1 => handle.write_zeroes(offset, 1 << 20, true).await.expect("zeroes"),
            _ => {
                let data = filled(reactor, 1 << 20, part + 40 * round);
                handle.write(offset, data).await.expect("writes");
            }
        }
        handle.write(offset + 4096, filled(reactor, 4096, part)).await.expect("writes");
    }
}

pub(crate) async fn all_of(handle: &VolumeHandle) -> Vec<u8> {
    let mut whole = Vec::new();
    for part in 0..PARTS {
        whole.extend(contents(handle, u64::from(part) << 20, 1 << 20).await);
    }
    whole
}

/// Three nodes and a volume on all of them.
pub(crate) async fn with_volume(reactor: &Reactor) -> Vec<Node> {
    let nodes = cluster(reactor, 3).await;
    until(reactor, "the control group has three voters", || {
        nodes.iter().all(|node| voters(node, PgId::CONTROL) == 3)
    })
    .await;
    let create = Operation::CreateVolume {
        name: "vm0".into(),
        size_bytes: u64::from(PARTS) << 20,
        policy: policy("replicas=3"),
        slice_bytes: None,
        avoid: Vec::new(),
    };
    let created = nodes[0].command(create).await.expect("is answered");
    assert!(matches!(created, Outcome::Volume(_)), "{created:?}");
    until(reactor, "all groups have three voters", || {
        let map = nodes[0].map();
        map.groups().len() > 1
            && map.groups().values().all(|group| group.started && group.count(Role::Voter) == 3)
    })
    .await;
    nodes
}

/// A node loses its store. Its replica is made anew from a snapshot, while others write, and is as
/// good as theirs.
async fn lose(world: &World, reactor: &Reactor) {
    let mut nodes = with_volume(reactor).await;
    let handle = nodes[0].open_volume("vm0").expect("is there");
    for round in 0..4 {
        fill(reactor, &handle, round).await;
    }
    let lost = nodes.pop().expect("three nodes");
    let (id, stores) = (lost.id(), lost.map().stores().len());
    lost.shutdown().await;
    lost.store().close().await.expect("closes");
    fill(reactor, &handle, 4).await;
    let cluster = nodes[0].map().cluster();
    let store = store(reactor, 4).await;
    let mut options = options(3, id, cluster);
    options.started = 1;
    nodes.push(Node::start(reactor, store, options).await.expect("starts"));
    until(reactor, "the new store is known", || nodes[0].map().stores().len() > stores).await;
    let new = *nodes[0].map().stores().keys().last().expect("a store");
    let moved = || {
        let map = nodes[0].map();
        let votes = |group: &ashlar_raft::control::Group| {
            group.member(new).is_some_and(|member| member.role == Role::Voter)
        };
        map.groups().values().all(|group| votes(group) && group.members.len() == 3)
    };
    for round in 5..105 {
        if moved() {
            break;
        }
        fill(reactor, &handle, round % 6).await;
        reactor.sleep(Duration::from_secs(1)).await;
    }
    assert!(moved(), "{:?}", nodes[0].map().groups());
    // It did not get all entries: its log is shorter.
    let last = |node: &Node, group: &PgId| {
        node.store().group(GroupId(group.0)).state().last.map_or(0, |last| last.index)
    };
    let map = nodes[0].map();
    let brought_up = |group: &PgId| last(&nodes[2], group) < last(&nodes[0], group);
    assert!(map.groups().keys().any(brought_up), "no snapshot was sent");
    // Their logs number entries differently, and they mend each other all the same.
    for (number, node, fill) in [(4, 2, 251), (1, 0, 253)] {
        let data = filled(reactor, 4096, fill);
        handle.write(u64::from(fill) * 4096, data).await.expect("writes");
        reactor.sleep(Duration::from_secs(1)).await;
        damage(world, number, fill);
        let (begun, report) = (reactor.now(), nodes[node].scrub().await.expect("scrubs"));
        assert_eq!((report.mended_blocks, report.damaged_blocks), (1, 0), "{report:?}");
        let took = reactor.now().since(begun);
        assert!(took < Duration::from_secs(1), "nobody is behind, but it waited for {took:?}");
    }
    let expected = all_of(&handle).await;
    drop(handle);
    // The new member and one other are a quorum now.
    let first = nodes.remove(0);
    first.shutdown().await;
    first.store().close().await.expect("closes");
    let handle = nodes[1].open_volume("vm0").expect("is there");
    assert!(all_of(&handle).await == expected, "the new replica is another one");
    fill(reactor, &handle, 2).await;
    for node in nodes {
        node.shutdown().await;
        node.store().close().await.expect("closes");
    }
}

#[test]
fn a_replica_that_was_lost_is_made_anew() {
    for seed in 0..1 {
        let world = World::new(seed, WorldOptions::default());
        (1..=4).for_each(|number| drop(world.create_disk(disk(number), STORE_BYTES)));
        let reactor = world.reactor();
        reactor.block_on(lose(&world, &reactor));
        reactor.shutdown();
    }
}

/// A node was away and lacks more than it may hold without applying it; when it is back, who led is
/// gone. The new leader can commit nothing before that node has taken all it lacks.
async fn fall_behind(reactor: &Reactor) {
    let mut nodes = with_volume(reactor).await;
    let away = nodes.pop().expect("three nodes");
    let (id, second, cluster) = (away.id(), nodes[1].id(), away.map().cluster());
    away.shutdown().await;
    away.store().close().await.expect("closes");
    drop(away);
    let handle = nodes[0].open_volume("vm0").expect("is there");
    let span: u32 = 4;
    // Half of what a store of this size takes, and more; the same few blocks, so that entries have
    // room to be kept.
    for number in 0..48 {
        let data = filled(reactor, 1 << 20, number);
        handle.write((u64::from(number) % u64::from(span)) << 20, data).await.expect("writes");
    }
    let all = async |handle: &VolumeHandle| {
        let mut whole = Vec::new();
        for part in 0..span {
            whole.extend(contents(handle, u64::from(part) << 20, 1 << 20).await);
        }
        whole
    };
    let group = |node: &Node| {
        let map = node.map();
        let id = map.groups().keys().find(|id| **id != PgId::CONTROL).copied();
        node.store().group(GroupId(id.expect("there is one").0))
    };
    let last = |node: &Node| group(node).state().last.map_or(0, |last| last.index);
    let expected = all(&handle).await;
    drop(handle);
    until(reactor, "the other one has all", || last(&nodes[0]) == last(&nodes[1])).await;
    // Who leads loses its store, so that it can neither go on nor hand over.
    let status = nodes[0].status().await.expect("is known");
    let leader = status.groups.iter().find(|group| group.id != PgId::CONTROL);
    let leader = leader.and_then(|group| group.leader).expect("somebody leads");
    let leads = |node: &Node| node.map().stores()[&leader].node == node.id();
    let gone = nodes.remove(usize::from(!leads(&nodes[0])));
    assert!(leads(&gone), "it has no store any more");
    gone.store().close().await.expect("closes");
    gone.shutdown().await;
    let device = reactor.open_device(disk(3), &DeviceOptions::default()).expect("opens");
    let store = LocalStore::open(reactor, device, false).await.expect("opens");
    let mut options = options(3, id, cluster);
    options.started = 1;
    options.peers = [1, 2].map(|number| (NodeId(number), address(number))).to_vec();
    options.peers[1].0 = second;
    nodes.push(Node::start(reactor, store, options).await.expect("starts"));
    let lacked = last(&nodes[0]) - last(&nodes[1]);
    assert!(lacked >= 48, "it lacks only {lacked} entries");
    let first = group(&nodes[0]).state().first.unwrap_or(u64::MAX);
    assert!(first <= last(&nodes[1]) + 1, "what it lacks was given up");
    until(reactor, "the node that was away has all", || last(&nodes[0]) == last(&nodes[1])).await;
    let handle = nodes[1].open_volume("vm0").expect("is there");
    assert!(all(&handle).await == expected, "what was written is another thing now");
    fill(reactor, &handle, 3).await;
    for node in nodes {
        node.shutdown().await;
        node.store().close().await.expect("closes");
    }
}

#[test]
fn a_member_that_is_far_behind_is_told_by_a_new_leader_what_it_may_apply() {
    let world = World::new(0, WorldOptions::default());
    (1..=3).for_each(|number| drop(world.create_disk(disk(number), STORE_BYTES)));
    let reactor = world.reactor();
    reactor.block_on(fall_behind(&reactor));
    reactor.shutdown();
}

/// Nodes that were killed before anything but their logs was durable find each other again.
#[test]
fn a_cluster_that_was_killed_goes_on() {
    let world = World::new(5, WorldOptions::default());
    (1..=3).for_each(|number| drop(world.create_disk(disk(number), STORE_BYTES)));
    let reactor = world.reactor();
    let nodes = reactor.block_on(async {
        let nodes = with_volume(&reactor).await;
        let handle = nodes[1].open_volume("vm0").expect("is there");
        handle.write(4096, filled(&reactor, 8192, 7)).await.expect("writes");
        nodes.iter().map(Node::id).zip(1..).collect::<Vec<_>>()
    });
    let killed = reactor.block_on(async { reactor.now() });
    world.crash(Crash::PowerLoss);
    reactor.shutdown();
    let reactor = world.reactor();
    reactor.block_on(async {
        let mut started = Vec::new();
        for (id, number) in nodes {
            let device = reactor.open_device(disk(number), &DeviceOptions::default());
            let store = LocalStore::open(&reactor, device.expect("opens"), false).await;
            let mut options = options(number, id, None);
            options.peers.retain(|_| number > 1);
            options.started = killed.0;
            let node = Node::start(&reactor, store.expect("opens"), options).await;
            started.push(node.expect("starts"));
        }
        until(&reactor, "all know the volume", || {
            started.iter().all(|node| node.open_volume("vm0").is_ok())
        })
        .await;
        let handle = started[2].open_volume("vm0").expect("is there");
        assert_eq!(contents(&handle, 4096, 8192).await, vec![7; 8192]);
    });
    reactor.shutdown();
}

/// Damages the block of a disk that is filled with this byte.
pub(crate) fn damage(world: &World, number: u64, fill: u8) {
    let disk = world.disk(disk(number)).expect("is there");
    let mut bytes = vec![0; 4096];
    let places: Vec<u64> = (0..STORE_BYTES / 4096)
        .filter(|block| {
            disk.read(block * 4096, &mut bytes);
            bytes.iter().all(|byte| *byte == fill)
        })
        .collect();
    assert_eq!(places.len(), 1, "one copy in each store");
    let start = places[0] * 4096;
    disk.damage(
        start..start + 512,
        if fill.is_multiple_of(2) { &Damage::FlipBit } else { &Damage::Bad },
    );
}

/// Every log is damaged, each in another entry, and all nodes start again: entries are repaired
/// from each other before any member runs.
#[test]
fn damaged_logs_are_repaired_from_each_other() {
    let world = World::new(10, WorldOptions::default());
    (1..=3).for_each(|number| drop(world.create_disk(disk(number), STORE_BYTES)));
    let reactor = world.reactor();
    let nodes = reactor.block_on(async {
        let nodes = with_volume(&reactor).await;
        let handle = nodes[1].open_volume("vm0").expect("is there");
        for block in 0..60_u8 {
            let data = filled(&reactor, 4096, 100 + block);
            handle.write(u64::from(block) * 4096, data).await.expect("writes");
        }
        nodes.iter().map(Node::id).zip(1..).collect::<Vec<_>>()
    });
    world.crash(Crash::Kill);
    reactor.shutdown();
    for (number, block) in (1..=3).flat_map(|n| (0..4).map(move |i| (n, 9 * i + 2 * n as u8))) {
        damage(&world, number, 100 + block);
    }
    let reactor = world.reactor();
    reactor.block_on(async {
        let mut started = Vec::new();
        for (id, number) in nodes {
            let device = reactor.open_device(disk(number), &DeviceOptions::default());
            let store = LocalStore::open(&reactor, device.expect("opens"), false).await;
            let store = store.expect("opens");
            let groups = store.groups().into_iter().map(|id| store.group(id).state());
            assert_eq!(groups.map(|group| group.faulty.len()).sum::<usize>(), 4);
            let mut options = options(number, id, None);
            options.peers.retain(|_| number > 1);
            options.started = 1_000_000;
            let node = Node::start(&reactor, store, options).await;
            started.push(node.expect("starts"));
        }
        until(&reactor, "the volume is served", || started[0].leads().len() > 1).await;
        let handle = started[2].open_volume("vm0").expect("is there");
        let whole: Vec<u8> = (0..60).flat_map(|block| vec![100 + block; 4096]).collect();
        assert!(contents(&handle, 0, 60 * 4096).await == whole);
        for node in &started {
            let counters = node.store().status().counters;
            assert_eq!(counters.mended_blocks, 4, "{counters:?}");
        }
    });
    reactor.shutdown();
}

/// Every replica is damaged, each in another place: what a read meets is mended from another one,
/// and the scrubber does the rest.
#[test]
fn damaged_blocks_are_mended_by_reads_and_by_the_scrubber() {
    let world = World::new(9, WorldOptions::default());
    (1..=3).for_each(|number| drop(world.create_disk(disk(number), STORE_BYTES)));
    let reactor = world.reactor();
    reactor.block_on(async {
        let nodes = with_volume(&reactor).await;
        let handle = nodes[1].open_volume("vm0").expect("is there");
        for block in 0..60_u8 {
            let data = filled(&reactor, 4096, 100 + block);
            handle.write(u64::from(block) * 4096, data).await.expect("writes");
        }
        reactor.sleep(Duration::from_secs(2)).await;
        for (number, block) in (1..=3).flat_map(|n| (0..4).map(move |i| (n, 3 * i + n as u8))) {
            damage(&world, number, 100 + block);
        }
        let whole: Vec<u8> = (0..60).flat_map(|block| vec![100 + block; 4096]).collect();
        assert!(contents(&handle, 0, 60 * 4096).await == whole, "the leader mends what it reads");
        let mended = |nodes: &[Node]| -> u64 {
            nodes.iter().map(|node| node.store().status().counters.mended_blocks).sum()
        };
        assert_eq!(mended(&nodes), 4);
        let mut scrubbed = 0;
        for node in &nodes {
            let report = node.scrub().await.expect("scrubs");
            assert_eq!(report.damaged_blocks, 0);
            assert!(report.read_bytes >= 60 * 4096, "{report:?}");
            scrubbed += report.mended_blocks;
        }
        assert_eq!((scrubbed, mended(&nodes)), (8, 12));
        for node in &nodes {
            assert_eq!(node.scrub().await.expect("scrubs").mended_blocks, 0);
        }
        assert!(contents(&handle, 0, 60 * 4096).await == whole);
    });
    reactor.shutdown();
}
