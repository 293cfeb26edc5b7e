//! Processor time of this process and of a server on the same machine.
//!
//! Must never know: what it was spent on.

use rustix::time::{ClockId, clock_gettime};

/// Processor time at a start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpu {
    own: u64,
    server: Option<(u32, u64)>,
}

/// Nanoseconds since a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CpuUsed {
    pub(super) client: u64,
    /// Not known unless the server is a process of this machine.
    pub(super) server: Option<u64>,
}

impl Cpu {
    /// Counts from now on.
    pub(super) fn start(server: Option<u32>) -> Cpu {
        Cpu { own: own(), server: server.and_then(|pid| Some((pid, of_process(pid)?))) }
    }

    /// Spent since the start.
    pub(super) fn used(&self) -> CpuUsed {
        let server = self.server.and_then(|(pid, then)| of_process(pid)?.checked_sub(then));
        CpuUsed { client: own() - self.own, server }
    }
}

fn own() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Time on the processor of all threads of a process, in nanoseconds.
fn of_process(pid: u32) -> Option<u64> {
    let mut sum = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        sum += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(sum)
}
