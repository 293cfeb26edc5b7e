//! How large a state may become while nothing is added to it.
//!
//! Whoever bounds the state must count that, or a full cluster could not be run any more: volumes
//! are attached, groups change members, and answers are remembered, however many there are.

use super::super::ControlState;
use super::super::limits::{COMMANDS_PER_PROPOSER_MAX, MEMBERS_MAX, PROPOSERS_MAX, TEXT_MAX_BYTES};
use super::super::model::{Group, Member, Step};
use super::super::retries::Retries;
use super::bytes::{Field, Writer};
use crate::placement::{NodeId, StoreId};

const LENGTH_BYTES: usize = 4;
/// A refusal that names a text.
const OUTCOME_MAX_BYTES: usize = 2 + LENGTH_BYTES + TEXT_MAX_BYTES;
const PROPOSER_MAX_BYTES: usize =
    3 * 8 + LENGTH_BYTES + COMMANDS_PER_PROPOSER_MAX * (8 + OUTCOME_MAX_BYTES);
const RETRIES_MAX_BYTES: usize = LENGTH_BYTES + PROPOSERS_MAX * PROPOSER_MAX_BYTES;
/// Members, stores that should vote, and a step with two stores.
const CHANGES_MAX_BYTES: usize = 2 * LENGTH_BYTES
    + MEMBERS_MAX * (Member::MIN_BYTES + StoreId::MIN_BYTES)
    + (2 + 2 * (1 + StoreId::MIN_BYTES));

impl ControlState {
    /// Bytes that the encoded state has at most until something is added to it, if it has `bytes`
    /// now.
    #[must_use]
    pub fn bytes_at_most(&self, bytes: usize) -> usize {
        let attached = self.volumes.values().filter(|volume| volume.writer.is_some());
        let attaching = (self.volumes.len() - attached.count()) * NodeId::MIN_BYTES;
        let changes = |Group { members, target, pending, .. }: &Group| {
            len::<Vec<Member>>(members) + len::<Vec<StoreId>>(target) + len::<Option<Step>>(pending)
        };
        let changing =
            self.groups.values().map(|group| CHANGES_MAX_BYTES.saturating_sub(changes(group)));
        let remembering = RETRIES_MAX_BYTES.saturating_sub(len::<Retries>(&self.retries));
        bytes + attaching + changing.sum::<usize>() + remembering
    }
}

fn len<T: Field>(value: &T) -> usize {
    let mut writer = Writer::default();
    value.put(&mut writer);
    writer.len()
}
