//! Long black-box runs: a server is killed, or its disk loses power, under load, again and again.

use std::process::ExitCode;
use std::time::Duration;

use ashlar_jepsen::rounds::{Options, Outcome};
use ashlar_jepsen::server::Kind;
use ashlar_jepsen::temporary::TemporaryDirectory;
use ashlar_jepsen::{
    Result, cluster, kill9, migrate, partitions, power_loss, rebuild, rolling, speed,
};
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Crashes the program ashlar under load and holds it to its promises")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// SIGKILL under load, restart, verify every acknowledged request; exit 1 on any loss.
    Kill9(RunArgs),
    /// Loss of power under load on a FUSE disk that keeps what it must and no more; as kill9.
    PowerLoss(PowerLossArgs),
    /// SIGKILL of nodes of a cluster of three under load; clients of the others see no error.
    Cluster(RunArgs),
    /// Cut links between nodes in network namespaces of their own, and SIGKILL; needs root.
    Partitions(RunArgs),
    /// Orderly restarts of all nodes of a cluster, one after the other, under load.
    Rolling(RunArgs),
    /// Measure how a node that lost its store gets its replicas back.
    Rebuild(RebuildArgs),
    /// Migrate a running QEMU guest from node to node; exit 1 on any loss or error.
    Migrate {
        /// Migrations.
        #[arg(long, default_value_t = 20)]
        rounds: u64,
    },
}

#[derive(Args)]
struct PowerLossArgs {
    #[command(flatten)]
    run: RunArgs,
    /// The disk lies about durability: loss is counted, only wrong bytes and mute refusals fail.
    #[arg(long)]
    lying: bool,
}

