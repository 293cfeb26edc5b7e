//! The control group's state machine: what the cluster consists of, and how it changes.
//!
//! [`ControlState::apply`] takes the commands of the control group's log in order and changes the
//! state; [`plan`] compares the state with what placement wants and with what is alive, and says
//! what to do next. What it says comes back as commands, so the state alone decides.
//!
//! A group changes its members in steps. `Aim` sets who should vote. `Begin` writes down one step;
//! only then the group's leader carries it out, and reports with `Finish` what became of it. So at
//! any time at most one change per group is under way, whoever leads the control group, and a store
//! that a step is about cannot be removed meanwhile.
//!
//! Invariants: the same commands give the same state and the same outcomes on every node; ids are
//! never reused; the map epoch and every group's and volume's epoch only grow; a refused command
//! changes nothing but the memory of retries. [`ControlState::check`] says what else must hold.
//! Must never know: I/O, clocks, Raft, who is alive (that is told to `plan`).

mod apply;
mod check;
mod command;
pub mod encoding;
mod health;
pub mod limits;
mod model;
mod outcome;
mod plan;
mod policy;
mod retries;
#[cfg(test)]
mod tests;

pub use check::Flaw;
pub use command::{Command, Operation, StoreSpec};
pub use health::{GroupHealth, Health, MemberHealth, caught_up};
pub use model::{
    ClusterId, ClusterVolumeId, DeviceUuid, Group, Member, Node, NodeSpec, NodeState, PgId,
    PolicyId, Role, Settings, Step, Store, Volume,
};
pub use outcome::{Bound, Outcome, Refusal};
pub use plan::{Action, Note, notes, plan};
pub use policy::{Policy, PolicyError};

use crate::placement::{NodeId, StoreId};
use retries::Retries;
use std::collections::BTreeMap;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlState {
    /// Index of the newest command.
    applied: u64,
    cluster: Option<ClusterId>,
    settings: Settings,
    /// Map epoch: grows with every change.
    epoch: u64,
    nodes: BTreeMap<NodeId, Node>,
    stores: BTreeMap<StoreId, Store>,
    policies: BTreeMap<PolicyId, Policy>,
    volumes: BTreeMap<ClusterVolumeId, Volume>,
    groups: BTreeMap<PgId, Group>,
    /// Number of the next group.
    next_group: PgId,
    /// Number of the next slice.
    next_slice: u32,
    retries: Retries,
}

impl Default for ControlState {
    fn default() -> ControlState {
        ControlState {
            applied: 0,
            cluster: None,
            settings: Settings {
                grace_seconds: limits::GRACE_DEFAULT_SECONDS,
                moves_max: limits::MOVES_DEFAULT,
            },
            epoch: 0,
            nodes: BTreeMap::new(),
            stores: BTreeMap::new(),
            policies: BTreeMap::new(),
            volumes: BTreeMap::new(),
            groups: BTreeMap::new(),
            next_group: PgId(PgId::CONTROL.0 + 1),
            next_slice: 0,
            retries: Retries::default(),
        }
    }
}

impl ControlState {
    /// Index of the newest command that was applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The cluster's identity, once it was made.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// What operators set.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The map epoch: whoever has this one knows everything.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// All nodes, removed ones included.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// All stores.
    #[must_use]
    pub fn stores(&self) -> &BTreeMap<StoreId, Store> {
        &self.stores
    }

    /// All volumes, those being deleted included.
    #[must_use]
    pub fn volumes(&self) -> &BTreeMap<ClusterVolumeId, Volume> {
        &self.volumes
    }

    /// The volume of that name, unless it is being deleted.
    #[must_use]
    pub fn volume_by_name(&self, name: &str) -> Option<(ClusterVolumeId, &Volume)> {
        let named = |volume: &Volume| volume.name == name && !volume.deleting;
        self.volumes.iter().find(|(_, volume)| named(volume)).map(|(id, volume)| (*id, volume))
    }

    /// All placement groups; the control group is one of them.
    #[must_use]
    pub fn groups(&self) -> &BTreeMap<PgId, Group> {
        &self.groups
    }

    /// The policy of that number.
    #[must_use]
    pub fn policy(&self, id: PolicyId) -> Option<Policy> {
        self.policies.get(&id).copied()
    }

    /// The policy of a group.
    fn policy_of(&self, group: &Group) -> Policy {
        *self.policies.get(&group.policy).expect("invariant: a group's policy exists")
    }

    /// What a store's member is when it votes.
    fn voting_role(&self, store: StoreId) -> Role {
        match self.stores.get(&store) {
            Some(Store { witness: true, .. }) => Role::Witness,
            _ => Role::Voter,
        }
    }
}
