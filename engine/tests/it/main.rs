//! Integration tests of the engine, one binary.
mod embedded;
mod golden;
mod loop_device;
mod reactor;
mod sim;
mod sparse;
mod tidy;
