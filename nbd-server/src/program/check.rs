//! `ashlar check`: proves a store that nobody uses, without writing to it. `ashlar scrub`: one that
//! is served.
//!
//! A check recovers the store as a start would and compares its books. Both then read every mapped
//! block of every volume through the same path that clients read through.
//! Must never know: checksums, layouts.

use super::admin::Request;
use super::admin::client::ask;
use super::cli::{CheckArgs, StatusArgs};
use super::failure::{Failure, Result};
use super::output::{say, say_json};
use super::size::rounded;
use super::volume::show;
use super::{progress, store};
use ashlar_engine::local::{LocalGroup, LocalStore, LocalVolume};
use ashlar_engine::reactor::{Reactor, ReactorOptions, Task};
use ashlar_engine::store::Mapping;
use ashlar_engine::units::BLOCK_SIZE_BYTES;
use ashlar_engine::{Error, ErrorKind};
use ashlar_raft::node::ScrubReport;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::VecDeque;

const BLOCK: u64 = BLOCK_SIZE_BYTES as u64;
/// Bytes of one read.
const READ_BYTES: u64 = 1 << 20;
/// Reads in flight.
const READS_MAX: usize = 8;
/// Damaged ranges that are named; more are only counted.
const RANGES_MAX: usize = 1000;
/// Extents asked for at once.
const EXTENTS_MAX: usize = 256;

/// Blocks of a volume that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DamagedRange {
    volume: String,
    first_block: u64,
    blocks: u64,
    why: String,
}

/// What is found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct CheckReport {
    store: String,
    sound: bool,
    volumes: usize,
    checked_bytes: u64,
    damaged_blocks: u64,
    /// Blocks that were damaged and are whole again.
    mended_blocks: u64,
    /// At most the first thousand; a node only counts.
    damaged: Vec<DamagedRange>,
    /// Damaged entries of the logs of placement groups.
    damaged_entries: u64,
    /// Contradictions between the index and the segments.
    contradictions: Vec<String>,
}

impl CheckReport {
    /// What a node of a cluster found.
    pub(crate) fn of_node(store: String, volumes: usize, found: ScrubReport) -> CheckReport {
        CheckReport {
            store,
            sound: found.damaged_blocks == 0,
            volumes,
            checked_bytes: found.read_bytes,
            damaged_blocks: found.damaged_blocks,
            mended_blocks: found.mended_blocks,
            ..CheckReport::default()
        }
    }

    /// Adds a damaged block; neighbours become one range.
    fn add(&mut self, volume: &str, block: u64, error: &Error) {
        self.damaged_blocks += 1;
        let why = match error.kind() {
            ErrorKind::Corrupt => "damaged".to_owned(),
            _ => error.to_string(),
        };
        if let Some(last) = self.damaged.last_mut()
            && last.volume == volume
            && last.first_block + last.blocks == block
            && last.why == why
        {
            last.blocks += 1;
        } else if self.damaged.len() < RANGES_MAX {
            let volume = volume.to_owned();
            self.damaged.push(DamagedRange { volume, first_block: block, blocks: 1, why });
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for range in &self.damaged {
            let DamagedRange { volume, first_block, blocks, why } = range;
            let last = first_block + blocks - 1;
            text.push_str(&match blocks {
                1 => format!("volume {volume}: block {first_block}: {why}\n"),
                _ => format!("volume {volume}: blocks {first_block} to {last}: {why}\n"),
            });
        }
        if self.damaged_entries > 0 {
            let count = self.damaged_entries;
            text.push_str(&format!(
                "logs: {count} entries damaged; the node repairs them itself\n"
            ));
        }
        for sentence in &self.contradictions {
            text.push_str(&format!("books: {sentence}\n"));
        }
        let verdict = match self.sound {
            true => "sound".to_owned(),
            false => format!(
                "DAMAGED: {} blocks, {} log entries, {} contradictions; write these blocks anew or \
                 restore them, or let a cluster's node mend them",
                self.damaged_blocks,
                self.damaged_entries,
                self.contradictions.len()
            ),
        };
        if self.mended_blocks > 0 {
            text.push_str(&format!("{} blocks were damaged and are mended\n", self.mended_blocks));
        }
        let (volumes, checked) = (self.volumes, rounded(self.checked_bytes));
        let store = &self.store;
        text.push_str(&format!("{store}: {volumes} volumes, {checked} checked: {verdict}\n"));
        text
    }
}

/// Runs the command.
pub(crate) fn run(args: &CheckArgs) -> Result<()> {
    let reactor = Reactor::new(ReactorOptions::default())?;
    let checked = reactor.block_on(check(&reactor, args));
    reactor.shutdown();
    let report = checked?;
    match args.json {
        true => say_json(&report)?,
        false => say(&report.text())?,
    }
    if report.sound { Ok(()) } else { Err(Failure::reported()) }
}

/// Runs `ashlar scrub`.
pub(crate) fn run_scrub(args: &StatusArgs) -> Result<()> {
    let answer = ask(&args.store, &Request::Scrub {})?;
    let sound = answer.get("sound") == Some(&Value::Bool(true));
    show(args.json, &answer, |report: CheckReport| report.text())?;
    if sound { Ok(()) } else { Err(Failure::reported()) }
}

/// Reads every block of a store that is served. Volumes that are deleted meanwhile are passed over.
///
/// # Errors
/// As the store says, but for damage: that is in the report.
pub(crate) async fn scrub(store: &LocalStore, path: String) -> ashlar_engine::Result<CheckReport> {
    let volumes = store.volumes();
    let (store_path, count) = (path, volumes.len());
    let mut report = CheckReport { store: store_path, volumes: count, ..CheckReport::default() };
    for volume in volumes {
        match store.volume(&volume.name) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            found => {
                check_volume(&found?, &volume.name, &ProgressBar::hidden(), &mut report).await?
            }
        }
    }
    report.sound = report.damaged_blocks == 0;
    Ok(report)
}

