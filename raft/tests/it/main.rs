//! Integration tests of the placement groups, one binary.

mod encoding;
mod runtime;
