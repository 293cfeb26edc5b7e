//! Ashlar as other people's programs see it.
//!
//! Goal: whatever speaks NBD, and whatever lives on a block device, works on a volume, also across
//! a kill of the server. Method: real processes; each test has its own server and directory.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

mod admin;
mod bad_disk;
mod bad_input;
mod clients;
mod cluster;
mod crash;
mod damage;
mod disk;
mod fault_disk;
mod filesystem;
mod fio;
mod full;
mod libnbd;
mod migration;
mod partitions;
mod postgres;
mod power_loss;
mod qemu;
mod tools;
