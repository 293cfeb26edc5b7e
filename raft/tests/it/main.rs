//! Integration tests of placement groups, one binary.

mod applied;
mod cluster;
mod encoding;
mod node;
mod runtime;
mod suites;
mod transport;
