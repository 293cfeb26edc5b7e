//! Integration tests of the engine, one binary.
mod embedded;
mod loop_device;
mod reactor;
