//! `ashlar volume` and `ashlar status`: asks, and shows what is answered.
//!
//! Must never know: how the answer comes about.

use super::admin::Request;
use super::admin::client::ask;
use super::admin::report::{StatusReport, VolumeReport, VolumesReport};
use super::cli::{StatusArgs, VolumeArgs, VolumeCommand};
use super::failure::{Failure, Result};
use super::output::{say, say_json};
use super::size::rounded;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Write;

/// `ashlar volume`.
pub(crate) fn run(args: VolumeArgs) -> Result<()> {
    let (place, json) = (args.store, args.json);
    match args.command {
        VolumeCommand::Create { name, size, policy } => {
            let create = Request::VolumeCreate { name, size_bytes: size.0, policy };
            let answer = ask(&place, &create)?;
            show(json, &answer, |volume: VolumeReport| {
                format!("created {} ({})\n", volume.name, rounded(volume.size_bytes))
            })
        }
        VolumeCommand::List => show(json, &ask(&place, &Request::VolumeList {})?, list),
        VolumeCommand::Show { name } => {
            show(json, &ask(&place, &Request::VolumeShow { name })?, one)
        }
        VolumeCommand::Delete { name, force } => {
            let answer = ask(&place, &Request::VolumeDelete { name, force })?;
            show(json, &answer, |volume: VolumeReport| format!("deleted {}\n", volume.name))
        }
    }
}

/// `ashlar status`.
pub(crate) fn status(args: &StatusArgs) -> Result<()> {
    show(args.json, &ask(&args.store, &Request::Status {})?, status_text)
}

/// Shows an answer as it came, or for people.
pub(crate) fn show<R: DeserializeOwned>(
    json: bool,
    answer: &Value,
    text: impl Fn(R) -> String,
) -> Result<()> {
    if json {
        return say_json(answer);
    }
    let report = serde_json::from_value(answer.clone()).map_err(|error| {
        Failure::new(format!("the server answered in a way this version does not know: {error}"))
            .hint("use --json, or the server's own version")
    })?;
    say(&text(report))
}

fn list(report: VolumesReport) -> String {
    volumes(&report.volumes)
}

fn volumes(volumes: &[VolumeReport]) -> String {
    if volumes.is_empty() {
        return "no volumes: make one with `ashlar volume create NAME --size 8G`\n".into();
    }
    let longest = volumes.iter().map(|volume| volume.name.len()).max().unwrap_or(0).max(4);
    let mut text = format!("{:longest$}  {:>10}  {:>10}  clients\n", "name", "size", "used");
    for volume in volumes {
        let clients = volume.clients.map_or("-".into(), |clients| clients.to_string());
        let (size, used) =
            (rounded(volume.size_bytes), volume.mapped_bytes.map_or("-".into(), rounded));
        let name = &volume.name;
        text.push_str(&format!("{name:longest$}  {size:>10}  {used:>10}  {clients:>7}\n"));
    }
    text
}

fn one(volume: VolumeReport) -> String {
    let mut text = Lines::default();
    text.line("name", &volume.name);
    text.line("id", volume.id);
    text.line("size", exact(volume.size_bytes));
    if let Some(mapped_bytes) = volume.mapped_bytes {
        text.line("used", exact(mapped_bytes));
    }
    if let Some(policy) = &volume.policy {
        text.line("policy", policy);
    }
    if let Some(writer) = volume.writer {
        text.line("attached at", format!("node {writer}"));
    }
    if let Some(clients) = volume.clients {
        text.line("clients", clients);
    }
    text.0
}

fn exact(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", rounded(bytes))
}

/// Lines of a name and a value.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        writeln!(self.0, "{name:<12}  {value}").expect("invariant: text takes everything");
    }
}

fn status_text(status: StatusReport) -> String {
    let mut text = Lines::default();
    let seconds = status.uptime_seconds;
    text.line("server", format!("{} pid {} up {seconds:.0} s", status.version, status.pid));
    let mode = if status.read_only { " (read-only)" } else { "" };
    text.line("store", format!("{}{mode}", status.store));
    text.line("listen", status.listen.join(" "));
    space_lines(&mut text, &status);
    work_lines(&mut text, &status);
    text.0.push('\n');
    text.0.push_str(&volumes(&status.volumes));
    text.0
}

fn space_lines(text: &mut Lines, status: &StatusReport) {
    let space = &status.space;
    let full = if space.device_full { ", the file system is full" } else { "" };
    text.line(
        "space",
        format!(
            "{} of {} used, {} reserved, {} free{full}",
            rounded(space.data_bytes),
            rounded(space.capacity_bytes),
            rounded(space.reserved_bytes),
            rounded(space.free_bytes)
        ),
    );
    let segments = &status.segments;
    text.line(
        "segments",
        format!(
            "{} of {}: {} sealed, {} open, {} empty, {} free, {} never used",
            segments.total,
            rounded(segments.segment_bytes),
            segments.sealed,
            segments.open,
            segments.empty,
            segments.free,
            segments.unprepared
        ),
    );
    let memory = &status.memory;
    let per_block = memory.index_bytes_per_mapped_block;
    text.line(
        "memory",
        format!(
            "{} resident, index {}{}, checksum cache {}",
            memory.resident_bytes.map_or("?".into(), rounded),
            rounded(memory.index_bytes),
            per_block.map_or(String::new(), |bytes| format!(" ({bytes:.2} B/block)")),
            rounded(memory.checksum_cache_bytes)
        ),
    );
}

fn work_lines(text: &mut Lines, status: &StatusReport) {
    let (writes, errors, nbd) = (&status.writes, &status.errors, &status.nbd);
    let amplification = writes.write_amplification;
    text.line(
        "written",
        format!(
            "{} by clients, {} to the device{}",
            rounded(writes.user_written_bytes),
            rounded(writes.device_written_bytes),
            amplification.map_or(String::new(), |ratio| format!(" (amplification {ratio:.2})"))
        ),
    );
    text.line("read", format!("{} by clients", rounded(writes.user_read_bytes)));
    let failed = errors.failed.as_ref();
    text.line(
        "errors",
        format!(
            "{} corrupt blocks, {} mended, {} read errors{}",
            errors.corrupt_blocks,
            errors.mended_blocks,
            errors.read_errors,
            failed.map_or(String::new(), |why| format!(", FAILED: {why}"))
        ),
    );
    let running = |running| if running { "running" } else { "idle" };
    let cleaner = &status.cleaner;
    text.line(
        "cleaner",
        format!(
            "{}, {} segments emptied, {} moved",
            running(cleaner.running),
            cleaner.cleaned_segments,
            rounded(cleaner.relocated_bytes)
        ),
    );
    let checkpoint = &status.checkpoint;
    text.line(
        "checkpoint",
        format!(
            "{}, at {} of {}",
            running(checkpoint.running),
            checkpoint.checkpoint_lsn,
            checkpoint.durable_lsn
        ),
    );
    text.line(
        "clients",
        format!("{} connected, {} requests, {} errors", nbd.connections, nbd.requests, nbd.errors),
    );
    let reactor = &status.reactor;
    text.line(
        "reactor",
        format!("{} system calls, {} operations", reactor.enters, reactor.ops_submitted),
    );
}
