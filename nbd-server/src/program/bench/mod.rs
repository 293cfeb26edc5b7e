//! `ashlar bench`: a standard table of loads on an NBD export, or on a store through the engine.
//!
//! Must never know: how requests reach the disk.

mod cpu;
mod engine;
mod load;
mod nbd;
mod report;

use super::address::Target;
use super::cli::BenchArgs;
use super::failure::{Failure, Result};
use super::progress;
use super::store;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::{Reactor, ReactorOptions};
use engine::EngineDisk;
use load::{Disk, Load};
use nbd::NbdDisk;
use report::{BenchReport, Row};
use std::path::Path;
use std::time::Duration;

/// Sequential loads move this much per request; offsets and spans are multiples of it.
const UNIT_BYTES: u64 = 1 << 20;
/// Fewest bytes worth measuring on.
const SPAN_MIN_BYTES: u64 = 16 << 20;

/// The table: every load with its name.
const LOADS: [Load; 8] = [
    Load::new("4k random read QD1", false, true, 4 << 10, 1),
    Load::new("4k random read QD64", false, true, 4 << 10, 64),
    Load::new("64k random read QD16", false, true, 64 << 10, 16),
    Load::new("1M sequential read QD8", false, false, 1 << 20, 8),
    Load::new("4k random write QD1", true, true, 4 << 10, 1),
    Load::new("4k random write QD64", true, true, 4 << 10, 64),
    Load::new("64k random write QD16", true, true, 64 << 10, 16),
    Load::new("1M sequential write QD8", true, false, 1 << 20, 8),
];
/// Fills the span before anything is read.
const FILL: Load = Load::new("fill", true, false, 1 << 20, 8);

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    let reactor = Reactor::new(ReactorOptions::default())?;
    let measured = reactor.block_on(async {
        match (&args.target, &args.store) {
            (Some(target), _) => bench_export(&reactor, args, target).await,
            (None, Some(store)) => bench_store(&reactor, args, store).await,
            (None, None) => Err(Failure::usage("name --target URI or --store STORE")),
        }
    });
    reactor.shutdown();
    let report = measured?;
    match args.json {
        true => super::output::say_json(&report),
        false => super::output::say(&report.text()),
    }
}

async fn bench_export(reactor: &Reactor, args: &BenchArgs, target: &Target) -> Result<BenchReport> {
    let disk = NbdDisk::connect(reactor, target).await?;
    if args.write && disk.is_read_only() {
        return Err(Failure::new("the export is read-only").hint("leave --write out"));
    }
    let span_bytes = span(args, disk.size_bytes())?;
    let server = disk.server_pid();
    let rows = table(reactor, args, &disk, span_bytes, server, args.write).await?;
    let name = target.export.clone();
    let target = format!("{} export {name:?}", super::address::uri(&target.server));
    Ok(BenchReport { target, span_bytes, in_process: false, wrote: args.write, rows })
}

/// Bytes that are read and written, from the start of the disk.
fn span(args: &BenchArgs, most_bytes: u64) -> Result<u64> {
    let span_bytes = args.span.0.min(most_bytes) / UNIT_BYTES * UNIT_BYTES;
    if span_bytes < SPAN_MIN_BYTES {
        return Err(Failure::new(format!(
            "there is room for {span_bytes} bytes and a measurement needs {SPAN_MIN_BYTES}"
        ))
        .hint("use a larger target"));
    }
    Ok(span_bytes)
}

async fn bench_store(reactor: &Reactor, args: &BenchArgs, path: &Path) -> Result<BenchReport> {
    let store = store::open(reactor, path, false).await?;
    let name = format!("bench-{}", std::process::id());
    let measured = bench_volume(reactor, args, &store, &name).await;
    // Deleted whatever happened; a store that has failed says so through `measured`.
    let deleted = store.delete_volume(&name).await;
    let closed = store.close().await;
    let (span_bytes, rows) = measured?;
    deleted.and(closed)?;
    let target = format!("{} in this process", path.display());
    Ok(BenchReport { target, span_bytes, in_process: true, wrote: true, rows })
}

async fn bench_volume(
    reactor: &Reactor,
    args: &BenchArgs,
    store: &LocalStore,
    name: &str,
) -> Result<(u64, Vec<Row>)> {
    let status = store.status();
    let used = status.data_bytes + status.reserved_bytes;
    // Half of what is free: overwriting needs room to clean.
    let span_bytes = span(args, status.capacity_bytes.saturating_sub(used) / 2)?;
    let disk = EngineDisk::new(store.create_volume(name, span_bytes).await?, reactor);
    let rows = table(reactor, args, &disk, span_bytes, None, true).await?;
    Ok((span_bytes, rows))
}

async fn table<D: Disk>(
    reactor: &Reactor,
    args: &BenchArgs,
    disk: &D,
    span_bytes: u64,
    server: Option<u32>,
    write: bool,
) -> Result<Vec<Row>> {
    let loads: Vec<&Load> = LOADS.iter().filter(|load| write || !load.write).collect();
    let bar = progress::steps(loads.len() as u64);
    if write {
        bar.set_message("filling");
        load::fill(reactor, disk, &FILL, span_bytes).await?;
    }
    let mut rows = Vec::new();
    for load in loads {
        bar.set_message(load.name);
        bar.tick();
        let cpu = cpu::Cpu::start(server);
        let time = Duration::from_secs(args.seconds.into());
        let outcome = load::run(reactor, disk, load, span_bytes, time).await?;
        rows.push(Row::new(load, &outcome, cpu.used()));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(rows)
}
