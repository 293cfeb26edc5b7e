//! The rows about a server's state: restart, memory, write amplification, idling, crowds.

use std::path::Path;
use std::time::Duration;

use super::report::{Goal, Row, short};
use super::servers::{Ashlar, Server};
use super::speed::median;
use crate::client::{Attached, attach};
use crate::load::{self, Load, Until};
use crate::{Result, interrupt, procfs};

const BLOCK_SIZE_BYTES: u64 = 4096;
/// Connections of the crowd.
const CROWD: usize = 200;
/// Connections that idle.
const IDLERS: usize = 10;
/// Restarts after a kill.
const RESTARTS: usize = 5;
/// Share of the store that the write amplification rows fill.
const FULL_PERCENT: u64 = 80;

/// How much is done.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Bytes of the volumes for restart and memory.
    pub volume_bytes: u64,
    /// Bytes of the store for write amplification.
    pub amplified_store_bytes: u64,
    /// Time of the idle and crowd rows.
    pub time: Duration,
}

fn row(work: &str, goal: Goal, unit: &'static str, value: Result<(f64, String)>) -> Row {
    let work = work.to_owned();
    let (value, detail) = match value {
        Ok((value, detail)) => (Ok(value), detail),
        Err(why) => (Err(why), String::new()),
    };
    Row { work, goal, unit, value, detail, disturbed: false }
}

/// A load on the first `span_bytes` of a volume.
pub fn sequential_fill(span_bytes: u64) -> Load {
    let request_bytes = 1 << 20;
    let until = Until::Requests(span_bytes / request_bytes as u64);
    Load {
        write: true,
        random: false,
        request_bytes,
        depth: 8,
        connections: 1,
        until,
        span_bytes: Some(span_bytes),
        seed: 2,
    }
}

fn random_overwrite(span_bytes: u64, bytes: u64) -> Load {
    let until = Until::Requests(bytes / BLOCK_SIZE_BYTES);
    Load {
        random: true,
        request_bytes: BLOCK_SIZE_BYTES as usize,
        depth: 64,
        until,
        ..sequential_fill(span_bytes)
    }
}

/// Runs a load that must not be answered with an error.
pub fn run_clean(server: &Server, load: &Load) -> Result<load::Outcome> {
    let outcome = load::run(&server.target, load)?;
    match outcome.errors {
        0 => Ok(outcome),
        n => Err(format!("{n} of {} requests were answered with an error", outcome.requests)),
    }
}

/// Restart after SIGKILL with the volume as the load before left it: fully written.
pub fn restart(ashlar: &Ashlar, mut server: Server) -> Result<(Row, Server)> {
    let mut seconds = Vec::new();
    for _ in 0..RESTARTS {
        interrupt::check()?;
        server.kill();
        server = ashlar.start()?;
        seconds.push(server.ready_after.as_secs_f64());
    }
    let gib = short(ashlar.volume_bytes as f64 / (1u64 << 30) as f64);
    let worst = seconds.iter().copied().fold(0.0, f64::max);
    let detail = format!("median of {RESTARTS}, worst {} s", short(worst));
    let work = format!("restart after kill -9, {gib} GiB volume fully written");
    Ok((row(&work, Goal::AtMost(1.0), " s", Ok((median(&seconds), detail))), server))
}

/// Rows of a fresh server: start, memory at rest, per connection and per block, idling, a crowd.
pub fn fresh(folder: &Path, ashlar: &Ashlar, extent: &Extent) -> Result<Vec<Row>> {
    let fresh = Ashlar { store: folder.join("fresh"), ..ashlar.clone() };
    let server = fresh.start()?;
    let ready = server.ready_after.as_secs_f64();
    let mut rows = vec![row(
        "fresh store: from start to accepting clients",
        Goal::AtMost(1.0),
        " s",
        Ok((ready, String::new())),
    )];
    let (all, anonymous) = procfs::process_rss(server.pid())?;
    let detail = format!("of which anonymous {} MiB", short(mib(anonymous)));
    rows.push(row("resident memory at rest", Goal::Stated, " MiB", Ok((mib(all), detail))));
    rows.push(idle(&server, extent));
    rows.extend(index_memory(&fresh, &server, extent));
    rows.extend(crowd(&server, extent));
    Ok(rows)
}

fn connect_many(server: &Server, count: usize) -> Result<Vec<Attached>> {
    (0..count).map(|_| attach(&server.target)).collect()
}

fn idle(server: &Server, extent: &Extent) -> Row {
    let measured = || {
        let _idlers = connect_many(server, IDLERS)?;
        let before = procfs::process_cpu(server.pid())?;
        // Idling is the measurement: nothing may happen in this time.
        std::thread::sleep(extent.time);
        let spent = procfs::process_cpu(server.pid())?.saturating_sub(before);
        let percent = 100.0 * spent.as_secs_f64() / extent.time.as_secs_f64();
        Ok((percent, format!("of one core, over {:?}", extent.time)))
    };
    row(&format!("CPU while {IDLERS} connections idle"), Goal::AtMost(1.0), " %", measured())
}

