//! Integration tests of placement groups, one binary.
mod transport;
