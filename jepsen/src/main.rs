//! Long black-box runs: `kill9` crashes a server under load, round after round.

use std::process::ExitCode;
use std::time::Duration;

use ashlar_jepsen::kill9::{self, Options};
use ashlar_jepsen::server::Kind;
use ashlar_jepsen::temporary::TemporaryDirectory;
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
    Kill9(Kill9Args),
}

#[derive(Args)]
struct Kill9Args {
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
    /// A further argument for the server; may be given several times.
    #[arg(long, allow_hyphen_values = true)]
    server_argument: Vec<String>,
}

fn main() -> ExitCode {
    let Command::Kill9(args) = Cli::parse().command;
    match kill9(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn kill9(args: &Kill9Args) -> ashlar_jepsen::Result<bool> {
    let seed = args.seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}");
    let directory = TemporaryDirectory::new("kill9")?;
    let options = Options {
        kind: Kind::from_environment(),
        rounds: args.rounds,
        seed,
        connections: args.connections.max(1),
        volumes: args.volumes.max(1),
        volume_bytes: args.volume_mib.max(1) << 20,
        store_bytes: Some(args.store_mib << 20),
        load: (Duration::from_millis(20), Duration::from_millis(args.load_ms.max(20))),
        arguments: args.server_argument.clone(),
        verbose: true,
    };
    let outcome = kill9::run(directory.path(), &options)?;
    for line in &outcome.shown {
        println!("{line}");
    }
    println!(
        "rounds {}  acks {}  reads {}  refused {}  losses {}  longest restart {:?}",
        outcome.rounds,
        outcome.acknowledged,
        outcome.reads,
        outcome.refused,
        outcome.violations,
        outcome.restart_max,
    );
    Ok(outcome.is_clean())
}
