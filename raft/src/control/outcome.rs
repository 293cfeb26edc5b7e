//! Answers of the control group: what was done, or why not and what to do about it.

use super::limits;
use super::model::{ClusterVolumeId, PgId};
use crate::placement::{NodeId, StoreId};
use ashlar_engine::format::validate_volume_name;
use std::fmt;

/// Answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or it was so already.
    Done,
    /// A node was admitted.
    Node(NodeId),
    /// A store was added.
    Store(StoreId),
    /// A volume was created.
    Volume(ClusterVolumeId),
    /// A node may write to a volume with this epoch.
    Attached {
        /// The volume.
        volume: ClusterVolumeId,
        /// The epoch that its writes carry.
        epoch: u64,
    },
    /// Nothing was changed.
    Refused(Refusal),
}

/// Why a command is refused. Written out, it says what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The proposer is far ahead of this command.
    TooOld,
    /// There is no cluster yet.
    NoCluster,
    /// There is one already.
    ClusterExists,
    /// The node means another cluster.
    OtherCluster,
    /// No such node.
    UnknownNode(NodeId),
    /// The node was removed.
    NodeGone(NodeId),
    /// The node has not spoken yet.
    NodeJoining(NodeId),
    /// An older start of a node's process speaks.
    OldIncarnation {
        /// The node.
        node: NodeId,
        /// Its newest incarnation.
        newest: u64,
    },
    /// Another node has the address.
    AddressTaken(NodeId),
    /// An address is empty, too long, or there are too many.
    Address,
    /// A node still holds members of groups.
    NodeHolds {
        /// The node.
        node: NodeId,
        /// Groups with members on it.
        groups: u32,
    },
    /// No such store.
    UnknownStore(StoreId),
    /// The device is in the cluster already.
    DeviceKnown(StoreId),
    /// The device is a store of another node.
    DeviceElsewhere(NodeId),
    /// A store still holds members of groups.
    StoreHolds {
        /// The store.
        store: StoreId,
        /// Groups with members on it.
        groups: u32,
    },
    /// A store's size is not possible.
    StoreSize(u64),
    /// A weight is too large.
    Weight(u32),
    /// A bound is reached.
    Full(Bound),
    /// A volume's name is not possible.
    Name(String),
    /// The name is taken.
    NameTaken(ClusterVolumeId),
    /// A volume's size is not possible.
    VolumeSize(u64),
    /// A slice size is not possible.
    SliceSize(u64),
    /// More slices than one volume may have.
    TooManySlices(u64),
    /// Too few stores can be used for a new group.
    TooFewStores {
        /// Data stores or, if 0, a witness store needed.
        wanted: u8,
        /// Stores that can be used.
        found: u32,
    },
    /// No such volume.
    UnknownVolume(ClusterVolumeId),
    /// Somebody has the volume attached.
    Attached {
        /// The volume.
        volume: ClusterVolumeId,
        /// Who.
        node: NodeId,
    },
    /// The volume is not being deleted.
    NotDeleting(ClusterVolumeId),
    /// The node does not write to the volume.
    NotAttached(NodeId),
    /// The node's epoch is not the volume's.
    OldEpoch {
        /// The epoch that holds.
        epoch: u64,
    },
    /// A setting is out of bounds.
    Setting,
    /// No such group.
    UnknownGroup(PgId),
    /// The group has changed since.
    OldGroupEpoch {
        /// The group.
        group: PgId,
        /// The epoch that holds.
        epoch: u64,
    },
    /// A step is under way.
    StepPending(PgId),
    /// No step is under way.
    NoStep(PgId),
    /// The group was not started yet.
    NotStarted(PgId),
    /// Stores that cannot be the group's.
    Target(PgId),
    /// A step that does not lead to the target, or not safely.
    Unsafe(PgId),
}

