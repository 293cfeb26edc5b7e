//! Integration tests of placement groups, one binary.

mod encoding;
mod runtime;
mod transport;
