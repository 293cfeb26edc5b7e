//! The rows that compare speeds: who is measured against whom, interleaved.
//!
//! Invariant: the sides of one comparison take turns, run by run; a ratio is the median of the
//! ratios of neighbouring runs, because the machine drifts and neighbours drift together.

use std::path::PathBuf;
use std::time::Duration;

use super::fio::{Job, Subject, Sync};
use super::report::{Figure, Goal, Row, short};
use super::servers::Server;
use super::side::{Driver, FOREIGN_SHARE_MAX, Sample, Side};
use crate::load::{Load, Until};
use crate::{Result, interrupt};

/// The servers and files that are compared.
pub struct Arena<'a> {
    /// The subject.
    pub ashlar: &'a Server,
    /// The peer with `cache=none`.
    pub qemu: &'a Server,
    /// The peer that stops in the page cache.
    pub nbdkit: &'a Server,
    /// A fully written file; `qemu` serves it as well.
    pub raw: PathBuf,
    /// The file `nbdkit` serves.
    pub cached: PathBuf,
    /// Bytes in use of every file and volume.
    pub span_bytes: u64,
    /// Length of a run.
    pub time: Duration,
    /// Runs per side.
    pub runs: usize,
    /// Working directory.
    pub folder: PathBuf,
}

/// What is done to both sides.
#[derive(Clone, Copy)]
struct Work {
    name: &'static str,
    write: bool,
    random: bool,
    request_bytes: usize,
    depth: usize,
    sync: Sync,
}

const fn work(name: &'static str, write: bool, request_bytes: usize, depth: usize) -> Work {
    Work { name, write, random: true, request_bytes, depth, sync: Sync::Never }
}

const OWN_W_1: Work = work("4k durable write QD1, own client", true, 4096, 1);
const FIO_SYNC: Work =
    Work { sync: Sync::AfterWrite, ..work("fio 4k write + fsync QD1", true, 4096, 1) };
const OWN_W_64: Work = work("4k durable random write QD64, own client", true, 4096, 64);
const FIO_W_64: Work = work("fio 4k durable random write QD64", true, 4096, 64);
const FIO_W_64K: Work = work("fio 64k durable random write QD16", true, 65536, 16);
const OWN_R_64: Work = work("4k random read QD64, own client", false, 4096, 64);
const FIO_R_1: Work = work("fio 4k random read QD1", false, 4096, 1);
const FIO_R_64: Work = work("fio 4k random read QD64", false, 4096, 64);
const OWN_SEQ_W: Work =
    Work { random: false, ..work("1M sequential write QD8, own client", true, 1 << 20, 8) };
const OWN_SEQ_R: Work =
    Work { random: false, ..work("1M sequential read QD8, own client", false, 1 << 20, 8) };

#[derive(Clone, Copy)]
enum Base {
    Raw,
    RawDsync,
    Qemu,
    Nbdkit,
}

impl Base {
    fn name(self) -> &'static str {
        match self {
            Base::Raw => "raw",
            Base::RawDsync => "raw O_DSYNC",
            Base::Qemu => "qemu-nbd none",
            Base::Nbdkit => "nbdkit file",
        }
    }
}

struct Comparison {
    work: Work,
    own_client: bool,
    bases: &'static [(Base, f64)],
    /// Bound on the subject's CPU per request.
    server_micros_max: Option<f64>,
}

const fn own(work: Work, bases: &'static [(Base, f64)], max: Option<f64>) -> Comparison {
    Comparison { work, own_client: true, bases, server_micros_max: max }
}

const fn fio(work: Work, bases: &'static [(Base, f64)]) -> Comparison {
    Comparison { work, own_client: false, bases, server_micros_max: None }
}

const COMPARISONS: [Comparison; 10] = [
    own(OWN_W_1, &[(Base::RawDsync, 0.9)], None),
    fio(FIO_SYNC, &[(Base::Raw, 0.8), (Base::Qemu, 1.5)]),
    own(OWN_W_64, &[(Base::Raw, 1.8)], Some(3.0)),
    fio(FIO_W_64, &[(Base::Qemu, 2.0), (Base::Nbdkit, 1.0)]),
    fio(FIO_W_64K, &[(Base::Qemu, 1.2)]),
    own(OWN_R_64, &[(Base::Raw, 0.95)], Some(4.0)),
    fio(FIO_R_1, &[(Base::Raw, 0.65)]),
    fio(FIO_R_64, &[(Base::Qemu, 1.2), (Base::Nbdkit, 1.1)]),
    own(OWN_SEQ_W, &[(Base::Raw, 0.85)], None),
    own(OWN_SEQ_R, &[(Base::Raw, 0.95)], None),
];

/// Runs every comparison whose name contains `only`.
pub fn compare(arena: &Arena<'_>, only: &str) -> Result<(Vec<Row>, Vec<Figure>)> {
    let (mut rows, mut figures) = (Vec::new(), Vec::new());
    for comparison in COMPARISONS.iter().filter(|c| c.work.name.contains(only)) {
        eprintln!("{}", comparison.work.name);
        let sides = arena.sides(comparison);
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); sides.len()];
        for _ in 0..arena.runs {
            for (side, samples) in sides.iter().zip(&mut samples) {
                interrupt::check()?;
                samples.push(side.measure(&arena.folder)?);
            }
        }
        for (side, samples) in sides.iter().zip(&samples) {
            figures.push(figure(comparison.work.name, side, samples));
        }
        rows.extend(judge(comparison, &samples));
    }
    Ok((rows, figures))
}