/// What is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Nodes.
    Nodes,
    /// Stores.
    Stores,
    /// Volumes.
    Volumes,
    /// Slices of all volumes.
    Slices,
    /// Groups, or room in those there are.
    Groups,
    /// Bytes of the whole state.
    State,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::TooOld
            | Refusal::NoCluster
            | Refusal::ClusterExists
            | Refusal::OtherCluster
            | Refusal::Setting
            | Refusal::Full(_) => self.about_the_cluster(f),
            Refusal::UnknownNode(_)
            | Refusal::NodeGone(_)
            | Refusal::NodeJoining(_)
            | Refusal::OldIncarnation { .. }
            | Refusal::AddressTaken(_)
            | Refusal::Address
            | Refusal::NodeHolds { .. } => self.about_a_node(f),
            Refusal::UnknownStore(_)
            | Refusal::DeviceKnown(_)
            | Refusal::DeviceElsewhere(_)
            | Refusal::StoreHolds { .. }
            | Refusal::StoreSize(_)
            | Refusal::Weight(_) => self.about_a_store(f),
            Refusal::UnknownGroup(_)
            | Refusal::OldGroupEpoch { .. }
            | Refusal::StepPending(_)
            | Refusal::NoStep(_)
            | Refusal::NotStarted(_)
            | Refusal::Target(_)
            | Refusal::Unsafe(_) => self.about_a_group(f),
            _ => self.about_a_volume(f),
        }
    }
}

