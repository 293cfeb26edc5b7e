//! Take the power from under the server, restart it, hold it to every acknowledgement, go on.
//!
//! As `kill9`, but the store lies on a fault disk: at a random moment of the load, and sometimes
//! of the recovery, every operation fails, the server is killed, and what was not durable is there
//! in any part. A disk that lies about durability loses data under any store; such a run asks for
//! less: nobody is shown bytes that were never written there, and a store that cannot be served is
//! refused with a sentence.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::Result;
use crate::faultfs::{Counts, Disk, Mount};
use crate::history::Violation;
use crate::nbd::Connection;
use crate::random::Random;
use crate::rounds::{self, Options, Outcome};
use crate::sector::{self, Place, SECTOR_SIZE_BYTES};
use crate::server::{Server, Setup};
use crate::temporary::TemporaryDirectory;
use crate::workload::{Round, SharedVolume, lock};

/// A recovery meets another loss of power at most this late.
const RECOVERY_CUT_MAX_MICROS: u64 = 60_000;
/// A killed server's files are closed within this time.
const CLOSED_MAX: Duration = Duration::from_secs(20);
/// Longest operation of a disk, one of these in each round.
const LATENCIES: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_micros(200),
    Duration::from_millis(1),
    Duration::from_millis(5),
];
/// Unit in which damage is told.
const BLOCK_SIZE_BYTES: usize = 4096;
/// Violations shown in full.
const SHOWN_MAX: usize = 10;

/// Runs all rounds in `directory`; stops after a round that broke a promise.
pub fn run(directory: &Path, options: &Options) -> Result<(Outcome, Counts)> {
    let mut random = Random::new(options.seed);
    let disk = Disk::new(random.next_u64());
    let volumes = options.fresh_volumes();
    let (mount, setup) = mounted(directory, &disk, options, &volumes)?;
    let bar = progress(options);
    let mut outcome = Outcome::default();
    let mut server = Server::start(&setup)?;
    while outcome.rounds < options.rounds && outcome.is_clean() {
        let number = outcome.rounds + 1;
        disk.set_latency(LATENCIES[random.below(LATENCIES.len() as u64) as usize]);
        let end = |server: Server, round: &Round| end(&disk, server, Some(round));
        rounds::load(server, &volumes, options, &mut random, &mut outcome, end)?;
        while random.below(4) == 0 {
            cut_recovery(&disk, &setup, &mut random)?;
            outcome.crashes += 1;
        }
        disk.set_latency(Duration::ZERO);
        let started = Server::start(&setup);
        server = started.map_err(|e| format!("after the power loss of round {number}: {e}"))?;
        outcome.restart_max = outcome.restart_max.max(server.ready_after);
        rounds::judge(&setup, &volumes, &mut outcome)?;
        let (acknowledged, losses) = (outcome.acknowledged, outcome.violations);
        bar.set_message(format!("acknowledged {acknowledged}, losses {losses}"));
        bar.inc(1);
    }
    server.terminate()?;
    bar.finish_and_clear();
    let counts = disk.counts();
    drop(mount);
    Ok((outcome, counts))
}

/// What runs on lying disks saw.
#[derive(Clone, Debug, Default)]
pub struct Lies {
    /// Rounds, each with a disk and a store of its own.
    pub rounds: u64,
    /// Changes acknowledged.
    pub acknowledged: u64,
    /// Sectors that show something older than what was acknowledged for them.
    pub lost: u64,
    /// Sectors that cannot be read.
    pub unreadable: u64,
    /// Stores refused with a sentence.
    pub refused: u64,
    /// Promises broken that hold on lying disks too.
    pub violations: u64,
    /// The first violations, in words.
    pub shown: Vec<String>,
    /// What a refused store was refused with, last.
    pub last_refusal: Option<String>,
}

impl Lies {
    fn convict(&mut self, what: String) {
        self.violations += 1;
        if self.shown.len() < SHOWN_MAX {
            self.shown.push(format!("round {}: {what}", self.rounds + 1));
        }
    }
}

