//! Random commands, most of them sensible. After each, every invariant is checked.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Draws operations about things that exist, or nearly.
struct Draw<'a> {
    dice: &'a mut Dice,
    state: &'a ControlState,
    /// Whether ids are made up.
    wrong: bool,
}

/// A random operation.
pub(super) fn operation(dice: &mut Dice, state: &ControlState) -> Operation {
    let wrong = dice.one_in(20);
    let mut draw = Draw { dice, state, wrong };
    match draw.dice.below(26) {
        kind @ 0..10 => draw.about_nodes(kind),
        kind @ 10..18 => draw.about_volumes(kind),
        kind => draw.about_groups(kind),
    }
}

impl Draw<'_> {
    fn id(&mut self, known: Vec<u64>) -> u64 {
        let known = self.dice.pick(known).filter(|_| !self.wrong);
        known.unwrap_or_else(|| self.dice.below(60))
    }

    fn node(&mut self) -> NodeId {
        NodeId(self.id(self.state.nodes().keys().map(|id| id.0).collect()))
    }

    fn store(&mut self) -> StoreId {
        StoreId(self.id(self.state.stores().keys().map(|id| id.0).collect()))
    }

    fn volume(&mut self) -> ClusterVolumeId {
        ClusterVolumeId(self.id(self.state.volumes().keys().map(|id| id.0).collect()))
    }

    fn policy(&mut self) -> Policy {
        let policies = ["replicas=1", "replicas=2", "replicas=3", "replicas=2,witness,apart=zone"];
        self.dice.pick(policies).expect("one").parse().expect("a policy")
    }

    fn about_nodes(&mut self, kind: u64) -> Operation {
        let number = 1 + self.dice.below(40);
        let labels = self.dice.pick(["", "zone=a", "zone=b", "zone=c,rack=1"]).expect("one");
        match kind {
            0 => Operation::AdmitNode { cluster: CLUSTER, node: spec(number, labels) },
            1 | 2 => {
                let node = self.node();
                let known = self.state.nodes().get(&node).map(|node| node.spec.clone());
                let known = known.filter(|_| !self.dice.one_in(4));
                let spec = known.unwrap_or_else(|| spec(number, labels));
                Operation::UpdateNode { node, spec }
            }
            3 => Operation::Drain { node: self.node(), on: self.dice.one_in(2) },
            4 => Operation::RemoveNode { node: self.node() },
            5..=7 => {
                let witness = self.dice.one_in(5);
                let gib = 1 + self.dice.below(4096);
                let store = StoreSpec { witness, ..store_spec(number, gib) };
                Operation::AddStore { node: self.node(), store }
            }
            8 => Operation::RemoveStore { store: self.store() },
            _ => {
                let weight = self.dice.below(3) as u32 * 40_000;
                Operation::SetWeight { store: self.store(), weight }
            }
        }
    }

    fn about_volumes(&mut self, kind: u64) -> Operation {
        let volume = self.volume();
        match kind {
            10..=12 => {
                let name = self.dice.pick(["a", "b", "c", "d", "-"]).expect("one").to_owned();
                let sliced = self.dice.one_in(3);
                let slice_bytes = sliced.then(|| 1 << (25 + self.dice.below(17)));
                let avoid = (0..self.dice.below(3)).map(|_| self.store()).collect();
                let size_bytes = self.dice.below(64) << (20 + self.dice.below(15));
                let policy = self.policy();
                Operation::CreateVolume { name, size_bytes, policy, slice_bytes, avoid }
            }
            13 => Operation::DeleteVolume { volume },
            14 => Operation::VolumeDropped { volume },
            15 | 16 => Operation::Attach { volume, node: self.node() },
            _ => {
                let known = self.state.volumes().get(&volume);
                let writer = known.and_then(|volume| volume.writer);
                let node = writer.unwrap_or_else(|| self.node());
                Operation::Detach { volume, node, epoch: known.map_or(0, |v| v.epoch) }
            }
        }
    }

    fn about_groups(&mut self, kind: u64) -> Operation {
        let known = self.dice.pick(self.state.groups().keys().copied());
        let group = known.filter(|_| !self.wrong).unwrap_or(PgId(self.dice.below(9) as u32));
        let epoch = self.state.groups().get(&group).map_or(1, |group| group.epoch);
        let epoch = epoch + u64::from(self.dice.one_in(15));
        match kind {
            18 => Operation::SetControlPolicy { policy: self.policy() },
            19 => {
                let grace_seconds = self.dice.below(2000) as u32;
                let moves_max = self.dice.below(1100) as u16;
                Operation::SetSettings { settings: Settings { grace_seconds, moves_max } }
            }
            20 => Operation::GroupStarted { group, epoch },
            21 => {
                let target = (0..1 + self.dice.below(3)).map(|_| self.store()).collect();
                Operation::Aim { group, epoch, target }
            }
            22 | 23 => Operation::Begin { group, epoch, step: self.step(group) },
            _ => Operation::Finish { group, epoch, done: !self.dice.one_in(4) },
        }
    }

    /// A step with stores that the group has to do with.
    fn step(&mut self, group: PgId) -> Step {
        let about = self.state.groups().get(&group);
        let near = about.map_or(Vec::new(), |group| {
            let members = group.members.iter().map(|member| member.store);
            members.chain(group.target.iter().copied()).collect()
        });
        let store = self.dice.pick(near.clone()).unwrap_or(StoreId(1));
        match self.dice.below(5) {
            0 => Step::AddLearner { store },
            1 => Step::Promote { store, instead_of: None },
            2 => Step::Promote { store, instead_of: self.dice.pick(near) },
            3 => Step::Retire { store },
            _ => Step::Remove { store },
        }
    }
}

