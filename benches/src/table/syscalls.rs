//! Syscalls per request: the one figure that no other process can disturb.
//!
//! `strace -c` counts while a bounded load runs. It slows the server down, which only makes its
//! batches different, never its syscalls cheaper; the count is exact. What a connection costs
//! before its first request and after its last is counted by itself and taken off.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::process::{Reaped, tied_command};
use super::report::{Goal, Row};
use super::servers::Server;
use super::state::run_clean;
use crate::load::{Load, Until};
use crate::{Result, interrupt};

/// Requests per count: enough that the odd timer does not show, few enough for a traced server.
fn requests(depth: usize) -> u64 {
    if depth == 1 { 4_000 } else { 20_000 }
}

/// strace attaches within this time.
const ATTACH_MAX: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What `count` says where processes may not trace each other.
pub const NOT_ALLOWED: &str = "strace could not attach to the server";

/// The two rows, for deep and for single requests.
pub fn rows(server: &Server, folder: &Path, span_bytes: u64) -> Vec<Row> {
    [(64, 0.15), (1, 3.0)]
        .into_iter()
        .map(|(depth, bound)| {
            let counted = count(server, folder, depth, span_bytes);
            Row {
                work: format!("syscalls per op, 4k random write QD{depth}"),
                goal: Goal::AtMost(bound),
                unit: "",
                value: counted,
                detail: format!("strace -c over {} requests", requests(depth)),
                disturbed: false,
            }
        })
        .collect()
}

/// Syscalls of `server` per 4k random write at this depth; strace reports into `folder`.
pub fn count(server: &Server, folder: &Path, depth: usize, span_bytes: u64) -> Result<f64> {
    let (few, few_requests) = calls(server, folder, depth, span_bytes, depth as u64)?;
    let (many, many_requests) = calls(server, folder, depth, span_bytes, requests(depth))?;
    Ok((many as f64 - few as f64) / (many_requests - few_requests) as f64)
}

/// Syscalls of `server` during a connection with so many requests or a few more, and how many there
/// were.
fn calls(
    server: &Server,
    folder: &Path,
    depth: usize,
    span_bytes: u64,
    requests: u64,
) -> Result<(u64, u64)> {
    let report = folder.join(format!("strace-{depth}"));
    let mut command = tied_command(Path::new("strace"));
    command.args(["-c", "-f", "-o"]).arg(&report).args(["-p", &server.pid().to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut strace = Reaped(command.spawn().map_err(|e| format!("cannot run strace: {e}"))?);
    await_attached(server.pid(), &mut strace)?;
    let load = Load {
        write: true,
        random: true,
        request_bytes: 4096,
        depth,
        connections: 1,
        until: Until::Requests(requests),
        span_bytes: Some(span_bytes),
        seed: 3,
    };
    let outcome = run_clean(server, &load)?;
    // strace writes its report when it is asked to end.
    end_politely(&mut strace)?;
    let text = std::fs::read_to_string(&report).map_err(|e| format!("strace's report: {e}"))?;
    let calls = total_calls(&text).ok_or_else(|| format!("odd report of strace: {text}"))?;
    Ok((calls, outcome.requests))
}

fn await_attached(pid: u32, strace: &mut Reaped) -> Result<()> {
    let started = Instant::now();
    loop {
        interrupt::check()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        if tracer.is_some_and(|tracer| tracer.trim() != "0") {
            return Ok(());
        }
        let ended = !matches!(strace.0.try_wait(), Ok(None));
        if ended || started.elapsed() > ATTACH_MAX {
            return Err(NOT_ALLOWED.into());
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn end_politely(strace: &mut Reaped) -> Result<()> {
    let pid = rustix::process::Pid::from_child(&strace.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT)
        .map_err(|e| format!("cannot interrupt strace: {e}"))?;
    strace.0.wait().map_err(|e| format!("strace: {e}"))?;
    Ok(())
}

/// The `calls` column of the `total` line.
fn total_calls(report: &str) -> Option<u64> {
    let line = report.lines().rev().find(|line| line.trim_end().ends_with("total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read() {
        let report = "% time     seconds  usecs/call     calls    errors syscall\n\
                      ------ ----------- ----------- --------- --------- ------\n \
                      99.1    0.1           4     20000           io_uring_enter\n\
                      ------ ----------- ----------- --------- --------- ------\n\
                      100.00    0.1           4     20011        12 total\n";
        assert_eq!(total_calls(report), Some(20011));
    }
}
