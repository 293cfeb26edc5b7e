//! Who should lead each group: a voter of the node where most of its slices are attached, so that
//! reads are local and writes cost one round trip. Never a witness for long.

use super::super::limits::LEADS_PER_PLAN_MAX;
use super::super::model::{Group, PgId, Role};
use super::{Action, View};
use crate::placement::{NodeId, StoreId};
use std::collections::{BTreeMap, BTreeSet};

impl View<'_> {
    /// Leaders to be moved, of groups that have nothing else to do just now.
    pub(super) fn leads(&self, busy: &BTreeSet<PgId>) -> Vec<Action> {
        let attached = self.attached();
        let none = BTreeMap::new();
        let idle = |(id, group): &(&PgId, &Group)| {
            group.started && group.pending.is_none() && !busy.contains(id)
        };
        let leads = self.state.groups().iter().filter(idle).filter_map(|(id, group)| {
            let from = self.leader(*id)?;
            let to = self.better(*id, group, from, attached.get(id).unwrap_or(&none))?;
            Some(Action::Lead { group: *id, from, to })
        });
        leads.take(LEADS_PER_PLAN_MAX).collect()
    }

    /// Slices of each group that are attached at each node.
    fn attached(&self) -> BTreeMap<PgId, BTreeMap<NodeId, u32>> {
        let mut attached: BTreeMap<PgId, BTreeMap<NodeId, u32>> = BTreeMap::new();
        for volume in self.state.volumes().values() {
            let Some(writer) = volume.writer else { continue };
            for slice in &volume.slices {
                *attached.entry(*slice).or_default().entry(writer).or_insert(0) += 1;
            }
        }
        attached
    }

    /// A voter that should lead rather than `leader`.
    fn better(
        &self,
        id: PgId,
        group: &Group,
        leader: StoreId,
        attached: &BTreeMap<NodeId, u32>,
    ) -> Option<StoreId> {
        let slices = |store: StoreId| {
            let node = self.state.stores().get(&store).map(|store| store.node);
            node.and_then(|node| attached.get(&node)).copied().unwrap_or(0)
        };
        let stays = |store: StoreId| group.target.contains(&store) && self.may_lead(store);
        let able = |store: StoreId| stays(store) && self.intact(id, store);
        let voters = group.members.iter().filter(|member| member.role == Role::Voter);
        let able = voters.map(|member| member.store).filter(|s| *s != leader && able(*s));
        // Among equals the first; the present leader keeps its place unless another gains.
        let best = able.max_by_key(|store| (slices(*store), std::cmp::Reverse(*store)))?;
        // A witness has no blocks to read.
        let reads = group.member(leader).is_none_or(|member| member.role != Role::Witness);
        let gains = slices(best) > slices(leader) || !stays(leader) || !reads;
        gains.then_some(best)
    }
}
