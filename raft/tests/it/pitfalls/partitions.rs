//! Mistakes where the network comes apart.

use super::world;
use crate::lab::{Net, Node, agreed, create, elected, group, leader, until, write};
use ashlar_engine::reactor::Reactor;
use ashlar_raft::types::{NodeId, Outcome};
use openraft::ReadPolicy;
use std::time::Duration;

fn term(nodes: &[Node]) -> u64 {
    nodes.iter().map(|node| node.metrics().current_term).max().expect("is one")
}

async fn reads(node: &Node) -> bool {
    let linearizable = node.raft.ensure_linearizable(ReadPolicy::ReadIndex);
    let within = node.runtime.reactor().within(Duration::from_secs(2), linearizable);
    matches!(node.runtime.enter(within).await, Some(Ok(_)))
}

/// Cloudflare 2020: two halves that do not see each other, and a node that sees both. The leader
/// stays, its term too, and clients of it notice nothing.
#[test]
fn a_bridge_between_two_halves_changes_no_leader() {
    for seed in 0..6 {
        let (_world, reactor) = world(seed, 5);
        reactor.block_on(async {
            let net = Net::default();
            let nodes = group(&reactor, &net, 5, 0).await;
            let leads = elected(&reactor, &nodes).await;
            assert_eq!(nodes[leads].propose(create(1, 0)).await, Outcome::Done);
            agreed(&reactor, &nodes).await;
            let before = term(&nodes);
            // The leader with one other on this side, two on the other, one that sees all.
            let id = |distance: usize| nodes[(leads + distance) % 5].id;
            let (near, far) = ([id(0), id(1)], [id(3), id(4)]);
            net.cut(near.into_iter().flat_map(|a| far.map(|b| (a, b))));
            for second in 0..60 {
                let write = write(&reactor, 2 + second, 0, second % 60, 7);
                let proposed = nodes[leads].try_propose(write);
                let in_time = reactor.within(Duration::from_secs(1), proposed).await;
                assert_eq!(in_time, Some(Ok(Outcome::Done)), "seed {seed}, second {second}");
                reactor.sleep(Duration::from_secs(1)).await;
            }
            assert_eq!(term(&nodes), before, "seed {seed}: an election");
            net.heal();
            agreed(&reactor, &nodes).await;
            reactor.sleep(Duration::from_secs(5)).await;
            assert_eq!(term(&nodes), before, "seed {seed}: who came back disturbed");
        });
        reactor.shutdown();
    }
}

/// A leader that nobody hears keeps its vote, but answers no reads and acknowledges nothing.
#[test]
fn a_lapsed_leader_serves_nobody() {
    for seed in 0..6 {
        let (_world, reactor) = world(seed, 3);
        reactor.block_on(async {
            let net = Net::default();
            let nodes = group(&reactor, &net, 3, 0).await;
            let old = elected(&reactor, &nodes).await;
            assert_eq!(nodes[old].propose(create(1, 0)).await, Outcome::Done);
            agreed(&reactor, &nodes).await;
            assert!(reads(&nodes[old]).await);
            net.isolate(nodes[old].id);
            // At once, while it leads yet, and when others do.
            for serial in 10..16 {
                assert!(!reads(&nodes[old]).await, "seed {seed}: a stale read");
                assert_eq!(outcome(&reactor, &nodes[old], serial, 2).await, None, "seed {seed}");
            }
            let new = other_leader(&reactor, &nodes, old).await;
            assert_eq!(outcome(&reactor, &nodes[new], 20, 5).await, Some(Outcome::Done));
            net.heal();
            agreed(&reactor, &nodes).await;
            for node in &nodes {
                assert_eq!(node.fill_of(3).await, 20, "seed {seed}: what was refused is there");
            }
        });
        reactor.shutdown();
    }
}

async fn other_leader(reactor: &Reactor, nodes: &[Node], old: usize) -> usize {
    let others = || leader(nodes).filter(|leads| *leads != old);
    until(reactor, "another one leads", || others().is_some()).await;
    others().expect("is there")
}

