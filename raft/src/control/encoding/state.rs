//! The whole state, table by table.

use super::super::ControlState;
use super::super::limits::{
    GROUPS_MAX, NODES_MAX, NODES_REMOVED_KEPT, PROPOSERS_MAX, STORES_MAX, VOLUMES_MAX,
};
use super::super::model::{
    ClusterId, ClusterVolumeId, DeviceUuid, Group, Member, Node, NodeSpec, NodeState, PgId,
    PolicyId, Settings, Step, Store, Volume,
};
use super::super::outcome::Outcome;
use super::super::policy::Policy;
use super::super::retries::{Proposer, Retries};
use super::bytes::{DecodeError, Field, Reader, Writer};
use crate::placement::{NodeId, StoreId};
use std::collections::BTreeMap;

record!(ControlState, 0, {
    applied: u64,
    cluster: Option<ClusterId>,
    settings: Settings,
    epoch: u64,
    nodes: BTreeMap<NodeId, Node>,
    stores: BTreeMap<StoreId, Store>,
    policies: BTreeMap<PolicyId, Policy>,
    volumes: BTreeMap<ClusterVolumeId, Volume>,
    groups: BTreeMap<PgId, Group>,
    next_group: PgId,
    next_slice: u32,
    retries: Retries,
});

record!(Node, NODES_MAX + NODES_REMOVED_KEPT, { spec: NodeSpec, state: NodeState });
record!(Store, STORES_MAX, {
    node: NodeId,
    device: DeviceUuid,
    size_bytes: u64,
    weight: u32,
    witness: bool,
    groups_max: u32,
});
record!(Volume, VOLUMES_MAX, {
    name: String,
    size_bytes: u64,
    policy: PolicyId,
    slice_bytes: u64,
    first_slice: u32,
    slices: Vec<PgId>,
    epoch: u64,
    writer: Option<NodeId>,
    deleting: bool,
});
record!(Group, GROUPS_MAX, {
    policy: PolicyId,
    started: bool,
    members: Vec<Member>,
    target: Vec<StoreId>,
    pending: Option<Step>,
    epoch: u64,
    slices: u32,
});
record!(Proposer, PROPOSERS_MAX, {
    heard: u64,
    forgotten: u64,
    outcomes: BTreeMap<u64, Outcome>,
});
record!(Retries, 0, { proposers: BTreeMap<u64, Proposer> });