impl Refusal {
    fn about_the_cluster(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::TooOld => f.write_str(
                "the command is too old to tell whether it was carried out; look at the cluster's \
                 status and give it anew if it is still needed",
            ),
            Refusal::NoCluster => {
                f.write_str("there is no cluster yet; make one with cluster init")
            }
            Refusal::ClusterExists => {
                f.write_str("the cluster exists already; add further nodes with cluster add-node")
            }
            Refusal::OtherCluster => f.write_str(
                "the node belongs to another cluster; format its stores anew to add it to this \
                 one",
            ),
            Refusal::Full(bound) => write!(f, "{bound}"),
            _ => write!(
                f,
                "the grace time must be {} to {} seconds and the moves at once at most {}; choose \
                 values within",
                limits::GRACE_MIN_SECONDS,
                limits::GRACE_MAX_SECONDS,
                limits::MOVES_MAX
            ),
        }
    }

    fn about_a_node(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::UnknownNode(node) => {
                write!(f, "there is no node {node}; cluster status lists those there are")
            }
            Refusal::NodeGone(node) => write!(
                f,
                "node {node} was removed and cannot return; format its stores anew and add it as \
                 a new node"
            ),
            Refusal::NodeJoining(node) => {
                write!(f, "node {node} has not started yet; start it and try again")
            }
            Refusal::OldIncarnation { node, newest } => write!(
                f,
                "node {node} was started again since (start {newest}); stop this older process"
            ),
            Refusal::AddressTaken(node) => write!(
                f,
                "node {node} has this address already; use another one, or remove that node first"
            ),
            Refusal::NodeHolds { node, groups } => write!(
                f,
                "node {node} still holds replicas of {groups} placement groups; drain it and wait \
                 until cluster status shows none"
            ),
            _ => write!(
                f,
                "a node has one peer address and at most {} NBD addresses of 1 to {} characters \
                 each; correct its configuration",
                limits::NBD_ADDRESSES_MAX,
                limits::ADDRESS_MAX_BYTES
            ),
        }
    }

    fn about_a_store(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::UnknownStore(store) => {
                write!(f, "there is no store {store}; cluster status lists those there are")
            }
            Refusal::DeviceKnown(store) => write!(
                f,
                "this device is store {store} of this node already, or a copy of it; format it \
                 anew to add it as another one"
            ),
            Refusal::DeviceElsewhere(node) => write!(
                f,
                "this device is a store of node {node}; remove it there, or format it anew"
            ),
            Refusal::StoreHolds { store, groups } => write!(
                f,
                "store {store} still holds replicas of {groups} placement groups; set its weight \
                 to 0 and wait until cluster status shows none"
            ),
            Refusal::StoreSize(bytes) => {
                write!(f, "a store cannot have {bytes} bytes; choose 64 MiB to 16 TiB")
            }
            _ => write!(
                f,
                "a store's weight is at most {}; use about its size in GiB",
                crate::placement::WEIGHT_MAX
            ),
        }
    }

    fn about_a_volume(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Name(name) => {
                let why = validate_volume_name(name).unwrap_or("the name was refused");
                write!(f, "{why}: {name:?}; choose another name")
            }
            Refusal::NameTaken(volume) => {
                write!(f, "volume {volume} has this name already; choose another one")
            }
            Refusal::VolumeSize(bytes) => write!(
                f,
                "a volume's size must be a positive multiple of 512 bytes and at most 256 TiB, not \
                 {bytes}; choose another size"
            ),
            Refusal::SliceSize(bytes) => write!(
                f,
                "a slice's size must be a power of two from {} MiB to {} GiB, not {bytes} bytes; \
                 choose one or leave it out",
                limits::SLICE_MIN_BYTES >> 20,
                limits::SLICE_MAX_BYTES >> 30
            ),
            Refusal::TooManySlices(slices) => write!(
                f,
                "the volume would have {slices} slices and may have {}; use larger slices",
                limits::SLICES_PER_VOLUME_MAX
            ),
            Refusal::TooFewStores { wanted: 0, .. } => f.write_str(
                "the policy needs a witness store on a node that is up; add one or leave the \
                 witness out",
            ),
            Refusal::TooFewStores { wanted, found } => write!(
                f,
                "replicas={wanted} needs {wanted} stores on nodes that are up, and {found} can be \
                 used; add stores or use fewer replicas"
            ),
            Refusal::UnknownVolume(volume) => {
                write!(f, "there is no volume {volume}; volume list shows those there are")
            }
            Refusal::Attached { volume, node } => write!(
                f,
                "volume {volume} is attached at node {node}; disconnect its clients first"
            ),
            Refusal::NotDeleting(volume) => {
                write!(f, "volume {volume} was not deleted; delete it first")
            }
            Refusal::NotAttached(node) => write!(
                f,
                "the volume is not attached at node {node}; attach it there to write to it"
            ),
            Refusal::OldEpoch { epoch } => {
                write!(f, "the volume is at writer epoch {epoch} now; look at it and try again")
            }
            _ => unreachable!("invariant: Display sends every other refusal elsewhere"),
        }
    }

    fn about_a_group(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::UnknownGroup(group) => write!(
                f,
                "there is no placement group {group}; cluster status lists those there are"
            ),
            Refusal::OldGroupEpoch { group, epoch } => {
                write!(f, "placement group {group} has changed and is at epoch {epoch}; plan anew")
            }
            Refusal::StepPending(group) => write!(
                f,
                "a change of members of placement group {group} is under way; finish it first"
            ),
            Refusal::NoStep(group) => {
                write!(f, "no change of members of placement group {group} is under way; plan anew")
            }
            Refusal::NotStarted(group) => {
                write!(f, "placement group {group} has not started yet; start it first")
            }
            Refusal::Target(group) => write!(
                f,
                "these stores cannot hold placement group {group}: each must be known, given \
                 once, and no more than its policy asks for; plan anew"
            ),
            _ => write!(
                f,
                "this change of members of placement group {} does not lead to its target safely; \
                 plan anew",
                match self {
                    Refusal::Unsafe(group) => group.0,
                    _ => unreachable!("invariant: Display sends every other refusal elsewhere"),
                }
            ),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Nodes => {
                write!(f, "a cluster has at most {} nodes; remove one first", limits::NODES_MAX)
            }
            Bound::Stores => {
                write!(f, "a cluster has at most {} stores; remove one first", limits::STORES_MAX)
            }
            Bound::Volumes => write!(
                f,
                "a cluster has at most {} volumes; delete one and wait until it is dropped",
                limits::VOLUMES_MAX
            ),
            Bound::Slices => write!(
                f,
                "a cluster has at most {} slices; use larger slices or delete a volume",
                limits::SLICES_MAX
            ),
            Bound::Groups => f.write_str(
                "the placement groups have no room for so many slices; use larger slices, add \
                 stores, or delete a volume",
            ),
            Bound::State => f.write_str(
                "the cluster's map has no room for more; delete a volume or remove a node first",
            ),
        }
    }
}
