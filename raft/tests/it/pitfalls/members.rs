//! Mistakes where members change.

use super::world;
use crate::lab::{Net, Node, agreed, create, elected, group, leader, member, until, write};
use ashlar_engine::reactor::Reactor;
use ashlar_raft::types::{NodeId, Outcome};
use openraft::ReadPolicy;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use std::collections::BTreeSet;
use std::time::Duration;

fn voters(node: &Node) -> BTreeSet<NodeId> {
    node.metrics().membership_config.membership().voter_ids().collect()
}

/// One set of voters, committed.
fn settled(node: &Node) -> bool {
    let metrics = node.metrics();
    metrics.membership_config == metrics.committed_membership_config
        && metrics.membership_config.membership().get_joint_config().len() == 1
}

async fn learn(node: &Node, id: NodeId) {
    let added = node.runtime.enter(node.raft.add_learner(id, member(id), true)).await;
    added.expect("is added");
}

async fn change(node: &Node, voters: impl IntoIterator<Item = NodeId>) -> Result<(), String> {
    let voters: BTreeSet<NodeId> = voters.into_iter().collect();
    let changed = node.runtime.enter(node.raft.change_membership(voters, false)).await;
    changed.map(drop).map_err(|error| error.to_string())
}

async fn serves(reactor: &Reactor, node: &Node, serial: u64) -> bool {
    let proposed = node.try_propose(write(reactor, serial, 0, 1, serial as u8));
    let proposed = reactor.within(Duration::from_secs(5), proposed).await;
    matches!(proposed, Some(Ok(Outcome::Done)))
}

async fn reads(node: &Node) -> bool {
    let linearizable = node.raft.ensure_linearizable(ReadPolicy::ReadIndex);
    let within = node.runtime.reactor().within(Duration::from_secs(2), linearizable);
    matches!(node.runtime.enter(within).await, Some(Ok(_)))
}

/// A second change before the first is committed could make two quorums that do not meet.
#[test]
fn two_changes_of_members_are_never_in_flight() {
    let (_world, reactor) = world(1, 5);
    reactor.block_on(async {
        let net = Net::default();
        let nodes = group(&reactor, &net, 3, 2).await;
        let leads = &nodes[elected(&reactor, &nodes).await];
        learn(leads, 4).await;
        learn(leads, 5).await;
        net.isolate(leads.id);
        let raft = leads.raft.clone();
        let first = leads.runtime.start_task(async move {
            raft.change_membership(BTreeSet::from([1, 2, 3, 4]), false).await.map(drop)
        });
        reactor.sleep(Duration::from_millis(5)).await;
        let second = leads.raft.change_membership(BTreeSet::from([1, 2, 3, 5]), false);
        let second = leads.runtime.enter(second).await;
        let refused = matches!(
            second,
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_)
            )))
        );
        assert!(refused, "{:?}", second.map(drop));
        net.heal();
        // It is carried out, or its leader lost the office; then it is settled one way or another.
        reactor.within(Duration::from_secs(20), first).await;
        elected(&reactor, &nodes).await;
        until(&reactor, "one membership", || nodes[..3].iter().all(settled)).await;
        assert!(!voters(&nodes[0]).contains(&5));
        assert!(nodes[..3].iter().all(|node| voters(node) == voters(&nodes[0])));
    });
    reactor.shutdown();
}

/// The leader is lost in every moment of a change. Whoever leads then can be told to make it again,
/// and the group has one membership and everything that was acknowledged.
#[test]
fn a_change_of_members_survives_the_loss_of_its_leader() {
    for seed in 0..12 {
        let (_world, reactor) = world(seed, 4);
        reactor.block_on(async {
            let net = Net::default();
            let nodes = group(&reactor, &net, 3, 1).await;
            let old = elected(&reactor, &nodes).await;
            assert_eq!(nodes[old].propose(create(1, 0)).await, Outcome::Done);
            assert_eq!(nodes[old].propose(write(&reactor, 2, 0, 0, 5)).await, Outcome::Done);
            learn(&nodes[old], 4).await;
            let wanted: BTreeSet<NodeId> = (1..=4).filter(|id| *id != nodes[old].id).collect();
            let (raft, to) = (nodes[old].raft.clone(), wanted.clone());
            nodes[old].runtime.start_task(async move {
                raft.change_membership(to, false).await.ok();
            });
            reactor.sleep(Duration::from_micros(700 * seed)).await;
            net.isolate(nodes[old].id);
            let others = || leader(&nodes).filter(|leads| *leads != old);
            until(&reactor, "another one leads", || others().is_some()).await;
            let mut attempts = 0;
            loop {
                let leads = &nodes[others().unwrap_or((old + 1) % 3)];
                if settled(leads) && voters(leads) == wanted {
                    break;
                }
                attempts += 1;
                assert!(attempts < 100, "seed {seed}: {:?}", leads.metrics());
                let again = change(leads, wanted.iter().copied());
                reactor.within(Duration::from_secs(5), again).await;
                reactor.sleep(Duration::from_millis(200)).await;
            }
            let leads = &nodes[others().expect("leads")];
            assert!(serves(&reactor, leads, 3).await, "seed {seed}");
            net.heal();
            for node in nodes.iter().filter(|node| wanted.contains(&node.id)) {
                until(&reactor, "it is up to date", || node.applied() >= leads.applied()).await;
                assert_eq!(voters(node), wanted, "seed {seed}");
                assert_eq!((node.fill_of(0).await, node.fill_of(1).await), (5, 3), "seed {seed}");
            }
        });
        reactor.shutdown();
    }
}

