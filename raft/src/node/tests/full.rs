//! Goal: a cluster whose map is full can still be run, mended and emptied.
//! Method: fill it with volumes, then everything that needs room and adds nothing, at its largest.

use super::super::commands::ControlCommands;
use super::super::map::Map;
use crate::control::limits::{
    COMMANDS_PER_PROPOSER_MAX, PROPOSERS_MAX, SLICES_PER_VOLUME_MAX, TEXT_MAX_BYTES,
};
use crate::control::{
    Bound, ClusterId, ClusterVolumeId, Command, DeviceUuid, NodeSpec, Operation, Outcome, PgId,
    Refusal, Step, StoreSpec,
};
use crate::limits::CONTROL_STATE_MAX_BYTES;
use crate::placement::{NodeId, StoreId};
use crate::state_machine::Commands;
use std::rc::Rc;

const CLUSTER: ClusterId = ClusterId([7; 16]);

struct Run {
    commands: ControlCommands,
    map: Rc<Map>,
    index: u64,
}

impl Run {
    fn with_nodes(count: u64) -> Run {
        let map = Rc::new(Map::new());
        let mut run = Run { commands: ControlCommands::new(Rc::clone(&map)), map, index: 0 };
        let policy = "replicas=3".parse().expect("a policy");
        let init = (spec(1), store(1));
        run.done(Operation::Init { cluster: CLUSTER, node: init.0, store: init.1, policy });
        for number in 2..=count {
            let node = spec(number);
            let admitted = run.run(1, Operation::AdmitNode { cluster: CLUSTER, node });
            let Outcome::Node(node) = admitted else { panic!("{admitted:?}") };
            run.done(Operation::AddStore { node, store: store(number) });
            run.done(Operation::UpdateNode { node, spec: spec(number) });
        }
        run
    }

    /// As `proposer`, whose serials are the indexes.
    fn run(&mut self, proposer: u64, operation: Operation) -> Outcome {
        self.index += 1;
        let command = Command { proposer, serial: self.index, operation };
        let command = command.encode().expect("bytes");
        let outcome = Outcome::decode(&self.commands.apply(self.index, &command));
        assert!(self.commands.save().len() <= CONTROL_STATE_MAX_BYTES, "fits");
        outcome.expect("an outcome")
    }

    fn done(&mut self, operation: Operation) -> Outcome {
        match self.run(1, operation) {
            Outcome::Refused(refusal) => panic!("{refusal}"),
            done => done,
        }
    }
}

fn spec(number: u64) -> NodeSpec {
    let address = format!("10.0.0.{number}:7000");
    NodeSpec { address, nbd: Vec::new(), labels: "".parse().expect("labels"), incarnation: number }
}

fn store(number: u64) -> StoreSpec {
    let device = DeviceUuid([number as u8; 16]);
    StoreSpec { device, size_bytes: 1 << 44, weight: None, witness: false, groups_max: 255 }
}

fn create(name: String, slices: u64) -> Operation {
    let policy = "replicas=3".parse().expect("a policy");
    let slice_bytes = 64 << 20;
    let (slice_bytes, size_bytes) = (Some(slice_bytes), slices * slice_bytes);
    Operation::CreateVolume { name, size_bytes, policy, slice_bytes, avoid: Vec::new() }
}

#[test]
fn a_full_map_leaves_room_to_run_the_cluster() {
    let mut run = Run::with_nodes(80);
    let mut volumes: Vec<ClusterVolumeId> = Vec::new();
    // Large ones first, then small ones until nothing fits.
    for slices in [SLICES_PER_VOLUME_MAX as u64, 64] {
        loop {
            let name = format!("{:0>64}", volumes.len());
            match run.run(1, create(name, slices)) {
                Outcome::Volume(id) => volumes.push(id),
                Outcome::Refused(Refusal::Full(Bound::State)) => break,
                other => panic!("{other:?} after {} volumes", volumes.len()),
            }
        }
    }
    assert!(volumes.len() > 50, "{} volumes", volumes.len());
    let used = run.commands.save().len();
    assert!(used > CONTROL_STATE_MAX_BYTES * 4 / 5, "room is not given away: {used}");

    let epochs: Vec<(PgId, u64)> =
        run.map.newest().groups().iter().map(|(id, group)| (*id, group.epoch)).collect();
    for id in &volumes {
        run.done(Operation::Attach { volume: *id, node: NodeId(1) });
    }
    for (group, epoch) in epochs.into_iter().skip(1).step_by(16) {
        run.done(Operation::GroupStarted { group, epoch });
        let members: Vec<StoreId> =
            run.map.newest().groups()[&group].members.iter().map(|member| member.store).collect();
        let stores: Vec<StoreId> = run.map.newest().stores().keys().copied().collect();
        let spare = stores.into_iter().find(|store| !members.contains(store)).expect("one");
        let target = [&members[1..], &[spare]].concat();
        let at = |run: &Run| run.map.newest().groups()[&group].epoch;
        let epoch = at(&run);
        run.done(Operation::Aim { group, epoch, target });
        let epoch = at(&run);
        run.done(Operation::Begin { group, epoch, step: Step::AddLearner { store: spare } });
        let epoch = at(&run);
        run.done(Operation::Finish { group, epoch, done: true });
        let (epoch, instead_of) = (at(&run), Some(members[0]));
        run.done(Operation::Begin {
            group,
            epoch,
            step: Step::Promote { store: spare, instead_of },
        });
    }
    // Answers as long as there are, for as many as are remembered.
    for proposer in 0..PROPOSERS_MAX as u64 {
        for _ in 0..COMMANDS_PER_PROPOSER_MAX {
            let name = "/".repeat(TEXT_MAX_BYTES);
            let refused = run.run(100 + proposer, create(name, 1));
            assert!(matches!(refused, Outcome::Refused(Refusal::Name(_))), "{refused:?}");
        }
    }
    let saved = run.commands.save();
    let mut again = ControlCommands::new(Rc::new(Map::new()));
    again.restore(&saved).expect("a state");
    assert_eq!(again.save(), saved);

    // Whoever deletes one may make one.
    let (gone, last) = (volumes.pop().expect("one"), create(format!("{:0>64}", "last"), 64));
    assert_eq!(run.run(1, last.clone()), Outcome::Refused(Refusal::Full(Bound::State)));
    let epoch = run.map.newest().volumes()[&gone].epoch;
    run.done(Operation::Detach { volume: gone, node: NodeId(1), epoch });
    run.done(Operation::DeleteVolume { volume: gone });
    run.done(Operation::VolumeDropped { volume: gone });
    run.done(last);
}
