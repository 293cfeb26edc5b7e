//! Nodes and stores: their coming, going and changing.

use super::super::ControlState;
use super::super::command::StoreSpec;
use super::super::limits;
use super::super::model::{
    ClusterId, Group, Member, Node, NodeSpec, NodeState, PgId, PolicyId, Role, Settings, Store,
};
use super::super::outcome::{Bound, Outcome, Refusal};
use super::super::policy::Policy;
use super::Applied;
use crate::placement::{NodeId, StoreId, WEIGHT_MAX};
use ashlar_engine::limits::{STORE_MAX_BYTES, STORE_MIN_BYTES};

/// Id of the first node and of the first store. The Raft node that applies `Init` must have its id
/// before there is a log index to take it from; later ids are indexes behind that of `Init`.
const FIRST: u64 = 1;

impl ControlState {
    pub(super) fn init(
        &mut self,
        index: u64,
        cluster: ClusterId,
        node: NodeSpec,
        store: StoreSpec,
        policy: Policy,
    ) -> Applied {
        if self.cluster.is_some() {
            return Err(Refusal::ClusterExists);
        }
        debug_assert!(index >= FIRST);
        let (first, id) = (NodeId(FIRST), StoreId(FIRST));
        check_spec(&node)?;
        let store = checked_store(first, &store)?;
        if store.witness {
            return Err(Refusal::TooFewStores { wanted: 1, found: 0 });
        }
        self.cluster = Some(cluster);
        self.nodes.insert(first, Node { spec: node, state: NodeState::Up });
        self.stores.insert(id, store);
        self.policies.insert(PolicyId::CONTROL, policy);
        let control = Group {
            policy: PolicyId::CONTROL,
            started: true,
            members: vec![Member { store: id, role: Role::Voter }],
            target: vec![id],
            pending: None,
            epoch: 1,
            slices: 0,
        };
        self.groups.insert(PgId::CONTROL, control);
        self.changed();
        Ok(Outcome::Node(first))
    }

    pub(super) fn admit_node(&mut self, index: u64, cluster: ClusterId, spec: NodeSpec) -> Applied {
        if self.cluster != Some(cluster) {
            return Err(Refusal::OtherCluster);
        }
        check_spec(&spec)?;
        self.check_address(None, &spec)?;
        let present = self.nodes.values().filter(|node| node.state != NodeState::Removed);
        if present.count() >= limits::NODES_MAX {
            return Err(Refusal::Full(Bound::Nodes));
        }
        let id = NodeId(index);
        self.nodes.insert(id, Node { spec, state: NodeState::Joining });
        self.changed();
        Ok(Outcome::Node(id))
    }

    pub(super) fn update_node(&mut self, id: NodeId, spec: NodeSpec) -> Applied {
        let node = self.present(id)?;
        check_spec(&spec)?;
        self.check_address(Some(id), &spec)?;
        if spec.incarnation < node.spec.incarnation {
            let newest = node.spec.incarnation;
            return Err(Refusal::OldIncarnation { node: id, newest });
        }
        let state = match node.state {
            NodeState::Joining => NodeState::Up,
            other => other,
        };
        let updated = Node { spec, state };
        if *node != updated {
            self.nodes.insert(id, updated);
            self.changed();
        }
        Ok(Outcome::Node(id))
    }

    pub(super) fn drain(&mut self, id: NodeId, on: bool) -> Applied {
        let state = match (self.present(id)?.state, on) {
            (NodeState::Joining, _) => return Err(Refusal::NodeJoining(id)),
            (_, true) => NodeState::Draining,
            (_, false) => NodeState::Up,
        };
        let node = self.nodes.get_mut(&id).expect("invariant: it was just looked up");
        if node.state != state {
            node.state = state;
            self.changed();
        }
        Ok(Outcome::Done)
    }

    pub(super) fn remove_node(&mut self, id: NodeId) -> Applied {
        match self.present(id) {
            Err(Refusal::NodeGone(_)) => return Ok(Outcome::Done),
            present => present?,
        };
        let of_node = |store: StoreId| self.stores.get(&store).is_some_and(|s| s.node == id);
        let held = self.groups_concerning(of_node);
        if held > 0 {
            return Err(Refusal::NodeHolds { node: id, groups: held });
        }
        self.stores.retain(|_, store| store.node != id);
        for volume in self.volumes.values_mut().filter(|volume| volume.writer == Some(id)) {
            volume.writer = None;
            volume.epoch += 1;
        }
        let node = self.nodes.get_mut(&id).expect("invariant: it was just looked up");
        node.state = NodeState::Removed;
        let removed = self.nodes.iter().filter(|(_, node)| node.state == NodeState::Removed);
        if removed.clone().count() > limits::NODES_REMOVED_KEPT
            && let Some((oldest, _)) = removed.map(|(id, node)| (*id, node)).next()
        {
            self.nodes.remove(&oldest);
        }
        self.changed();
        Ok(Outcome::Done)
    }

