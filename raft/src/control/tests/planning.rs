//! What a plan does, story by story.

use super::cluster::Cluster;
use super::*;
use crate::placement::Shortfall;
use std::collections::BTreeSet;

fn cluster(nodes: u64, gib: u64) -> Cluster {
    let mut log = Log::with_nodes(nodes);
    log.run(Operation::SetSettings { settings: Settings { grace_seconds: 30, moves_max: 2 } });
    log.create("vm0", gib, "replicas=3");
    let mut cluster = Cluster::new(log, 1);
    cluster.settle();
    cluster
}

fn turns(cluster: &mut Cluster, count: usize) {
    (0..count).for_each(|_| cluster.turn());
}

/// Groups and their voters.
fn voters(cluster: &Cluster) -> Vec<Vec<StoreId>> {
    cluster.log.state.groups().values().map(|group| group.voters().collect()).collect()
}

#[test]
fn the_control_group_grows_with_the_cluster() {
    let cluster = cluster(3, 64);
    assert_eq!(cluster.log.state.groups()[&PgId::CONTROL].count(Role::Voter), 3);
    cluster.assert_placed();
    assert_eq!(notes(&cluster.log.state, &cluster.health, cluster.now), []);
}

#[test]
fn a_dead_node_is_replaced_after_the_grace_time_and_not_before() {
    let mut cluster = cluster(5, 256);
    let dead = NodeId(2);
    let held = cluster.held(dead);
    assert!(held > 0);
    let before = voters(&cluster);
    cluster.alive.remove(&dead);
    turns(&mut cluster, 29);
    assert_eq!(voters(&cluster), before, "a restart moves nothing");
    let told = notes(&cluster.log.state, &cluster.health, cluster.now);
    assert_eq!(told.iter().filter(|note| matches!(note, Note::Down(..))).count(), held);
    cluster.settle();
    assert_eq!(cluster.held(dead), 0);
    let others = |stores: &[StoreId]| stores.len() == 3;
    assert!(voters(&cluster).iter().all(|stores| others(stores)));
    // What did not stand on it was not touched.
    let store = cluster.log.state.stores().iter().find(|(_, s)| s.node == dead);
    let store = *store.expect("a store").0;
    for (old, new) in before.iter().zip(voters(&cluster)) {
        assert!(old.contains(&store) || *old == new);
        assert!(old.iter().filter(|store| new.contains(store)).count() >= 2);
    }
    let outcome = cluster.log.run(Operation::RemoveNode { node: dead });
    assert_eq!(outcome, Outcome::Done);
}

#[test]
fn with_nowhere_to_go_replicas_stay_and_it_is_told() {
    let mut cluster = cluster(3, 64);
    cluster.alive.remove(&NodeId(2));
    turns(&mut cluster, 200);
    assert!(voters(&cluster).iter().all(|stores| stores.len() == 3));
    let told = notes(&cluster.log.state, &cluster.health, cluster.now);
    let short = Shortfall::Stores { wanted: 3, found: 2 };
    assert!(told.contains(&Note::Short(PgId(2), short)), "{told:?}");
    // A node that comes takes the place.
    let (node, _) = cluster.log.add_node("", 4096, false);
    cluster.alive.insert(node);
    cluster.settle();
    assert_eq!(cluster.held(NodeId(2)), 0);
    assert_eq!(cluster.held(node), cluster.log.state.groups().len());
}

#[test]
fn draining_moves_everything_and_is_not_slowed_by_a_ban_on_moves() {
    let mut cluster = cluster(4, 256);
    let settings = Settings { grace_seconds: 30, moves_max: 0 };
    cluster.log.run(Operation::SetSettings { settings });
    cluster.log.run(Operation::Drain { node: NodeId(1), on: true });
    let refused = cluster.log.refused(Operation::RemoveNode { node: NodeId(1) });
    assert!(matches!(refused, Refusal::NodeHolds { .. }));
    cluster.settle();
    assert_eq!(cluster.held(NodeId(1)), 0);
    cluster.assert_placed();
    assert_eq!(cluster.log.run(Operation::RemoveNode { node: NodeId(1) }), Outcome::Done);
}

#[test]
fn a_lost_store_is_made_anew_though_moves_are_banned() {
    let mut cluster = cluster(3, 256);
    let settings = Settings { grace_seconds: 30, moves_max: 0 };
    cluster.log.run(Operation::SetSettings { settings });
    let lost = cluster.log.state.stores().iter().find(|(_, store)| store.node == NodeId(1));
    let lost = *lost.expect("a store").0;
    let add = Operation::AddStore { node: NodeId(1), store: store_spec(77, 4096) };
    assert!(matches!(cluster.log.run(add), Outcome::Store(_)));
    cluster.log.run(Operation::SetWeight { store: lost, weight: 0 });
    cluster.settle();
    assert!(voters(&cluster).iter().all(|stores| stores.len() == 3 && !stores.contains(&lost)));
}

#[test]
fn growth_moves_what_is_due_and_only_so_many_groups_at_once() {
    let mut cluster = cluster(3, 8 << 10);
    let before = voters(&cluster);
    let (node, store) = cluster.log.add_node("", 4096, false);
    cluster.alive.insert(node);
    cluster.most_moving = 0;
    cluster.settle();
    cluster.assert_placed();
    assert!(cluster.held(node) >= 2, "{}", cluster.held(node));
    assert!((1..=2).contains(&cluster.most_moving), "{}", cluster.most_moving);
    for (old, new) in before.iter().zip(voters(&cluster)) {
        assert!(new.contains(&store) || *old == new, "only towards the new store");
    }
}

