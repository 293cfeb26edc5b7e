//! Cut links between the nodes of a cluster under load, hold it to every acknowledgement, go on.
//!
//! A round: clients write to each volume through one node and read it through all of them; at a
//! random moment links are cut, sometimes a node gets SIGKILL meanwhile; then all is mended and the
//! dead node is started again, while the load goes on. Clients of nodes that are in a majority may
//! see no error, and no client anywhere an old value. Half of the rounds end with the death of the
//! node that serves. Then every sector is read through another node and judged, and read once more
//! through a third, which must show the same. The next round begins when the cluster is whole.

mod plan;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::Result;
use crate::fleet::{Fleet, LAG_MAX, NODES, Plan, WHOLE_MAX};
use crate::network::Network;
use crate::random::Random;
use crate::rounds::{self, Options, Outcome};
use crate::server::Kind;
use crate::workload::{self, Round, SharedVolume, lock};

pub use plan::{Cut, Standing};

/// Shortest time for which links are cut, before anybody notices.
const CUT_MIN: Duration = Duration::from_millis(100);
/// The longest one, in longest loads before a cut: it outlives elections and connections.
const CUT_TIMES_LOAD: u32 = 12;
/// Shortest and longest time between two changes of a link that flaps.
const FLAP_TIME: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(700));
/// Clients are answered again within this time after all was mended.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// What happened besides what all runs count.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Cuts by kind.
    pub cuts: BTreeMap<&'static str, u64>,
    /// Cuts that concerned who led.
    pub leaders_cut: u64,
    /// Longest time without an acknowledgement to clients of a node in a majority.
    pub longest_stall: Duration,
    /// Errors of clients whose node heard from a majority, but not from all of it.
    pub partial_errors: u64,
    /// Errors of clients whose node was alone or dead.
    pub minority_errors: u64,
    /// Longest time from mending until all clients were answered again.
    pub answered_max: Duration,
    /// Longest time from mending until the cluster was whole.
    pub whole_max: Duration,
}

/// Everything that a round decides at random.
#[derive(Clone, Debug)]
struct Script {
    cut: Cut,
    /// Node that gets SIGKILL while links are cut, and whether it starts before they are mended.
    dies: Option<(usize, bool)>,
    /// Node through which each volume is written.
    homes: Vec<usize>,
    before: Duration,
    first_half: Duration,
    second_half: Duration,
    after: Duration,
    /// The first volume's home dies at the end.
    home_dies: bool,
}

impl Script {
    fn new(random: &mut Random, options: &Options, leader: Option<usize>) -> Script {
        let cut = Cut::choose(random, leader);
        let any = random.below(NODES as u64) as usize;
        // Mostly one of those that are cut off: the death of another one leaves no majority.
        let touched = (0..NODES).map(|n| (any + n) % NODES).find(|node| cut.touches(*node));
        let victim = touched.filter(|_| random.below(4) > 0).unwrap_or(any);
        let dies = (random.below(3) == 0).then(|| (victim, random.below(2) == 0));
        let standings = cut.standings(dies.map(|(victim, _)| victim));
        let first = random.below(NODES as u64) as usize;
        let of_majority = |node: &usize| standings[*node] == Standing::Majority;
        let sheltered = (0..NODES).map(|n| (first + n) % NODES).find(of_majority);
        let mut homes = vec![sheltered.unwrap_or(first)];
        homes.extend((1..options.volumes).map(|_| random.below(NODES as u64) as usize));
        let cut_time = between(random, (CUT_MIN, CUT_TIMES_LOAD * options.load.1));
        let first_half = cut_time.mul_f64(random.below(1000) as f64 / 1000.0);
        Script {
            cut,
            dies,
            homes,
            before: between(random, options.load),
            first_half,
            second_half: cut_time - first_half,
            after: between(random, options.load),
            home_dies: random.below(2) == 0,
        }
    }

    /// What clients may expect. Who dies later is cut off all the time, as far as they know.
    fn standings(&self) -> [Standing; NODES] {
        let mut standings = self.cut.standings(None);
        if let Some((victim, _)) = self.dies {
            let without = self.cut.standings(Some(victim));
            for (node, standing) in standings.iter_mut().enumerate() {
                // Before the death, or after it: the worse counts.
                if *standing == Standing::Majority {
                    *standing = without[node];
                }
            }
            standings[victim] = Standing::Minority;
        }
        standings
    }
}

fn between(random: &mut Random, (shortest, longest): (Duration, Duration)) -> Duration {
    let spread = (longest - shortest).as_micros() as u64 + 1;
    shortest + Duration::from_micros(random.below(spread))
}

