//! `ashlar format`: makes an empty store.
//!
//! Nothing is written but the superblocks: segments are prepared while the store is served, so
//! formatting takes no time worth showing.
//! Must never know: what a store looks like.

use super::cli::FormatArgs;
use super::failure::{Failure, Result};
use super::output::{say, say_json};
use super::size::Size;
use super::{lock, store};
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::{DeviceOptions, Reactor, ReactorOptions};
use ashlar_engine::units::BLOCK_SIZE_BYTES;
use serde::Serialize;
use std::fs::{File, metadata};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// How far from the start something is looked for.
const BLANK_BYTES: u64 = 4 << 20;

#[derive(Serialize)]
struct FormatReport {
    store: String,
    size_bytes: u64,
    segment_bytes: u64,
    segments: u32,
}

/// Runs the command.
pub(crate) fn run(args: &FormatArgs) -> Result<()> {
    let size_bytes = size_of(args)?;
    let geometry = store::check_bounds(size_bytes)?;
    let reactor = Reactor::new(ReactorOptions::default())?;
    let formatted = reactor.block_on(format(&reactor, args, size_bytes));
    reactor.shutdown();
    formatted?;
    let report = FormatReport {
        store: args.path.display().to_string(),
        size_bytes,
        segment_bytes: u64::from(geometry.segment_blocks) * BLOCK_SIZE_BYTES as u64,
        segments: geometry.segments,
    };
    if args.json {
        return say_json(&report);
    }
    say(&format!("formatted {}: {}\n", report.store, Size(size_bytes)))
}

/// The size asked for, or that of what exists.
fn size_of(args: &FormatArgs) -> Result<u64> {
    let block = BLOCK_SIZE_BYTES as u64;
    let existing = match metadata(&args.path) {
        Ok(found) if found.is_dir() => {
            let what = format!("{} is a directory", args.path.display());
            return Err(Failure::new(what).hint("name a file in it"));
        }
        Ok(found) if found.is_file() => found.len(),
        Ok(_) => device_bytes(&args.path)?,
        Err(_) => 0,
    };
    match args.size {
        Some(size) => Ok(size.0 / block * block),
        None if existing > 0 => Ok(existing / block * block),
        None => Err(Failure::usage(format!("{} does not exist", args.path.display()))
            .hint("say how large it shall be, for example --size 16G")),
    }
}

fn device_bytes(path: &Path) -> Result<u64> {
    let opened = File::open(path).and_then(|mut file| file.seek(SeekFrom::End(0)));
    opened.map_err(|error| Failure::new(format!("cannot use {}: {error}", path.display())))
}

async fn format(reactor: &Reactor, args: &FormatArgs, size_bytes: u64) -> Result<()> {
    let path = &args.path;
    if store::is_unused(path) {
        return store::create(reactor, path, Size(size_bytes)).await.map(drop);
    }
    // Opened with the lock: nobody else uses it from here on.
    let device = lock::open(reactor, path, &DeviceOptions::default()).await?;
    check_overwrite(reactor, args, &*device).await?;
    let is_file = metadata(path).is_ok_and(|found| found.is_file());
    if is_file {
        resize(path, size_bytes)?;
        drop(device);
        return store::create(reactor, path, Size(size_bytes)).await.map(drop);
    }
    if device.size_bytes() < size_bytes {
        let has = device.size_bytes();
        return Err(Failure::new(format!("{} has only {has} bytes", path.display()))
            .hint("ask for less with --size"));
    }
    LocalStore::format(reactor, &*device, size_bytes).await?;
    Ok(())
}

/// What holds anything is not overwritten unasked.
async fn check_overwrite(
    reactor: &Reactor,
    args: &FormatArgs,
    device: &dyn ashlar_engine::reactor::BlockDevice,
) -> Result<()> {
    if args.force || is_blank(&args.path) {
        return Ok(());
    }
    let is_small = device.size_bytes() < ashlar_engine::limits::STORE_MIN_BYTES;
    let what = match !is_small && LocalStore::is_store(reactor, device).await? {
        true => "holds a store",
        false => "holds something else already",
    };
    Err(Failure::new(format!("{} {what}", args.path.display()))
        .hint("--force destroys it and makes an empty store"))
}

/// Whether there are only zeroes where file systems, partition tables and stores begin.
fn is_blank(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(BLANK_BYTES).read_to_end(&mut start));
    read.is_ok() && start.iter().all(|byte| *byte == 0)
}

/// Empties a file, which frees its space, and gives it a new size.
fn resize(path: &Path, size_bytes: u64) -> Result<()> {
    let emptied = File::options()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(0).and_then(|()| file.set_len(size_bytes)));
    emptied.map_err(|error| Failure::new(format!("cannot resize {}: {error}", path.display())))
}
