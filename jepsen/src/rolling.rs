//! Restart all nodes of a cluster in order, one after the other, under load.
//!
//! A round: clients of every node load volumes of their own. Each node in turn gets SIGTERM, ends
//! with exit code 0, is started again, and the next one follows when the cluster is whole. Clients
//! of the node that ends connect again, to it or to the next one, and go on; clients of the others
//! may see no error at all. Then every sector is read through another node and judged.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::Result;
use crate::fleet::{Fleet, LAG_MAX, NODES, Plan, WHOLE_MAX};
use crate::random::Random;
use crate::rounds::{self, Options, Outcome};
use crate::server::Kind;
use crate::workload::{self, Round, SharedVolume, lock};

/// Pause of a client that could not connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

/// What happened besides what all runs count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Nodes ended and started again.
    pub restarts: u64,
    /// Times a client connected again.
    pub reconnects: u64,
    /// Errors of clients of a node that was told to end.
    pub excused: u64,
    /// Longest time without an acknowledgement to clients of the other nodes.
    pub longest_stall: Duration,
    /// Longest time from SIGTERM to the end of the process.
    pub end_max: Duration,
    /// Longest time from the start until the cluster was whole.
    pub whole_max: Duration,
}

/// What the clients of a round share.
struct Clients<'a> {
    fleet: &'a Fleet,
    volumes: &'a [SharedVolume],
    /// Node through which each volume is used.
    homes: Vec<AtomicUsize>,
    /// Clients of one node share what they see.
    rounds: [Round; NODES],
    stop: AtomicBool,
    reconnects: AtomicUsize,
}

/// Runs all rounds in `directory`; stops after a round that broke a promise.
pub fn run(directory: &Path, options: &Options) -> Result<(Outcome, Report)> {
    let mut random = Random::new(options.seed);
    let volumes = options.fresh_volumes();
    let sizes = volumes.iter().map(|v| (v.name.clone(), options.volume_bytes)).collect();
    let settings = options.arguments.iter().map(|line| format!("{line}\n")).collect();
    let plan = Plan { volumes: sizes, store_bytes: options.store_bytes, settings };
    let fleet = Fleet::start(directory, None, &plan)?;
    let (mut outcome, mut report) = (Outcome::default(), Report::default());
    while outcome.rounds < options.rounds && outcome.is_clean() {
        let clients = Clients {
            fleet: &fleet,
            volumes: &volumes,
            homes: (0..volumes.len()).map(|index| AtomicUsize::new(index % NODES)).collect(),
            rounds: Default::default(),
            stop: AtomicBool::new(false),
            reconnects: AtomicUsize::new(0),
        };
        let number = outcome.rounds + 1;
        let rolled = clients.load(options, &mut random, &mut report);
        rolled.map_err(|error| format!("round {number}: {error}\n{}", fleet.all_status()))?;
        clients.judge(&mut outcome, &mut report)?;
        if options.verbose {
            println!("round {number}: acks {}, {report:?}", outcome.acknowledged);
        }
    }
    Ok((outcome, report))
}