/// A leader that the others removed while they could not reach it answers nobody.
#[test]
fn a_removed_leader_does_not_serve_on() {
    for seed in 0..6 {
        let (_world, reactor) = world(seed, 4);
        reactor.block_on(async {
            let net = Net::default();
            let nodes = group(&reactor, &net, 4, 0).await;
            let old = elected(&reactor, &nodes).await;
            assert_eq!(nodes[old].propose(create(1, 0)).await, Outcome::Done);
            agreed(&reactor, &nodes).await;
            net.isolate(nodes[old].id);
            let others = || leader(&nodes).filter(|leads| *leads != old);
            until(&reactor, "another one leads", || others().is_some()).await;
            let new = others().expect("leads");
            let rest = (1..=4).filter(|id| *id != nodes[old].id);
            change(&nodes[new], rest).await.expect("is removed");
            assert!(serves(&reactor, &nodes[new], 2).await);
            assert!(!serves(&reactor, &nodes[old], 3).await && !reads(&nodes[old]).await);
            net.heal();
            reactor.sleep(Duration::from_secs(20)).await;
            assert!(!serves(&reactor, &nodes[old], 4).await && !reads(&nodes[old]).await);
            assert!(serves(&reactor, &nodes[new], 5).await, "seed {seed}");
        });
        reactor.shutdown();
    }
}

/// A leader that removes itself steps down when that is committed.
#[test]
fn a_leader_that_removes_itself_steps_down() {
    let (_world, reactor) = world(3, 4);
    reactor.block_on(async {
        let net = Net::default();
        let nodes = group(&reactor, &net, 4, 0).await;
        let old = elected(&reactor, &nodes).await;
        assert_eq!(nodes[old].propose(create(1, 0)).await, Outcome::Done);
        let rest = (1..=4).filter(|id| *id != nodes[old].id);
        change(&nodes[old], rest).await.expect("is removed");
        let others = || leader(&nodes).filter(|leads| *leads != old);
        until(&reactor, "another one leads", || others().is_some()).await;
        reactor.sleep(Duration::from_secs(5)).await;
        assert!(!serves(&reactor, &nodes[old], 2).await && !reads(&nodes[old]).await);
        assert!(serves(&reactor, &nodes[others().expect("leads")], 3).await);
    });
    reactor.shutdown();
}

/// A member that was removed and does not know it stands for election again and again: nobody
/// minds.
#[test]
fn a_removed_member_disturbs_nobody() {
    for seed in 0..6 {
        let (_world, reactor) = world(seed, 4);
        reactor.block_on(async {
            let net = Net::default();
            let nodes = group(&reactor, &net, 4, 0).await;
            let leads = elected(&reactor, &nodes).await;
            assert_eq!(nodes[leads].propose(create(1, 0)).await, Outcome::Done);
            agreed(&reactor, &nodes).await;
            let gone = (leads + 1) % 4;
            net.isolate(nodes[gone].id);
            let rest = (1..=4).filter(|id| *id != nodes[gone].id);
            change(&nodes[leads], rest).await.expect("is removed");
            let before = nodes[leads].metrics().current_term;
            // Long enough to stand for election many times, alone.
            reactor.sleep(Duration::from_secs(30)).await;
            net.heal();
            for second in 0..30 {
                assert!(serves(&reactor, &nodes[leads], 2 + second).await, "seed {seed}");
                reactor.sleep(Duration::from_secs(1)).await;
            }
            assert_eq!(nodes[leads].metrics().current_term, before, "seed {seed}");
            assert!(voters(&nodes[gone]).contains(&nodes[gone].id), "it was never told");
        });
        reactor.shutdown();
    }
}
