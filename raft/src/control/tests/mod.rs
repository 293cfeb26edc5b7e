//! Goal: the control group's state keeps its promises, whatever commands come, and plans lead to
//! where placement wants everything without ever risking data.
//! Method: `rules` says single rules by example; `model` runs random commands and checks every
//! invariant after each; `cluster` lets plans run against simulated groups with nodes that die and
//! return and messages that are lost; `encoding` holds the bytes.

mod cluster;
mod encoding;
mod model;
mod planning;
mod rules;

use super::*;

/// Random numbers of a seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Below `end`, which is not 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    pub(super) fn pick<T: Clone>(&mut self, from: impl IntoIterator<Item = T>) -> Option<T> {
        let all: Vec<T> = from.into_iter().collect();
        if all.is_empty() {
            return None;
        }
        Some(all[self.below(all.len() as u64) as usize].clone())
    }
}

pub(super) const CLUSTER: ClusterId = ClusterId([7; 16]);

/// A state with a log: each command gets the next index.
pub(super) struct Log {
    pub(super) state: ControlState,
    pub(super) index: u64,
    serial: u64,
}

impl Log {
    /// With a cluster of one node and one store of 4 TiB.
    pub(super) fn new() -> Log {
        let mut log = Log { state: ControlState::default(), index: 0, serial: 0 };
        let policy = "replicas=3".parse().expect("a policy");
        let (node, store) = (spec(1, ""), store_spec(1, 4096));
        let init = Operation::Init { cluster: CLUSTER, node, store, policy };
        assert_eq!(log.run(init), Outcome::Node(NodeId(1)));
        log
    }

    /// With `count` nodes that are up, each with one store.
    pub(super) fn with_nodes(count: u64) -> Log {
        let mut log = Log::new();
        for _ in 1..count {
            log.add_node("", 4096, false);
        }
        log
    }

    pub(super) fn run(&mut self, operation: Operation) -> Outcome {
        self.serial += 1;
        self.index += 1;
        let command = Command { proposer: 1, serial: self.serial, operation };
        let outcome = self.state.apply(self.index, command);
        self.state.check().expect("a sound state");
        outcome
    }

    pub(super) fn refused(&mut self, operation: Operation) -> Refusal {
        match self.run(operation) {
            Outcome::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    /// A node that is up, with one store.
    pub(super) fn add_node(&mut self, labels: &str, gib: u64, witness: bool) -> (NodeId, StoreId) {
        let number = self.index + 1;
        let node = spec(number, labels);
        let admitted = self.run(Operation::AdmitNode { cluster: CLUSTER, node: node.clone() });
        let Outcome::Node(id) = admitted else { panic!("{admitted:?}") };
        assert_eq!(self.run(Operation::UpdateNode { node: id, spec: node }), Outcome::Node(id));
        let store = StoreSpec { witness, ..store_spec(number, gib) };
        let added = self.run(Operation::AddStore { node: id, store });
        let Outcome::Store(store) = added else { panic!("{added:?}") };
        (id, store)
    }

    pub(super) fn create(&mut self, name: &str, gib: u64, policy: &str) -> Outcome {
        self.run(create(name, gib << 30, policy))
    }
}

pub(super) fn create(name: &str, size_bytes: u64, policy: &str) -> Operation {
    Operation::CreateVolume {
        name: name.to_owned(),
        size_bytes,
        policy: policy.parse().expect("a policy"),
        slice_bytes: None,
        avoid: Vec::new(),
    }
}

pub(super) fn spec(number: u64, labels: &str) -> NodeSpec {
    NodeSpec {
        address: format!("10.0.0.{number}:7000"),
        nbd: vec![format!("10.0.0.{number}:10809")],
        labels: labels.parse().expect("labels"),
        incarnation: 1,
    }
}

pub(super) fn store_spec(number: u64, gib: u64) -> StoreSpec {
    let mut device = [0; 16];
    device[..8].copy_from_slice(&number.to_le_bytes());
    StoreSpec {
        device: DeviceUuid(device),
        size_bytes: gib << 30,
        weight: None,
        witness: false,
        groups_max: 255,
    }
}
