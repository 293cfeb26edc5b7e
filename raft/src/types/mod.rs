//! What a group agrees on: proposals, outcomes, members, and openraft's types made of them.
//!
//! An entry of a group's log is blank, a proposal, or a membership. It has a small head, encoded
//! in [`encoding`], and changes whose blocks stay in buffers: the same head lies on disk and goes
//! over the wire, and the blocks are never copied into it.
//! Must never know: I/O.

pub mod encoding;
mod member;
mod proposal;

pub use member::{Member, MemberError};
pub use proposal::{Change, Changes, Outcome, Proposal, ProposalError, Write};

use crate::runtime::ReactorRuntime;
use openraft::impls::{BoxedErrorSource, InlineBatch, OneshotResponder};
use openraft::vote::leader_id_std;
use openraft::{EntryPayload, RaftTypeConfig};

/// Who led when an entry was made: the term says it, as there is at most one leader in each.
pub type CommittedLeaderId = leader_id_std::CommittedLeaderId<u64>;

/// A member's number: that of its store in the cluster. Never used again for another store, and a
/// store that lost what it held is another one.
pub type NodeId = u64;

/// openraft's types, as every group has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Config;

impl RaftTypeConfig for Config {
    type D = Proposal;
    type R = Outcome;
    type NodeId = NodeId;
    type Node = Member;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, NodeId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = Payload;
    type Entry = openraft::impls::Entry<CommittedLeaderId, Payload>;
    type AsyncRuntime = ReactorRuntime;
    type Responder<T: 'static> = OneshotResponder<Config, T>;
    type Batch<T: 'static> = InlineBatch<T>;
    type ErrorSource = BoxedErrorSource;
}

/// An entry of a group's log.
pub type Entry = <Config as RaftTypeConfig>::Entry;
/// What an entry holds.
pub type Payload = EntryPayload<Proposal, NodeId, Member>;
/// A term, and whom a node chose in it.
pub type Vote = <Config as RaftTypeConfig>::Vote;
/// Term and index of an entry.
pub type LogId = openraft::LogId<CommittedLeaderId>;
/// The members of a group.
pub type Membership = openraft::Membership<NodeId, Member>;
/// A membership, and the entry that brought it.
pub type StoredMembership = openraft::StoredMembership<CommittedLeaderId, NodeId, Member>;

/// The identity of an entry.
#[must_use]
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}