/// The leader is lost in every moment of a write, so nobody knows what became of it. If it was
/// done, a retry at the next leader is not, however late it comes; else the retry is done.
#[test]
fn an_error_is_an_unknown_fate_and_a_retry_never_undoes_newer_writes() {
    let mut done = [0, 0];
    for seed in 0..16 {
        let (_world, reactor) = world(seed, 3);
        reactor.block_on(async {
            let net = Net::default();
            let nodes = group(&reactor, &net, 3, 0).await;
            let old = elected(&reactor, &nodes).await;
            assert_eq!(nodes[old].propose(create(1, 0)).await, Outcome::Done);
            agreed(&reactor, &nodes).await;
            let (raft, proposal) = (nodes[old].raft.clone(), write(&reactor, 2, 0, 0, 1));
            nodes[old].runtime.start_task(async move { raft.client_write(proposal).await.ok() });
            reactor.sleep(Duration::from_micros(400 * seed)).await;
            net.isolate(nodes[old].id);
            let new = other_leader(&reactor, &nodes, old).await;
            assert_eq!(nodes[new].propose(write(&reactor, 3, 0, 1, 1)).await, Outcome::Done);
            let was_done = nodes[new].fill_of(0).await == 1;
            assert_eq!(nodes[new].propose(write(&reactor, 4, 0, 0, 2)).await, Outcome::Done);
            assert_eq!(nodes[new].propose(write(&reactor, 2, 0, 0, 1)).await, Outcome::Done);
            net.heal();
            agreed(&reactor, &nodes).await;
            for node in &nodes {
                let expected = if was_done { 2 } else { 1 };
                assert_eq!(node.fill_of(0).await, expected, "seed {seed}");
            }
            done[usize::from(was_done)] += 1;
        });
        reactor.shutdown();
    }
    assert!(done[0] > 0 && done[1] > 0, "{done:?}: both must happen");
}

/// Waits so many seconds for an outcome.
async fn outcome(reactor: &Reactor, node: &Node, serial: u64, seconds: u64) -> Option<Outcome> {
    let proposed = node.try_propose(write(reactor, serial, 0, 3, serial as u8));
    reactor.within(Duration::from_secs(seconds), proposed).await.and_then(Result::ok)
}

/// Of four voters, two are no quorum: neither half commits, and nothing that one half was told is
/// undone by the other.
#[test]
fn halves_of_an_even_group_commit_nothing() {
    for seed in 0..4 {
        let (_world, reactor) = world(seed, 4);
        reactor.block_on(async {
            let net = Net::default();
            let nodes = group(&reactor, &net, 4, 0).await;
            let leads = elected(&reactor, &nodes).await;
            assert_eq!(nodes[leads].propose(create(1, 0)).await, Outcome::Done);
            assert_eq!(outcome(&reactor, &nodes[leads], 2, 5).await, Some(Outcome::Done));
            agreed(&reactor, &nodes).await;
            let id = |distance: usize| nodes[(leads + distance) % 4].id;
            let (one, two): ([NodeId; 2], [NodeId; 2]) = ([id(0), id(1)], [id(2), id(3)]);
            net.cut(one.into_iter().flat_map(|a| two.map(|b| (a, b))));
            for (serial, node) in (10..).zip(&nodes) {
                assert_eq!(outcome(&reactor, node, serial, 10).await, None, "seed {seed}");
                assert!(!reads(node).await);
                assert_eq!(node.fill_of(3).await, 2, "seed {seed}: applied without a quorum");
            }
            net.heal();
            let mut attempts = 20..40;
            loop {
                let serial = attempts.next().unwrap_or_else(|| panic!("seed {seed}: no quorum"));
                let leads = elected(&reactor, &nodes).await;
                if outcome(&reactor, &nodes[leads], serial, 5).await == Some(Outcome::Done) {
                    break;
                }
                reactor.sleep(Duration::from_secs(1)).await;
            }
            agreed(&reactor, &nodes).await;
        });
        reactor.shutdown();
    }
}
