//! Black-box runs of the program `ashlar`.
//!
//! This crate sees a binary, its command line and its sockets, and the bytes under its store: it
//! depends on no other crate of the workspace, brings its own NBD client, and would judge any
//! server the same way. `kill9` crashes the server under load and holds it to every
//! acknowledgement; `power_loss` does that with its disk, `cluster` with the nodes of a cluster,
//! `partitions` with their network, `rolling` with orderly restarts of all of them. `rebuild`
//! measures how a node that lost its store gets its replicas back, `migrate` moves a running guest
//! from node to node. `tests/it` drives other people's tools and bad disks against all that.

pub mod binary;
pub mod cluster;
pub mod faultfs;
pub mod fleet;
pub mod history;
pub mod kill9;
pub mod migrate;
pub mod nbd;
pub mod network;
pub mod partitions;
pub mod power_loss;
pub mod random;
pub mod rebuild;
pub mod rolling;
pub mod rounds;
pub mod sector;
pub mod server;
pub mod speed;
pub mod temporary;
pub mod workload;

/// A run either works or says in one sentence why not.
pub type Result<T> = std::result::Result<T, String>;
