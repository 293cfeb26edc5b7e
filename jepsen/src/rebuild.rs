//! How a node that lost its store gets its replicas back, and what clients notice of it.
//!
//! A volume is filled; a node is killed, its store deleted, and the node started again with an
//! empty one, and waited for until its replicas are whole. Then clients write and read blocks at
//! random through another node, each waiting for its answer, before and while the same happens
//! once more. Before all that it is measured how fast the same file system takes sequential writes
//! past the page cache, and copies, so that ratios can be given.
//! Last, the blocks that clients do not touch are read while only the new replica and one other
//! are left.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::Result;
use crate::fleet::{Fleet, LAG_MAX, NODES, Plan};
use crate::random::Random;
use crate::speed::{self, Speeds};
use crate::workload::lock;

/// The volume.
const VOLUME: &str = "vm0";
/// Bytes of a request while the volume is filled or read back.
const PIECE_BYTES: usize = 1 << 20;
/// Connections that fill.
const FILLERS: u64 = 4;
/// Clients that wait for each answer.
const CLIENTS: u64 = 4;
/// Bytes of their requests.
const REQUEST_BYTES: usize = 4096;
/// They use the last so many'th part of the volume; the rest stays as it was filled.
const USED_PART: u64 = 8;
/// A replica is made anew within this time.
const REBUILD_MAX: Duration = Duration::from_secs(1200);
/// The node that loses its store, and that which serves.
const LOST: usize = 2;
const SERVES: usize = 1;

/// A run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// MiB that the volume holds.
    pub mib: u64,
    /// How long latencies are taken before the loss.
    pub before: Duration,
    /// Random stream.
    pub seed: u64,
}

/// Latencies of requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latencies {
    /// Requests.
    pub count: u64,
    /// Half of them took no longer than this,
    pub p50: Duration,
    /// and 99 of 100 no longer than this.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// What the file system can do.
    pub disk: Speeds,
    /// Bytes a second at which the volume was filled.
    pub fill: f64,
    /// Reads and writes before.
    pub before: [Latencies; 2],
    /// Reads and writes while replicas were made anew.
    pub during: [Latencies; 2],
    /// How long that took without load,
    pub idle: Duration,
    /// and under it.
    pub loaded: Duration,
    /// Requests answered with an error.
    pub errors: u64,
}

/// Runs in `directory`.
pub fn run(directory: &Path, options: &Options) -> Result<Report> {
    let bytes = options.mib << 20;
    let plan = Plan {
        volumes: vec![(VOLUME.to_owned(), bytes)],
        // What is written anew needs room until it is cleaned.
        store_bytes: Some((3 * bytes).max(1 << 30)),
        settings: String::new(),
    };
    let mut report = Report { disk: speed::measure(directory, bytes / 2)?, ..Report::default() };
    let fleet = Fleet::start(directory, None, &plan)?;
    let started = Instant::now();
    fill(&fleet, options)?;
    report.fill = speed::speed(bytes, started.elapsed());
    fleet.await_whole()?;
    let lost = lose(&fleet)?;
    report.idle = self::rebuild(&fleet, &lost)?;
    let errors = AtomicU64::new(0);
    let pause = || -> Result<()> {
        std::thread::sleep(options.before);
        Ok(())
    };
    (report.before, _) = under_load(&fleet, options, &errors, pause)?;
    let lost = lose(&fleet)?;
    let rebuild = || rebuild(&fleet, &lost);
    (report.during, report.loaded) = under_load(&fleet, options, &errors, rebuild)?;
    report.errors = errors.load(Ordering::Relaxed);
    check(&fleet, options)?;
    Ok(report)
}

/// What the volume is filled with: bytes of its own for every MiB.
fn pattern(seed: u64, piece: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; PIECE_BYTES];
    Random::new(seed ^ (piece + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).fill(&mut bytes);
    bytes
}

fn fill(fleet: &Fleet, options: &Options) -> Result<()> {
    let one = |filler: u64| {
        let mut connection = fleet.connect(SERVES, VOLUME)?;
        for piece in (filler..options.mib).step_by(FILLERS as usize) {
            connection.write(piece * PIECE_BYTES as u64, &pattern(options.seed, piece))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let fillers: Vec<_> = (0..FILLERS).map(|filler| scope.spawn(move || one(filler))).collect();
        fillers.into_iter().try_for_each(|filler| filler.join().map_err(|_| "a filler panicked")?)
    })
}

