//! Placement: which stores hold a placement group, as a pure function of the stores there are.
//!
//! Every (group, store) pair has a fixed random score, made small by the store's weight; the stores
//! with the smallest scores are chosen (weighted rendezvous hashing). So a store gets groups in
//! proportion to its weight, and a store that comes or goes moves only the groups it takes or
//! leaves. Failure domains come first: stores that share a domain with one already chosen
//! are passed over while there are others.
//!
//! Invariants: the same stores give the same answer on every machine and in every order; integers
//! only; no two replicas on one store; nothing here panics, whatever the labels and weights.
//! Must never know: I/O, time, health, Raft, and how a cluster keeps its state.

mod labels;
mod score;
#[cfg(test)]
mod tests;
mod topology;

pub use labels::{LABEL_MAX_BYTES, LabelError, Labels, Level};
pub use score::WEIGHT_MAX;
pub use topology::{Candidate, Choice, Placement, Rule, Shortfall, Topology};

use std::fmt;

/// Identity of a node: the index of the log entry that admitted it. Never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// Identity of a store in the cluster: the index of the log entry that added it. Never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
