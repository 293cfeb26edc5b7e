//! The measuring program: `load` runs one load, `table` the whole comparison, `cluster` three
//! nodes beside one.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ashlar_benches::address::Target;
use ashlar_benches::load::{Load, Until, run};
use ashlar_benches::{Result, cluster, interrupt, procfs, program, table};
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures NBD servers")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one load against an NBD export, with the raw pipelined client.
    Load(LoadArgs),
    /// Measure Ashlar, raw fio, qemu-nbd and nbdkit side by side and write docs/benchmarks.md.
    Table(TableArgs),
    /// Measure three nodes beside one, on this machine.
    Cluster(ClusterArgs),
}

#[derive(Args)]
struct ClusterArgs {
    /// Size of the volume in MiB; four stores of three times that size are made.
    #[arg(long, default_value_t = 512)]
    volume_mib: u64,
    /// Rounds, of which medians are given.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each load.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Directory on the file system to be measured.
    #[arg(long, default_value = "target")]
    directory: PathBuf,
    /// The program `ashlar`; built in this program's own profile if not given.
    #[arg(long)]
    ashlar: Option<PathBuf>,
}

#[derive(Args)]
struct TableArgs {
    /// Small volumes and short runs: under 4 minutes, for trying.
    #[arg(long)]
    quick: bool,
    /// Only the comparisons whose name contains this, e.g. "QD64"; prints, writes no document.
    #[arg(long)]
    only: Option<String>,
    /// Where the document goes.
    #[arg(long, default_value = "docs/benchmarks.md")]
    out: PathBuf,
    /// Directory on the file system to be measured; needs 22 GiB (quick: 6 GiB).
    #[arg(long, default_value = "target")]
    directory: PathBuf,
    /// The program `ashlar`; built in this program's own profile if not given.
    #[arg(long)]
    ashlar: Option<PathBuf>,
}

#[derive(Args)]
struct LoadArgs {
    /// nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH
    target: Target,
    /// Write (destroys the export's content); else read.
    #[arg(long)]
    write: bool,
    /// Sequential offsets; else uniformly random ones.
    #[arg(long)]
    sequential: bool,
    /// Bytes per request.
    #[arg(long, default_value_t = 4096)]
    request_bytes: usize,
    /// Requests in flight per connection.
    #[arg(long, default_value_t = 64)]
    depth: usize,
    /// Connections.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Seconds to run.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Process id of the server, to report its CPU time.
    #[arg(long)]
    server_pid: Option<u32>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = interrupt::install().and_then(|()| match cli.command {
        Command::Load(args) => load(&args),
        Command::Table(args) => table(args),
        Command::Cluster(args) => cluster(args),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn table(args: TableArgs) -> Result<()> {
    let program = match args.ashlar {
        Some(program) => program,
        None => program::build()?,
    };
    let directory = args.directory.canonicalize();
    let directory = directory.map_err(|e| format!("{}: {e}", args.directory.display()))?;
    let writes = args.only.is_none();
    let options = table::Options { quick: args.quick, only: args.only, program, directory };
    let text = table::run(&options)?;
    print!("{text}");
    if !writes {
        return Ok(());
    }
    if let Some(folder) = args.out.parent() {
        std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    std::fs::write(&args.out, &text).map_err(|e| format!("{}: {e}", args.out.display()))?;
    Ok(())
}

fn cluster(args: ClusterArgs) -> Result<()> {
    let program = match args.ashlar {
        Some(program) => program,
        None => program::build()?,
    };
    let directory = args.directory.canonicalize();
    let directory = directory.map_err(|e| format!("{}: {e}", args.directory.display()))?;
    let options = cluster::Options {
        program,
        directory,
        volume_bytes: args.volume_mib.clamp(64, 1 << 20) << 20,
        rounds: args.rounds.clamp(1, 1000),
        time: Duration::from_secs_f64(args.seconds.clamp(0.1, 3600.0)),
    };
    print!("{}", cluster::measure(&options)?);
    Ok(())
}

fn load(args: &LoadArgs) -> Result<()> {
    let load = Load {
        write: args.write,
        random: !args.sequential,
        request_bytes: args.request_bytes,
        depth: args.depth,
        connections: args.connections,
        until: Until::Elapsed(Duration::from_secs_f64(args.seconds.clamp(0.01, 3600.0))),
        span_bytes: None,
        seed: 1,
    };
    let server_cpu = |pid| procfs::process_cpu(pid);
    let before = args.server_pid.map(server_cpu).transpose()?;
    let outcome = run(&args.target, &load)?;
    let after = args.server_pid.map(server_cpu).transpose()?;
    println!(
        "{:.0} IOPS  {:.1} MiB/s  p50 {:.1} us  p99 {:.1} us  p99.9 {:.1} us  client {:.2} us/op  \
         errors {}",
        outcome.iops(),
        outcome.mib_per_second(),
        outcome.micros_at(0.5),
        outcome.micros_at(0.99),
        outcome.micros_at(0.999),
        outcome.client_micros_per_request(),
        outcome.errors,
    );
    if let (Some(before), Some(after)) = (before, after) {
        let micros = (after - before).as_secs_f64() * 1e6 / outcome.requests.max(1) as f64;
        println!(
            "server {micros:.2} us/op, {:.2} of the client's",
            micros / outcome.client_micros_per_request()
        );
    }
    Ok(())
}