    pub(super) fn add_store(&mut self, index: u64, node: NodeId, spec: StoreSpec) -> Applied {
        self.present(node)?;
        let store = checked_store(node, &spec)?;
        if let Some((id, known)) = self.stores.iter().find(|(_, s)| s.device == store.device) {
            return Err(match known.node == node {
                true => Refusal::DeviceKnown(*id),
                false => Refusal::DeviceElsewhere(known.node),
            });
        }
        if self.stores.len() >= limits::STORES_MAX {
            return Err(Refusal::Full(Bound::Stores));
        }
        self.stores.insert(StoreId(index), store);
        self.changed();
        Ok(Outcome::Store(StoreId(index)))
    }

    pub(super) fn remove_store(&mut self, id: StoreId) -> Applied {
        if !self.stores.contains_key(&id) {
            return Err(Refusal::UnknownStore(id));
        }
        let held = self.groups_concerning(|store| store == id);
        if held > 0 {
            return Err(Refusal::StoreHolds { store: id, groups: held });
        }
        self.stores.remove(&id);
        self.changed();
        Ok(Outcome::Done)
    }

    pub(super) fn set_weight(&mut self, id: StoreId, weight: u32) -> Applied {
        if weight > WEIGHT_MAX {
            return Err(Refusal::Weight(weight));
        }
        let store = self.stores.get_mut(&id).ok_or(Refusal::UnknownStore(id))?;
        if store.weight != weight {
            store.weight = weight;
            self.changed();
        }
        Ok(Outcome::Done)
    }

    pub(super) fn set_control_policy(&mut self, policy: Policy) -> Applied {
        if self.policies.insert(PolicyId::CONTROL, policy) != Some(policy) {
            self.changed();
        }
        Ok(Outcome::Done)
    }

    pub(super) fn set_settings(&mut self, settings: Settings) -> Applied {
        if !settings.possible() {
            return Err(Refusal::Setting);
        }
        if self.settings != settings {
            self.settings = settings;
            self.changed();
        }
        Ok(Outcome::Done)
    }

    /// The node, if it was not removed.
    pub(in super::super) fn present(&self, id: NodeId) -> Result<&Node, Refusal> {
        match self.nodes.get(&id) {
            Some(node) if node.state != NodeState::Removed => Ok(node),
            Some(_) => Err(Refusal::NodeGone(id)),
            None => Err(Refusal::UnknownNode(id)),
        }
    }

    fn check_address(&self, of: Option<NodeId>, spec: &NodeSpec) -> Result<(), Refusal> {
        let others = self
            .nodes
            .iter()
            .filter(|(id, node)| node.state != NodeState::Removed && Some(**id) != of);
        match others.into_iter().find(|(_, node)| node.spec.address == spec.address) {
            Some((id, _)) => Err(Refusal::AddressTaken(*id)),
            None => Ok(()),
        }
    }

    fn groups_concerning(&self, which: impl Fn(StoreId) -> bool) -> u32 {
        let concerned = |group: &&Group| {
            let members = group.members.iter().map(|member| member.store);
            members.chain(group.target.iter().copied()).any(&which)
        };
        self.groups.values().filter(concerned).count() as u32
    }
}

impl Settings {
    /// Whether all are within their bounds.
    pub(in super::super) fn possible(&self) -> bool {
        let grace = limits::GRACE_MIN_SECONDS..=limits::GRACE_MAX_SECONDS;
        grace.contains(&self.grace_seconds) && self.moves_max <= limits::MOVES_MAX
    }
}

pub(in super::super) fn check_spec(spec: &NodeSpec) -> Result<(), Refusal> {
    let fine = |address: &String| (1..=limits::ADDRESS_MAX_BYTES).contains(&address.len());
    let all = fine(&spec.address) && spec.nbd.iter().all(fine);
    (all && spec.nbd.len() <= limits::NBD_ADDRESSES_MAX).then_some(()).ok_or(Refusal::Address)
}

fn checked_store(node: NodeId, spec: &StoreSpec) -> Result<Store, Refusal> {
    let StoreSpec { device, size_bytes, weight, witness, groups_max } = *spec;
    if !(STORE_MIN_BYTES..=STORE_MAX_BYTES).contains(&size_bytes) {
        return Err(Refusal::StoreSize(size_bytes));
    }
    let weight = weight.unwrap_or((size_bytes >> 30).max(1) as u32);
    if weight > WEIGHT_MAX {
        return Err(Refusal::Weight(weight));
    }
    Ok(Store { node, device, size_bytes, weight, witness, groups_max })
}
