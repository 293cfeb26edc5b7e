//! Kill nodes of a cluster under load, hold it to every acknowledgement, go on.
//!
//! A round: clients of one node load a volume; at a random moment another node gets SIGKILL, often
//! the one that leads, and is started again while the load goes on: no client may see an error.
//! Half of the rounds end with the death of the node that serves. Then every sector is read
//! through another node and judged. The next round begins when all replicas have caught up.
//!
//! [`Nodes`] is the cluster: the processes of `ashlar cluster local`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::nbd::Connection;
use crate::random::Random;
use crate::rounds::{self, Options, Outcome};
use crate::server::{Kind, tied_command};
use crate::workload::{self, Round, SharedVolume, lock};
use crate::{Result, binary};

/// Nodes of a cluster.
pub const NODES: usize = 3;
/// A cluster is made, or a node started again, within this time.
const READY_MAX: Duration = Duration::from_secs(60);
/// Replicas have caught up within this time.
const WHOLE_MAX: Duration = Duration::from_secs(60);
/// Between two looks at something that has no event.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What happened to clients besides what all runs count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stalls {
    /// Longest time in which nothing was acknowledged, while a node was dead or came back.
    pub longest: Duration,
    /// Kills of a node that led a placement group of the volume.
    pub leaders_killed: u64,
}

/// A cluster on this machine; ended on drop.
#[derive(Debug)]
pub struct Nodes {
    directory: PathBuf,
    local: Child,
    /// `HOST:PORT` of each node's NBD server.
    addresses: Vec<String>,
}

impl Nodes {
    /// Makes a cluster of three nodes with these volumes in `directory`, and waits for it.
    pub fn start(directory: &Path, volumes: &[(String, u64)]) -> Result<Nodes> {
        let mut command = tied_command(&binary::ashlar()?);
        command.args(["cluster", "local", "--nodes", "3", "--dir"]).arg(directory);
        for (name, size) in volumes {
            command.arg("--create").arg(format!("{name}:{size}"));
        }
        let log = File::create(directory.join("local.log"));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(log.map_err(|e| format!("cannot make a log: {e}"))?);
        let mut local = command.spawn().map_err(|e| format!("cannot start {command:?}: {e}"))?;
        let stdout = local.stdout.take().expect("invariant: stdout is piped");
        let (sender, lines) = mpsc::channel();
        // Ends with the program, when its stdout closes.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut nodes = Nodes { directory: directory.to_owned(), local, addresses: Vec::new() };
        let started = Instant::now();
        while nodes.addresses.len() < NODES {
            let rest = READY_MAX.saturating_sub(started.elapsed());
            let line = lines.recv_timeout(rest).map_err(|_| nodes.said("it is not ready"))?;
            nodes.addresses.extend(line.strip_prefix("ready nbd://").map(str::to_owned));
        }
        nodes.await_whole()?;
        Ok(nodes)
    }

    /// Attaches to a volume through a node, 0 to 2.
    pub fn connect(&self, node: usize, volume: &str) -> Result<Connection> {
        Connection::open_tcp(&self.addresses[node], volume)
    }

    /// URI of a volume at a node.
    pub fn uri(&self, node: usize, volume: &str) -> String {
        format!("nbd://{}/{volume}", self.addresses[node])
    }

    /// SIGKILL.
    pub fn kill(&self, node: usize) -> Result<()> {
        self.signal(node, Signal::KILL)
    }