/// Runs all rounds in `directory`; stops after a round that broke a promise.
pub fn run(directory: &Path, options: &Options) -> Result<(Outcome, Report)> {
    let mut random = Random::new(options.seed);
    let volumes = options.fresh_volumes();
    let sizes = volumes.iter().map(|v| (v.name.clone(), options.volume_bytes)).collect();
    let settings = options.arguments.iter().map(|line| format!("{line}\n")).collect();
    let plan = Plan { volumes: sizes, store_bytes: options.store_bytes, settings };
    let fleet = Fleet::start(directory, Some(Network::new(NODES)?), &plan)?;
    let (mut outcome, mut report) = (Outcome::default(), Report::default());
    while outcome.rounds < options.rounds && outcome.is_clean() {
        let number = outcome.rounds + 1;
        let leader = fleet.leader();
        let script = Script::new(&mut random, options, leader);
        if options.verbose {
            println!("round {number}: {script:?}, leader {leader:?}");
        }
        *report.cuts.entry(script.cut.name()).or_default() += 1;
        report.leaders_cut += u64::from(leader.is_some_and(|leader| script.cut.touches(leader)));
        let mut trial = Trial { fleet: &fleet, volumes: &volumes, script: &script };
        trial.run(options, (&mut random, &mut outcome, &mut report)).map_err(|error| {
            format!("round {number}: {script:?}: {error}\n{}", fleet.all_status())
        })?;
        if options.verbose {
            println!(
                "round {number}: acks {}, losses {}, errors {} + {} partial + {} minority, \
                 longest stall {:?}",
                outcome.acknowledged,
                outcome.violations,
                outcome.refused + outcome.broken,
                report.partial_errors,
                report.minority_errors,
                report.longest_stall,
            );
        }
    }
    Ok((outcome, report))
}

/// A round.
struct Trial<'a> {
    fleet: &'a Fleet,
    volumes: &'a [SharedVolume],
    script: &'a Script,
}

