//! Goal: three openraft nodes on the engine's logs agree, a retried write is applied once, a fenced
//! writer changes nothing; and one seed gives one run.
//! Method: real openraft and real stores in a simulated world, a network in memory whose messages
//! take a random time and whose callee runs as a task of its own node; contents of all replicas
//! against a model, and the world's trace of two runs of a seed.

use crate::lab::{BLOCKS, Net, Node, V, agreed, create, elected, group, write};
use ashlar_engine::limits::STORE_MIN_BYTES;
use ashlar_engine::reactor::Reactor;
use ashlar_engine::reactor::sim::{World, WorldOptions};
use ashlar_engine::units::BLOCK_SIZE_BYTES;
use ashlar_raft::types::{NodeId, Outcome, Proposal};
use std::collections::{BTreeMap, BTreeSet};

/// What a client does, and what the volume must hold then.
struct Client<'a> {
    reactor: &'a Reactor,
    node: &'a Node,
    model: BTreeMap<u64, u8>,
}

impl Client<'_> {
    async fn propose(&self, proposal: Proposal) -> Outcome {
        self.node.propose(proposal).await
    }

    fn write(&self, serial: u64, epoch: u64, block: u64, fill: u8) -> Proposal {
        write(self.reactor, serial, epoch, block, fill)
    }

    /// Writes, retries and a fence.
    async fn work(&mut self) {
        assert_eq!(self.propose(create(1, 5)).await, Outcome::Done);
        let mut random = self.reactor.random("client");
        for serial in 2..42 {
            let (block, fill) = (random.below(BLOCKS - 2), 1 + random.below(250) as u8);
            assert_eq!(self.propose(self.write(serial, 5, block, fill)).await, Outcome::Done);
            self.model.insert(block, fill);
        }
        // A retry that comes late does not undo what was written since.
        let last = BLOCKS - 1;
        assert_eq!(self.propose(self.write(50, 5, last, 1)).await, Outcome::Done);
        assert_eq!(self.propose(self.write(51, 5, last, 2)).await, Outcome::Done);
        assert_eq!(self.propose(self.write(50, 5, last, 1)).await, Outcome::Done);
        self.model.insert(last, 2);
        // One that was overtaken, and not done, is.
        assert_eq!(self.propose(self.write(49, 5, last - 1, 3)).await, Outcome::Done);
        self.model.insert(last - 1, 3);
        // A newer writer fences the older one.
        let fence = Proposal::Fence { volume: V, epoch: 6 };
        assert_eq!(self.propose(fence).await, Outcome::Done);
        let fenced = self.propose(self.write(52, 5, last, 4)).await;
        assert_eq!(fenced, Outcome::Fenced { epoch: 6 });
        assert_eq!(self.propose(self.write(53, 6, 0, 5)).await, Outcome::Done);
        self.model.insert(0, 5);
    }
}

/// A life of three nodes. What its seed decided.
async fn live(reactor: &Reactor) -> (NodeId, u64, Vec<u8>) {
    let net = Net::default();
    let nodes = group(reactor, &net, 3, 0).await;
    let leader = elected(reactor, &nodes).await;
    let mut client = Client { reactor, node: &nodes[leader], model: BTreeMap::new() };
    client.work().await;
    agreed(reactor, &nodes).await;

    let mut expected = vec![0; BLOCKS as usize * BLOCK_SIZE_BYTES];
    for (block, fill) in &client.model {
        let start = *block as usize * BLOCK_SIZE_BYTES;
        expected[start..start + BLOCK_SIZE_BYTES].fill(*fill);
    }
    for node in &nodes {
        assert!(node.contents().await == expected, "a replica differs from the model");
    }
    let (id, term) = (nodes[leader].id, nodes[leader].metrics().current_term);
    for node in nodes {
        node.stop(&net).await;
    }
    (id, term, expected)
}

fn run(seed: u64) -> (u64, NodeId, u64, Vec<u8>) {
    let world = World::new(seed, WorldOptions::default());
    for id in 1..=3 {
        world.create_disk(format!("disk {id}"), STORE_MIN_BYTES);
    }
    let reactor = world.reactor();
    let (leader, term, contents) = reactor.block_on(live(&reactor));
    reactor.shutdown();
    (world.trace_hash(), leader, term, contents)
}

#[test]
fn three_nodes_agree_and_a_seed_decides_the_run() {
    let mut traces = BTreeSet::new();
    for seed in 0..4 {
        let first = run(seed);
        assert!(first == run(seed), "seed {seed} gave two runs");
        traces.insert(first.0);
    }
    assert_eq!(traces.len(), 4, "seeds give different runs");
}
