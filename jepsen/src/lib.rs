//! Black-box runs of the program `ashlar`.
//!
//! This crate sees a binary, its command line and its sockets, and the bytes under its store: it
//! depends on no other crate of the workspace, brings its own NBD client, and would judge any
//! server the same way. Four kinds of run live here: `kill9` crashes the server under load and
//! holds it to every acknowledgement, `power_loss` does that with its disk, `cluster` with the
//! nodes of a cluster, and `tests/it` drives
//! other people's tools and bad disks against it.

pub mod binary;
pub mod cluster;
pub mod faultfs;
pub mod history;
pub mod kill9;
pub mod nbd;
pub mod power_loss;
pub mod random;
pub mod rounds;
pub mod sector;
pub mod server;
pub mod temporary;
pub mod workload;

/// A run either works or says in one sentence why not.
pub type Result<T> = std::result::Result<T, String>;
