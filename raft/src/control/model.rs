//! What the control group knows: nodes, stores, volumes, groups.
//!
//! Plain data; the rules are in [`super::apply`], what must always hold is in [`super::check`].

use super::limits;
use super::policy::Policy;
use crate::placement::{Labels, NodeId, StoreId};
use std::fmt;

/// Identity of a cluster: drawn once, so that foreign nodes and stores are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterId(pub [u8; 16]);

/// Identity of a store's device, written when it is formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceUuid(pub [u8; 16]);

/// Identity of a volume in the cluster: the index of the log entry that created it. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterVolumeId(pub u64);

/// Number of a placement group. 0 is none; 1 is the control group itself. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PgId(pub u32);

impl PgId {
    /// The control group.
    pub const CONTROL: PgId = PgId(1);
}

/// Number of a policy in the state. 0 is the control group's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyId(pub u16);

impl PolicyId {
    /// The control group's policy.
    pub const CONTROL: PolicyId = PolicyId(0);
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Where other nodes reach it.
    pub address: String,
    /// Where NBD clients reach it.
    pub nbd: Vec<String>,
    /// Where it stands.
    pub labels: Labels,
    /// Grows with every start of its process.
    pub incarnation: u64,
}

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Admitted, has not spoken yet.
    Joining,
    /// Takes part.
    Up,
    /// Takes part; its replicas are being moved away.
    Draining,
    /// Gone for good. Its id is not used again.
    Removed,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it says of itself.
    pub spec: NodeSpec,
    /// Where it is in its life.
    pub state: NodeState,
}

/// A store of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// The node it is in.
    pub node: NodeId,
    /// Its device.
    pub device: DeviceUuid,
    /// Its size.
    pub size_bytes: u64,
    /// Share of the groups it should hold: its size in GiB, unless set.
    pub weight: u32,
    /// Holds only witnesses.
    pub witness: bool,
    /// Placement groups that fit it.
    pub groups_max: u32,
}

impl Store {
    /// Members of groups that it may have for another one to be made on it. A quarter of what fits
    /// is kept for members that come from elsewhere.
    pub(super) fn groups_made_max(&self) -> usize {
        let fit = self.groups_max as usize * 3 / 4;
        if self.witness { fit } else { fit.min(limits::GROUPS_MADE_PER_STORE_MAX) }
    }
}

/// A volume of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name, unique among volumes that are not being deleted.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// How it is kept.
    pub policy: PolicyId,
    /// Size of its slices; the last one may be cut short.
    pub slice_bytes: u64,
    /// Number of its first slice; the others follow. Slices of a cluster are numbered in the order
    /// in which they were made, and numbers are never reused.
    pub first_slice: u32,
    /// The group that holds each slice.
    pub slices: Vec<PgId>,
    /// Grows whenever somebody loses the right to write: writes with an older epoch are refused.
    pub epoch: u64,
    /// The node that may write, with `epoch`.
    pub writer: Option<NodeId>,
    /// Deleted: its name is free, and it is kept until its groups have dropped its slices.
    pub deleting: bool,
}

/// What a member of a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Holds data and votes.
    Voter,
    /// Catches up, or is about to go; does not vote.
    Learner,
    /// Votes and keeps the log without data.
    Witness,
}

/// A member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its store.
    pub store: StoreId,
    /// What it is there.
    pub role: Role,
}

/// One change of a group's membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A store becomes a learner.
    AddLearner {
        /// Which.
        store: StoreId,
    },
    /// A learner becomes a voter (or witness, on a witness store), and in the same joint change
    /// another one a learner.
    Promote {
        /// The learner.
        store: StoreId,
        /// Who votes no longer.
        instead_of: Option<StoreId>,
    },
    /// A voter that is one too many becomes a learner.
    Retire {
        /// Which.
        store: StoreId,
    },
    /// A learner leaves.
    Remove {
        /// Which.
        store: StoreId,
    },
}

/// A placement group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// How it is kept.
    pub policy: PolicyId,
    /// Whether its Raft group was started with `members`.
    pub started: bool,
    /// Its members, in order of store, as of the last finished step.
    pub members: Vec<Member>,
    /// The stores that should vote in it, in order.
    pub target: Vec<StoreId>,
    /// The step that was begun and whose end is not known.
    pub pending: Option<Step>,
    /// Grows with every change of the above: a command that was made for an older one is refused.
    pub epoch: u64,
    /// Slices it holds, of volumes being deleted too.
    pub slices: u32,
}

/// What operators set for the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Seconds after which a dead node's replicas are made elsewhere.
    pub grace_seconds: u32,
    /// Groups that change members only to spread load, at once.
    pub moves_max: u16,
}

impl Group {
    /// The member on a store.
    #[must_use]
    pub fn member(&self, store: StoreId) -> Option<Member> {
        self.members.iter().copied().find(|member| member.store == store)
    }

    /// Stores that vote, in order.
    pub fn voters(&self) -> impl Iterator<Item = StoreId> {
        let voting = |member: &&Member| member.role != Role::Learner;
        self.members.iter().filter(voting).map(|member| member.store)
    }

    /// Learners, in order.
    pub fn learners(&self) -> impl Iterator<Item = StoreId> {
        let learning = |member: &&Member| member.role == Role::Learner;
        self.members.iter().filter(learning).map(|member| member.store)
    }

    /// Members that vote in this role.
    #[must_use]
    pub fn count(&self, role: Role) -> usize {
        self.members.iter().filter(|member| member.role == role).count()
    }

    /// Whether the group has anything to do with a store.
    #[must_use]
    pub fn concerns(&self, store: StoreId) -> bool {
        self.member(store).is_some() || self.target.contains(&store)
    }
}

impl Policy {
    /// Members with a role that a group of this policy should have.
    #[must_use]
    pub fn wanted(&self, role: Role) -> usize {
        match role {
            Role::Voter => usize::from(self.replicas()),
            Role::Witness => usize::from(self.witness()),
            Role::Learner => 0,
        }
    }
}

impl Step {
    /// The store it is about.
    #[must_use]
    pub fn store(&self) -> StoreId {
        match *self {
            Step::AddLearner { store }
            | Step::Promote { store, .. }
            | Step::Retire { store }
            | Step::Remove { store } => store,
        }
    }
}

impl fmt::Display for ClusterVolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for PgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
