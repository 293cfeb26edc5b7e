//! The next step of each group towards its target.

use super::super::command::Operation;
use super::super::limits::LEARNERS_PER_STORE_MAX;
use super::super::model::{Group, PgId, Role, Step};
use super::{Action, View};
use crate::placement::StoreId;
use std::collections::{BTreeMap, BTreeSet};

impl View<'_> {
    /// What each group does next. Without a leader it can do nothing.
    pub(super) fn steps(&self, busy: &BTreeSet<PgId>) -> Vec<Action> {
        let mut learning = self.learners();
        let mut actions = Vec::new();
        let groups = self.state.groups().iter();
        for (id, group) in groups.filter(|(id, group)| group.started && !busy.contains(id)) {
            let Some(leader) = self.leader(*id) else { continue };
            let (id, epoch) = (*id, group.epoch);
            if let Some(step) = group.pending {
                actions.push(match self.safe(id, group, step) {
                    true => Action::Perform { group: id, epoch, leader, step },
                    false => Action::Settle { group: id, epoch, leader, step },
                });
                continue;
            }
            let Some(step) = self.next_step(id, group) else { continue };
            if let Step::AddLearner { store } = step {
                let here = learning.entry(store).or_insert(0);
                if *here >= LEARNERS_PER_STORE_MAX {
                    continue;
                }
                *here += 1;
            }
            // A leader that is about to vote no longer hands over first: no wait for an election.
            actions.push(match self.successor(id, group, leader, step) {
                Some(to) => Action::Lead { group: id, from: leader, to },
                None => Action::Propose(Operation::Begin { group: id, epoch, step }),
            });
        }
        actions
    }

    /// How many groups each store takes in now.
    fn learners(&self) -> BTreeMap<StoreId, usize> {
        let mut count = BTreeMap::new();
        for group in self.state.groups().values() {
            let added = group.pending.and_then(|step| match step {
                Step::AddLearner { store } => Some(store),
                _ => None,
            });
            let coming = group.learners().filter(|store| group.target.contains(store));
            for store in coming.chain(added) {
                *count.entry(store).or_insert(0) += 1;
            }
        }
        count
    }

    fn next_step(&self, id: PgId, group: &Group) -> Option<Step> {
        let targeted = |store: &StoreId| group.target.contains(store);
        // Who does not vote and should not: goes first, so that there is room to learn.
        if let Some(store) = group.learners().find(|store| !targeted(store)) {
            return Some(Step::Remove { store });
        }
        let policy = self.state.policy_of(group);
        if let Some(store) = group.learners().next() {
            let role = self.state.voting_role(store);
            let full = group.count(role) >= policy.wanted(role);
            let instead_of = full.then(|| self.leaving(id, group, role)).flatten();
            let step = Step::Promote { store, instead_of };
            return (full == instead_of.is_some() && self.safe(id, group, step)).then_some(step);
        }
        let missing = group.target.iter().find(|store| group.member(**store).is_none());
        if let Some(store) = missing {
            return Some(Step::AddLearner { store: *store });
        }
        // All of the target vote; are there more than are wanted?
        let extra = [Role::Voter, Role::Witness]
            .into_iter()
            .filter(|role| group.count(*role) > policy.wanted(*role));
        let store = extra.filter_map(|role| self.leaving(id, group, role)).next()?;
        let step = Step::Retire { store };
        self.safe(id, group, step).then_some(step)
    }

    /// The voter of this role that should go first: one that is not intact, if there is one.
    fn leaving(&self, id: PgId, group: &Group, role: Role) -> Option<StoreId> {
        let going = group.members.iter().filter(|member| member.role == role);
        let going = going.map(|member| member.store).filter(|s| !group.target.contains(s));
        going.min_by_key(|store| (self.intact(id, *store), *store))
    }

    /// Whether a change of voters keeps the quorum sound. With all voters intact, all that is
    /// needed is that the one to come is, too. Otherwise it must not cost an intact voter.
    fn safe(&self, id: PgId, group: &Group, step: Step) -> bool {
        let intact = |store: StoreId| self.intact(id, store);
        let gone = match step {
            Step::AddLearner { .. } | Step::Remove { .. } => return true,
            Step::Promote { store, .. } if !intact(store) => return false,
            Step::Promote { instead_of, .. } => instead_of,
            // Asked again once begun: the policy may have been raised since.
            Step::Retire { store } => {
                let role = self.state.voting_role(store);
                if group.count(role) <= self.state.policy_of(group).wanted(role) {
                    return false;
                }
                Some(store)
            }
        };
        let sound = group.voters().all(intact);
        let added = match step {
            Step::Promote { store, .. } => Some(store),
            _ => None,
        };
        let after = group.voters().filter(|store| Some(*store) != gone).chain(added);
        let (count, whole) = after
            .fold((0, 0), |(count, whole), store| (count + 1, whole + usize::from(intact(store))));
        (sound || gone.is_none_or(|store| !intact(store))) && whole > count / 2
    }

    /// Who should lead before a step takes the vote from the leader, if anybody else can.
    fn successor(&self, id: PgId, group: &Group, leader: StoreId, step: Step) -> Option<StoreId> {
        let gone = match step {
            Step::Promote { instead_of, .. } => instead_of,
            Step::Retire { store } => Some(store),
            Step::AddLearner { .. } | Step::Remove { .. } => None,
        };
        if gone != Some(leader) {
            return None;
        }
        let able = |member: &&super::super::Member| {
            member.role == Role::Voter && member.store != leader && self.intact(id, member.store)
        };
        let able = group.members.iter().filter(able).map(|member| member.store);
        able.min_by_key(|store| (!group.target.contains(store), *store))
    }
}
