//! Votes, entry identities and memberships.
//!
//! Must never know: where they are kept.

use super::EncodingError;
use super::bytes::{Bytes, bounded, put_text};
use crate::limits::{ADDRESS_MAX_BYTES, LABELS_MAX_BYTES, MEMBERS_MAX, VOTER_SETS_MAX};
use crate::types::{LogId, Member, Membership, NodeId, StoredMembership, Vote, log_id};
use openraft::vote::RaftVote;
use openraft::vote::leader_id_std::LeaderId;
use std::collections::{BTreeMap, BTreeSet};

const VOTE_VERSION: u8 = 1;
const STORED_VERSION: u8 = 1;

/// A vote in 18 bytes.
#[must_use]
pub fn encode_vote(vote: &Vote) -> Vec<u8> {
    let mut into = vec![VOTE_VERSION, u8::from(vote.committed)];
    into.extend(vote.leader_id.term.to_le_bytes());
    into.extend(vote.leader_id.voted_for.to_le_bytes());
    into
}

/// The vote that [`encode_vote`] made these bytes of.
///
/// # Errors
/// If there is none.
pub fn decode_vote(bytes: &[u8]) -> Result<Vote, EncodingError> {
    let mut bytes = Bytes::of_version(VOTE_VERSION, bytes)?;
    let committed = bytes.flag("vote")?;
    let leader = LeaderId { term: bytes.u64()?, voted_for: bytes.u64()? };
    bytes.end()?;
    Ok(Vote::from_leader_id(leader, committed))
}

/// A membership and where it comes from.
///
/// # Errors
/// If it has too many members or sets of voters.
pub fn encode_stored_membership(stored: &StoredMembership) -> Result<Vec<u8>, EncodingError> {
    let mut into = vec![STORED_VERSION];
    put_log_id(*stored.log_id(), &mut into);
    put_membership(stored.membership(), &mut into)?;
    Ok(into)
}

/// What [`encode_stored_membership`] made these bytes of.
///
/// # Errors
/// If there is nothing.
pub fn decode_stored_membership(bytes: &[u8]) -> Result<StoredMembership, EncodingError> {
    let mut bytes = Bytes::of_version(STORED_VERSION, bytes)?;
    let log_id = take_log_id(&mut bytes)?;
    let membership = take_membership(&mut bytes)?;
    bytes.end()?;
    Ok(StoredMembership::new(log_id, membership))
}

pub(crate) fn put_log_id(id: Option<LogId>, into: &mut Vec<u8>) {
    into.push(u8::from(id.is_some()));
    if let Some(id) = id {
        into.extend(id.committed_leader_id().term.to_le_bytes());
        into.extend(id.index().to_le_bytes());
    }
}

pub(crate) fn take_log_id(bytes: &mut Bytes<'_>) -> Result<Option<LogId>, EncodingError> {
    match bytes.flag("entry identity")? {
        true => Ok(Some(log_id(bytes.u64()?, bytes.u64()?))),
        false => Ok(None),
    }
}

/// Sets of voters, then all members, both in ascending order of their ids.
pub(super) fn put_membership(
    membership: &Membership,
    into: &mut Vec<u8>,
) -> Result<(), EncodingError> {
    let sets = membership.get_joint_config();
    into.push(bounded("sets of voters", VOTER_SETS_MAX, sets.len())? as u8);
    for set in sets {
        into.push(bounded("voters", MEMBERS_MAX, set.len())? as u8);
        set.iter().for_each(|id| into.extend(id.to_le_bytes()));
    }
    let members = membership.nodes().count();
    into.push(bounded("members", MEMBERS_MAX, members)? as u8);
    for (id, member) in membership.nodes() {
        into.extend(id.to_le_bytes());
        into.extend(member.node().to_le_bytes());
        put_text(member.address(), into);
        put_text(member.labels(), into);
    }
    Ok(())
}

pub(super) fn take_membership(bytes: &mut Bytes<'_>) -> Result<Membership, EncodingError> {
    let sets = bounded("sets of voters", VOTER_SETS_MAX, bytes.u8()?.into())?;
    let sets: Vec<_> = (0..sets).map(|_| take_voters(bytes)).collect::<Result<_, _>>()?;
    let count = bounded("members", MEMBERS_MAX, bytes.u8()?.into())?;
    let mut members = BTreeMap::new();
    for _ in 0..count {
        let id = take_id(bytes, members.last_key_value().map(|(id, _)| *id))?;
        let node = bytes.u64()?;
        let address = bytes.text("bytes of an address", ADDRESS_MAX_BYTES)?;
        let labels = bytes.text("bytes of labels", LABELS_MAX_BYTES)?;
        let member = Member::new(node, address, labels).map_err(|_| EncodingError::Membership)?;
        members.insert(id, member);
    }
    if sets.is_empty() && members.is_empty() {
        return Ok(Membership::default()); // A group that was never told of its members.
    }
    Membership::new(sets, members).map_err(|_| EncodingError::Membership)
}

fn take_voters(bytes: &mut Bytes<'_>) -> Result<BTreeSet<NodeId>, EncodingError> {
    let count = bounded("voters", MEMBERS_MAX, bytes.u8()?.into())?;
    let mut voters = BTreeSet::new();
    for _ in 0..count {
        let id = take_id(bytes, voters.last().copied())?;
        voters.insert(id);
    }
    Ok(voters)
}

/// An id that is greater than the one before it, so that a set has one encoding only.
fn take_id(bytes: &mut Bytes<'_>, before: Option<NodeId>) -> Result<NodeId, EncodingError> {
    let id = bytes.u64()?;
    match before.is_none_or(|before| before < id) {
        true => Ok(id),
        false => Err(EncodingError::Order),
    }
}