async fn check(reactor: &Reactor, args: &CheckArgs) -> Result<CheckReport> {
    let store = store::open(reactor, &args.path, true).await?;
    let volumes = store.volumes();
    let mut report = CheckReport {
        store: args.path.display().to_string(),
        volumes: volumes.len(),
        contradictions: store.audit(),
        ..CheckReport::default()
    };
    let bar = progress::bytes(store.status().data_bytes);
    for volume in volumes {
        bar.set_message(volume.name.clone());
        check_volume(&store.volume(&volume.name)?, &volume.name, &bar, &mut report).await?;
    }
    for id in store.groups() {
        check_group(&store.group(id), &bar, &mut report).await?;
    }
    bar.finish_and_clear();
    let damaged = report.damaged_blocks + report.damaged_entries;
    report.sound = damaged == 0 && report.contradictions.is_empty();
    Ok(report)
}

/// What a node of a cluster holds of one placement group: parts of volumes, and a log.
async fn check_group(
    group: &LocalGroup,
    bar: &ProgressBar,
    report: &mut CheckReport,
) -> ashlar_engine::Result<()> {
    let state = group.state();
    let end = state.last.map_or(0, |last| last.index + 1);
    // What a node that was killed had applied is in its log only, until it starts again.
    for index in state.first.unwrap_or(end)..end {
        match group.read(index).await {
            Ok(entry) => report.checked_bytes += entry.bytes() as u64,
            Err(error) if error.kind() == ErrorKind::Corrupt => report.damaged_entries += 1,
            Err(error) => return Err(error),
        }
    }
    for (id, _) in group.volumes() {
        let name = format!("{} of placement group {}", id.0, group.id().0);
        bar.set_message(name.clone());
        check_volume(&group.volume(id)?, &name, bar, report).await?;
        report.volumes += 1;
    }
    Ok(())
}

/// One read in flight.
struct Reading {
    offset: u64,
    length: u64,
    task: Task<ashlar_engine::Result<()>>,
}

async fn check_volume(
    volume: &LocalVolume,
    name: &str,
    bar: &ProgressBar,
    report: &mut CheckReport,
) -> ashlar_engine::Result<()> {
    let reactor = volume.store().reactor();
    let (mut at, mut flying) = (0, VecDeque::new());
    while at < volume.size_bytes() {
        let rest = volume.size_bytes() - at;
        for extent in volume.block_status(at, rest, EXTENTS_MAX)? {
            let end = at + extent.length_bytes;
            while extent.mapping != Mapping::Hole && at < end {
                let length = (end - at).min(READ_BYTES);
                let (target, offset) = (volume.clone(), at);
                let read = async move { target.read(offset, length as usize).await.map(drop) };
                flying.push_back(Reading { offset, length, task: reactor.spawn(read) });
                if flying.len() >= READS_MAX {
                    settle(volume, name, &mut flying, bar, report).await;
                }
                at += length;
            }
            at = end;
        }
    }
    while !flying.is_empty() {
        settle(volume, name, &mut flying, bar, report).await;
    }
    Ok(())
}

/// Waits for the oldest read; one that failed is repeated block by block.
async fn settle(
    volume: &LocalVolume,
    name: &str,
    flying: &mut VecDeque<Reading>,
    bar: &ProgressBar,
    report: &mut CheckReport,
) {
    let Some(Reading { offset, length, task }) = flying.pop_front() else { return };
    if task.await.is_err() {
        let mut at = offset;
        while at < offset + length {
            let block_bytes = (offset + length - at).min(BLOCK);
            if let Err(error) = volume.read(at, block_bytes as usize).await {
                report.add(name, at / BLOCK, &error);
            }
            at += block_bytes;
        }
    }
    report.checked_bytes += length;
    bar.inc(length);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range() {
        let mut report = CheckReport::default();
        let corrupt = Error::new(ErrorKind::Corrupt, "");
        for (volume, block) in [("a", 1), ("a", 2), ("a", 4), ("b", 5)] {
            report.add(volume, block, &corrupt);
        }
        let ranges: Vec<_> = report.damaged.iter().map(|r| (r.first_block, r.blocks)).collect();
        assert_eq!(ranges, [(1, 2), (4, 1), (5, 1)]);
        assert_eq!(report.damaged_blocks, 4);
        assert!(report.text().contains("volume a: blocks 1 to 2: damaged\n"));
    }

    #[test]
    fn ranges_are_bounded() {
        let mut report = CheckReport::default();
        for block in 0..RANGES_MAX as u64 * 2 {
            report.add("a", block * 2, &Error::new(ErrorKind::Corrupt, ""));
        }
        assert_eq!(report.damaged.len(), RANGES_MAX);
        assert_eq!(report.damaged_blocks, RANGES_MAX as u64 * 2);
    }
}
