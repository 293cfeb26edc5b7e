//! What all runs of crashes share: the load, the judgement of what is there afterwards, the sum.
//!
//! Must never know: what ends the server.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::Result;
use crate::history::{Effect, History, Sectors, Violation};
use crate::nbd::{Command, Connection, Request};
use crate::random::Random;
use crate::sector::{self, Content, Place, SECTOR_SIZE_BYTES};
use crate::server::{Kind, Server, Setup};
use crate::workload::{self, Round, SharedVolume, lock};

/// Bytes per request when a volume is read back.
const READ_BACK_BYTES: usize = 1 << 20;
/// Between two looks at how many requests were acknowledged.
const COUNT_INTERVAL: Duration = Duration::from_millis(10);
/// Violations shown in full.
const SHOWN_MAX: usize = 10;

/// A run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which program.
    pub kind: Kind,
    /// Rounds.
    pub rounds: u64,
    /// Random stream.
    pub seed: u64,
    /// Connections in all, spread over the volumes.
    pub connections: u32,
    /// Volumes.
    pub volumes: u64,
    /// Bytes of each volume; a multiple of 1 MiB.
    pub volume_bytes: u64,
    /// Bytes of the store.
    pub store_bytes: Option<u64>,
    /// Shortest and longest load before the kill.
    pub load: (Duration, Duration),
    /// Further arguments for the server.
    pub arguments: Vec<String>,
    /// Say something about each round.
    pub verbose: bool,
}

impl Options {
    /// The volumes of a run, all zeroes.
    pub(crate) fn fresh_volumes(&self) -> Vec<SharedVolume> {
        let sectors = self.volume_bytes / SECTOR_SIZE_BYTES as u64;
        let fresh = |number| SharedVolume {
            number,
            name: format!("vm{number}"),
            history: Mutex::new(History::new(sectors)),
        };
        (0..self.volumes).map(fresh).collect()
    }

    /// How to serve `volumes` from `directory`.
    pub(crate) fn setup(&self, directory: &Path, volumes: &[SharedVolume]) -> Setup {
        Setup {
            kind: self.kind,
            directory: directory.to_owned(),
            device: None,
            store_bytes: self.store_bytes,
            volumes: volumes.iter().map(|v| (v.name.clone(), self.volume_bytes)).collect(),
            arguments: self.arguments.clone(),
        }
    }
}

/// What a run saw.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Rounds finished.
    pub rounds: u64,
    /// Times the server was ended, in its work or in its recovery.
    pub crashes: u64,
    /// Changes acknowledged.
    pub acknowledged: u64,
    /// Reads judged while the server was up.
    pub reads: u64,
    /// Requests answered with an error, and
    pub refused: u64,
    /// connections that broke, where they should not.
    pub broken: u64,
    /// Longest time from restart to accepting clients.
    pub restart_max: Duration,
    /// Broken promises: all are counted, the first few are kept.
    pub violations: u64,
    /// The first violations, in words.
    pub shown: Vec<String>,
}

impl Outcome {
    /// Whether every promise was kept.
    pub fn is_clean(&self) -> bool {
        self.violations == 0 && self.refused == 0 && self.broken == 0
    }

    pub(crate) fn add(&mut self, round: u64, violations: Vec<Violation>) {
        self.violations += violations.len() as u64;
        for violation in violations {
            if self.shown.len() < SHOWN_MAX {
                self.shown.push(format!("round {round}: {violation:?}"));
            }
        }
    }
}

/// Loads all volumes; `end` is called at a random moment and ends the server.
pub(crate) fn load(
    server: Server,
    volumes: &[SharedVolume],
    options: &Options,
    random: &mut Random,
    outcome: &mut Outcome,
    end: impl FnOnce(Server, &Round) -> Result<()>,
) -> Result<()> {
    let round = Round::default();
    let mut connections = Vec::new();
    for writer in 0..options.connections {
        let volume = &volumes[writer as usize % volumes.len()];
        let connection = Connection::open(&server.setup().socket(), &volume.name)?;
        if connection.size_bytes != options.volume_bytes {
            return Err(format!("{} has {} bytes", volume.name, connection.size_bytes));
        }
        connections.push((writer, volume, connection, random.next_u64()));
    }
    let (shortest, longest) = options.load;
    let spread = (longest - shortest).as_micros() as u64 + 1;
    let pause = shortest + Duration::from_micros(random.below(spread));
    let ended = std::thread::scope(|scope| {
        for (writer, volume, connection, seed) in connections {
            let round = &round;
            scope.spawn(move || workload::run(connection, volume, round, writer, seed));
        }
        // The end must come at any moment of the load: this is the nemesis, not a wait.
        std::thread::sleep(pause);
        let ended = end(server, &round);
        round.stop.store(true, Ordering::Relaxed);
        ended
    });
    outcome.reads += round.reads.load(Ordering::Relaxed);
    outcome.refused += round.refused.load(Ordering::Relaxed);
    outcome.add(outcome.rounds + 1, std::mem::take(&mut lock(&round.violations)));
    outcome.crashes += 1;
    ended
}