#[test]
fn leaders_follow_the_attachment() {
    let mut cluster = cluster(4, 256);
    let volume = cluster.log.state.volume_by_name("vm0").expect("there").0;
    let slices: BTreeSet<_> = cluster.log.state.volumes()[&volume].slices.iter().copied().collect();
    for node in cluster.alive.clone() {
        cluster.log.run(Operation::Attach { volume, node });
        cluster.settle();
        for slice in &slices {
            let group = &cluster.log.state.groups()[slice];
            let node_of = |store: StoreId| cluster.log.state.stores()[&store].node;
            let leader = cluster.health.groups[slice].leader.expect("a leader");
            let local = group.voters().any(|store| node_of(store) == node);
            assert_eq!(node_of(leader) == node, local, "group {slice}");
        }
    }
}

#[test]
fn a_gated_voter_blocks_what_would_cost_an_intact_one() {
    let mut cluster = cluster(4, 64);
    let (id, group) = cluster.log.state.groups().iter().next_back().expect("a group");
    let (id, members) = (*id, group.voters().collect::<Vec<_>>());
    let outside = cluster.log.state.stores().keys().find(|s| !members.contains(s));
    let outside = *outside.expect("a fourth store");
    let mut step = |operation| assert_eq!(cluster.log.run(operation), Outcome::Done);
    step(Operation::SetWeight { store: members[2], weight: 0 });
    let target = vec![members[0], members[1], outside];
    step(Operation::Aim { group: id, epoch: 2, target });
    step(Operation::Begin { group: id, epoch: 3, step: Step::AddLearner { store: outside } });
    step(Operation::Finish { group: id, epoch: 4, done: true });
    let leader = Some(members[0]);
    let member = |gated, lag_entries| MemberHealth { lag_entries, gated };
    let mut planned = |gated: Option<StoreId>, lag: u64| {
        let all = members.iter().map(|store| (*store, member(Some(*store) == gated, 0)));
        let all = all.chain([(outside, member(false, lag))]).collect();
        cluster.health.groups.insert(id, GroupHealth { leader, members: all });
        let actions = plan(&cluster.log.state, &cluster.health, cluster.now);
        let begun = actions.into_iter().filter_map(|action| match action {
            Action::Propose(Operation::Begin { group, step, .. }) if group == id => Some(step),
            _ => None,
        });
        begun.collect::<Vec<_>>()
    };
    let swap = Step::Promote { store: outside, instead_of: Some(members[2]) };
    assert_eq!(planned(None, 0), [swap]);
    assert_eq!(planned(None, limits::CAUGHT_UP_ENTRIES + 1), []);
    assert_eq!(planned(Some(members[1]), 0), [], "an intact one would go while one is gated");
    assert_eq!(planned(Some(members[2]), 0), [swap], "the gated one goes");
}

#[test]
fn a_step_that_is_no_longer_safe_is_settled() {
    let mut cluster = cluster(4, 64);
    let (id, group) = cluster.log.state.groups().iter().next_back().expect("a group");
    let (id, members) = (*id, group.voters().collect::<Vec<_>>());
    let outside = cluster.log.state.stores().keys().find(|s| !members.contains(s));
    let outside = *outside.expect("a fourth store");
    let mut run = |operation| assert_eq!(cluster.log.run(operation), Outcome::Done);
    let target = vec![members[0], members[1], outside];
    run(Operation::Aim { group: id, epoch: 2, target });
    run(Operation::Begin { group: id, epoch: 3, step: Step::AddLearner { store: outside } });
    run(Operation::Finish { group: id, epoch: 4, done: true });
    let step = Step::Promote { store: outside, instead_of: Some(members[2]) };
    run(Operation::Begin { group: id, epoch: 5, step });
    let leader = members[0];
    for (lag_entries, safe) in [(0, true), (1 << 20, false)] {
        let all = members.iter().map(|store| (*store, MemberHealth::default()));
        let all = all.chain([(outside, MemberHealth { lag_entries, gated: false })]).collect();
        let known = GroupHealth { leader: Some(leader), members: all };
        cluster.health.groups.insert(id, known);
        let actions = plan(&cluster.log.state, &cluster.health, cluster.now);
        let expected = match safe {
            true => Action::Perform { group: id, epoch: 6, leader, step },
            false => Action::Settle { group: id, epoch: 6, leader, step },
        };
        assert!(actions.contains(&expected), "{actions:?}");
    }
}

#[test]
fn nothing_is_done_about_nodes_never_heard_of() {
    let cluster = cluster(4, 64);
    let actions = plan(&cluster.log.state, &Health::default(), cluster.now);
    assert_eq!(actions, []);
}

#[test]
fn a_deleted_volume_is_dropped() {
    let mut cluster = cluster(3, 64);
    let volume = cluster.log.state.volume_by_name("vm0").expect("there").0;
    cluster.log.run(Operation::DeleteVolume { volume });
    cluster.settle();
    assert!(cluster.log.state.volumes().is_empty());
    assert!(cluster.log.state.groups().values().all(|group| group.slices == 0));
}
