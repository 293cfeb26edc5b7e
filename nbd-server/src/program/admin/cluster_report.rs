//! What is reported of a cluster, field by field. Names are stable.
//!
//! Must never know: how it is shown.

use ashlar_raft::control::{ClusterId, NodeState, Role};
use ashlar_raft::node::{ClusterStatus, GroupStatus, NodeStatus};
use ashlar_raft::placement::NodeId;
use serde::{Deserialize, Serialize};

/// A cluster that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InitReport {
    pub(crate) cluster: String,
    pub(crate) node: u64,
}

impl InitReport {
    pub(crate) fn new(cluster: ClusterId, node: NodeId) -> InitReport {
        InitReport { cluster: hex(cluster), node: node.0 }
    }
}

/// What a node that was admitted must be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AdmittedReport {
    pub(crate) id: u64,
    pub(crate) cluster: String,
    pub(crate) address: String,
    pub(crate) labels: String,
    /// `ID@IP:PORT` of the nodes it can ask.
    pub(crate) peers: Vec<String>,
}

impl AdmittedReport {
    pub(crate) fn new(
        id: NodeId,
        cluster: ClusterId,
        address: String,
        labels: String,
        peers: Vec<String>,
    ) -> AdmittedReport {
        AdmittedReport { id: id.0, cluster: hex(cluster), address, labels, peers }
    }
}

/// A cluster, as one of its nodes sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterReport {
    /// None while the node is in no cluster.
    pub(crate) cluster: Option<String>,
    /// The node that answers.
    pub(crate) node: u64,
    pub(crate) epoch: u64,
    pub(crate) control_leader: Option<u64>,
    pub(crate) nodes: Vec<NodeReport>,
    pub(crate) placement_groups: Vec<GroupReport>,
    /// What is not as it should be, and what to do about it.
    pub(crate) degraded: Vec<String>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeReport {
    pub(crate) id: u64,
    pub(crate) address: String,
    pub(crate) nbd: Vec<String>,
    pub(crate) labels: String,
    /// `joining`, `up`, `draining` or `removed`.
    pub(crate) state: String,
    /// Whether it was heard of just now.
    pub(crate) alive: bool,
    pub(crate) stores: Vec<StoreReport>,
}

/// A store of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoreReport {
    pub(crate) id: u64,
    pub(crate) size_bytes: u64,
    pub(crate) weight: u32,
    pub(crate) witness: bool,
    pub(crate) placement_groups: u32,
}

/// A placement group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupReport {
    pub(crate) id: u32,
    /// The node that leads it.
    pub(crate) leader: Option<u64>,
    pub(crate) term: u64,
    pub(crate) applied: u64,
    pub(crate) members: Vec<MemberReport>,
}

/// A member of a placement group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberReport {
    pub(crate) node: u64,
    pub(crate) store: u64,
    /// `voter`, `learner` or `witness`.
    pub(crate) role: String,
    /// Entries of the log that it lacks.
    pub(crate) lag_entries: Option<u64>,
    pub(crate) alive: bool,
}

/// A cluster's identity as people write it.
pub(crate) fn hex(cluster: ClusterId) -> String {
    cluster.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl ClusterReport {
    pub(crate) fn new(status: &ClusterStatus, own: NodeId) -> ClusterReport {
        ClusterReport {
            cluster: status.cluster.map(hex),
            node: own.0,
            epoch: status.epoch,
            control_leader: status.control_leader.map(|node| node.0),
            nodes: status.nodes.iter().map(node).collect(),
            placement_groups: status.groups.iter().map(group).collect(),
            degraded: status.notes.clone(),
        }
    }
}

fn node(node: &NodeStatus) -> NodeReport {
    let state = match node.state {
        NodeState::Joining => "joining",
        NodeState::Up => "up",
        NodeState::Draining => "draining",
        NodeState::Removed => "removed",
    };
    let stores = node.stores.iter().map(|store| StoreReport {
        id: store.id.0,
        size_bytes: store.size_bytes,
        weight: store.weight,
        witness: store.witness,
        placement_groups: store.groups,
    });
    NodeReport {
        id: node.id.0,
        address: node.address.clone(),
        nbd: node.nbd.clone(),
        labels: node.labels.clone(),
        state: state.into(),
        alive: node.up,
        stores: stores.collect(),
    }
}

fn group(group: &GroupStatus) -> GroupReport {
    let members = group.members.iter().map(|member| MemberReport {
        node: member.node.0,
        store: member.store.0,
        role: match member.role {
            Role::Voter => "voter",
            Role::Learner => "learner",
            Role::Witness => "witness",
        }
        .into(),
        lag_entries: member.lag_entries,
        alive: member.up,
    });
    let leader = group.leader.and_then(|leader| {
        group.members.iter().find(|member| member.store == leader).map(|member| member.node.0)
    });
    GroupReport {
        id: group.id.0,
        leader,
        term: group.term,
        applied: group.applied,
        members: members.collect(),
    }
}