    fn signal(&self, node: usize, signal: Signal) -> Result<()> {
        let path = self.directory.join(format!("node{}.pid", node + 1));
        let text = std::fs::read_to_string(&path).map_err(|e| format!("no pid of a node: {e}"))?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| format!("{text:?} is no pid"))?;
        kill_process(pid, signal).map_err(|e| format!("{signal:?}: {e}"))
    }

    /// Starts a node again that was killed; it serves when this returns.
    pub fn restart(&self, node: usize) -> Result<()> {
        let mut command = Command::new(binary::ashlar()?);
        command.args(["cluster", "local", "--dir"]).arg(&self.directory);
        command.args(["--restart", &(node + 1).to_string()]);
        let output = command.output().map_err(|e| format!("cannot start {command:?}: {e}"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!(
                "node {} does not start: {}",
                node + 1,
                String::from_utf8_lossy(&output.stderr)
            )),
        }
    }

    /// What `ashlar cluster status --json` says at a node.
    pub fn status(&self, node: usize) -> Result<Value> {
        let mut command = Command::new(binary::ashlar()?);
        let socket = self.directory.join(format!("node{}.store.sock", node + 1));
        command.args(["cluster", "status", "--json", "--admin"]).arg(socket);
        let output = command.output().map_err(|e| format!("cannot start {command:?}: {e}"))?;
        serde_json::from_slice(&output.stdout).map_err(|e| {
            format!("status is no JSON: {e}; {}", String::from_utf8_lossy(&output.stderr))
        })
    }

    /// Waits until every placement group has three voters that lack nothing.
    pub fn await_whole(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let status = self.status(0);
            if status.as_ref().is_ok_and(is_whole) {
                return Ok(());
            }
            if started.elapsed() > WHOLE_MAX {
                return Err(self.said(&format!("it does not become whole: {status:?}")));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    fn said(&self, what: &str) -> String {
        let log = std::fs::read_to_string(self.directory.join("local.log")).unwrap_or_default();
        format!("{what}; the cluster said: {log}")
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in 0..NODES {
            // It may be dead.
            let _ = self.kill(node);
        }
        // Both fail only if the process has been reaped already.
        let _ = self.local.kill();
        let _ = self.local.wait();
    }
}

fn is_whole(status: &Value) -> bool {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let groups = list(&status["placement_groups"]);
    let has_all = |member: &Value| {
        member["role"] == "voter" && member["alive"] == true && member["lag_entries"] == 0
    };
    groups.len() > 1
        && groups.iter().all(|group| {
            let members = list(&group["members"]);
            !group["leader"].is_null() && members.len() == NODES && members.iter().all(has_all)
        })
}

/// Node that leads the first placement group of volumes, 0 to 2.
fn leader(status: &Value) -> Option<usize> {
    let ids: Vec<u64> =
        status["nodes"].as_array()?.iter().filter_map(|n| n["id"].as_u64()).collect();
    let group = status["placement_groups"].as_array()?.get(1)?;
    let leader = group["leader"].as_u64()?;
    ids.iter().position(|id| *id == leader)
}

/// Runs all rounds in `directory`; stops after a round that broke a promise.
pub fn run(directory: &Path, options: &Options) -> Result<(Outcome, Stalls)> {
    let mut random = Random::new(options.seed);
    let volumes = options.fresh_volumes();
    let sizes: Vec<_> = volumes.iter().map(|v| (v.name.clone(), options.volume_bytes)).collect();
    let nodes = Nodes::start(directory, &sizes)?;
    let (mut outcome, mut stalls) = (Outcome::default(), Stalls::default());
    let mut serving = 0;
    while outcome.rounds < options.rounds && outcome.is_clean() {
        // Often the node that led until now is the one that dies, before it has handed over.
        serving = (serving + 1 + random.below(2) as usize) % NODES;
        let dies = random.below(2) == 0;
        load(&nodes, serving, dies, &volumes, options, (&mut random, &mut outcome, &mut stalls))?;
        let reads = (serving + 1 + random.below(2) as usize) % NODES;
        let open = |name: &str| nodes.connect(reads, name);
        rounds::take_over(open, &volumes)?;
        rounds::judge_at(open, Kind::Ashlar, &volumes, &mut outcome)?;
        if dies {
            let started = Instant::now();
            nodes.restart(serving)?;
            outcome.restart_max = outcome.restart_max.max(started.elapsed());
        }
        nodes.await_whole()?;
        if options.verbose {
            let (acknowledged, violations) = (outcome.acknowledged, outcome.violations);
            println!(
                "round {}: acks {acknowledged}, losses {violations}, longest stall {:?}",
                outcome.rounds, stalls.longest
            );
        }
    }
    Ok((outcome, stalls))
}

/// Loads all volumes through one node while another one dies and comes back; at the end that node
/// dies too, if it is to.
fn load(
    nodes: &Nodes,
    serving: usize,
    dies: bool,
    volumes: &[SharedVolume],
    options: &Options,
    (random, outcome, stalls): (&mut Random, &mut Outcome, &mut Stalls),
) -> Result<()> {
    let round = Round::default();
    let mut connections = Vec::new();
    let led = leader(&nodes.status(serving)?);
    for writer in 0..options.connections {
        let volume = &volumes[writer as usize % volumes.len()];
        let connection = nodes.connect(serving, &volume.name)?;
        connections.push((writer, volume, connection, random.next_u64()));
    }
    let (shortest, longest) = options.load;
    let spread = (longest - shortest).as_micros() as u64 + 1;
    let mut pause = || shortest + Duration::from_micros(random.below(spread));
    let (first, second, third) = (pause(), pause(), pause());
    let other = (serving + 1 + random.below(2) as usize) % NODES;
    let victim = led.filter(|led| *led != serving).unwrap_or(other);
    let killed = std::thread::scope(|scope| {
        for (writer, volume, connection, seed) in connections {
            let round = &round;
            scope.spawn(move || workload::run(connection, volume, round, writer, seed));
        }
        // The end must come at any moment of the load: this is the nemesis, not a wait.
        let killed = (|| {
            rounds::watch(volumes, first, &mut stalls.longest);
            nodes.kill(victim)?;
            stalls.leaders_killed += u64::from(led == Some(victim));
            rounds::watch(volumes, second, &mut stalls.longest);
            nodes.restart(victim)?;
            rounds::watch(volumes, third, &mut stalls.longest);
            if dies { nodes.kill(serving) } else { Ok(()) }
        })();
        round.stop.store(true, Ordering::Relaxed);
        killed
    });
    outcome.crashes += 1 + u64::from(dies);
    outcome.reads += round.reads.load(Ordering::Relaxed);
    outcome.refused += round.refused.load(Ordering::Relaxed);
    if !dies {
        outcome.broken += round.broken.load(Ordering::Relaxed);
    }
    outcome.add(outcome.rounds + 1, std::mem::take(&mut lock(&round.violations)));
    killed
}
