//! The program: parses its command line, runs one command, and turns its end into an exit code.
//!
//! Invariants: no bad input panics; errors are one sentence on stderr; exit code 0 is done, 1 is
//! failed, 2 is bad usage.
//! Must never know: what a command does.

mod address;
mod admin;
mod bench;
mod busy_poll;
mod check;
mod cli;
mod cluster;
mod config;
mod failure;
mod format;
mod lock;
mod log;
mod output;
mod progress;
mod serve;
mod size;
mod store;
mod volume;

use clap::Parser;
use cli::{Cli, Command};
use failure::Result;
use std::process::ExitCode;

/// Runs the program.
pub(crate) fn run() -> ExitCode {
    match execute(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.sentence.is_empty() {
                output::complain(&failure.sentence);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn execute(cli: Cli) -> Result<()> {
    let level = cli.log;
    if !matches!(cli.command, Command::Serve(_)) {
        log::start(level.unwrap_or(log::Level::Warn));
    }
    match cli.command {
        Command::Format(args) => format::run(&args),
        Command::Volume(args) => volume::run(args),
        Command::Status(args) => volume::status(&args),
        Command::Cluster(args) => cluster::run(args),
        Command::Bench(args) => bench::run(&args),
        Command::Scrub(args) => check::run_scrub(&args),
        Command::Check(args) => check::run(&args),
        Command::Serve(args) => serve::run(*args, level),
        Command::Completions { shell } => output::completions(shell),
    }
}
