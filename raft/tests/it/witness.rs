//! Goal: two replicas and a witness lose nothing and go on without any one of the three; a witness
//! keeps no blocks.
//! Method: nodes with real stores, transport and openraft in a simulated world.

use crate::node::{
    PARTS, STORE_BYTES, address, all_of, disk, fill, filled, options, policy, store, until,
};
use ashlar_engine::ErrorKind;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::sim::{World, WorldOptions};
use ashlar_engine::reactor::{DeviceOptions, Reactor};
use ashlar_engine::units::GroupId;
use ashlar_raft::control::{ClusterId, NodeSpec, Operation, Outcome, PgId, Role};
use ashlar_raft::node::{Node, NodeOptions};
use ashlar_raft::placement::{Labels, NodeId};
use std::time::Duration;

const WITNESS: u64 = 3;

/// Options of a node that is started once more.
fn options_of(number: u64, ids: &[NodeId; 3], cluster: Option<ClusterId>) -> NodeOptions {
    let mut options = options(number, ids[number as usize - 1], cluster);
    options.witness = number == WITNESS;
    options.started = 1;
    options.peers = (1..).zip(ids).map(|(number, id)| (*id, address(number))).collect();
    options
}

/// Two nodes, a witness and a volume.
async fn form(reactor: &Reactor) -> [Node; 3] {
    let first = Node::start(reactor, store(reactor, 1).await, options(1, NodeId(1), None)).await;
    let mut nodes = vec![first.expect("starts")];
    let cluster = nodes[0].init(policy("replicas=2,witness")).await.expect("makes a cluster");
    for number in 2..=3 {
        let (nbd, labels) = (Vec::new(), Labels::default());
        let node = NodeSpec { address: address(number), nbd, labels, incarnation: 0 };
        let admit = Operation::AdmitNode { cluster, node };
        let id = match nodes[0].command(admit).await.expect("is answered") {
            Outcome::Node(node) => node,
            other => panic!("{other:?}"),
        };
        let mut options = options(number, id, Some(cluster));
        options.witness = number == WITNESS;
        let node = Node::start(reactor, store(reactor, number).await, options).await;
        nodes.push(node.expect("starts"));
    }
    until(reactor, "three stores are known", || nodes[0].map().stores().len() == 3).await;
    let create = Operation::CreateVolume {
        name: "vm0".into(),
        size_bytes: u64::from(PARTS) << 20,
        policy: policy("replicas=2,witness"),
        slice_bytes: None,
        avoid: Vec::new(),
    };
    let created = nodes[0].command(create).await.expect("is answered");
    assert!(matches!(created, Outcome::Volume(_)), "{created:?}");
    until(reactor, "all groups have two voters and a witness", || {
        let map = nodes[0].map();
        let groups = map.groups();
        let whole = |group: &ashlar_raft::control::Group| {
            group.started && group.count(Role::Voter) == 2 && group.count(Role::Witness) == 1
        };
        groups.len() > 1 && groups.values().all(whole)
    })
    .await;
    nodes.try_into().expect("three nodes")
}

/// The volume's group.
fn group_of(node: &Node) -> PgId {
    let map = node.map();
    let id = map.groups().keys().find(|id| **id != PgId::CONTROL).copied();
    id.expect("there is one")
}

fn last(node: &Node, group: PgId) -> u64 {
    node.store().group(GroupId(group.0)).state().last.map_or(0, |last| last.index)
}

fn check_without_blocks(node: &Node, group: PgId) {
    let volumes = node.store().group(GroupId(group.0)).volumes();
    assert!(volumes.is_empty(), "the witness has {volumes:?}");
    let used = node.store().status().data_bytes;
    assert!(used < 1 << 20, "the witness uses {used} bytes");
}

async fn stop(node: Node) {
    node.shutdown().await;
    node.store().close().await.expect("closes");
}

/// Starts a node again.
async fn again(reactor: &Reactor, options: NodeOptions) -> ashlar_engine::Result<Node> {
    let number = options.address.split(['.', ':']).nth(3).and_then(|text| text.parse().ok());
    let disk = disk(number.expect("an address of these tests"));
    let device = reactor.open_device(disk, &DeviceOptions::default()).expect("opens");
    let store = LocalStore::open(reactor, device, false).await.expect("opens");
    Node::start(reactor, store, options).await
}

