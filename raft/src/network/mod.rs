//! Raft's messages over the transport: what openraft asks other members of a group.
//!
//! [`Network`] makes the links of a group's member to the others, [`serve`] answers theirs.
//! Invariants: appends of a link reach the other member in the order in which they were made, and
//! their answers are given in that order; every call ends; a message for another store than the one
//! that is there is refused.
//! Must never know: what entries mean, who decides on members.

mod codec;
mod held;
mod link;
mod send;
mod serve;
#[cfg(test)]
mod tests;
mod vote;

pub(crate) use codec::understand;
pub use link::{Link, Network};
#[cfg(test)]
pub(crate) use serve::append_admitted;
pub use serve::serve;
pub(crate) use vote::vote_for_gated;
