//! The log on stderr: quiet unless asked.
//!
//! Must never know: who logs what.

use clap::ValueEnum;
use serde::Deserialize;
use std::io::IsTerminal;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    fn filter(self) -> LevelFilter {
        match self {
            Level::Off => LevelFilter::OFF,
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        }
    }

    /// For the consensus library, which warns of every missed heartbeat: one level less.
    fn of_consensus(self) -> Level {
        match self {
            Level::Off => Level::Off,
            Level::Error | Level::Warn => Level::Error,
            Level::Info => Level::Warn,
            Level::Debug => Level::Info,
            Level::Trace => Level::Trace,
        }
    }
}

/// Starts logging.
pub(crate) fn start(level: Level) {
    let targets = Targets::new()
        .with_default(level.filter())
        .with_target("openraft", level.of_consensus().filter());
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).with(targets).init();
}
