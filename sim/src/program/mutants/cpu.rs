//! Processor time of a process and all that runs in its group, as the kernel counts it.
//!
//! Must never know: what runs, and for how long it may.

use std::fs;
use std::time::Duration;

/// Parts of a second in which times of processes are told; fixed for all of Linux.
const TICKS: u64 = 100;
/// Where the fields are behind a process's name: its group, and the first of four times, its own
/// and those of its children that are gone.
const GROUP: usize = 2;
const TIMES: usize = 11;

/// What a group has used so far; zero if it is gone.
pub(super) fn used(group: u32) -> Duration {
    let Ok(entries) = fs::read_dir("/proc") else { return Duration::ZERO };
    let names = entries.filter_map(Result::ok).map(|entry| entry.path());
    let texts = names.filter_map(|path| fs::read_to_string(path.join("stat")).ok());
    let ticks: u64 = texts.filter_map(|text| ticks(&text, group)).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

/// The ticks that a line of `/proc/*/stat` tells, if it is of that group.
fn ticks(text: &str, group: u32) -> Option<u64> {
    // A name may hold anything, and ends with the last bracket.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let is_ours = fields.get(GROUP)?.parse() == Ok(group);
    let times = fields.get(TIMES..TIMES + 4)?.iter();
    is_ours.then(|| times.filter_map(|field| field.parse::<u64>().ok()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let line = "71 (a ) b) R 70 64 64 0 -1 4194304 10 0 0 0 1 20 300 4000 20 0 1 0 37";
        assert_eq!(ticks(line, 64), Some(4321));
        assert_eq!(ticks(line, 70), None);
        assert_eq!(ticks("71 (a", 64), None);
    }
}
