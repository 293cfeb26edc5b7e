//! Memory of recent commands, so that a retry is answered and not carried out again.
//!
//! Invariants: of a proposer the newest outcomes are kept; a serial at or below `forgotten` is
//! refused, since it cannot be told whether it was carried out. When there are too many proposers,
//! the one not heard of for longest goes.

use super::limits::{COMMANDS_PER_PROPOSER_MAX, PROPOSERS_MAX};
use super::outcome::{Outcome, Refusal};
use std::collections::BTreeMap;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Retries {
    pub(super) proposers: BTreeMap<u64, Proposer>,
}

/// What one proposer did last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Proposer {
    /// Log index of its newest command.
    pub(super) heard: u64,
    /// Largest serial that is not remembered any more.
    pub(super) forgotten: u64,
    pub(super) outcomes: BTreeMap<u64, Outcome>,
}

impl Retries {
    /// The answer, if the command needs none of the state.
    pub(super) fn known(&self, proposer: u64, serial: u64) -> Option<Outcome> {
        let known = self.proposers.get(&proposer)?;
        let too_old = || (serial <= known.forgotten).then_some(Outcome::Refused(Refusal::TooOld));
        known.outcomes.get(&serial).cloned().or_else(too_old)
    }

    /// Remembers an answer.
    pub(super) fn remember(&mut self, index: u64, proposer: u64, serial: u64, outcome: Outcome) {
        let known = self.proposers.entry(proposer).or_default();
        known.heard = index;
        known.outcomes.insert(serial, outcome);
        if known.outcomes.len() > COMMANDS_PER_PROPOSER_MAX
            && let Some((oldest, _)) = known.outcomes.pop_first()
        {
            known.forgotten = oldest;
        }
        if self.proposers.len() > PROPOSERS_MAX {
            let silent = self.proposers.iter().min_by_key(|(_, known)| known.heard);
            if let Some(silent) = silent.map(|(id, _)| *id) {
                self.proposers.remove(&silent);
            }
        }
    }
}
