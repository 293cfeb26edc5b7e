//! Placement groups: volumes replicated over several nodes.
//!
//! One group is one openraft group; its log is kept by the engine, and the log is the replica. Only
//! [`runtime`] and [`types`] (and what stores, moves and drives a group) name openraft: the rest of
//! the crate and everything above it see this crate's own types. [`frame`] holds the bytes that
//! nodes exchange, [`transport`] the connections. Imports go one way: `nbd-server -> raft -> engine`.

pub mod frame;
pub mod limits;
pub mod runtime;
pub mod transport;
pub mod types;
