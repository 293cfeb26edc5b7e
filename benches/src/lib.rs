//! Measurements of Ashlar from outside: a raw NBD load and the table of `docs/benchmarks.md`.
//!
//! Everything here sees a server as a command line, a socket and a process id, so the same code
//! measures Ashlar and the servers it is compared with.

pub mod address;
pub mod client;
pub mod cluster;
pub mod interrupt;
pub mod load;
pub mod procfs;
pub mod program;
pub mod random;
pub mod table;

/// A measurement either works or says in one sentence why not.
pub type Result<T> = std::result::Result<T, String>;
