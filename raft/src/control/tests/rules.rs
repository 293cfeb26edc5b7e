//! Single rules, by example.

use super::*;

fn volume(outcome: Outcome) -> ClusterVolumeId {
    match outcome {
        Outcome::Volume(id) => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_goes_before_init_and_init_goes_once() {
    let mut state = ControlState::default();
    let operation = create("a", 1 << 30, "replicas=1");
    let command = |serial, operation| Command { proposer: 1, serial, operation };
    let outcome = state.apply(1, command(1, operation));
    assert_eq!(outcome, Outcome::Refused(Refusal::NoCluster));
    assert_eq!(state.check(), Ok(()));
    let mut log = Log::new();
    let policy = "replicas=1".parse().expect("a policy");
    let again =
        Operation::Init { cluster: CLUSTER, node: spec(2, ""), store: store_spec(2, 1), policy };
    assert_eq!(log.refused(again), Refusal::ClusterExists);
    assert_eq!(log.state.groups()[&PgId::CONTROL].members.len(), 1);
}

#[test]
fn ids_are_log_indexes_and_a_removed_node_stays_away() {
    let mut log = Log::new();
    let (node, store) = log.add_node("zone=a", 100, false);
    assert_eq!((node, store), (NodeId(2), StoreId(4)));
    assert_eq!(log.state.stores()[&store].weight, 100);
    let other = ClusterId([9; 16]);
    let foreign = Operation::AdmitNode { cluster: other, node: spec(50, "") };
    assert_eq!(log.refused(foreign), Refusal::OtherCluster);
    let same = Operation::AdmitNode { cluster: CLUSTER, node: spec(2, "") };
    assert_eq!(log.refused(same), Refusal::AddressTaken(node));
    let held = Operation::RemoveNode { node: NodeId(1) };
    assert_eq!(log.refused(held), Refusal::NodeHolds { node: NodeId(1), groups: 1 });
    assert_eq!(log.run(Operation::RemoveNode { node }), Outcome::Done);
    assert!(!log.state.stores().contains_key(&store));
    let back = Operation::UpdateNode { node, spec: spec(2, "") };
    let gone = log.refused(back);
    assert_eq!(gone, Refusal::NodeGone(node));
    assert!(gone.to_string().contains("format its stores anew"), "{gone}");
    // The address is free again; the id is not.
    let again = log.run(Operation::AdmitNode { cluster: CLUSTER, node: spec(2, "") });
    assert_eq!(again, Outcome::Node(NodeId(log.index)));
}

#[test]
fn an_older_start_of_a_node_is_refused() {
    let mut log = Log::with_nodes(2);
    let node = NodeId(2);
    let newer = NodeSpec { incarnation: 5, ..spec(2, "") };
    log.run(Operation::UpdateNode { node, spec: newer });
    let older = Operation::UpdateNode { node, spec: NodeSpec { incarnation: 4, ..spec(2, "") } };
    assert_eq!(log.refused(older), Refusal::OldIncarnation { node, newest: 5 });
}

#[test]
fn a_device_is_one_store() {
    let mut log = Log::with_nodes(2);
    let twice = |node| Operation::AddStore { node: NodeId(node), store: store_spec(1, 4096) };
    assert_eq!(log.refused(twice(1)), Refusal::DeviceKnown(StoreId(1)));
    assert_eq!(log.refused(twice(2)), Refusal::DeviceElsewhere(NodeId(1)));
    let tiny = StoreSpec { size_bytes: 4096, ..store_spec(9, 1) };
    let tiny = Operation::AddStore { node: NodeId(1), store: tiny };
    assert_eq!(log.refused(tiny), Refusal::StoreSize(4096));
    let heavy = Operation::SetWeight { store: StoreId(1), weight: u32::MAX };
    assert_eq!(log.refused(heavy), Refusal::Weight(u32::MAX));
}

#[test]
fn names_and_sizes_are_those_of_a_single_store() {
    let mut log = Log::with_nodes(3);
    let long = "x".repeat(500);
    for name in ["", "a b", "-a", ".a", "a@b", &long] {
        let refusal = log.refused(create(name, 1 << 30, "replicas=1"));
        assert!(matches!(refusal, Refusal::Name(_)), "{name:?}");
        assert!(refusal.to_string().starts_with("a volume name "), "{refusal}");
        assert_eq!(
            Outcome::decode(&Outcome::Refused(refusal.clone()).encode()),
            Ok(Outcome::Refused(refusal))
        );
    }
    for size in [0, 511, 513, (1 << 48) + 512] {
        assert_eq!(log.refused(create("a", size, "replicas=1")), Refusal::VolumeSize(size));
    }
    let id = volume(log.create("a", 1, "replicas=1"));
    assert_eq!(log.refused(create("a", 512, "replicas=1")), Refusal::NameTaken(id));
    assert_eq!(log.run(Operation::DeleteVolume { volume: id }), Outcome::Done);
    // The name is free at once, the slices when the groups have dropped them.
    let next = volume(log.create("a", 1, "replicas=1"));
    assert_eq!(log.run(Operation::VolumeDropped { volume: id }), Outcome::Done);
    let live = Operation::VolumeDropped { volume: next };
    assert_eq!(log.refused(live), Refusal::NotDeleting(next));
    assert_eq!(log.refused(Operation::DeleteVolume { volume: id }), Refusal::UnknownVolume(id));
}

#[test]
fn slices_are_spread_over_as_many_groups_as_the_stores_can_have() {
    let mut log = Log::with_nodes(3);
    let id = volume(log.create("big", 8 << 10, "replicas=3"));
    let big = &log.state.volumes()[&id];
    assert_eq!((big.slice_bytes, big.slices.len()), (512 << 30, 16));
    // 3 stores, 8 members each; the control group has one of them.
    let used: std::collections::BTreeSet<_> = big.slices.iter().collect();
    assert_eq!(used.len(), 7);
    assert_eq!(log.state.groups().len(), 8);
    // A small one takes what is there.
    let id = volume(log.create("small", 1, "replicas=3"));
    assert_eq!(log.state.volumes()[&id].slices.len(), 1);
    assert_eq!(log.state.groups().len(), 8);
    // Another policy gets a group of its own although the target is reached.
    volume(log.create("single", 1, "replicas=1"));
    assert_eq!(log.state.groups().len(), 9);
    let huge = Operation::CreateVolume {
        name: "huge".into(),
        size_bytes: 1 << 48,
        policy: "replicas=3".parse().expect("a policy"),
        slice_bytes: Some(64 << 20),
        avoid: vec![],
    };
    assert_eq!(log.refused(huge), Refusal::TooManySlices(1 << 22));
}

#[test]
fn too_few_stores_are_told_and_avoided_ones_do_not_count() {
    let mut log = Log::with_nodes(3);
    let four = log.refused(create("a", 1 << 30, "replicas=4"));
    assert_eq!(four, Refusal::TooFewStores { wanted: 4, found: 3 });
    let witnessed = log.refused(create("a", 1 << 30, "replicas=2,witness"));
    assert_eq!(witnessed, Refusal::TooFewStores { wanted: 0, found: 0 });
    let Operation::CreateVolume { name, size_bytes, policy, slice_bytes, .. } =
        create("a", 1 << 30, "replicas=3")
    else {
        unreachable!()
    };
    let avoid = vec![StoreId(1)];
    let avoiding = Operation::CreateVolume { name, size_bytes, policy, slice_bytes, avoid };
    assert_eq!(log.refused(avoiding), Refusal::TooFewStores { wanted: 3, found: 2 });
    log.add_node("zone=c", 1, true);
    volume(log.create("a", 1, "replicas=2,witness"));
    let group = log.state.groups().values().last().expect("a group");
    assert_eq!((group.count(Role::Voter), group.count(Role::Witness)), (2, 1));
}

/// A group that a store could not take would be there in name only.
#[test]
fn no_more_groups_are_made_than_stores_take() {
    for (groups_max, made) in [(16, 12), (255, limits::GROUPS_MADE_PER_STORE_MAX)] {
        let mut log = Log::with_nodes(3);
        log.state.stores.values_mut().for_each(|store| store.groups_max = groups_max);
        let full = (0..).find_map(|number| {
            let policy = "replicas=3".parse().expect("a policy");
            let (slice_bytes, size_bytes) = (Some(1 << 30), 64 << 30);
            let (name, avoid) = (format!("v{number}"), Vec::new());
            match log.run(Operation::CreateVolume { name, size_bytes, policy, slice_bytes, avoid })
            {
                Outcome::Volume(_) => None,
                other => Some(other),
            }
        });
        assert_eq!(full, Some(Outcome::Refused(Refusal::Full(Bound::Groups))));
        // The control group is one of them.
        assert_eq!(log.state.groups().len(), made);
        let slices: u32 = log.state.groups().values().map(|group| group.slices).sum();
        assert!(slices as usize > (made - 1) * limits::SLICES_PER_GROUP_MAX - 64, "{slices}");
    }
}

#[test]
fn a_second_attach_fences_the_first() {
    let mut log = Log::with_nodes(3);
    let id = volume(log.create("a", 1, "replicas=3"));
    let attach = |node| Operation::Attach { volume: id, node: NodeId(node) };
    let detach = |node, epoch| Operation::Detach { volume: id, node: NodeId(node), epoch };
    let attached = |epoch| Outcome::Attached { volume: id, epoch };
    assert_eq!(log.run(attach(1)), attached(1));
    assert_eq!(log.run(attach(2)), attached(2));
    assert_eq!(log.refused(detach(1, 1)), Refusal::NotAttached(NodeId(1)));
    assert_eq!(log.refused(detach(2, 1)), Refusal::OldEpoch { epoch: 2 });
    let deleted = Operation::DeleteVolume { volume: id };
    let busy = Refusal::Attached { volume: id, node: NodeId(2) };
    assert_eq!(log.refused(deleted.clone()), busy);
    // The same node again: its own older sessions are fenced.
    assert_eq!(log.run(attach(2)), attached(3));
    assert_eq!(log.run(detach(2, 3)), Outcome::Done);
    assert_eq!(log.run(deleted), Outcome::Done);
    assert_eq!(log.state.volumes()[&id].epoch, 5);
}

#[test]
fn a_retry_is_answered_and_not_carried_out_again() {
    let mut log = Log::with_nodes(3);
    let id = volume(log.create("a", 1, "replicas=3"));
    let attach = Operation::Attach { volume: id, node: NodeId(1) };
    let command = |serial| Command { proposer: 9, serial, operation: attach.clone() };
    let first = log.state.apply(100, command(1));
    let epoch = log.state.epoch();
    assert_eq!(log.state.apply(101, command(1)), first);
    assert_eq!(log.state.epoch(), epoch, "the retry changed nothing");
    // Later ones may overtake, as many as may be under way.
    let mut index = 101;
    for serial in [5, 4, 3, 2, 6] {
        index += 1;
        let outcome = log.state.apply(index, command(serial));
        assert!(matches!(outcome, Outcome::Attached { .. }), "{serial}: {outcome:?}");
    }
    assert_eq!(log.state.apply(120, command(1)), Outcome::Refused(Refusal::TooOld));
    // The proposer that was silent longest is forgotten first.
    for proposer in 0..limits::PROPOSERS_MAX as u64 {
        let (proposer, operation) = (1000 + proposer, attach.clone());
        log.state.apply(200 + proposer, Command { proposer, serial: 1, operation });
    }
    assert_eq!(log.state.check(), Ok(()));
    assert_eq!(log.state.retries.proposers.len(), limits::PROPOSERS_MAX);
    assert!(!log.state.retries.proposers.contains_key(&9));
}

#[test]
fn removed_nodes_are_remembered_up_to_a_bound() {
    let mut log = Log::new();
    let mut first = None;
    for _ in 0..=limits::NODES_REMOVED_KEPT {
        let node = spec(log.index + 1, "");
        let admitted = log.run(Operation::AdmitNode { cluster: CLUSTER, node });
        let Outcome::Node(node) = admitted else { panic!("{admitted:?}") };
        first = first.or(Some(node));
        assert_eq!(log.run(Operation::RemoveNode { node }), Outcome::Done);
        assert_eq!(log.run(Operation::RemoveNode { node }), Outcome::Done, "removed is removed");
    }
    assert_eq!(log.state.nodes().len(), 1 + limits::NODES_REMOVED_KEPT);
    assert!(!log.state.nodes().contains_key(&first.expect("one")));
}

#[test]
fn steps_are_taken_one_at_a_time_towards_the_target_only() {
    let mut log = Log::with_nodes(4);
    let stores: Vec<_> = log.state.stores().keys().copied().collect();
    let (a, b, c) = (stores[0], stores[1], stores[2]);
    let group = PgId::CONTROL;
    let epoch = |log: &Log| log.state.groups()[&group].epoch;
    let aim = |epoch, target: &[StoreId]| Operation::Aim { group, epoch, target: target.to_vec() };
    let begin = |epoch, step| Operation::Begin { group, epoch, step };
    assert_eq!(log.refused(aim(9, &[a])), Refusal::OldGroupEpoch { group, epoch: 1 });
    for wrong in [&[a, a][..], &[], &[StoreId(999)], &stores] {
        assert_eq!(log.refused(aim(1, wrong)), Refusal::Target(group));
    }
    assert_eq!(log.run(aim(1, &[c, b])), Outcome::Done);
    let steps = [
        Step::AddLearner { store: a },
        Step::AddLearner { store: stores[3] },
        Step::Promote { store: b, instead_of: None },
        Step::Promote { store: b, instead_of: Some(a) },
        Step::Retire { store: a },
        Step::Remove { store: a },
        Step::Remove { store: b },
    ];
    for step in steps {
        assert_eq!(log.refused(begin(2, step)), Refusal::Unsafe(group), "{step:?}");
    }
    assert_eq!(log.run(begin(2, Step::AddLearner { store: b })), Outcome::Done);
    let second = begin(3, Step::AddLearner { store: c });
    assert_eq!(log.refused(second), Refusal::StepPending(group));
    assert_eq!(log.refused(aim(3, &[a])), Refusal::StepPending(group));
    let held = log.refused(Operation::RemoveStore { store: b });
    assert_eq!(held, Refusal::StoreHolds { store: b, groups: 1 });
    log.run(Operation::Finish { group, epoch: 3, done: true });
    let late = Operation::Finish { group, epoch: 4, done: true };
    assert_eq!(log.refused(late), Refusal::NoStep(group));
    let early = begin(4, Step::AddLearner { store: c });
    assert_eq!(log.refused(early), Refusal::Unsafe(group), "one learner at a time");
    log.run(begin(4, Step::Promote { store: b, instead_of: Some(a) }));
    log.run(Operation::Finish { group, epoch: 5, done: false });
    assert_eq!(log.state.groups()[&group].voters().collect::<Vec<_>>(), [a]);
    let at = epoch(&log);
    log.run(begin(at, Step::Promote { store: b, instead_of: Some(a) }));
    log.run(Operation::Finish { group, epoch: at + 1, done: true });
    assert_eq!(log.state.groups()[&group].voters().collect::<Vec<_>>(), [b]);
    log.run(begin(at + 2, Step::Remove { store: a }));
    log.run(Operation::Finish { group, epoch: at + 3, done: true });
    assert_eq!(log.state.groups()[&group].members.len(), 1);
}

#[test]
fn policies_are_parsed_and_refused_with_a_sentence() {
    let parse = |text: &str| text.parse::<Policy>();
    for text in ["replicas=1", "replicas=3", "replicas=2,witness", "replicas=4,witness,apart=zone"]
    {
        assert_eq!(parse(text).expect("a policy").to_string(), text);
    }
    let erasure = parse("ec=4+2").expect_err("not there yet");
    assert_eq!(erasure, PolicyError::ErasureNotYet("4+2".into()));
    assert_eq!(
        erasure.to_string(),
        "erasure-coded volumes (ec=4+2) are not there yet; create the volume with replicas=3"
    );
    assert_eq!(parse("replicas=0"), Err(PolicyError::Replicas("0".into())));
    assert_eq!(parse("replicas=6"), Err(PolicyError::Replicas("6".into())));
    assert_eq!(parse("replicas=many"), Err(PolicyError::Replicas("many".into())));
    assert_eq!(parse("replicas=3,witness"), Err(PolicyError::OddWitness(3)));
    assert_eq!(parse("replicas=2,apart=planet"), Err(PolicyError::Apart("planet".into())));
    assert_eq!(parse(""), Err(PolicyError::Part("".into())));
    assert_eq!(parse("witness"), Err(PolicyError::NoReplicas));
}