impl Clients<'_> {
    fn load(&self, options: &Options, random: &mut Random, report: &mut Report) -> Result<()> {
        std::thread::scope(|scope| {
            for writer in 0..options.connections.max(self.volumes.len() as u32) {
                let mut own = Random::new(random.next_u64());
                scope.spawn(move || self.client(writer, &mut own));
            }
            let rolled = self.roll(options, random, report);
            self.stop.store(true, Ordering::SeqCst);
            self.rounds.iter().for_each(|round| round.stop.store(true, Ordering::SeqCst));
            rolled
        })
    }

    /// A client that connects again whenever its connection ends.
    fn client(&self, writer: u32, random: &mut Random) {
        let index = writer as usize % self.volumes.len();
        let volume = &self.volumes[index];
        let mut connections = 0;
        while !self.stop.load(Ordering::SeqCst) {
            let node = self.homes[index].load(Ordering::SeqCst);
            let round = &self.rounds[node];
            match self.fleet.connect(node, &volume.name) {
                Ok(connection) => {
                    connections += 1;
                    workload::run(connection, volume, round, writer, random.next_u64());
                }
                Err(_) => {
                    // It may have been told to end between the two looks.
                    let moved = self.homes[index].load(Ordering::SeqCst) != node;
                    if !moved && !round.errors_are_due.load(Ordering::SeqCst) {
                        round.broken.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::sleep(CONNECT_PAUSE);
                }
            }
        }
        self.reconnects.fetch_add(connections.max(1) - 1, Ordering::Relaxed);
    }

    fn roll(&self, options: &Options, random: &mut Random, report: &mut Report) -> Result<()> {
        let first = random.below(NODES as u64) as usize;
        let (shortest, longest) = options.load;
        let spread = (longest - shortest).as_micros() as u64 + 1;
        for node in (0..NODES).map(|n| (first + n) % NODES) {
            let pause = shortest + Duration::from_micros(random.below(spread));
            let moves = random.below(2) == 0;
            // The clients of other nodes are watched from before the end until all is whole.
            let others = self.watched(node);
            let done = AtomicBool::new(false);
            let restarted = std::thread::scope(|scope| {
                let watching = scope.spawn(|| self.watch_until(&others, &done));
                std::thread::sleep(pause);
                // The process dies with the thread that starts it: this one.
                let restarted = self.restart(node, moves, report);
                done.store(true, Ordering::SeqCst);
                let stall = watching.join().unwrap_or_default();
                report.longest_stall = report.longest_stall.max(stall);
                restarted
            });
            restarted.map_err(|error| format!("restart of node {}: {error}", node + 1))?;
        }
        Ok(())
    }

    /// Volumes that are used through other nodes.
    fn watched(&self, node: usize) -> Vec<&SharedVolume> {
        let homes = self.homes.iter().zip(self.volumes);
        let others = homes.filter(|(home, _)| home.load(Ordering::SeqCst) != node);
        others.map(|(_, volume)| volume).collect()
    }

    /// The longest stall of any of these until `done`.
    fn watch_until(&self, volumes: &[&SharedVolume], done: &AtomicBool) -> Duration {
        let count = |volume: &SharedVolume| lock(&volume.history).acknowledged();
        let mut last: Vec<_> = volumes.iter().map(|v| (count(v), Instant::now())).collect();
        let mut longest = Duration::ZERO;
        while !done.load(Ordering::SeqCst) {
            std::thread::sleep(CONNECT_PAUSE);
            for (volume, (before, since)) in volumes.iter().zip(&mut last) {
                let now = count(volume);
                if now != *before {
                    (*before, *since) = (now, Instant::now());
                }
                longest = longest.max(since.elapsed());
            }
        }
        longest
    }

    fn restart(&self, node: usize, moves: bool, report: &mut Report) -> Result<()> {
        let round = &self.rounds[node];
        round.errors_are_due.store(true, Ordering::SeqCst);
        let started = Instant::now();
        // Its clients have two paths, or they wait for it.
        for home in self.homes.iter().filter(|home| moves && home.load(Ordering::SeqCst) == node) {
            home.store((node + 1) % NODES, Ordering::SeqCst);
        }
        self.fleet.terminate(node)?;
        report.end_max = report.end_max.max(started.elapsed());
        let started = Instant::now();
        self.fleet.restart(node)?;
        self.fleet.await_healthy(WHOLE_MAX, LAG_MAX)?;
        report.whole_max = report.whole_max.max(started.elapsed());
        report.restarts += 1;
        round.errors_are_due.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn judge(&self, outcome: &mut Outcome, report: &mut Report) -> Result<()> {
        for round in &self.rounds {
            outcome.reads += round.reads.load(Ordering::Relaxed);
            outcome.refused += round.refused.load(Ordering::Relaxed);
            outcome.broken += round.broken.load(Ordering::Relaxed);
            report.excused += round.excused.load(Ordering::Relaxed);
            outcome.add(outcome.rounds + 1, std::mem::take(&mut lock(&round.violations)));
        }
        report.reconnects += self.reconnects.load(Ordering::Relaxed) as u64;
        let number = outcome.rounds;
        for (volume, home) in self.volumes.iter().zip(&self.homes) {
            let node = (home.load(Ordering::SeqCst) + 1) % NODES;
            let open = |name: &str| self.fleet.connect(node, name);
            let one = std::slice::from_ref(volume);
            rounds::take_over(open, one)?;
            rounds::judge_at(open, Kind::Ashlar, one, outcome)?;
            outcome.rounds = number;
        }
        outcome.rounds = number + 1;
        Ok(())
    }
}
