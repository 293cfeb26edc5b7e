//! Integration tests of placement groups, one binary.

mod applied;
mod cluster;
mod encoding;
mod lab;
mod node;
mod overwrite;
mod pitfalls;
mod prompt;
mod runtime;
mod suites;
mod transport;
mod witness;
