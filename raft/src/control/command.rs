//! Commands to the control group, and where they come from.

use super::model::{ClusterId, ClusterVolumeId, DeviceUuid, NodeSpec, PgId, Settings, Step};
use super::policy::Policy;
use crate::placement::{NodeId, StoreId};

/// One command, as it goes through the control group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Who proposed it: a number drawn by each process at its start.
    pub proposer: u64,
    /// The proposer's number of it. A retry has the same; a new command has the next. At most
    /// [`super::limits::COMMANDS_PER_PROPOSER_MAX`] may be without an answer at once.
    pub serial: u64,
    /// What to do.
    pub operation: Operation,
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Makes the cluster, with a first node and a first store: both get the id 1. The store is the
    /// one voter of the control group.
    Init {
        /// The cluster's identity.
        cluster: ClusterId,
        /// The first node.
        node: NodeSpec,
        /// The first store.
        store: StoreSpec,
        /// How the control group is kept when there are more nodes.
        policy: Policy,
    },
    /// Admits a node; it gets the command's log index for its id.
    AdmitNode {
        /// The cluster it means to join.
        cluster: ClusterId,
        /// The node.
        node: NodeSpec,
    },
    /// What a node says of itself at every start, and when something changes.
    UpdateNode {
        /// Which.
        node: NodeId,
        /// What it says.
        spec: NodeSpec,
    },
    /// Moves a node's replicas away, or stops that.
    Drain {
        /// Which.
        node: NodeId,
        /// `false` takes the node back into service.
        on: bool,
    },
    /// Removes a node whose stores hold nothing any more, with its stores.
    RemoveNode {
        /// Which.
        node: NodeId,
    },
    /// Adds a freshly formatted store; it gets the command's log index for its id.
    AddStore {
        /// Its node.
        node: NodeId,
        /// The store.
        store: StoreSpec,
    },
    /// Removes a store that holds nothing any more.
    RemoveStore {
        /// Which.
        store: StoreId,
    },
    /// Sets a store's weight. 0 moves everything away from it.
    SetWeight {
        /// Which.
        store: StoreId,
        /// The weight.
        weight: u32,
    },
    /// Creates a volume, and groups for it if there are too few.
    CreateVolume {
        /// Its name.
        name: String,
        /// Its size.
        size_bytes: u64,
        /// How it is kept.
        policy: Policy,
        /// Size of its slices, a power of two; `None`: chosen.
        slice_bytes: Option<u64>,
        /// Stores that seem to be down: new groups keep away from them.
        avoid: Vec<StoreId>,
    },
    /// Deletes a volume that nobody has attached.
    DeleteVolume {
        /// Which.
        volume: ClusterVolumeId,
    },
    /// All groups have dropped the slices of a deleted volume.
    VolumeDropped {
        /// Which.
        volume: ClusterVolumeId,
    },
    /// A node wants to write to a volume: whoever wrote before is fenced.
    Attach {
        /// Which.
        volume: ClusterVolumeId,
        /// The node.
        node: NodeId,
    },
    /// A node writes to a volume no longer.
    Detach {
        /// Which.
        volume: ClusterVolumeId,
        /// The node.
        node: NodeId,
        /// The epoch it wrote with.
        epoch: u64,
    },
    /// Sets how the control group is kept.
    SetControlPolicy {
        /// How.
        policy: Policy,
    },
    /// Sets what holds for the whole cluster.
    SetSettings {
        /// What.
        settings: Settings,
    },
    /// A new group runs.
    GroupStarted {
        /// Which.
        group: PgId,
        /// Its epoch when it was started.
        epoch: u64,
    },
    /// Sets the stores that should vote in a group.
    Aim {
        /// Which.
        group: PgId,
        /// The group's epoch that this was made for.
        epoch: u64,
        /// The stores.
        target: Vec<StoreId>,
    },
    /// Begins a step towards the target. The group's leader carries it out once this is applied.
    Begin {
        /// Which.
        group: PgId,
        /// The group's epoch that this was made for.
        epoch: u64,
        /// The step.
        step: Step,
    },
    /// The end of a step, as the group's leader knows it from committed membership.
    Finish {
        /// Which.
        group: PgId,
        /// The group's epoch after the step was begun.
        epoch: u64,
        /// `false`: it did not happen and will not.
        done: bool,
    },
}

/// A store that is to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSpec {
    /// Its device.
    pub device: DeviceUuid,
    /// Its size.
    pub size_bytes: u64,
    /// Its weight; `None`: its size in GiB.
    pub weight: Option<u32>,
    /// Holds only witnesses.
    pub witness: bool,
    /// Placement groups that fit it.
    pub groups_max: u32,
}
