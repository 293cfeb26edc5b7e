//! What the control group's leader has heard of nodes and groups: no part of the state, since it
//! differs from node to node and is gone with a restart.

use super::limits::{CAUGHT_UP_ENTRIES, DOWN_AFTER};
use super::model::PgId;
use crate::placement::{NodeId, StoreId};
use ashlar_engine::units::Nanos;
use std::collections::BTreeMap;
use std::time::Duration;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// When each node was last heard of. A node that is missing is neither up nor dead: whoever
    /// starts to listen enters all nodes with the time it starts.
    pub nodes: BTreeMap<NodeId, Nanos>,
    /// What the leader of each group says of it.
    pub groups: BTreeMap<PgId, GroupHealth>,
}

/// A group as its leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupHealth {
    /// The leader's store; `None` if nobody leads, or the news are old.
    pub leader: Option<StoreId>,
    /// Its members, the leader itself included.
    pub members: BTreeMap<StoreId, MemberHealth>,
}

/// A member as its group's leader sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberHealth {
    /// Entries of the leader's log that it lacks.
    pub lag_entries: u64,
    /// Must not vote until its damaged log is whole again.
    pub gated: bool,
}

impl Health {
    /// Whether a node was heard of just now.
    #[must_use]
    pub fn up(&self, node: NodeId, now: Nanos) -> bool {
        self.nodes.get(&node).is_some_and(|seen| now.since(*seen) < DOWN_AFTER)
    }

    /// Whether a node was silent for the grace time.
    #[must_use]
    pub fn dead(&self, node: NodeId, grace: Duration, now: Nanos) -> bool {
        self.nodes.get(&node).is_some_and(|seen| now.since(*seen) >= grace)
    }
}

impl MemberHealth {
    /// Whether a quorum can rely on it.
    #[must_use]
    pub fn intact(&self) -> bool {
        !self.gated && caught_up(Some(self.lag_entries))
    }
}

/// Whether a member that lacks so many entries has caught up; `None`: it was not heard of.
#[must_use]
pub fn caught_up(lag_entries: Option<u64>) -> bool {
    lag_entries.is_some_and(|lag| lag <= CAUGHT_UP_ENTRIES)
}
