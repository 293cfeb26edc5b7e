//! Figures that no other process can disturb, held to their bounds.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

mod syscalls;
