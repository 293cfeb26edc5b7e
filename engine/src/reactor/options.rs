//! What a reactor is made with, and what it tells about itself.

use crate::buffer::PoolOptions;
use std::time::Duration;

/// How a [`Reactor`](super::Reactor) is set up.
#[derive(Clone, Debug, Default)]
pub struct ReactorOptions {
    /// The buffer pool; its arena is registered with the kernel if that is allowed.
    pub pool: PoolOptions,
    /// How long it polls for completions, at most, before it sleeps. It does so only while its
    /// waits are as short as that and little is moved between them, and it yields its processor
    /// to whoever wants it. Completions are noticed sooner; a processor that would be idle is not.
    /// Zero, the default: never.
    pub busy_poll_max: Duration,
}

/// What a reactor has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries to the kernel: the system calls of the hot path.
    pub enters: u64,
    /// Turns.
    pub turns: u64,
    /// Steps of tasks.
    pub tasks_run: u64,
    /// Operations handed to the kernel.
    pub ops_submitted: u64,
}