impl Trial<'_> {
    fn run(
        &mut self,
        options: &Options,
        (random, outcome, report): (&mut Random, &mut Outcome, &mut Report),
    ) -> Result<()> {
        // Clients of one node share what they see.
        let rounds: [Round; NODES] = Default::default();
        let loaded = self.load(&rounds, options, random, report);
        let standings = self.script.standings();
        for (round, standing) in rounds.iter().zip(standings) {
            outcome.reads += round.reads.load(Ordering::Relaxed);
            outcome.refused += round.refused.load(Ordering::Relaxed);
            outcome.broken += round.broken.load(Ordering::Relaxed);
            let excused = round.excused.load(Ordering::Relaxed);
            match standing {
                Standing::Partial => report.partial_errors += excused,
                _ => report.minority_errors += excused,
            }
            outcome.add(outcome.rounds + 1, std::mem::take(&mut lock(&round.violations)));
        }
        outcome.crashes += u64::from(self.script.dies.is_some());
        loaded?;
        self.judge(random, outcome)
    }

    /// Reads all volumes through two nodes, neither of which wrote them.
    fn judge(&self, random: &mut Random, outcome: &mut Outcome) -> Result<()> {
        let served = self.script.homes[0];
        if self.script.home_dies {
            outcome.crashes += 1;
        }
        let order = 1 + random.below(NODES as u64 - 1) as usize;
        for (index, volume) in self.volumes.iter().enumerate() {
            let home = self.script.homes[index];
            let lives = |node: &usize| !(self.script.home_dies && *node == served);
            let mut others = (0..NODES).map(|n| (home + order + n) % NODES).filter(|n| *n != home);
            let node = others.find(lives).ok_or("nobody is left to read")?;
            let open = |name: &str| self.fleet.connect(node, name);
            let one = std::slice::from_ref(volume);
            let told = |error| format!("reading {} at node {}: {error}", volume.name, node + 1);
            rounds::take_over(open, one).map_err(told)?;
            let number = outcome.rounds;
            rounds::judge_at(open, Kind::Ashlar, one, outcome).map_err(told)?;
            // One round for all volumes.
            outcome.rounds = number;
            if let Some(node) = others.find(lives) {
                rounds::judge_again(self.fleet.connect(node, &volume.name)?, volume, outcome)?;
            }
        }
        outcome.rounds += 1;
        if self.script.home_dies {
            let started = Instant::now();
            self.fleet.restart(served)?;
            outcome.restart_max = outcome.restart_max.max(started.elapsed());
        }
        self.fleet.await_whole()
    }

    fn load(
        &self,
        rounds: &[Round; NODES],
        options: &Options,
        random: &mut Random,
        report: &mut Report,
    ) -> Result<()> {
        let mut writers = Vec::new();
        for writer in 0..options.connections.max(options.volumes as u32) {
            let index = writer as usize % self.volumes.len();
            let (volume, home) = (&self.volumes[index], self.script.homes[index]);
            let connection = self.fleet.connect(home, &volume.name)?;
            writers.push((writer, volume, home, connection, random.next_u64()));
        }
        let mut readers = Vec::new();
        for volume in self.volumes {
            for node in 0..NODES {
                let connection = self.fleet.connect(node, &volume.name)?;
                readers.push((volume, node, connection, random.next_u64()));
            }
        }
        std::thread::scope(|scope| {
            for (writer, volume, home, connection, seed) in writers {
                let round = &rounds[home];
                scope.spawn(move || workload::run(connection, volume, round, writer, seed));
            }
            for (volume, node, connection, seed) in readers {
                let round = &rounds[node];
                scope.spawn(move || workload::run_reads(connection, volume, round, seed));
            }
            let troubled = self.trouble(rounds, random, report);
            rounds.iter().for_each(|round| round.stop.store(true, Ordering::Relaxed));
            troubled
        })
    }

    /// The moments are chosen at random: this is the nemesis, not a wait.
    fn trouble(
        &self,
        rounds: &[Round; NODES],
        random: &mut Random,
        report: &mut Report,
    ) -> Result<()> {
        let Script { cut, dies, .. } = *self.script;
        let network = self.fleet.network().ok_or("the cluster has no network of its own")?;
        let standings = self.script.standings();
        let sheltered = standings[self.script.homes[0]] == Standing::Majority;
        let mut longest = Duration::ZERO;
        let watched = &self.volumes[..1];
        rounds::watch(watched, self.script.before, &mut longest);
        for (round, standing) in rounds.iter().zip(standings) {
            let due = standing != Standing::Majority;
            round.errors_are_due.store(due, Ordering::SeqCst);
        }
        network.cut(&cut.directions())?;
        self.stay(random, self.script.first_half, &mut longest)?;
        if let Some((victim, early)) = dies {
            self.fleet.kill(victim)?;
            self.stay(random, self.script.second_half, &mut longest)?;
            if early {
                self.fleet.spawn(victim)?;
            }
        } else {
            self.stay(random, self.script.second_half, &mut longest)?;
        }
        network.heal()?;
        let mended = Instant::now();
        if let Some((victim, early)) = dies {
            if !early {
                self.fleet.spawn(victim)?;
            }
            self.fleet.await_serving(victim)?;
        }
        self.await_answers(dies.map(|(victim, _)| victim))?;
        report.answered_max = report.answered_max.max(mended.elapsed());
        rounds::watch(watched, self.script.after, &mut longest);
        self.fleet.await_healthy(WHOLE_MAX, LAG_MAX)?;
        report.whole_max = report.whole_max.max(mended.elapsed());
        if sheltered {
            report.longest_stall = report.longest_stall.max(longest);
        }
        if self.script.home_dies {
            rounds[self.script.homes[0]].errors_are_due.store(true, Ordering::SeqCst);
            self.fleet.kill(self.script.homes[0])?;
        }
        Ok(())
    }

    /// Lets the load run for a while, with links that change if they are to.
    fn stay(&self, random: &mut Random, time: Duration, longest: &mut Duration) -> Result<()> {
        let network = self.fleet.network().ok_or("the cluster has no network of its own")?;
        let (started, mut is_cut) = (Instant::now(), true);
        let Cut::Flap(_) = self.script.cut else {
            rounds::watch(&self.volumes[..1], time, longest);
            return Ok(());
        };
        while started.elapsed() < time {
            let pause = between(random, FLAP_TIME).min(time.saturating_sub(started.elapsed()));
            rounds::watch(&self.volumes[..1], pause, longest);
            is_cut = !is_cut;
            match is_cut {
                true => network.cut(&self.script.cut.directions())?,
                false => network.heal()?,
            }
        }
        Ok(())
    }

    /// Waits until every client of a node that lived is answered.
    fn await_answers(&self, dead: Option<usize>) -> Result<()> {
        let count = |volume: &SharedVolume| lock(&volume.history).acknowledged();
        let before: Vec<u64> = self.volumes.iter().map(count).collect();
        let started = Instant::now();
        for (index, volume) in self.volumes.iter().enumerate() {
            let home = self.script.homes[index];
            while dead != Some(home) && count(volume) == before[index] {
                if started.elapsed() > ANSWER_MAX {
                    let name = &volume.name;
                    let what = format!("writes to {name} are not answered {ANSWER_MAX:?}");
                    return Err(format!("{what} after all was mended, through node {}", home + 1));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }
}
