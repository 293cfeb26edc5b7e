//! Integration tests of the engine, one binary.
mod golden;
mod reactor;
mod sparse;
mod tidy;