/// A state after `commands` random commands, and how many were not refused.
pub(super) fn random_state(seed: u64, commands: u64) -> (Log, usize) {
    let mut dice = Dice::new(seed);
    let mut log = Log::with_nodes(1 + dice.below(5));
    let mut accepted = 0;
    for _ in 0..commands {
        let operation = operation(&mut dice, &log.state);
        accepted += usize::from(!matches!(log.run(operation), Outcome::Refused(_)));
    }
    (log, accepted)
}

/// What must hold between a state and the next one.
fn check_change(before: &ControlState, after: &ControlState, outcome: &Outcome) {
    assert_eq!(after.check(), Ok(()));
    assert!(after.epoch >= before.epoch, "the map epoch only grows");
    let parts = |state: &ControlState| {
        let ControlState { nodes, stores, policies, volumes, groups, settings, .. } = state.clone();
        (nodes, stores, policies, volumes, groups, settings)
    };
    let same = parts(before) == parts(after);
    assert_eq!(before.epoch == after.epoch, same, "it grows when something changes, only then");
    if matches!(outcome, Outcome::Refused(_)) {
        assert!(same, "a refused command changes nothing");
    }
    for (id, volume) in after.volumes() {
        assert!(volume.slices.iter().all(|slice| after.groups().contains_key(slice)));
        let Some(old) = before.volumes().get(id) else { continue };
        assert!(volume.epoch >= old.epoch);
        let lost = old.writer.is_some_and(|writer| volume.writer != Some(writer));
        assert!(!lost || volume.epoch > old.epoch, "who lost the right to write is fenced");
        assert_eq!(volume.slices, old.slices, "slices stay in their groups");
    }
    for (id, group) in after.groups() {
        let stores: BTreeSet<_> = group.members.iter().map(|member| member.store).collect();
        assert_eq!(stores.len(), group.members.len(), "no two members on one store");
        let Some(old) = before.groups().get(id) else { continue };
        let plain = |group: &Group| Group { epoch: 0, slices: 0, ..group.clone() };
        assert_eq!(plain(group) == plain(old), group.epoch == old.epoch);
        assert!(group.epoch >= old.epoch);
        let (was, is) = (old.voters().collect::<Vec<_>>(), group.voters().collect::<Vec<_>>());
        let gone = was.iter().filter(|store| !is.contains(store)).count();
        let come = is.iter().filter(|store| !was.contains(store)).count();
        assert!(gone <= 1 && come <= 1, "one change of voters at a time");
        let left: Vec<_> = old.members.iter().filter(|m| !stores.contains(&m.store)).collect();
        assert!(left.iter().all(|m| m.role == Role::Learner), "only learners leave");
    }
    assert!(before.groups().keys().all(|id| after.groups().contains_key(id)));
}

fn ids(state: &ControlState) -> BTreeSet<u64> {
    let nodes = state.nodes().keys().map(|id| id.0 << 2);
    let stores = state.stores().keys().map(|id| id.0 << 2 | 1);
    let volumes = state.volumes().keys().map(|id| id.0 << 2 | 2);
    nodes.chain(stores).chain(volumes).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn every_command_keeps_the_invariants(seed: u64) {
        let mut dice = Dice::new(seed);
        let mut log = Log::with_nodes(1 + dice.below(5));
        let mut seen = ids(&log.state);
        let mut twin = log.state.clone();
        for _ in 0..150 {
            let before = log.state.clone();
            let operation = operation(&mut dice, &before);
            let outcome = log.run(operation.clone());
            check_change(&before, &log.state, &outcome);
            // An id that is new was never there before.
            let fresh: Vec<_> = ids(&log.state).difference(&ids(&before)).copied().collect();
            prop_assert!(fresh.iter().all(|id| seen.insert(*id)), "an id was used again");
            // Another node that applies the same, from a snapshot now and then, is the same.
            if dice.one_in(10) {
                twin = ControlState::decode(&twin.encode()).expect("a snapshot");
            }
            let (proposer, serial) = (1, log.serial);
            let command = Command { proposer, serial, operation };
            let bytes = command.encode().expect("bytes");
            let decoded = Command::decode(&bytes).expect("a command");
            prop_assert_eq!(&twin.apply(log.index, decoded), &outcome);
            prop_assert_eq!(&twin, &log.state);
            // Retried, it is answered alike and nothing changes.
            if dice.one_in(5) {
                log.index += 1;
                let epoch = log.state.epoch();
                prop_assert_eq!(&log.state.apply(log.index, command), &outcome);
                prop_assert_eq!(log.state.epoch(), epoch);
                twin = log.state.clone();
            }
        }
    }
}

/// The random commands are worth something: they get somewhere, and meet most refusals.
#[test]
fn random_commands_reach_most_outcomes() {
    let mut accepted = 0;
    let mut refusals = BTreeSet::new();
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let mut log = Log::with_nodes(1 + dice.below(5));
        for _ in 0..150 {
            let operation = operation(&mut dice, &log.state);
            match log.run(operation) {
                Outcome::Refused(refusal) => {
                    let text = format!("{refusal:?}");
                    refusals.insert(text.split(['(', ' ']).next().map(str::to_owned));
                    let sentence = refusal.to_string();
                    assert!(sentence.contains([';', ':']), "says what to do next: {sentence}");
                }
                _ => accepted += 1,
            }
        }
    }
    assert!(accepted > 60 * 50, "{accepted}");
    assert!(refusals.len() >= 28, "{} {refusals:?}", refusals.len());
}
