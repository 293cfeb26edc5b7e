//! The program: parses its command line, runs one command, and turns its end into an exit code.
//!
//! Invariants: no bad input panics; errors are one sentence on stderr; exit code 0 is done, 1 is
//! failed, 2 is bad usage.
//! Must never know: what a command does.

mod address;
mod cli;
mod failure;
mod log;
mod output;
mod serve;
mod size;
mod store;

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
    let log = cli.log;
    match cli.command {
        Command::Serve(args) => serve::run(args, log),
        Command::Completions { shell } => output::completions(shell),
    }
}
