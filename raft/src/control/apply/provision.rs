//! Groups for a new volume's slices.
//!
//! A policy gets groups as volumes need them, until the stores that can be used hold their target
//! of members. Slices go to the groups of the policy that hold the fewest.

use super::super::ControlState;
use super::super::limits;
use super::super::model::{Group, Member, NodeState, PgId, PolicyId, Role};
use super::super::outcome::{Bound, Refusal};
use super::super::policy::Policy;
use crate::placement::{Candidate, StoreId, Topology};
use std::collections::{BTreeMap, BTreeSet};

impl ControlState {
    /// Finds a group for each of `count` slices, and makes new ones where there are too few.
    pub(super) fn provide(
        &mut self,
        policy: Policy,
        count: usize,
        avoid: Vec<StoreId>,
    ) -> Result<(PolicyId, Vec<PgId>), Refusal> {
        let known = self.policies.iter().skip(1).find(|(_, known)| **known == policy);
        let id = known.map_or(PolicyId(self.policies.len() as u16), |(id, _)| *id);
        let of_policy = |group: &Group| group.policy == id;
        let existing = || self.groups.iter().filter(|(_, group)| of_policy(group));
        let mut loads: BTreeMap<PgId, usize> =
            existing().map(|(id, group)| (*id, group.slices as usize)).collect();
        let avoid: BTreeSet<_> = avoid.into_iter().collect();
        let new = self.new_groups(policy, count, &avoid, &loads)?;
        let numbers = self.next_group.0..;
        let new: Vec<_> = numbers.map(PgId).zip(new).collect();
        loads.extend(new.iter().map(|(id, _)| (*id, 0)));
        let slices = spread(count, &loads).ok_or(Refusal::Full(Bound::Groups))?;

        self.policies.insert(id, policy);
        for (number, members) in new {
            self.next_group = PgId(number.0 + 1);
            self.groups.insert(number, Group::fresh(id, members));
        }
        for slice in &slices {
            let group = self.groups.get_mut(slice).expect("invariant: it was just chosen");
            group.slices += 1;
        }
        Ok((id, slices))
    }

    /// Members of the groups to be made.
    fn new_groups(
        &self,
        policy: Policy,
        count: usize,
        avoid: &BTreeSet<StoreId>,
        loads: &BTreeMap<PgId, usize>,
    ) -> Result<Vec<Vec<Member>>, Refusal> {
        let topology = self.topology();
        let usable = |id: &StoreId| !avoid.contains(id) && self.in_service(*id);
        let excluded = self.stores.keys().copied().filter(|id| !usable(id)).collect();
        let data = self.stores.iter().filter(|(id, s)| usable(id) && !s.witness && s.weight > 0);
        let members_wanted = data.count() * limits::GROUPS_PER_STORE_TARGET;
        let members: usize = self.groups.values().map(|group| group.count(Role::Voter)).sum();
        let fitting = members_wanted.saturating_sub(members) / usize::from(policy.replicas());
        let wished = count.saturating_sub(loads.len()).min(fitting);
        // Room comes first: more than wished if the slices do not fit otherwise.
        let room: usize = loads.values().map(|held| limits::SLICES_PER_GROUP_MAX - held).sum();
        let needed = count.saturating_sub(room).div_ceil(limits::SLICES_PER_GROUP_MAX);
        let left = limits::GROUPS_MAX - self.groups.len();
        let new = wished.max(needed).min(limits::GROUPS_PER_COMMAND_MAX).min(left);
        let next = u64::from(self.next_group.0);
        let mut held = self.groups_held();
        let mut groups = Vec::new();
        for number in next..next + new as u64 {
            let found = topology.choose(number, &policy.rule(), &excluded);
            let (wanted, usable) = (policy.replicas(), found.replicas.len());
            if usable < usize::from(wanted) {
                return Err(Refusal::TooFewStores { wanted, found: usable as u32 });
            }
            if policy.witness() && found.witness.is_none() {
                return Err(Refusal::TooFewStores { wanted: 0, found: 0 });
            }
            let stores = found.stores();
            let is_full = |id: &StoreId| held.get(id) >= Some(&self.stores[id].groups_made_max());
            // Others are not taken instead: the group would be moved to where it belongs.
            if stores.iter().any(is_full) {
                break;
            }
            stores.iter().for_each(|store| *held.entry(*store).or_default() += 1);
            let member = |store| Member { store, role: self.voting_role(store) };
            groups.push(stores.into_iter().map(member).collect());
        }
        Ok(groups)
    }

    /// Groups that are on each store, or are to be.
    fn groups_held(&self) -> BTreeMap<StoreId, usize> {
        let mut held = BTreeMap::new();
        for group in self.groups.values() {
            let members = group.members.iter().map(|member| member.store);
            let stores: BTreeSet<StoreId> = members.chain(group.target.iter().copied()).collect();
            stores.into_iter().for_each(|store| *held.entry(store).or_default() += 1);
        }
        held
    }

    /// All stores as placement sees them.
    pub(in super::super) fn topology(&self) -> Topology {
        Topology::new(self.stores.iter().map(|(id, store)| {
            let node = self.nodes.get(&store.node).expect("invariant: a store's node exists");
            Candidate {
                id: *id,
                node: store.node,
                weight: store.weight,
                witness: store.witness,
                labels: &node.spec.labels,
            }
        }))
    }

    /// Whether a store's node is up and stays so, as far as the state knows.
    pub(in super::super) fn in_service(&self, store: StoreId) -> bool {
        let node = self.stores.get(&store).and_then(|store| self.nodes.get(&store.node));
        node.is_some_and(|node| node.state == NodeState::Up)
    }
}

impl Group {
    fn fresh(policy: PolicyId, members: Vec<Member>) -> Group {
        let target = members.iter().map(|member| member.store).collect();
        Group { policy, started: false, members, target, pending: None, epoch: 1, slices: 0 }
    }
}

/// A group for each slice, always one of those that hold the fewest; `None` if they get full.
fn spread(count: usize, loads: &BTreeMap<PgId, usize>) -> Option<Vec<PgId>> {
    let mut by_load: BTreeSet<_> = loads.iter().map(|(id, held)| (*held, *id)).collect();
    let next = || {
        let (held, id) = by_load.pop_first()?;
        by_load.insert((held + 1, id));
        (held < limits::SLICES_PER_GROUP_MAX).then_some(id)
    };
    std::iter::repeat_with(next).take(count).collect()
}
