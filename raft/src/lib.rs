//! Placement groups: volumes replicated over several nodes.
//!
//! One group is one openraft group; its log is kept by the engine, and the log is the replica.
//! [`runtime`] puts openraft on a reactor, [`log_store`] and [`state_machine`] on a group of a
//! store, [`snapshot`] brings members up, and [`types`] says what is agreed on. [`frame`] holds the
//! bytes that nodes exchange, [`transport`] the connections. [`control`] is what the cluster
//! consists of, [`placement`] who keeps what. Imports go one way: `nbd-server -> raft -> engine`.

pub mod control;
pub mod frame;
pub mod limits;
pub mod log_store;
pub mod network;
pub mod node;
pub mod placement;
pub mod runtime;
pub mod snapshot;
pub mod state_machine;
pub mod transport;
pub mod types;
pub mod volume;
