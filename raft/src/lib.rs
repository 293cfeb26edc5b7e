//! Placement groups: volumes replicated over several nodes.
//!
//! This crate holds no code yet. It will put openraft on the engine's reactor, use the engine's log
//! as the replicas' log, and offer the same volume interface as a single store does. Imports go one
//! way: `nbd-server -> raft -> engine`.

pub mod control;
pub mod placement;
