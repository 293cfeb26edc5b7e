//! Black-box runs of the program `ashlar`.
//!
//! This crate sees a binary, its command line and its sockets, and nothing else: it depends on no
//! other crate of the workspace, brings its own NBD client, and would judge any server the same
//! way. Two kinds of run live here: `kill9`, which crashes the server under load and holds it to
//! every acknowledgement, and `tests/it`, which drives other people's tools against it.

pub mod binary;
pub mod history;
pub mod kill9;
pub mod nbd;
pub mod random;
pub mod sector;
pub mod server;
pub mod temporary;
pub mod workload;

/// A run either works or says in one sentence why not.
pub type Result<T> = std::result::Result<T, String>;