/// Reads every volume, judges it, and makes what is there the base of the next round.
pub(crate) fn judge(setup: &Setup, volumes: &[SharedVolume], outcome: &mut Outcome) -> Result<()> {
    let open = |name: &str| Connection::open(&setup.socket(), name);
    judge_at(open, setup.kind, volumes, outcome)
}

/// As [`judge`], over connections that `open` makes to a volume.
pub(crate) fn judge_at(
    open: impl Fn(&str) -> Result<Connection>,
    kind: Kind,
    volumes: &[SharedVolume],
    outcome: &mut Outcome,
) -> Result<()> {
    let number = outcome.rounds + 1;
    for volume in volumes {
        let contents = read_back(open(&volume.name)?, volume)?;
        let mut history = lock(&volume.history);
        outcome.acknowledged += history.acknowledged();
        let mut violations = history.settle(&contents);
        // Peers promise no atomic requests, and qemu-nbd does tear them.
        violations.retain(|v| kind == Kind::Ashlar || !matches!(v, Violation::Torn(_)));
        outcome.add(number, violations);
    }
    outcome.rounds = number;
    Ok(())
}

/// Reads a volume that was just judged through another node, which must show the same.
pub(crate) fn judge_again(
    connection: Connection,
    volume: &SharedVolume,
    outcome: &mut Outcome,
) -> Result<()> {
    let contents = read_back(connection, volume)?;
    let mut history = lock(&volume.history);
    let now = history.now();
    let judged = (0u64..).zip(&contents);
    let violations = judged.filter_map(|(sector, content)| history.judge(sector, content, now));
    let violations: Vec<_> = violations.collect();
    outcome.add(outcome.rounds + 1, violations);
    Ok(())
}

pub(crate) fn read_back(mut connection: Connection, volume: &SharedVolume) -> Result<Vec<Content>> {
    let sectors = lock(&volume.history).sectors();
    let mut contents = Vec::with_capacity(sectors as usize);
    let mut buffer = vec![0u8; READ_BACK_BYTES];
    while (contents.len() as u64) < sectors {
        let offset = contents.len() as u64 * SECTOR_SIZE_BYTES as u64;
        let rest = sectors * SECTOR_SIZE_BYTES as u64 - offset;
        let bytes = &mut buffer[..rest.min(READ_BACK_BYTES as u64) as usize];
        connection.read(offset, bytes).map_err(|error| format!("read at {offset}: {error}"))?;
        for bytes in bytes.chunks_exact(SECTOR_SIZE_BYTES) {
            let place = Place { volume: volume.number, sector: contents.len() as u64 };
            contents.push(sector::decode(bytes, place));
        }
    }
    Ok(contents)
}

/// Looks for a while how long nothing is acknowledged.
pub(crate) fn watch(volumes: &[SharedVolume], time: Duration, longest: &mut Duration) {
    let started = Instant::now();
    let count = || volumes.iter().map(|v| lock(&v.history).acknowledged()).sum::<u64>();
    let (mut last, mut since) = (count(), Instant::now());
    while started.elapsed() < time {
        std::thread::sleep(COUNT_INTERVAL);
        let now = count();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        *longest = since.elapsed().max(*longest);
    }
}

/// Writes through another node: nothing that was under way through the one before comes after it.
pub(crate) fn take_over(
    open: impl Fn(&str) -> Result<Connection>,
    volumes: &[SharedVolume],
) -> Result<()> {
    for volume in volumes {
        let mut connection = open(&volume.name)?;
        let mut history = lock(&volume.history);
        let count = 8;
        let sectors = Sectors { first: history.sectors() - count, count };
        let (id, _) = history.issue(Effect::Zero, sectors);
        let (offset, length) = (sectors.first * SECTOR_SIZE_BYTES as u64, 8 * SECTOR_SIZE_BYTES);
        let length = length as u32;
        let command = Command::WriteZeroes;
        connection
            .ask(Request { command, flags: 0, cookie: 1, offset, length }, &[])
            .map_err(|error| format!("taking over: {error}"))?;
        history.acknowledge(id);
    }
    Ok(())
}
