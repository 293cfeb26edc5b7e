//! A process that runs seeds: what takes it down with it is one seed, not all of them.

use super::report::Line;
use super::{BROKEN, PASS};
use crate::cluster;
use crate::plan::Limits;
use crate::seed::{self, Outcome};
use ashlar_engine::marks;
use std::cell::RefCell;
use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread::Builder;
use std::time::Duration;

/// A seed that takes longer hangs.
const SEED_MAX: Duration = Duration::from_secs(180);
/// One seed in so many is run twice, and must do the same.
const TWICE_EVERY: u64 = 100;
/// The same of clusters.
const TWICE_EVERY_CLUSTER: u64 = 20;

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs seeds from standard input until it ends.
pub(super) fn work(limits: &Limits) -> u8 {
    let (alive, watched) = mpsc::channel();
    let watch = move || {
        while let Ok(is_busy) = watched.recv() {
            if is_busy && watched.recv_timeout(SEED_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
                std::process::abort();
            }
        }
    };
    if Builder::new().name("watchdog".into()).spawn(watch).is_err() {
        return BROKEN;
    }
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let Ok(seed) = line.trim().parse() else { return BROKEN };
        alive.send(true).ok();
        let result = run_guarded(seed, limits, false);
        alive.send(false).ok();
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{}", result.encode()).and_then(|()| out.flush()).is_err() {
            return BROKEN;
        }
    }
    PASS
}

/// Runs a seed; a panic in it is a finding.
pub(super) fn run_guarded(seed: u64, limits: &Limits, is_verbose: bool) -> Line {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        PANIC.with_borrow_mut(|panic| *panic = panic.take().or(Some(text)));
    }));
    PANIC.with_borrow_mut(Option::take);
    let _ = marks::take();
    let mut line = run_once(seed, limits, is_verbose);
    line.marks = marks::take().to_vec();
    let twice_every = if limits.cluster { TWICE_EVERY_CLUSTER } else { TWICE_EVERY };
    if line.violation.is_none() && seed.is_multiple_of(twice_every) && !is_verbose {
        let again = run_once(seed, limits, false);
        if (again.trace, again.counts) != (line.trace, line.counts) {
            let why = format!("determinism: trace {:016x}, then {:016x}", line.trace, again.trace);
            line.violation = Some(why);
        }
    }
    line
}

fn run_once(seed: u64, limits: &Limits, is_verbose: bool) -> Line {
    match catch_unwind(AssertUnwindSafe(|| run_seed(seed, limits, is_verbose))) {
        Ok(outcome) => {
            let line = Line::of(seed, outcome.trace, outcome.lives, &outcome.tally);
            Line { violation: outcome.violation.map(|found| found.to_string()), ..line }
        }
        Err(_) => {
            let why = PANIC.with_borrow_mut(Option::take).unwrap_or_default();
            Line::broken(seed, format!("panic: {why}"))
        }
    }
}

fn run_seed(seed: u64, limits: &Limits, is_verbose: bool) -> Outcome {
    match limits.cluster {
        true => cluster::run(seed, limits, is_verbose),
        false => seed::run(seed, limits, is_verbose),
    }
}
