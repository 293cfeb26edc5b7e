//! `ashlar check`: proves a store that nobody uses, without writing to it.
//!
//! Recovers it as a start would, compares its books, then reads every mapped block of every volume
//! through the same path that clients read through.
//! Must never know: checksums, layouts.

use super::cli::CheckArgs;
use super::failure::{Failure, Result};
use super::output::{say, say_json};
use super::size::rounded;
use super::{progress, store};
use ashlar_engine::local::{LocalStore, LocalVolume};
use ashlar_engine::reactor::{Reactor, ReactorOptions, Task};
use ashlar_engine::store::Mapping;
use ashlar_engine::units::BLOCK_SIZE_BYTES;
use ashlar_engine::{Error, ErrorKind};
use indicatif::ProgressBar;
use serde::Serialize;
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct DamagedRange {
    volume: String,
    first_block: u64,
    blocks: u64,
    why: String,
}

#[derive(Debug, Default, Serialize)]
struct CheckReport {
    store: String,
    sound: bool,
    volumes: usize,
    checked_bytes: u64,
    damaged_blocks: u64,
    /// At most the first thousand.
    damaged: Vec<DamagedRange>,
    /// Contradictions between the index and the segments.
    contradictions: Vec<String>,
}

impl CheckReport {
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
        for sentence in &self.contradictions {
            text.push_str(&format!("books: {sentence}\n"));
        }
        let verdict = match self.sound {
            true => "sound".to_owned(),
            false => format!(
                "DAMAGED: {} blocks, {} contradictions; write these blocks anew or restore them",
                self.damaged_blocks,
                self.contradictions.len()
            ),
        };
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

async fn check(reactor: &Reactor, args: &CheckArgs) -> Result<CheckReport> {
    let store = store::open(reactor, &args.path, true).await?;
    let volumes = store.volumes();
    let mut report = CheckReport {
        store: args.path.display().to_string(),
        volumes: volumes.len(),
        contradictions: store.audit(),
        ..CheckReport::default()
    };
    let bar = progress::bytes(volumes.iter().map(|volume| volume.mapped_bytes).sum());
    for volume in volumes {
        bar.set_message(volume.name.clone());
        check_volume(reactor, &store, &volume.name, &bar, &mut report).await?;
    }
    bar.finish_and_clear();
    report.sound = report.damaged_blocks == 0 && report.contradictions.is_empty();
    Ok(report)
}

/// One read in flight.
struct Reading {
    offset: u64,
    length: u64,
    task: Task<ashlar_engine::Result<()>>,
}

async fn check_volume(
    reactor: &Reactor,
    store: &LocalStore,
    name: &str,
    bar: &ProgressBar,
    report: &mut CheckReport,
) -> Result<()> {
    let volume = store.volume(name)?;
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
                    settle(&volume, name, &mut flying, bar, report).await;
                }
                at += length;
            }
            at = end;
        }
    }
    while !flying.is_empty() {
        settle(&volume, name, &mut flying, bar, report).await;
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
