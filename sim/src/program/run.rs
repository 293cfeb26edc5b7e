//! Many seeds over many processes, with a bar, and what they came to.

use super::report::{Line, Total};
use super::{BROKEN, PASS, UNKNOWN, limits, replay_command, shrink};
use crate::plan::Limits;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

/// Settings of the C library's allocator; others ignore them.
const KEEP_MEMORY: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "1073741824"),
    ("MALLOC_TRIM_THRESHOLD_", "1073741824"),
    ("MALLOC_TOP_PAD_", "33554432"),
];

/// A process that runs seeds one after the other.
pub(super) struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    pub(super) fn start(limits: &Limits) -> std::io::Result<Worker> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("worker")
            .args(limits::arguments(limits))
            // Stores come and go by the second: their memory is kept for the next one.
            .envs(KEEP_MEMORY)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let missing = || std::io::Error::other("a pipe is missing");
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        Ok(Worker { child, input, output })
    }

    /// The seed's result, or `None` if the process died of it.
    pub(super) fn run(&mut self, seed: u64) -> Option<Line> {
        writeln!(self.input, "{seed}").and_then(|()| self.input.flush()).ok()?;
        let mut line = String::new();
        self.output.read_line(&mut line).ok()?;
        Line::decode(&line)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs one seed in a process of its own.
pub(super) fn run_apart(seed: u64, limits: &Limits) -> Line {
    let line = Worker::start(limits).ok().and_then(|mut worker| worker.run(seed));
    line.unwrap_or_else(|| Line::broken(seed, "died: the process is gone"))
}

/// Runs all seeds; the exit code.
pub(super) fn run(seeds: Range<u64>, jobs: usize, failures: usize, limits: &Limits) -> u8 {
    let bar = ProgressBar::new(seeds.end - seeds.start);
    let style = "{wide_bar} {pos}/{len} seeds  {per_sec}  {msg}  {eta}";
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let mut total = Total::default();
    let (next, stop) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (results, incoming) = mpsc::channel();
        for _ in 0..jobs {
            let (results, next, stop) = (results.clone(), &next, &stop);
            scope.spawn(move || one_job(next, seeds.end, stop, limits, &results));
        }
        drop(results);
        for line in incoming {
            if let Some(violation) = &line.violation {
                bar.suspend(|| println!("seed {} BROKEN: {violation}", line.seed));
            }
            total.add(line);
            bar.inc(1);
            bar.set_message(format!("{} broken", total.broken.len()));
            stop.fetch_or(total.broken.len() >= failures, Ordering::Relaxed);
        }
    });
    let elapsed = bar.elapsed();
    bar.finish_and_clear();
    print!("{}", total.table(elapsed));
    conclude(&mut total, limits)
}

fn one_job(
    next: &AtomicU64,
    end: u64,
    stop: &AtomicBool,
    limits: &Limits,
    results: &mpsc::Sender<Line>,
) {
    let mut worker = None;
    while !stop.load(Ordering::Relaxed) {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let ready = worker.take().or_else(|| Worker::start(limits).ok());
        let (line, left) = match ready {
            Some(mut ready) => match ready.run(seed) {
                Some(line) => (line, Some(ready)),
                None => (Line::broken(seed, "died: the process is gone"), None),
            },
            None => (Line::broken(seed, "harness: no process"), None),
        };
        // A panic may leave anything behind.
        worker = left.filter(|_| line.violation.is_none());
        if results.send(line).is_err() {
            return;
        }
    }
}

/// Says what was found, made small.
fn conclude(total: &mut Total, limits: &Limits) -> u8 {
    total.broken.sort_by_key(|line| line.seed);
    if let Some(first) = total.broken.first() {
        println!("seed {} is made smaller...", first.seed);
        let (small, found) = shrink::shrink(first, limits);
        println!("{}", found.describe());
        println!("replay: {}", replay_command(first.seed, limits));
        println!("smaller: {}", replay_command(first.seed, &small));
        for other in &total.broken[1..] {
            println!("replay: {}", replay_command(other.seed, limits));
        }
        return BROKEN;
    }
    // Marks are places of a single store that seeds of clusters need not come to.
    let missed = if limits.cluster { Vec::new() } else { total.missed() };
    if !missed.is_empty() {
        println!("never reached: {}", missed.join("; "));
        println!("unknown: nothing is broken, but not everything was looked at");
        return UNKNOWN;
    }
    println!("pass");
    PASS
}