/// What one node was not there for, only the other one and the witness have. When the other one is
/// gone, the witness gives the entries on, and the node that was behind has everything.
async fn give_on(reactor: &Reactor) {
    let [one, other, witness] = form(reactor).await;
    let (ids, group) = ([one.id(), other.id(), witness.id()], group_of(&one));
    let cluster = one.map().cluster();
    let handle = one.open_volume("vm0").expect("is there");
    fill(reactor, &handle, 0).await;
    check_without_blocks(&witness, group);
    stop(other).await;
    for part in 0..8 {
        handle.write(part << 20, filled(reactor, 1 << 20, 99)).await.expect("writes");
    }
    let expected = all_of(&handle).await;
    drop(handle);
    until(reactor, "the witness has all", || last(&one, group) == last(&witness, group)).await;
    stop(one).await;
    let other = again(reactor, options_of(2, &ids, cluster)).await.expect("starts");
    until(reactor, "the node is among the others", || other.open_volume("vm0").is_ok()).await;
    let handle = other.open_volume("vm0").expect("is there");
    assert!(all_of(&handle).await == expected, "what only the witness had is lost");
    fill(reactor, &handle, 1).await;
    let leads = witness.leads();
    assert!(leads.iter().all(|(id, ..)| *id == PgId::CONTROL), "the witness leads {leads:?}");
    check_without_blocks(&witness, group);
    drop(handle);
    stop(witness).await;
    stop(other).await;
    // The witness's store has nothing that a node with blocks could go on with.
    let options = NodeOptions { witness: false, ..options_of(3, &ids, cluster) };
    let started = again(reactor, options).await;
    assert!(started.is_err_and(|error| error.kind() == ErrorKind::Invalid));
}

/// A witness that was away until what it lacks was given up is brought up without blocks.
async fn bring_up(reactor: &Reactor) {
    let [one, other, witness] = form(reactor).await;
    let (ids, group) = ([one.id(), other.id(), witness.id()], group_of(&one));
    let cluster = one.map().cluster();
    let lacks_from = last(&witness, group);
    stop(witness).await;
    let handle = one.open_volume("vm0").expect("is there");
    let first = |node: &Node| node.store().group(GroupId(group.0)).state().first;
    let given_up = || [&one, &other].into_iter().all(|node| first(node) > Some(lacks_from + 1));
    for round in 0..40 {
        fill(reactor, &handle, round % 6).await;
        if given_up() {
            break;
        }
    }
    assert!(given_up(), "all that it lacks is kept");
    let expected = all_of(&handle).await;
    let witness = again(reactor, options_of(3, &ids, cluster)).await.expect("starts");
    let lacking = async || {
        let status = one.status().await.expect("is known");
        let group = status.groups.into_iter().find(|status| status.id == group);
        let members = group.map(|group| group.members).unwrap_or_default();
        members.iter().filter(|member| member.lag_entries != Some(0)).count()
    };
    for _ in 0..60 {
        if lacking().await == 0 {
            break;
        }
        reactor.sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(lacking().await, 0, "somebody lacks entries");
    check_without_blocks(&witness, group);
    drop(handle);
    // It and one other are a quorum.
    stop(one).await;
    let handle = other.open_volume("vm0").expect("is there");
    assert!(all_of(&handle).await == expected, "the other replica is another one");
    fill(reactor, &handle, 2).await;
    drop(handle);
    stop(other).await;
    stop(witness).await;
}

fn run<F: Future<Output = ()>>(program: impl FnOnce(Reactor) -> F) {
    let world = World::new(1, WorldOptions::default());
    (1..=3).for_each(|number| drop(world.create_disk(disk(number), STORE_BYTES)));
    let reactor = world.reactor();
    reactor.block_on(program(reactor.clone()));
    reactor.shutdown();
}

#[test]
fn what_a_witness_has_is_given_on() {
    run(async |reactor| give_on(&reactor).await);
}

#[test]
fn a_witness_is_brought_up_without_blocks() {
    run(async |reactor| bring_up(&reactor).await);
}
