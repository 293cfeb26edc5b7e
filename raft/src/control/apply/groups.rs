//! Placement groups: start, target, and the steps between.

use super::super::ControlState;
use super::super::limits::MEMBERS_MAX;
use super::super::model::{Group, Member, PgId, Role, Step};
use super::super::outcome::{Outcome, Refusal};
use super::Applied;
use crate::placement::StoreId;

impl ControlState {
    pub(super) fn group_started(&mut self, id: PgId, epoch: u64) -> Applied {
        let group = self.group(id)?;
        if group.started {
            return Ok(Outcome::Done);
        }
        self.at_epoch(id, epoch)?;
        self.change_group(id, |group| group.started = true)
    }

    pub(super) fn aim(&mut self, id: PgId, epoch: u64, mut target: Vec<StoreId>) -> Applied {
        let group = self.at_epoch(id, epoch)?;
        if !group.started {
            return Err(Refusal::NotStarted(id));
        }
        if group.pending.is_some() {
            return Err(Refusal::StepPending(id));
        }
        target.sort_unstable();
        let policy = self.policy_of(group);
        let of_role = |role| target.iter().filter(|s| self.voting_role(**s) == role).count();
        let possible = target.iter().all(|store| self.stores.contains_key(store))
            && target.windows(2).all(|pair| pair[0] < pair[1])
            && of_role(Role::Voter) > 0
            && [Role::Voter, Role::Witness]
                .into_iter()
                .all(|role| of_role(role) <= policy.wanted(role));
        if !possible {
            return Err(Refusal::Target(id));
        }
        if group.target == target {
            return Ok(Outcome::Done);
        }
        self.change_group(id, |group| group.target = target)
    }

    pub(super) fn begin(&mut self, id: PgId, epoch: u64, step: Step) -> Applied {
        let group = self.at_epoch(id, epoch)?;
        if !group.started {
            return Err(Refusal::NotStarted(id));
        }
        if group.pending.is_some() {
            return Err(Refusal::StepPending(id));
        }
        if !self.leads_to_target(group, step) {
            return Err(Refusal::Unsafe(id));
        }
        self.change_group(id, |group| group.pending = Some(step))
    }

    pub(super) fn finish(&mut self, id: PgId, epoch: u64, done: bool) -> Applied {
        let group = self.at_epoch(id, epoch)?;
        let step = group.pending.ok_or(Refusal::NoStep(id))?;
        let role = self.voting_role(step.store());
        self.change_group(id, |group| {
            group.pending = None;
            if done {
                group.take(step, role);
            }
        })
    }

    /// Whether a step may be begun, as far as the state can tell. Whether its store has caught up
    /// is for the planner, and again for the group's leader.
    fn leads_to_target(&self, group: &Group, step: Step) -> bool {
        let policy = self.policy_of(group);
        let missing = |role| group.count(role) < policy.wanted(role);
        let enough = match step {
            // One at a time, so that a group is never more than one member too large.
            Step::AddLearner { .. } => {
                group.learners().next().is_none() && group.members.len() < MEMBERS_MAX
            }
            Step::Promote { store, instead_of: None } => missing(self.voting_role(store)),
            Step::Retire { store } => {
                let role = self.voting_role(store);
                group.count(role) > policy.wanted(role)
            }
            Step::Promote { instead_of: Some(_), .. } | Step::Remove { .. } => true,
        };
        enough && self.fits(group, step)
    }

    /// Whether a step is possible with the members and the target there are.
    pub(in super::super) fn fits(&self, group: &Group, step: Step) -> bool {
        let targeted = |store: StoreId| group.target.contains(&store);
        let role = |store: StoreId| group.member(store).map(|member| member.role);
        let learns = |store: StoreId| role(store) == Some(Role::Learner);
        let leaves =
            |store: StoreId| role(store) == Some(self.voting_role(store)) && !targeted(store);
        match step {
            Step::AddLearner { store } => role(store).is_none() && targeted(store),
            Step::Promote { store, instead_of } => {
                let same = |other| self.voting_role(store) == self.voting_role(other);
                learns(store)
                    && targeted(store)
                    && instead_of.is_none_or(|other| leaves(other) && same(other))
            }
            Step::Retire { store } => leaves(store),
            Step::Remove { store } => learns(store) && !targeted(store),
        }
    }

    fn group(&self, id: PgId) -> Result<&Group, Refusal> {
        self.groups.get(&id).ok_or(Refusal::UnknownGroup(id))
    }

    fn at_epoch(&self, id: PgId, epoch: u64) -> Result<&Group, Refusal> {
        let group = self.group(id)?;
        if group.epoch != epoch {
            return Err(Refusal::OldGroupEpoch { group: id, epoch: group.epoch });
        }
        Ok(group)
    }

    fn change_group(&mut self, id: PgId, change: impl FnOnce(&mut Group)) -> Applied {
        let group = self.groups.get_mut(&id).expect("invariant: it was just looked up");
        change(group);
        group.epoch += 1;
        self.changed();
        Ok(Outcome::Done)
    }
}

impl Group {
    /// What a finished step made of the members.
    fn take(&mut self, step: Step, voting: Role) {
        match step {
            Step::AddLearner { store } => {
                self.members.push(Member { store, role: Role::Learner });
                self.members.sort_unstable();
            }
            Step::Promote { store, instead_of } => {
                self.set_role(store, voting);
                if let Some(other) = instead_of {
                    self.set_role(other, Role::Learner);
                }
            }
            Step::Retire { store } => self.set_role(store, Role::Learner),
            Step::Remove { store } => self.members.retain(|member| member.store != store),
        }
    }

    fn set_role(&mut self, store: StoreId, role: Role) {
        for member in self.members.iter_mut().filter(|member| member.store == store) {
            member.role = role;
        }
    }
}