fn crowd(server: &Server, extent: &Extent) -> Vec<Row> {
    let memory = || {
        let before = procfs::process_rss(server.pid())?.0;
        let crowd = connect_many(server, CROWD)?;
        let after = procfs::process_rss(server.pid())?.0;
        drop(crowd);
        let each = after.saturating_sub(before) as f64 / CROWD as f64 / 1024.0;
        Ok((each, format!("resident, {CROWD} connections that have not worked yet")))
    };
    let speed = || {
        let load = Load {
            depth: 1,
            connections: CROWD,
            until: Until::Elapsed(extent.time),
            ..random_overwrite(extent.volume_bytes, 0)
        };
        let outcome = run_clean(server, &load)?;
        let (p50, p99) = (short(outcome.micros_at(0.5)), short(outcome.micros_at(0.99)));
        let rss = mib(procfs::process_rss(server.pid())?.0);
        let detail = format!("p50 {p50} us, p99 {p99} us; resident afterwards {} MiB", short(rss));
        Ok((outcome.iops(), detail))
    };
    let work = format!("{CROWD} connections, 4k random write QD1 each, none refused");
    vec![
        row("memory per connection", Goal::Stated, " KiB", memory()),
        row(&work, Goal::Stated, " IOPS", speed()),
    ]
}

/// Index bytes as the server counts them, else its growth in anonymous memory.
fn index_memory(ashlar: &Ashlar, server: &Server, extent: &Extent) -> Vec<Row> {
    let span = extent.volume_bytes;
    let blocks = (span / BLOCK_SIZE_BYTES) as f64;
    let before = procfs::process_rss(server.pid()).map_or(0, |rss| rss.1);
    let measured = |load: &Load| {
        run_clean(server, load)?;
        let grown = procfs::process_rss(server.pid())?.1.saturating_sub(before) as f64 / blocks;
        let counted = ashlar.status().and_then(|s| number(&s, &INDEX_KEYS));
        Ok(match counted {
            Some(bytes) => (bytes / blocks, format!("process grew by {} B", short(grown))),
            None => (grown, "growth of the whole process".to_owned()),
        })
    };
    let sequential = measured(&sequential_fill(span));
    let random = measured(&random_overwrite(span, span * 2));
    let unit = " B/block";
    vec![
        row("index memory, written sequentially", Goal::AtMost(1.0), unit, sequential),
        row("index memory, overwritten at random", Goal::AtMost(12.0), unit, random),
    ]
}

/// Names under which a status report may count index memory.
const INDEX_KEYS: [&str; 2] = ["index_bytes", "index_memory_bytes"];

/// The first number with one of these names, anywhere in a report.
pub fn number(report: &serde_json::Value, names: &[&str]) -> Option<f64> {
    match report {
        serde_json::Value::Object(fields) => names
            .iter()
            .find_map(|name| fields.get(*name)?.as_f64())
            .or_else(|| fields.values().find_map(|value| number(value, names))),
        serde_json::Value::Array(items) => items.iter().find_map(|item| number(item, names)),
        _ => None,
    }
}

/// Device bytes per client byte under uniform random overwrite of a store that is 80 % full: by
/// what it states as its capacity, and by the size of its file.
pub fn amplification(folder: &Path, ashlar: &Ashlar, extent: &Extent) -> Vec<Row> {
    let store_bytes = extent.amplified_store_bytes;
    let fresh = Ashlar { store: folder.join("amplified"), store_bytes, ..ashlar.clone() };
    let capacity = || {
        let ashlar = Ashlar { volume_bytes: 1 << 20, ..fresh.clone() };
        let _server = ashlar.start()?;
        let status = ashlar.status().ok_or("no status from a running server")?;
        number(&status, &["capacity_bytes"]).ok_or("the status has no capacity".into())
    };
    let filled = |what: &str, goal: Goal, bytes: Result<f64>| {
        let measured = bytes.and_then(|bytes| {
            let volume_bytes = (bytes as u64 / 100 * FULL_PERCENT) & !((1 << 20) - 1);
            amplified(&Ashlar { volume_bytes, ..fresh.clone() })
        });
        let work = format!(
            "write amplification, uniform random overwrite at {FULL_PERCENT} % of the {what}"
        );
        row(&work, goal, "", measured)
    };
    let capacity = capacity();
    vec![
        filled("stated capacity", Goal::AtMost(3.0), capacity),
        filled("store's file", Goal::Stated, Ok(store_bytes as f64)),
    ]
}

fn amplified(ashlar: &Ashlar) -> Result<(f64, String)> {
    if ashlar.store.exists() {
        super::remove(&ashlar.store)?;
    }
    let (volume_bytes, server) = (ashlar.volume_bytes, ashlar.start()?);
    run_clean(&server, &sequential_fill(volume_bytes))?;
    // Until cleaning is in its steady state, then measured.
    run_clean(&server, &random_overwrite(volume_bytes, volume_bytes * 2))?;
    let before = procfs::process_write_bytes(server.pid())?;
    let outcome = run_clean(&server, &random_overwrite(volume_bytes, volume_bytes))?;
    let device = procfs::process_write_bytes(server.pid())? - before;
    let client = outcome.requests * BLOCK_SIZE_BYTES;
    let detail = format!(
        "4k QD64 at {:.0} IOPS, volume of {} MiB in a store of {} MiB",
        outcome.iops(),
        volume_bytes >> 20,
        ashlar.store_bytes >> 20
    );
    Ok((device as f64 / client as f64, detail))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}