#[derive(Args)]
struct RebuildArgs {
    /// MiB that the volume holds.
    #[arg(long, default_value_t = 2048)]
    mib: u64,
    /// How long latencies are taken before the loss, in seconds.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Random stream.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
struct RunArgs {
    /// Rounds.
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// Random stream; the load's order still depends on the machine.
    #[arg(long)]
    seed: Option<u64>,
    /// Connections in all.
    #[arg(long, default_value_t = 6)]
    connections: u32,
    /// Volumes.
    #[arg(long, default_value_t = 2)]
    volumes: u64,
    /// MiB per volume.
    #[arg(long, default_value_t = 64)]
    volume_mib: u64,
    /// MiB of the store: little, so that the cleaner works during the load.
    #[arg(long, default_value_t = 512)]
    store_mib: u64,
    /// Longest load before a kill, in milliseconds.
    #[arg(long, default_value_t = 800)]
    load_ms: u64,
    /// A further argument for the server, or a line of every node's settings; may be given several
    /// times.
    #[arg(long, allow_hyphen_values = true)]
    server_argument: Vec<String>,
}

impl RunArgs {
    /// Says which seed it takes.
    fn options(&self, kind: Kind) -> Options {
        let seed = self.seed.unwrap_or_else(|| u64::from(std::process::id()));
        println!("seed {seed}");
        Options {
            kind,
            rounds: self.rounds,
            seed,
            connections: self.connections.max(1),
            volumes: self.volumes.max(1),
            volume_bytes: self.volume_mib.max(1) << 20,
            store_bytes: Some(self.store_mib << 20),
            load: (Duration::from_millis(20), Duration::from_millis(self.load_ms.max(20))),
            arguments: self.server_argument.clone(),
            verbose: true,
        }
    }
}

fn main() -> ExitCode {
    let passed = match Cli::parse().command {
        Command::Kill9(args) => kill9(&args),
        Command::PowerLoss(args) if args.lying => lying(&args.run),
        Command::PowerLoss(args) => power_loss(&args.run),
        Command::Cluster(args) => cluster(&args),
        Command::Partitions(args) => partitions(&args),
        Command::Rolling(args) => rolling(&args),
        Command::Rebuild(args) => rebuild(&args),
        Command::Migrate { rounds } => migrate(rounds),
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn kill9(args: &RunArgs) -> Result<bool> {
    let options = args.options(Kind::from_environment());
    let directory = TemporaryDirectory::new("kill9")?;
    let outcome = kill9::run(directory.path(), &options)?;
    report(&outcome);
    Ok(outcome.is_clean())
}

fn power_loss(args: &RunArgs) -> Result<bool> {
    let options = args.options(Kind::Ashlar);
    let directory = TemporaryDirectory::new("power")?;
    let (outcome, counts) = power_loss::run(directory.path(), &options)?;
    report(&outcome);
    let survival = counts.survival;
    println!(
        "disk: {} reads, {} writes, {} of them durable, {} syncs; of the writes under way at {} \
         losses of power {} survived whole, {} in part, {} not",
        counts.reads,
        counts.writes,
        counts.durable_writes,
        counts.syncs,
        counts.cuts,
        survival.whole,
        survival.torn,
        survival.gone,
    );
    Ok(outcome.is_clean())
}

fn cluster(args: &RunArgs) -> Result<bool> {
    let options = args.options(Kind::Ashlar);
    let directory = TemporaryDirectory::new("cluster")?;
    let (outcome, stalls) = cluster::run(directory.path(), &options)?;
    report(&outcome);
    println!("leaders killed {}  longest stall {:?}", stalls.leaders_killed, stalls.longest);
    Ok(outcome.is_clean())
}

fn partitions(args: &RunArgs) -> Result<bool> {
    let options = args.options(Kind::Ashlar);
    let directory = TemporaryDirectory::new("parts")?;
    let (outcome, seen) = partitions::run(directory.path(), &options)?;
    report(&outcome);
    println!("cuts {:?}, {} of them of a leader", seen.cuts, seen.leaders_cut);
    println!(
        "longest stall with a majority {:?}  longest until answered {:?}, until healthy {:?} after \
         mending",
        seen.longest_stall, seen.answered_max, seen.whole_max
    );
    println!(
        "errors: {} in a majority, {} in parts of one, {} in a minority",
        outcome.refused + outcome.broken,
        seen.partial_errors,
        seen.minority_errors
    );
    Ok(outcome.is_clean())
}

fn rolling(args: &RunArgs) -> Result<bool> {
    let mut options = args.options(Kind::Ashlar);
    // Each node has clients of its own.
    options.volumes = options.volumes.max(cluster::NODES as u64);
    let directory = TemporaryDirectory::new("roll")?;
    let (outcome, seen) = rolling::run(directory.path(), &options)?;
    report(&outcome);
    println!(
        "restarts {}  reconnects {}  errors of clients of other nodes {}, of those that ended {}",
        seen.restarts,
        seen.reconnects,
        outcome.refused + outcome.broken,
        seen.excused
    );
    println!(
        "longest stall {:?}  longest end {:?}, until healthy {:?} after the start",
        seen.longest_stall, seen.end_max, seen.whole_max
    );
    Ok(outcome.is_clean())
}

fn rebuild(args: &RebuildArgs) -> Result<bool> {
    const MIB: f64 = (1 << 20) as f64;
    let directory = TemporaryDirectory::new("rebuild")?;
    let before = Duration::from_secs(args.seconds);
    let options = rebuild::Options { mib: args.mib.max(16), before, seed: args.seed };
    let seen = rebuild::run(directory.path(), &options)?;
    let (write, copy) = (seen.disk.write / MIB, seen.disk.copy / MIB);
    println!("disk: writes {write:.0} MiB/s, copies {copy:.0} MiB/s");
    println!("fill of {} MiB: {:.0} MiB/s", options.mib, seen.fill / MIB);
    for (what, latencies) in [("before", seen.before), ("during", seen.during)] {
        for (kind, seen) in ["reads", "writes"].iter().zip(latencies) {
            let (p50, p99, max) = (seen.p50, seen.p99, seen.max);
            println!("{what}: {} {kind}, p50 {p50:?}, p99 {p99:?}, max {max:?}", seen.count);
        }
    }
    for (what, time) in [("without load", seen.idle), ("under load", seen.loaded)] {
        let speed = speed::speed(options.mib << 20, time) / MIB;
        println!(
            "rebuild {what}: {:.1} s, {speed:.0} MiB/s, {:.0} % of writing, {:.0} % of copying",
            time.as_secs_f64(),
            100.0 * speed / write,
            100.0 * speed / copy
        );
    }
    println!("errors {}", seen.errors);
    Ok(seen.errors == 0)
}

fn migrate(rounds: u64) -> Result<bool> {
    let directory = TemporaryDirectory::new("migrate")?;
    let seen = migrate::run(directory.path(), rounds)?;
    println!(
        "migrations {}  writes {}  longest downtime {:?}",
        seen.migrations, seen.writes, seen.downtime_max
    );
    Ok(true)
}

fn lying(args: &RunArgs) -> Result<bool> {
    let lies = power_loss::run_lying(&args.options(Kind::Ashlar))?;
    for line in &lies.shown {
        println!("{line}");
    }
    if let Some(refusal) = &lies.last_refusal {
        println!("refused with: {refusal}");
    }
    println!(
        "rounds {}  acks {}  sectors lost {}  unreadable {}  stores refused {}  violations {}",
        lies.rounds, lies.acknowledged, lies.lost, lies.unreadable, lies.refused, lies.violations,
    );
    Ok(lies.violations == 0)
}

fn report(outcome: &Outcome) {
    for line in &outcome.shown {
        println!("{line}");
    }
    println!(
        "rounds {}  crashes {}  acks {}  reads {}  refused {}  broken {}  losses {}  \
         longest restart {:?}",
        outcome.rounds,
        outcome.crashes,
        outcome.acknowledged,
        outcome.reads,
        outcome.refused,
        outcome.broken,
        outcome.violations,
        outcome.restart_max,
    );
}
