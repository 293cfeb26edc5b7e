//! One side of a comparison, measured once: what ran, what it cost, and who else was running.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::fio::{self, Job};
use crate::address::Target;
use crate::load::{self, Load};
use crate::{Result, procfs};

/// Another process's share of one core from which on a figure is marked.
pub const FOREIGN_SHARE_MAX: f64 = 0.10;

/// What drives a side.
#[derive(Clone, Debug)]
pub enum Driver {
    /// fio.
    Fio(Job),
    /// The own client.
    Own(Target, Load),
}

/// One side of a comparison.
#[derive(Clone, Debug)]
pub struct Side {
    /// Its name in the tables.
    pub name: String,
    /// What drives it.
    pub driver: Driver,
    /// The server's process, if there is one.
    pub server_pid: Option<u32>,
    /// A page-cached file behind it: written out and dropped around every run, so that the
    /// device is measured and its write-back does not fall into somebody else's run.
    pub cached_file: Option<PathBuf>,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Requests per second.
    pub iops: f64,
    /// Median latency.
    pub p50_micros: f64,
    /// 99th percentile.
    pub p99_micros: f64,
    /// Server CPU per request.
    pub server_micros: Option<f64>,
    /// Client CPU per request.
    pub client_micros: f64,
    /// Share of one core that processes outside this measurement took.
    pub foreign_share: f64,
}

impl Side {
    /// Bytes per request.
    pub fn request_bytes(&self) -> usize {
        match &self.driver {
            Driver::Fio(job) => job.request_bytes,
            Driver::Own(_, load) => load.request_bytes,
        }
    }

    /// Measures once.
    pub fn measure(&self, folder: &Path) -> Result<Sample> {
        self.drop_cache()?;
        settle(folder)?;
        let before = Spent::look(self.server_pid)?;
        let (mut sample, requests) = match &self.driver {
            Driver::Fio(job) => from_fio(&fio::run(job, folder)?),
            Driver::Own(target, load) => from_own(&load::run(target, load)?)?,
        };
        let after = Spent::look(self.server_pid)?;
        if self.server_pid.is_some() {
            let spent = after.server.saturating_sub(before.server).as_secs_f64();
            sample.server_micros = Some(spent * 1e6 / requests.max(1.0));
        }
        sample.foreign_share = before.foreign_share_until(&after);
        self.drop_cache()?;
        Ok(sample)
    }

    fn drop_cache(&self) -> Result<()> {
        let Some(path) = &self.cached_file else { return Ok(()) };
        let dropped = std::fs::File::open(path).and_then(|file| {
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
            Ok(())
        });
        dropped.map_err(|e| format!("cannot drop the cache of {}: {e}", path.display()))
    }
}

/// Empties the device's own cache: the first durable write of one side would otherwise pay for all
/// that a side that is not durable has left there.
fn settle(folder: &Path) -> Result<()> {
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|e| format!("cannot sync {}: {e}", folder.display()))
}

fn from_fio(outcome: &fio::Outcome) -> (Sample, f64) {
    let sample = Sample {
        iops: outcome.iops,
        p50_micros: outcome.p50_micros,
        p99_micros: outcome.p99_micros,
        server_micros: None,
        client_micros: outcome.client_micros,
        foreign_share: 0.0,
    };
    (sample, outcome.requests)
}

fn from_own(outcome: &load::Outcome) -> Result<(Sample, f64)> {
    if outcome.errors > 0 {
        return Err(format!("{} requests were answered with an error", outcome.errors));
    }
    let sample = Sample {
        iops: outcome.iops(),
        p50_micros: outcome.micros_at(0.5),
        p99_micros: outcome.micros_at(0.99),
        server_micros: None,
        client_micros: outcome.client_micros_per_request(),
        foreign_share: 0.0,
    };
    Ok((sample, outcome.requests as f64))
}

/// CPU time spent so far by the server, and by whoever has no part in the measurement.
#[derive(Clone, Copy, Debug)]
struct Spent {
    at: Instant,
    server: Duration,
    foreign: Duration,
}

impl Spent {
    fn look(server_pid: Option<u32>) -> Result<Spent> {
        let at = Instant::now();
        let server = server_pid.map(procfs::process_cpu).transpose()?.unwrap_or_default();
        let known = procfs::own_and_children_cpu()? + procfs::kernel_threads_cpu() + server;
        let foreign = procfs::machine_busy()?.saturating_sub(known);
        Ok(Spent { at, server, foreign })
    }

    fn foreign_share_until(&self, later: &Spent) -> f64 {
        let spent = later.foreign.saturating_sub(self.foreign).as_secs_f64();
        spent / (later.at - self.at).as_secs_f64().max(1e-3)
    }
}