fn judge(comparison: &Comparison, samples: &[Vec<Sample>]) -> Vec<Row> {
    let subject = &samples[0];
    let mut rows = Vec::new();
    for ((base, bound), samples) in comparison.bases.iter().zip(&samples[1..]) {
        let ratios: Vec<_> = subject.iter().zip(samples).map(|(s, b)| s.iops / b.iops).collect();
        let (low, high) = bounds(&ratios);
        rows.push(Row {
            work: format!("{} / {}", comparison.work.name, base.name()),
            goal: Goal::AtLeast(*bound),
            unit: "",
            value: Ok(median(&ratios)),
            detail: format!(
                "{} / {} IOPS, ratios {}-{}",
                count(median_of(subject, |s| s.iops)),
                count(median_of(samples, |s| s.iops)),
                short(low),
                short(high)
            ),
            disturbed: is_disturbed(subject) || is_disturbed(samples),
        });
    }
    if let Some(bound) = comparison.server_micros_max {
        rows.push(Row {
            work: format!("server CPU per op, {}", comparison.work.name),
            goal: Goal::AtMost(bound),
            unit: " us",
            value: Ok(median_of(subject, |s| s.server_micros.unwrap_or(f64::NAN))),
            detail: format!("client {} us", short(median_of(subject, |s| s.client_micros))),
            disturbed: is_disturbed(subject),
        });
    }
    rows
}

fn figure(work: &str, side: &Side, samples: &[Sample]) -> Figure {
    let has_server = side.server_pid.is_some();
    Figure {
        work: work.to_owned(),
        side: side.name.clone(),
        iops: median_of(samples, |s| s.iops),
        request_bytes: side.request_bytes(),
        p50_micros: median_of(samples, |s| s.p50_micros),
        p99_micros: median_of(samples, |s| s.p99_micros),
        server_micros: has_server.then(|| median_of(samples, |s| s.server_micros.unwrap_or(0.0))),
        client_micros: median_of(samples, |s| s.client_micros),
        foreign_share: bounds(&samples.iter().map(|s| s.foreign_share).collect::<Vec<_>>()).1,
    }
}

impl Arena<'_> {
    /// The subject first, then the bases in their order.
    fn sides(&self, comparison: &Comparison) -> Vec<Side> {
        let work = &comparison.work;
        let driver = if comparison.own_client {
            Driver::Own(self.ashlar.target.clone(), self.load(work))
        } else {
            Driver::Fio(self.job(work, Subject::Nbd(self.ashlar.target.clone())))
        };
        let server_pid = Some(self.ashlar.pid());
        let subject = Side { name: "ashlar".into(), driver, server_pid, cached_file: None };
        let bases = comparison.bases.iter().map(|(base, _)| self.base(work, *base));
        std::iter::once(subject).chain(bases).collect()
    }

    fn base(&self, work: &Work, base: Base) -> Side {
        let mut job = self.job(work, Subject::Raw(self.raw.clone()));
        let (mut server_pid, mut cached_file) = (None, None);
        match base {
            Base::Raw => {}
            Base::RawDsync => job.sync = Sync::EachWrite,
            Base::Qemu => {
                job.subject = Subject::Nbd(self.qemu.target.clone());
                server_pid = Some(self.qemu.pid());
            }
            Base::Nbdkit => {
                job.subject = Subject::Nbd(self.nbdkit.target.clone());
                server_pid = Some(self.nbdkit.pid());
                cached_file = Some(self.cached.clone());
            }
        }
        Side { name: base.name().into(), driver: Driver::Fio(job), server_pid, cached_file }
    }

    fn job(&self, work: &Work, subject: Subject) -> Job {
        let pattern = match (work.write, work.random) {
            (true, true) => "randwrite",
            (true, false) => "write",
            (false, true) => "randread",
            (false, false) => "read",
        };
        Job {
            subject,
            pattern,
            request_bytes: work.request_bytes,
            depth: work.depth,
            sync: work.sync,
            span_bytes: self.span_bytes,
            time: Some(self.time),
        }
    }

    fn load(&self, work: &Work) -> Load {
        Load {
            write: work.write,
            random: work.random,
            request_bytes: work.request_bytes,
            depth: work.depth,
            connections: 1,
            until: Until::Elapsed(self.time),
            span_bytes: Some(self.span_bytes),
            seed: 1,
        }
    }
}

fn is_disturbed(samples: &[Sample]) -> bool {
    samples.iter().any(|s| s.foreign_share > FOREIGN_SHARE_MAX)
}

fn median_of(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    median(&samples.iter().map(of).collect::<Vec<_>>())
}

/// The middle value; the lower one of two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

fn bounds(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    (low, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

fn count(iops: f64) -> String {
    if iops >= 10_000.0 { format!("{:.1}k", iops / 1000.0) } else { format!("{iops:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.0);
        assert!(median(&[]).is_nan());
    }
}
