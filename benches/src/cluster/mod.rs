//! What three copies cost: a cluster of three nodes on this machine beside a single node, in turn.
//!
//! Every figure is a median over rounds, ratios are medians of the rounds' ratios: the machine
//! drifts more than they do.

mod fleet;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::load::{Load, Outcome, Until, run};
use crate::table::Workplace;
use crate::{Result, interrupt, procfs};
use fleet::Side;

const BLOCK_BYTES: usize = 4096;
/// Stores have this many times the volume's size,
const STORE_VOLUMES: u64 = 3;
/// and before anything is measured the volume is written so often: every segment has been used, so
/// that none is prepared any more, and some were cleaned.
const OVERWRITES: u64 = STORE_VOLUMES + 1;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program `ashlar`.
    pub program: PathBuf,
    /// Directory on the file system to be measured.
    pub directory: PathBuf,
    /// Size of the volume, which is written once before.
    pub volume_bytes: u64,
    /// Rounds.
    pub rounds: usize,
    /// Time of each load.
    pub time: Duration,
}

/// What one load showed at one side.
struct Seen {
    outcome: Outcome,
    /// Of each server, per request in microseconds.
    cpu_micros: Vec<f64>,
    /// Of each server, per byte of payload.
    disk: Vec<f64>,
    /// Over the loopback interface, headers of IP and TCP included, per byte of payload.
    loopback: f64,
}

impl Seen {
    fn cpu(&self) -> f64 {
        self.cpu_micros.iter().sum()
    }
}

/// One load at both sides.
struct Pair {
    single: Seen,
    cluster: Seen,
}

struct Kind {
    name: &'static str,
    write: bool,
    depth: usize,
}

const KINDS: [Kind; 4] = [
    Kind { name: "4k random write QD1", write: true, depth: 1 },
    Kind { name: "4k random write QD32", write: true, depth: 32 },
    Kind { name: "4k random read QD1", write: false, depth: 1 },
    Kind { name: "4k random read QD32", write: false, depth: 32 },
];

/// Measures, and gives the table as text.
pub fn measure(options: &Options) -> Result<String> {
    let place = Workplace::new(&options.directory)?;
    let (volume, store) = (options.volume_bytes, options.volume_bytes * STORE_VOLUMES);
    let single = Side::single(&options.program, place.path(), volume, store)?;
    let cluster = Side::cluster(&options.program, place.path(), volume, store)?;
    for side in [&single, &cluster] {
        let requests = OVERWRITES * (options.volume_bytes >> 20);
        let fill = Load { until: Until::Requests(requests), ..load(true, 8, options) };
        run(&side.target, &Load { random: false, request_bytes: 1 << 20, ..fill })?;
    }
    let mut seen: Vec<Vec<Pair>> = KINDS.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        for (kind, pairs) in KINDS.iter().zip(&mut seen) {
            interrupt::check()?;
            let load = load(kind.write, kind.depth, options);
            pairs.push(Pair { single: one(&single, &load)?, cluster: one(&cluster, &load)? });
        }
    }
    interrupt::check()?;
    let idle = idle(&cluster, options.time)?;
    Ok(report(&seen, &idle))
}

fn load(write: bool, depth: usize, options: &Options) -> Load {
    Load {
        write,
        random: true,
        request_bytes: BLOCK_BYTES,
        depth,
        connections: 1,
        until: Until::Elapsed(options.time),
        span_bytes: None,
        seed: 1,
    }
}

fn one(side: &Side, load: &Load) -> Result<Seen> {
    let counts = || -> Result<Vec<(Duration, u64)>> {
        let pids = side.pids.iter();
        pids.map(|pid| Ok((procfs::process_cpu(*pid)?, procfs::process_write_bytes(*pid)?)))
            .collect()
    };
    let (before, loopback) = (counts()?, procfs::loopback_bytes()?);
    let outcome = run(&side.target, load)?;
    let loopback = procfs::loopback_bytes()? - loopback;
    if outcome.errors > 0 {
        return Err(format!("{} requests failed", outcome.errors));
    }
    let requests = outcome.requests.max(1) as f64;
    let payload = requests * load.request_bytes as f64;
    let (mut cpu_micros, mut disk) = (Vec::new(), Vec::new());
    for ((cpu, bytes), (cpu_before, bytes_before)) in counts()?.into_iter().zip(before) {
        cpu_micros.push((cpu - cpu_before).as_secs_f64() * 1e6 / requests);
        disk.push((bytes - bytes_before) as f64 / payload);
    }
    let loopback = loopback as f64 / payload;
    Ok(Seen { outcome, cpu_micros, disk, loopback })
}

/// Hundredths of a core that each server uses while nobody asks anything of it.
fn idle(side: &Side, time: Duration) -> Result<Vec<f64>> {
    // What was asked before is over by then: checkpoints, commits that are told.
    std::thread::sleep(Duration::from_secs(3));
    let cpu = |pid: &u32| procfs::process_cpu(*pid);
    let before: Vec<Duration> = side.pids.iter().map(cpu).collect::<Result<_>>()?;
    let time = time.max(Duration::from_secs(10));
    std::thread::sleep(time);
    let after: Vec<Duration> = side.pids.iter().map(cpu).collect::<Result<_>>()?;
    let used = after.iter().zip(before).map(|(after, before)| *after - before);
    Ok(used.map(|used| used.as_secs_f64() * 100.0 / time.as_secs_f64()).collect())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(seen: &[Vec<Pair>], idle: &[f64]) -> String {
    let mut text = String::from(
        "| load | single: IOPS, p50 | cluster: IOPS, p50 | IOPS ratio | p50 ratio \
         | CPU single | CPU three nodes (each) | to disk per replica | between nodes |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (kind, pairs) in KINDS.iter().zip(seen) {
        let of = |get: &dyn Fn(&Pair) -> f64| median(pairs.iter().map(get));
        let each = |get: &dyn Fn(&Seen) -> &Vec<f64>| {
            let nodes = 0..get(&pairs[0].cluster).len();
            let node = |n: usize| median(pairs.iter().map(|pair| get(&pair.cluster)[n]));
            nodes.map(node).collect::<Vec<f64>>()
        };
        let cpu: Vec<String> =
            each(&|seen| &seen.cpu_micros).iter().map(|v| format!("{v:.1}")).collect();
        let disk: Vec<String> =
            each(&|seen| &seen.disk).iter().map(|v| format!("{v:.2}")).collect();
        let _ = writeln!(
            text,
            "| {} | {:.0}, {:.0} us | {:.0}, {:.0} us | {:.2} | {:.2} | {:.1} us | {:.1} us ({}) \
             | {} x | {:.2} x |",
            kind.name,
            of(&|pair| pair.single.outcome.iops()),
            of(&|pair| pair.single.outcome.micros_at(0.5)),
            of(&|pair| pair.cluster.outcome.iops()),
            of(&|pair| pair.cluster.outcome.micros_at(0.5)),
            of(&|pair| pair.cluster.outcome.iops() / pair.single.outcome.iops()),
            of(&|pair| pair.cluster.outcome.micros_at(0.5) / pair.single.outcome.micros_at(0.5)),
            of(&|pair| pair.single.cpu()),
            of(&|pair| pair.cluster.cpu()),
            cpu.join(", "),
            disk.join(", "),
            // Of a single server it is what the client and its connection take.
            of(&|pair| pair.cluster.loopback - pair.single.loopback),
        );
    }
    let idle: Vec<String> = idle.iter().map(|used| format!("{used:.1} %")).collect();
    let _ = writeln!(text, "\nIdle, of a core: {}.", idle.join(", "));
    text
}
