//! The command line: many seeds, or one again.
//!
//! Must never know: what is in a seed.

mod limits;
mod mutants;
mod report;
mod run;
mod shrink;
mod worker;

use crate::plan::Limits;
use clap::{Parser, Subcommand};
use limits::LimitArgs;
use report::Line;
use std::process::ExitCode;

/// Nothing was found, and every mark was reached.
pub const PASS: u8 = 0;
/// A promise was broken.
pub const BROKEN: u8 = 1;
/// Nothing was found, but not everything was looked at.
pub const UNKNOWN: u8 = 2;

#[derive(Parser)]
#[command(name = "ashlar-sim", about = "Breaks stores in a simulated world", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs many seeds. Ends with 0 if all is well, 1 if a promise was broken, 2 if a place that
    /// should be reached was not.
    Run {
        /// How many.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Processes at once; as many as there are cores if not given.
        #[arg(long)]
        jobs: Option<usize>,
        /// Go on after this many broken seeds.
        #[arg(long, default_value_t = 3)]
        failures: usize,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Runs one seed and tells what happens in it.
    Replay {
        /// Which.
        seed: u64,
        /// Only the result.
        #[arg(long)]
        quiet: bool,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Puts one bug after the other into a copy of the product and runs the laboratory on each.
    /// Ends with 0 if enough are found, and all that lose data.
    Mutants {
        /// Numbers or names, with commas between them.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Seeds for each.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// Copies that are built and run at once.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
    },
    /// Runs the seeds that come in, one a line.
    #[command(hide = true)]
    Worker {
        #[command(flatten)]
        limits: LimitArgs,
    },
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let code = match Cli::parse().command {
        Command::Run { seeds, from, jobs, failures, limits } => limits.parse().map(|limits| {
            let cores = || std::thread::available_parallelism().map_or(1, usize::from);
            let jobs = jobs.unwrap_or_else(cores).max(1);
            run::run(from..from.saturating_add(seeds), jobs, failures, &limits)
        }),
        Command::Replay { seed, quiet, limits } => {
            limits.parse().map(|limits| replay(seed, &limits, !quiet))
        }
        Command::Mutants { only, seeds, jobs } => mutants::run(&only, seeds, jobs.max(1)),
        Command::Worker { limits } => limits.parse().map(|limits| worker::work(&limits)),
    };
    match code {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            eprintln!("ashlar-sim: {why}");
            ExitCode::from(BROKEN)
        }
    }
}

fn replay(seed: u64, limits: &Limits, is_verbose: bool) -> u8 {
    let line = worker::run_guarded(seed, limits, is_verbose);
    println!("{}", line.describe());
    if line.violation.is_some() { BROKEN } else { PASS }
}

/// The command that runs a seed again.
fn replay_command(seed: u64, limits: &Limits) -> String {
    let mut command = format!("cargo run --release -p ashlar-sim -- replay {seed}");
    for argument in limits::arguments(limits) {
        command.push(' ');
        command.push_str(&argument);
    }
    command
}

/// Whether `found` is what was looked for: the same invariant.
fn is_same(found: &Line, wanted: &Line) -> bool {
    let name = |line: &Line| {
        let text = line.violation.as_deref().unwrap_or("");
        text.split(':').next().unwrap_or("").to_owned()
    };
    found.violation.is_some() && name(found) == name(wanted)
}
