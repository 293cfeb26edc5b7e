//! Placement groups: volumes replicated over several nodes.
//!
//! So far it holds how nodes talk to each other: [`frame`], the bytes, and [`transport`], the
//! connections. Nothing uses them yet. It will put openraft on the engine's reactor, use the
//! engine's log as the replicas' log, and offer the same volume interface as a single store does.
//! Imports go one way: `nbd-server -> raft -> engine`.

pub mod frame;
pub mod transport;
