//! Runs fio and reads its JSON.
//!
//! Must never know: which server is behind a URI, or what a figure is compared with.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::process::{Reaped, tied_command};
use crate::address::Target;
use crate::{Result, interrupt};

/// Between two looks at a running fio.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What fio works on.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A file, through io_uring and `O_DIRECT`.
    Raw(PathBuf),
    /// An NBD export, through fio's nbd engine.
    Nbd(Target),
}

/// When fio asks for durability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Never.
    Never,
    /// Every write is `O_DSYNC`.
    EachWrite,
    /// fdatasync (a flush, on NBD) after every write.
    AfterWrite,
}

/// A fio job.
#[derive(Clone, Debug)]
pub struct Job {
    /// What it works on.
    pub subject: Subject,
    /// fio's `rw`.
    pub pattern: &'static str,
    /// Bytes per request.
    pub request_bytes: usize,
    /// Requests in flight.
    pub depth: usize,
    /// Durability.
    pub sync: Sync,
    /// Bytes of the file or export in use.
    pub span_bytes: u64,
    /// Time to run; `None` writes the span once.
    pub time: Option<Duration>,
}

/// What fio measured.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Requests per second.
    pub iops: f64,
    /// Requests in all.
    pub requests: f64,
    /// Median latency (with its sync, if there is one).
    pub p50_micros: f64,
    /// 99th percentile, likewise.
    pub p99_micros: f64,
    /// fio's own CPU time per request.
    pub client_micros: f64,
}

/// Runs `job`; the report file goes to `folder`.
pub fn run(job: &Job, folder: &Path) -> Result<Outcome> {
    let report = folder.join("fio.json");
    let mut command = tied_command(Path::new("fio"));
    command.args(arguments(job)).arg(format!("--output={}", report.display()));
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = Reaped(command.spawn().map_err(|e| format!("cannot run fio: {e}"))?);
    let status = loop {
        interrupt::check()?;
        match child.0.try_wait().map_err(|e| format!("fio: {e}"))? {
            Some(status) => break status,
            None => std::thread::sleep(LOOK_INTERVAL),
        }
    };
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    if !status.success() {
        return Err(format!("fio failed ({status}) for {job:?}: {text}"));
    }
    // fio may put warnings before the JSON.
    let json = text.find('{').map_or("", |at| &text[at..]);
    let value: Value = serde_json::from_str(json).map_err(|e| format!("fio's report: {e}"))?;
    parse(&value, job).ok_or_else(|| format!("fio's report lacks a figure for {job:?}"))
}

fn arguments(job: &Job) -> Vec<String> {
    let mut arguments = vec![
        "--name=job".to_owned(),
        "--thread".to_owned(),
        "--norandommap".to_owned(),
        "--randrepeat=0".to_owned(),
        "--output-format=json".to_owned(),
        format!("--rw={}", job.pattern),
        format!("--bs={}", job.request_bytes),
        format!("--iodepth={}", job.depth),
        format!("--size={}", job.span_bytes),
    ];
    match &job.subject {
        Subject::Raw(path) => {
            arguments.push(format!("--filename={}", path.display()));
            arguments.extend(["--ioengine=io_uring".to_owned(), "--direct=1".to_owned()]);
        }
        Subject::Nbd(target) => {
            arguments.extend(["--ioengine=nbd".to_owned(), format!("--uri={target}")]);
        }
    }
    match (job.sync, &job.subject) {
        (Sync::Never, _) => {}
        (Sync::EachWrite, _) => arguments.push("--sync=dsync".to_owned()),
        (Sync::AfterWrite, Subject::Raw(_)) => arguments.push("--fdatasync=1".to_owned()),
        (Sync::AfterWrite, Subject::Nbd(_)) => arguments.push("--fsync=1".to_owned()),
    }
    match job.time {
        Some(time) => arguments
            .extend(["--time_based".to_owned(), format!("--runtime={}ms", time.as_millis())]),
        None => arguments.push("--end_fsync=1".to_owned()),
    }
    arguments
}

fn parse(report: &Value, job: &Job) -> Option<Outcome> {
    let fio_job = &report["jobs"][0];
    let direction = if job.pattern.contains("read") { "read" } else { "write" };
    let figures = &fio_job[direction];
    let synced = job.sync == Sync::AfterWrite;
    let micros = |percentile: &str| {
        let request = figures["clat_ns"]["percentile"][percentile].as_f64()?;
        let sync = fio_job["sync"]["lat_ns"]["percentile"][percentile].as_f64();
        Some((request + if synced { sync.unwrap_or(0.0) } else { 0.0 }) / 1000.0)
    };
    let requests = figures["total_ios"].as_f64()?;
    let cpu_percent = fio_job["usr_cpu"].as_f64()? + fio_job["sys_cpu"].as_f64()?;
    let runtime_micros = fio_job["job_runtime"].as_f64()? * 1000.0;
    Some(Outcome {
        iops: figures["iops"].as_f64()?,
        requests,
        p50_micros: micros("50.000000")?,
        p99_micros: micros("99.000000")?,
        client_micros: cpu_percent / 100.0 * runtime_micros / requests.max(1.0),
    })
}
