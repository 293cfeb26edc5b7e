//! Integration tests of the placement groups, one binary.
mod applied;
mod cluster;
mod encoding;
mod runtime;
