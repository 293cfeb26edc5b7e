//! What holds for every state between two commands. The decoder asks it of foreign bytes, and tests
//! after every command.

use super::ControlState;
use super::apply::{check_spec, possible_slice};
use super::limits;
use super::model::{Group, NodeState, PgId, PolicyId, Role, Volume};
use crate::placement::{StoreId, WEIGHT_MAX};
use ashlar_engine::format::validate_volume_name;
use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Something is there before the cluster was made, or the control group is not there after.
    Init,
    /// An id or epoch that the log cannot have given yet.
    Beyond,
    /// More of something than its bound.
    Bound,
    /// A node with an impossible or a taken address.
    Address,
    /// A store without a node, with a taken device, or too heavy.
    Store,
    /// A volume with an impossible or taken name, size, slicing, policy or writer.
    Volume,
    /// A slice that is in no group of its volume's policy, or is not counted there.
    Slice,
    /// A group with impossible members, target or step.
    Group,
    /// Answers that cannot be remembered.
    Retry,
    /// Settings out of bounds.
    Setting,
}

/// `Err(flaw)` unless `holds`.
fn hold(holds: bool, flaw: Flaw) -> Result<(), Flaw> {
    holds.then_some(()).ok_or(flaw)
}

impl ControlState {
    /// Whether everything holds that must.
    pub fn check(&self) -> Result<(), Flaw> {
        hold(self.settings.possible(), Flaw::Setting)?;
        hold(self.epoch <= self.applied && self.applied < u64::MAX / 2, Flaw::Beyond)?;
        self.check_retries()?;
        if self.cluster.is_none() {
            let nothing = self.nodes.is_empty()
                && self.stores.is_empty()
                && self.volumes.is_empty()
                && self.policies.is_empty()
                && self.groups.is_empty();
            return hold(nothing && self.next_group == PgId(2), Flaw::Init);
        }
        self.check_nodes()?;
        self.check_stores()?;
        self.check_policies()?;
        self.check_volumes()?;
        self.check_groups()
    }

    fn given(&self, id: u64) -> bool {
        (1..=self.applied).contains(&id)
    }

    fn check_nodes(&self) -> Result<(), Flaw> {
        hold(self.nodes.keys().all(|id| self.given(id.0)), Flaw::Beyond)?;
        let present = || self.nodes.values().filter(|node| node.state != NodeState::Removed);
        let count = present().count();
        let removed = self.nodes.len() - count;
        hold(count <= limits::NODES_MAX && removed <= limits::NODES_REMOVED_KEPT, Flaw::Bound)?;
        hold(self.nodes.values().all(|node| check_spec(&node.spec).is_ok()), Flaw::Address)?;
        let addresses: BTreeSet<_> = present().map(|node| &node.spec.address).collect();
        hold(addresses.len() == count, Flaw::Address)
    }

    fn check_stores(&self) -> Result<(), Flaw> {
        hold(self.stores.keys().all(|id| self.given(id.0)), Flaw::Beyond)?;
        hold(self.stores.len() <= limits::STORES_MAX, Flaw::Bound)?;
        let homed = self.stores.values().all(|store| self.present(store.node).is_ok());
        let light = self.stores.values().all(|store| store.weight <= WEIGHT_MAX);
        let devices: BTreeSet<_> = self.stores.values().map(|store| store.device).collect();
        hold(homed && light && devices.len() == self.stores.len(), Flaw::Store)
    }

    fn check_policies(&self) -> Result<(), Flaw> {
        hold(self.policies.len() <= limits::POLICIES_MAX, Flaw::Bound)?;
        let numbered = self.policies.keys().zip(0..).all(|(id, number)| id.0 == number);
        let others = || self.policies.values().skip(1);
        let distinct = others().collect::<BTreeSet<_>>().len() == others().count();
        hold(numbered && distinct && !self.policies.is_empty(), Flaw::Group)
    }

