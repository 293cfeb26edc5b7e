//! Steps of a group's membership, carried out by its leader.
//!
//! Invariant: doing a step that is done changes nothing; whether a step is done is said by the
//! committed membership alone.
//! Must never know: why a step is wanted.

use super::answer::{Answer, Fault};
use super::replica::{Replica, refused, unknown};
use crate::control::{Step, caught_up};
use crate::placement::StoreId;
use crate::types::{Member, StoredMembership};
use ashlar_engine::ErrorKind;
use openraft::ChangeMembers;
use openraft::error::{ClientWriteError, RaftError};
use openraft_rt::watch::WatchReceiver as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Replica {
    /// The newest membership, and whether it is committed and no change is under way.
    pub(super) fn membership(&self) -> (Arc<StoredMembership>, bool) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let newest = Arc::clone(&metrics.membership_config);
        let settled = newest == metrics.committed_membership_config
            && newest.membership().get_joint_config().len() == 1;
        (newest, settled)
    }

    /// Carries out a step. `member`: the store that it is about.
    pub(super) async fn perform(&self, step: Step, member: Member) -> Answer<()> {
        if self.is_done(step) {
            return Ok(());
        }
        if let Step::AddLearner { store } = step {
            let add = self.raft.add_learner(store.0, member, false);
            return changed(add.await.map(drop));
        }
        let (change, retain) = self.change(step)?;
        changed(self.raft.change_membership(change, retain).await.map(drop))
    }

    /// The change that a step is, if it may be carried out now.
    fn change(&self, step: Step) -> Answer<(ChangeMembers<u64, Member>, bool)> {
        let mut voters = self.voters();
        match step {
            Step::AddLearner { .. } => {}
            Step::Promote { store, instead_of } => {
                let lag = self.lags().get(&store).copied().flatten();
                if !caught_up(lag) {
                    return Err(refused(ErrorKind::Busy, &"the store has not caught up"));
                }
                voters.insert(store.0);
                if let Some(other) = instead_of {
                    voters.remove(&other.0);
                }
            }
            Step::Retire { store } => {
                voters.remove(&store.0);
            }
            Step::Remove { store } => {
                return Ok((ChangeMembers::RemoveNodes([store.0].into()), false));
            }
        }
        if voters.is_empty() {
            return Err(refused(ErrorKind::Invalid, &"a group has at least one voter"));
        }
        // Who votes no longer stays as a learner, until it is removed.
        Ok((ChangeMembers::ReplaceAllVoters(voters), true))
    }

    fn voters(&self) -> BTreeSet<u64> {
        self.membership().0.voter_ids().collect()
    }

    /// What the membership says about a step; `None` while a change is under way.
    pub(super) fn settled(&self, step: Step) -> Option<bool> {
        let (_, settled) = self.membership();
        settled.then(|| self.says(step))
    }

    fn is_done(&self, step: Step) -> bool {
        self.settled(step) == Some(true)
    }

    fn says(&self, step: Step) -> bool {
        let (newest, _) = self.membership();
        let voters = self.voters();
        let member = |store: StoreId| newest.membership().get_node(&store.0).is_some();
        match step {
            Step::AddLearner { store } => member(store),
            Step::Promote { store, instead_of } => {
                let gone = |other: StoreId| !voters.contains(&other.0);
                voters.contains(&store.0) && instead_of.is_none_or(gone)
            }
            Step::Retire { store } => !voters.contains(&store.0),
            Step::Remove { store } => !member(store),
        }
    }

    /// Entries that each member lacks; `None` if it was not heard of. Empty unless this one leads.
    pub(super) fn lags(&self) -> BTreeMap<StoreId, Option<u64>> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.map_or(0, |index| index + 1);
        let Some(replication) = &metrics.replication else { return BTreeMap::new() };
        let lag = |(id, matched): (&u64, &Option<crate::types::LogId>)| {
            let lag = matched.map(|matched| last.saturating_sub(matched.index() + 1));
            (StoreId(*id), lag)
        };
        replication.iter().map(lag).collect()
    }
}

/// What became of a change of members.
fn changed<E: Into<RaftError<crate::types::Config, ClientWriteError<crate::types::Config>>>>(
    result: std::result::Result<(), E>,
) -> Answer<()> {
    match result.map_err(Into::into) {
        Ok(()) => Ok(()),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            Err(Fault::NotLeader(forward.leader_id.map(StoreId)))
        }
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
            Err(refused(ErrorKind::Busy, &error))
        }
        Err(error) => Err(unknown(&error)),
    }
}
