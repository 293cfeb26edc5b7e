//! The table of `docs/benchmarks.md`: every row in one run, one command.
//!
//! Invariant: whatever happens, every process this run started is ended by its id and every file
//! it made is removed; guards do both, also on a signal.

pub mod fio;
pub mod machine;
pub mod process;
pub mod report;
pub mod servers;
pub mod side;
pub mod speed;
pub mod state;
pub mod syscalls;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Result;
use report::{Figure, Row};
use servers::{Ashlar, Server};

/// What to measure, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Small and short: for trying, not for publishing.
    pub quick: bool,
    /// Only the comparisons whose name contains this, and none of the other rows.
    pub only: Option<String>,
    /// The program `ashlar`.
    pub program: PathBuf,
    /// Directory for stores and images, on the file system to be measured.
    pub directory: PathBuf,
}

/// Sizes and times of a run.
struct Scale {
    span_bytes: u64,
    store_bytes: u64,
    time: Duration,
    runs: usize,
    extent: state::Extent,
}

impl Scale {
    fn of(quick: bool) -> Scale {
        let (span, amplified, millis, runs) =
            if quick { (1 << 30, 512 << 20, 500, 5) } else { (4 << 30, 2 << 30, 1500, 5) };
        let time = Duration::from_millis(millis);
        let extent = state::Extent {
            volume_bytes: span,
            amplified_store_bytes: amplified,
            time: Duration::from_millis(if quick { 1000 } else { 5000 }),
        };
        // Little enough that segments are recycled and cleaned during the run, as they are in life.
        Scale { span_bytes: span, store_bytes: span * 3, time, runs, extent }
    }
}

/// A working directory that is removed on drop.
#[derive(Debug)]
pub struct Workplace(PathBuf);

impl Workplace {
    /// Makes it below `directory`.
    pub fn new(directory: &Path) -> Result<Workplace> {
        let path = directory.join(format!("ashlar-bench-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        Ok(Workplace(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// Measures everything; the document as text.
pub fn run(options: &Options) -> Result<String> {
    let started = Instant::now();
    let scale = Scale::of(options.quick);
    let place = Workplace::new(&options.directory)?;
    let folder = place.path();
    let program = options.program.clone();
    let ashlar = Ashlar {
        program,
        store: folder.join("store"),
        store_bytes: scale.store_bytes,
        volume_bytes: scale.span_bytes,
    };
    let (mut rows, figures, server) = measure_speed(folder, &ashlar, &scale, options)?;
    if options.only.is_some() {
        return Ok(document(options, &scale, folder, &rows, &figures, started.elapsed()));
    }
    eprintln!("syscalls, restart, memory, write amplification");
    rows.extend(syscalls::rows(&server, folder, scale.span_bytes));
    let (restart, server) = state::restart(&ashlar, server)?;
    rows.push(restart);
    drop(server);
    remove(&ashlar.store)?;
    rows.extend(state::fresh(folder, &ashlar, &scale.extent)?);
    rows.extend(state::amplification(folder, &ashlar, &scale.extent));
    crate::interrupt::check()?;
    Ok(document(options, &scale, folder, &rows, &figures, started.elapsed()))
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(|e| format!("cannot remove {}: {e}", path.display()))
}

/// The comparisons; the images of the peers are gone afterwards, Ashlar still runs.
fn measure_speed(
    folder: &Path,
    ashlar: &Ashlar,
    scale: &Scale,
    options: &Options,
) -> Result<(Vec<Row>, Vec<Figure>, Server)> {
    let (raw, cached) = (folder.join("raw"), folder.join("cached"));
    eprintln!("filling two images and a volume of {} MiB each", scale.span_bytes >> 20);
    for image in [&raw, &cached] {
        fio::run(&fill_job(image, scale.span_bytes), folder)?;
    }
    let server = ashlar.start()?;
    state::run_clean(&server, &state::sequential_fill(scale.span_bytes))?;
    let (qemu, nbdkit) = (servers::qemu_nbd(&raw)?, servers::nbdkit_file(&cached)?);
    let arena = speed::Arena {
        ashlar: &server,
        qemu: &qemu,
        nbdkit: &nbdkit,
        raw: raw.clone(),
        cached: cached.clone(),
        span_bytes: scale.span_bytes,
        time: scale.time,
        runs: scale.runs,
        folder: folder.to_owned(),
    };
    let (rows, figures) = speed::compare(&arena, options.only.as_deref().unwrap_or(""))?;
    drop((qemu, nbdkit));
    remove(&raw)?;
    remove(&cached)?;
    Ok((rows, figures, server))
}

fn fill_job(image: &Path, span_bytes: u64) -> fio::Job {
    fio::Job {
        subject: fio::Subject::Raw(image.to_owned()),
        pattern: "write",
        request_bytes: 1 << 20,
        depth: 8,
        sync: fio::Sync::Never,
        span_bytes,
        time: None,
    }
}

fn document(
    options: &Options,
    scale: &Scale,
    folder: &Path,
    rows: &[Row],
    figures: &[Figure],
    took: Duration,
) -> String {
    let facts: String =
        machine::describe(folder).iter().map(|(n, v)| format!("| {n} | {v} |\n")).collect();
    let quick = if options.quick {
        "\n**A quick run: small volumes, short runs. For trying only.**\n"
    } else {
        ""
    };
    format!(
        "# Benchmarks\n\n\
         Written by `cargo run --release -p ashlar-benches -- table`; do not edit. Took {} s.\n{quick}\n\
         | | |\n|---|---|\n{facts}\n\
         ## Goals\n\n{}\n## Figures\n\n{}\n## Method\n\n{}",
        took.as_secs(),
        report::goals(rows),
        report::figures(figures),
        method(scale)
    )
}

fn method(scale: &Scale) -> String {
    let mib = |bytes: u64| bytes >> 20;
    format!(
        "{METHOD}\
         - This run: {} runs of {:?} a side; files and volume of {} MiB, fully written beforehand; \
         Ashlar's store has {} MiB, so its segments were recycled and cleaned during the run.\n",
        scale.runs,
        scale.time,
        mib(scale.span_bytes),
        mib(scale.store_bytes)
    )
}

const METHOD: &str = "\
- Everything runs on one machine and one file system; client and server share its cores. Absolute
  figures drift with the machine; the ratios do less.
- The sides of a comparison take turns, run by run. A ratio is the median of the ratios of
  neighbouring runs; figures are medians. The device's own cache is emptied before each run, so that
  no side pays for what another has left there.
- raw: fio, io_uring, `O_DIRECT`, on a fully written file. qemu-nbd: `cache=none`, `aio=io_uring`, on
  the same file. nbdkit: its file plugin, on a second such file, which is written out and dropped from
  the page cache before and after each of its runs.
- Ashlar acknowledges a write when it is durable. qemu-nbd and nbdkit do not unless they are asked to
  (the fsync row); nbdkit's writes stop in the page cache.
- Own client: the raw pipelined client of `benches/`. fio's NBD engine costs 7-15 us of CPU per
  request and hides any server that is cheaper.
- server us/op is the server process's CPU time (from `/proc`, all threads) over the requests; S/C is
  that over the client's CPU per request in the same run, in which the machine's drift cancels.
- others: the largest share of one core that processes outside the measurement took during a run of
  that side; (!) marks more than 10 %, and every goal that rests on such a run.
- Syscalls are counted by `strace -c -f`. Write amplification is `write_bytes` of `/proc/PID/io` over
  the client's bytes.
";