    fn check_volumes(&self) -> Result<(), Flaw> {
        hold(self.volumes.keys().all(|id| self.given(id.0)), Flaw::Beyond)?;
        hold(self.volumes.len() <= limits::VOLUMES_MAX, Flaw::Bound)?;
        hold(self.volumes.values().all(|volume| self.volume_is_possible(volume)), Flaw::Volume)?;
        let live = || self.volumes.values().filter(|volume| !volume.deleting);
        let names: BTreeSet<_> = live().map(|volume| &volume.name).collect();
        hold(names.len() == live().count(), Flaw::Volume)?;
        let mut counted = BTreeMap::new();
        for volume in self.volumes.values() {
            for slice in &volume.slices {
                let group = self.groups.get(slice).ok_or(Flaw::Slice)?;
                hold(group.policy == volume.policy, Flaw::Slice)?;
                *counted.entry(*slice).or_insert(0) += 1;
            }
        }
        let all: u64 = counted.values().map(|count| u64::from(*count)).sum();
        hold(all <= limits::SLICES_MAX as u64, Flaw::Bound)?;
        let right = |(id, group): (&PgId, &Group)| {
            group.slices == counted.get(id).copied().unwrap_or(0)
                && group.slices as usize <= limits::SLICES_PER_GROUP_MAX
        };
        hold(self.groups.iter().all(right), Flaw::Slice)?;
        // No two slices have one number, and none has a number yet to be given.
        let numbers = |volume: &Volume| {
            let first = u64::from(volume.first_slice);
            (first, first + volume.slices.len() as u64)
        };
        let mut numbers: Vec<_> = self.volumes.values().map(numbers).collect();
        numbers.sort_unstable();
        numbers.push((self.next_slice.into(), u64::from(limits::SLICE_NUMBERS_MAX) + 1));
        hold(numbers.windows(2).all(|pair| pair[0].1 <= pair[1].0), Flaw::Slice)
    }

    fn volume_is_possible(&self, volume: &Volume) -> bool {
        validate_volume_name(&volume.name).is_none()
            && (1..=ashlar_engine::limits::VOLUME_MAX_BYTES).contains(&volume.size_bytes)
            && volume.size_bytes.is_multiple_of(512)
            && possible_slice(volume.slice_bytes)
            && volume.slices.len() as u64 == volume.size_bytes.div_ceil(volume.slice_bytes)
            && volume.slices.len() <= limits::SLICES_PER_VOLUME_MAX
            && self.policies.contains_key(&volume.policy)
            && volume.policy != PolicyId::CONTROL
            && volume.epoch <= self.applied
            && volume.writer.is_none_or(|writer| self.present(writer).is_ok())
            && (!volume.deleting || volume.writer.is_none())
    }

    fn check_groups(&self) -> Result<(), Flaw> {
        hold(self.groups.len() <= limits::GROUPS_MAX, Flaw::Bound)?;
        // Groups are numbered from 1 and never go.
        let numbered = self.groups.keys().zip(1..).all(|(id, number)| id.0 == number);
        let next = self.groups.len() as u32 + 1;
        hold(numbered && self.next_group == PgId(next), Flaw::Group)?;
        let control = self.groups.get(&PgId::CONTROL);
        let made = control.is_some_and(|group| group.policy == PolicyId::CONTROL && group.started);
        hold(made, Flaw::Init)?;
        let others = self.groups.values().skip(1);
        hold(others.into_iter().all(|group| group.policy != PolicyId::CONTROL), Flaw::Group)?;
        hold(self.groups.values().all(|group| self.group_is_possible(group)), Flaw::Group)
    }

    fn group_is_possible(&self, group: &Group) -> bool {
        let known = |store: StoreId| self.stores.contains_key(&store);
        let in_order = group.members.windows(2).all(|pair| pair[0].store < pair[1].store)
            && group.target.windows(2).all(|pair| pair[0] < pair[1]);
        let members = group.members.iter().all(|member| {
            let voting = self.voting_role(member.store);
            known(member.store) && (member.role == Role::Learner || member.role == voting)
        });
        in_order
            && members
            && self.policies.contains_key(&group.policy)
            && group.members.len() <= limits::MEMBERS_MAX
            && group.target.len() <= limits::MEMBERS_MAX
            && group.count(Role::Voter) > 0
            && group.target.iter().all(|store| known(*store))
            && group.pending.is_none_or(|step| group.started && self.fits(group, step))
            && (1..=self.applied).contains(&group.epoch)
    }

    fn check_retries(&self) -> Result<(), Flaw> {
        let proposers = &self.retries.proposers;
        hold(proposers.len() <= limits::PROPOSERS_MAX, Flaw::Bound)?;
        let possible = proposers.values().all(|known| {
            known.heard <= self.applied
                && known.outcomes.len() <= limits::COMMANDS_PER_PROPOSER_MAX
                && known.outcomes.keys().all(|serial| *serial > known.forgotten)
        });
        hold(possible, Flaw::Retry)
    }
}
