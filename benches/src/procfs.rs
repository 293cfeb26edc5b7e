//! Numbers from `/proc`: CPU time, resident memory, bytes written, and how busy the machine was.
//!
//! Must never know: why anybody wants them.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::Result;

/// `USER_HZ`, which Linux has fixed at 100 for every `/proc` file on the platforms we build for.
const TICKS_PER_SECOND: u64 = 100;

/// CPU time of the calling thread.
pub fn own_thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// CPU time of the calling process.
pub fn own_process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// CPU time of this process and of all its children that have ended.
pub fn own_and_children_cpu() -> Result<Duration> {
    let stat = read("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(')').ok_or("odd /proc/self/stat")?;
    Ok(ticks(rest.split_whitespace().skip(11).take(4).filter_map(|v| v.parse::<u64>().ok()).sum()))
}

/// CPU time of the kernel's own threads, as far as they can be seen.
pub fn kernel_threads_cpu() -> Duration {
    let Ok(entries) = fs::read_dir("/proc") else { return Duration::ZERO };
    let stats = entries.flatten().filter(|entry| {
        entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit)
    });
    let stats = stats.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    ticks(stats.filter_map(|stat| kernel_thread_ticks(&stat)).sum())
}

/// CPU time of process `pid` with all its threads, also those that ended. Whole ticks of 10 ms.
pub fn process_cpu(pid: u32) -> Result<Duration> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    let (user, system) = parse_stat(&stat).ok_or_else(|| format!("odd /proc/{pid}/stat"))?;
    Ok(ticks(user + system))
}

/// Bytes process `pid` has caused to be written to storage.
pub fn process_write_bytes(pid: u32) -> Result<u64> {
    field(&read(&format!("/proc/{pid}/io"))?, "write_bytes:")
        .ok_or_else(|| format!("odd /proc/{pid}/io"))
}

/// Resident memory of process `pid`: (all, anonymous only) in bytes.
pub fn process_rss(pid: u32) -> Result<(u64, u64)> {
    let status = read(&format!("/proc/{pid}/status"))?;
    let kib = |name| field(&status, name).ok_or_else(|| format!("odd /proc/{pid}/status"));
    Ok((kib("VmRSS:")? << 10, kib("RssAnon:")? << 10))
}

/// CPU time spent by everything on this machine: user, nice and system time. Interrupts and stolen
/// time belong to nobody.
pub fn machine_busy() -> Result<Duration> {
    let stat = read("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let values: Vec<u64> = line.split_whitespace().skip(1).map_while(|v| v.parse().ok()).collect();
    Ok(ticks(values.iter().take(3).sum()))
}

/// Bytes that went over the loopback device, headers included, each once.
pub fn loopback_bytes() -> Result<u64> {
    let devices = read("/proc/net/dev")?;
    let line = devices.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    let first = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    first.ok_or_else(|| "no loopback device in /proc/net/dev".into())
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|e| format!("cannot read {path}: {e}"))
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 1000 / TICKS_PER_SECOND)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// User and system ticks; the command name in parentheses may hold spaces.
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// `PF_KTHREAD` in the flags field.
const KERNEL_THREAD_FLAG: u64 = 0x0020_0000;

fn kernel_thread_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let flags: u64 = rest.split_whitespace().nth(6)?.parse().ok()?;
    let (user, system) = parse_stat(stat)?;
    (flags & KERNEL_THREAD_FLAG != 0).then_some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_odd_names() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14";
        assert_eq!(parse_stat(stat), Some((11, 12)));
    }

    #[test]
    fn own_numbers_are_there() {
        let pid = std::process::id();
        assert!(process_cpu(pid).is_ok() && process_write_bytes(pid).is_ok());
        assert!(loopback_bytes().is_ok());
        assert!(process_rss(pid).unwrap().0 > 0 && machine_busy().unwrap() > Duration::ZERO);
    }
}
