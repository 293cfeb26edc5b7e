//! What the program says: reports on stdout, complaints on stderr.
//!
//! Invariant: a reader that goes away early is no error, and never a panic.
//! Must never know: what is reported.

use super::cli::Cli;
use super::failure::{Failure, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use serde::Serialize;
use std::io::{ErrorKind, Write};

/// Writes to stdout.
pub(crate) fn say(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write the report to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a report as JSON to stdout.
pub(crate) fn say_json(report: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(report)
        .map_err(|error| Failure::new(format!("cannot write the report as JSON: {error}")))?;
    say(&format!("{text}\n"))
}

/// Writes one sentence to stderr.
pub(crate) fn complain(sentence: &str) {
    // Nobody is left to be told when even this fails.
    let _ = writeln!(std::io::stderr(), "ashlar: {sentence}");
}

/// Writes a shell's completion script to stdout.
pub(crate) fn completions(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ashlar", &mut script);
    say(&String::from_utf8_lossy(&script))
}