/// Takes the latencies of clients while `work` runs on this thread.
fn under_load<T>(
    fleet: &Fleet,
    options: &Options,
    errors: &AtomicU64,
    work: impl FnOnce() -> Result<T>,
) -> Result<([Latencies; 2], T)> {
    let taken: [Mutex<Vec<Duration>>; 2] = Default::default();
    let done = AtomicBool::new(false);
    let connections: Result<Vec<_>> = (0..CLIENTS).map(|_| fleet.connect(SERVES, VOLUME)).collect();
    let connections = connections?;
    let worked = std::thread::scope(|scope| {
        for (client, mut connection) in (0u64..).zip(connections) {
            let (taken, done) = (&taken, &done);
            let mut random = Random::new(options.seed ^ client);
            scope.spawn(move || {
                let blocks = (options.mib << 20) / REQUEST_BYTES as u64;
                let used = blocks / USED_PART;
                let mut bytes = [0u8; REQUEST_BYTES];
                while !done.load(Ordering::Relaxed) {
                    let block = blocks - used + random.below(used);
                    let offset = block * REQUEST_BYTES as u64;
                    let writes = random.below(2) == 1;
                    let started = Instant::now();
                    let answer = match writes {
                        true => connection.write(offset, &bytes),
                        false => connection.read(offset, &mut bytes),
                    };
                    lock(&taken[usize::from(writes)]).push(started.elapsed());
                    if answer.is_err() {
                        errors.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
        let worked = work();
        done.store(true, Ordering::Relaxed);
        worked
    });
    let latencies = taken.map(|taken| latencies(std::mem::take(&mut lock(&taken))));
    Ok((latencies, worked?))
}

fn latencies(mut all: Vec<Duration>) -> Latencies {
    all.sort_unstable();
    let at = |share: usize| all.get((all.len() * share / 100).min(all.len().max(1) - 1)).copied();
    Latencies {
        count: all.len() as u64,
        p50: at(50).unwrap_or_default(),
        p99: at(99).unwrap_or_default(),
        max: all.last().copied().unwrap_or_default(),
    }
}

/// A node dies and its store is gone: its number.
fn lose(fleet: &Fleet) -> Result<BTreeSet<u64>> {
    let stores = fleet.stores_of(LOST)?;
    fleet.kill(LOST)?;
    let removed = std::fs::remove_file(fleet.store(LOST));
    removed.map_err(|e| format!("cannot remove a store: {e}"))?;
    Ok(stores)
}

/// Starts the node that lost its store; how long it takes until its replicas are there.
fn rebuild(fleet: &Fleet, lost: &BTreeSet<u64>) -> Result<Duration> {
    let started = Instant::now();
    fleet.spawn(LOST)?;
    fleet.await_serving(LOST)?;
    // Until the new store is known, the lost one counts as one whose node is there again.
    fleet.await_replaced(LOST, lost, REBUILD_MAX)?;
    fleet.await_healthy(REBUILD_MAX, LAG_MAX)?;
    Ok(started.elapsed())
}

/// Reads what was filled and not used since, with only the new replica and one other at hand.
fn check(fleet: &Fleet, options: &Options) -> Result<()> {
    let gone = (0..NODES).find(|node| *node != LOST && *node != SERVES).unwrap_or_default();
    fleet.kill(gone)?;
    let mut connection = fleet.connect(LOST, VOLUME)?;
    let mut bytes = vec![0u8; PIECE_BYTES];
    for piece in 0..options.mib - options.mib.div_ceil(USED_PART) {
        connection.read(piece * PIECE_BYTES as u64, &mut bytes)?;
        if bytes != pattern(options.seed, piece) {
            return Err(format!("MiB {piece} is not what was written"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let all = (1..=1000).rev().map(Duration::from_millis).collect();
        let found = latencies(all);
        assert_eq!((found.count, found.max), (1000, Duration::from_millis(1000)));
        assert_eq!(found.p50, Duration::from_millis(501));
        assert_eq!(found.p99, Duration::from_millis(991));
        assert_eq!(latencies(Vec::new()).count, 0);
    }
}