/// Runs all rounds on disks that lie.
pub fn run_lying(options: &Options) -> Result<Lies> {
    let mut random = Random::new(options.seed);
    let bar = progress(options);
    let mut lies = Lies::default();
    while lies.rounds < options.rounds {
        lie_once(options, &mut random, &mut lies)?;
        lies.rounds += 1;
        bar.set_message(format!("lost {}, refused {}", lies.lost, lies.refused));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(lies)
}

fn lie_once(options: &Options, random: &mut Random, lies: &mut Lies) -> Result<()> {
    let directory = TemporaryDirectory::new("lying")?;
    let disk = Disk::new(random.next_u64());
    disk.set_latency(Duration::ZERO);
    let volumes = options.fresh_volumes();
    let (_mount, setup) = mounted(directory.path(), &disk, options, &volumes)?;
    let mut outcome = Outcome::default();
    let server = Server::start(&setup)?;
    disk.lie(true);
    let end = |server: Server, round: &Round| end(&disk, server, Some(round));
    rounds::load(server, &volumes, options, random, &mut outcome, end)?;
    disk.lie(false);
    lies.acknowledged +=
        volumes.iter().map(|volume| lock(&volume.history).acknowledged()).sum::<u64>();
    for what in outcome.shown {
        lies.convict(format!("before the loss of power: {what}"));
    }
    match Server::start(&setup) {
        Ok(server) => {
            for volume in &volumes {
                judge_liar(&setup, volume, lies)?;
            }
            server.terminate().map(|_| ())
        }
        Err(error) if is_clear(&error, &setup) => {
            lies.refused += 1;
            lies.last_refusal = error.lines().last().map(|line| line.to_owned());
            Ok(())
        }
        Err(error) => {
            lies.convict(error);
            Ok(())
        }
    }
}

/// Whether a server that did not start said why: exit code 1 and a sentence about the store.
fn is_clear(error: &str, setup: &Setup) -> bool {
    let store = setup.store().display().to_string();
    error.contains("exit status: 1)") && error.contains(&store) && !error.contains("panicked")
}

/// Reads a volume of a lying disk: what is old is lost, what cannot be read is known to be so.
fn judge_liar(setup: &Setup, volume: &SharedVolume, lies: &mut Lies) -> Result<()> {
    let mut connection = Connection::open(&setup.socket(), &volume.name)?;
    let mut history = lock(&volume.history);
    let (now, sectors) = (history.now(), history.sectors());
    let mut block = [0u8; BLOCK_SIZE_BYTES];
    let in_block = (BLOCK_SIZE_BYTES / SECTOR_SIZE_BYTES) as u64;
    for first in (0..sectors).step_by(in_block as usize) {
        match connection.read(first * SECTOR_SIZE_BYTES as u64, &mut block) {
            Ok(()) => {}
            Err(error) if error.contains("NBD error 5 ") => {
                lies.unreadable += in_block;
                continue;
            }
            Err(error) => return Err(error),
        }
        for (sector, bytes) in (first..).zip(block.chunks_exact(SECTOR_SIZE_BYTES)) {
            let content = sector::decode(bytes, Place { volume: volume.number, sector });
            match history.judge(sector, &content, now) {
                None => {}
                Some(Violation::Lost(_)) => lies.lost += 1,
                Some(other) => lies.convict(format!("{other:?}")),
            }
        }
    }
    Ok(())
}

fn mounted(
    directory: &Path,
    disk: &Disk,
    options: &Options,
    volumes: &[SharedVolume],
) -> Result<(Mount, Setup)> {
    let mount = Mount::new(disk, &directory.join("mnt"))?;
    let setup = Setup { device: Some(mount.file()), ..options.setup(directory, volumes) };
    Ok((mount, setup))
}

/// The power goes, the server with it; the power comes back.
fn end(disk: &Disk, server: Server, round: Option<&Round>) -> Result<()> {
    if let Some(round) = round {
        round.errors_are_due.store(true, Ordering::SeqCst);
    }
    disk.cut();
    server.kill()?;
    disk.await_closed(CLOSED_MAX)?;
    disk.restore();
    Ok(())
}

/// Starts the server and takes the power somewhere in its recovery.
fn cut_recovery(disk: &Disk, setup: &Setup, random: &mut Random) -> Result<()> {
    let server = Server::spawn(setup)?;
    std::thread::sleep(Duration::from_micros(random.below(RECOVERY_CUT_MAX_MICROS)));
    end(disk, server, None)
}

/// A bar on stderr, if that is a terminal and anybody wants one.
fn progress(options: &Options) -> ProgressBar {
    if !options.verbose {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(options.rounds);
    match ProgressStyle::with_template("[{bar:32}] {pos}/{len} {msg} eta {eta}") {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}
