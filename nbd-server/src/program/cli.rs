//! The command line.
//!
//! Must never know: what the commands do.

use super::address::{Target, parse_listen, parse_target};
use super::busy_poll::BusyPollMicros;
use super::cluster::cli::{CLUSTER_EXAMPLES, ClusterArgs};
use super::config::NodeSettings;
use super::log::Level;
use super::size::Size;
use ashlar_engine::format::validate_volume_name;
use ashlar_engine::reactor::Address;
use clap::{ArgGroup, Args, Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where the store is if nobody says.
pub(crate) const STORE_DEFAULT: &str = "ashlar.store";

/// A block store that serves durable volumes over NBD.
///
/// Sizes are written 4096, 512M, 8G, 1T (binary units). Exit codes: 0 done, 1 failed, 2 bad usage.
#[derive(Debug, Parser)]
#[command(name = "ashlar", version, infer_subcommands = false)]
pub(crate) struct Cli {
    /// How much is logged to stderr (default: warn).
    #[arg(long, global = true, env = "ASHLAR_LOG", value_name = "LEVEL")]
    pub(crate) log: Option<Level>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve every volume of a store over NBD until SIGTERM or SIGINT.
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// Make an empty store of a file or block device.
    #[command(after_help = FORMAT_EXAMPLES)]
    Format(FormatArgs),
    /// Create, list, show and delete volumes.
    ///
    /// Asks the server that runs on the store; without one, works on the store itself.
    Volume(VolumeArgs),
    /// Show space, volumes, segments, write amplification, errors and load of a running server.
    Status(StatusArgs),
    /// Make and run a cluster: nodes that keep volumes together.
    #[command(after_help = CLUSTER_EXAMPLES)]
    Cluster(ClusterArgs),
    /// Verify everything that a running server holds, now, while it serves.
    ///
    /// A node of a cluster mends what is damaged from other nodes. Exit code 1 if anything is
    /// damaged still. Nodes do the same by themselves once a day, slowly.
    Scrub(StatusArgs),
    /// Verify a store that is not in use: every checksum, and the index against the segments.
    ///
    /// Writes nothing. Names the volume and the blocks of all damage; exit code 1 if there is any.
    Check(CheckArgs),
    /// Measure an export or a store: a standard table of IOPS, MiB/s, latencies, CPU per request.
    ///
    /// With --target, an NBD export; writes are measured, and destroy what is there, only with
    /// --write. With --store, a store that no server has open, through the engine in this process,
    /// on a volume that is deleted afterwards.
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(BenchArgs),
    /// Print a completion script: `ashlar completions bash > /etc/bash_completion.d/ashlar`.
    Completions {
        /// For which shell.
        shell: Shell,
    },
}

const BENCH_EXAMPLES: &str = "\
Examples:
  ashlar bench --target nbd://127.0.0.1:10809/vm0
  ashlar bench --target 'nbd+unix:///scratch?socket=/run/nbd.sock' --write --seconds 10
  ashlar bench --store /srv/ashlar.store --json";

const FORMAT_EXAMPLES: &str = "\
Examples:
  ashlar format /srv/ashlar.store --size 16G
  ashlar format /dev/vdb";

const SERVE_EXAMPLES: &str = "\
Examples:
  ashlar serve --create vm0:4G
      a store in ./ashlar.store with one volume, at nbd://127.0.0.1:10809/vm0
  ashlar serve --store /dev/vdb --listen unix:/run/ashlar.nbd --listen 10.0.0.1:10809

When it accepts clients it prints one line per address: `ready nbd://127.0.0.1:10809`.";

/// A volume to create: `NAME:SIZE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewVolume {
    pub(crate) name: String,
    pub(crate) size: Size,
}

impl FromStr for NewVolume {
    type Err = String;

    fn from_str(text: &str) -> Result<NewVolume, String> {
        let (name, size) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("{text:?} is no volume to create: write NAME:SIZE"))?;
        if let Some(why) = validate_volume_name(name) {
            return Err(why.into());
        }
        Ok(NewVolume { name: name.to_owned(), size: size.parse()? })
    }
}

#[derive(Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// The store: a file (made if it does not exist) or a block device [default: ashlar.store].
    #[arg(long, value_name = "PATH")]
    pub(crate) store: Option<PathBuf>,
    /// Size of a store that is made now [default: 1G, or enough for the volumes to create].
    #[arg(long)]
    pub(crate) size: Option<Size>,
    /// Create this volume if it does not exist; may be given several times.
    #[arg(long, value_name = "NAME:SIZE")]
    pub(crate) create: Vec<NewVolume>,
    /// Accept clients here: unix:PATH or IP:PORT; may be given several times
    /// [default: 127.0.0.1:10809].
    #[arg(long, value_name = "ADDR", value_parser = parse_listen)]
    pub(crate) listen: Vec<Address>,
    /// Socket for `ashlar volume` and `ashlar status` [default: STORE.sock].
    #[arg(long, value_name = "PATH")]
    pub(crate) admin: Option<PathBuf>,
    /// Write the process id here; removed at the end.
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Settings in TOML, with the names of these flags; flags win.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Write nothing to the store and refuse writes.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Poll up to so many microseconds before sleeping, at most 1000, while requests follow each
    /// other that fast: lower latency for more CPU [default: 500 on a node of a cluster, else 0].
    #[arg(long, value_name = "N")]
    pub(crate) busy_poll_us: Option<BusyPollMicros>,
    /// From the settings: this is a node of a cluster.
    #[arg(skip)]
    pub(crate) node: Option<NodeSettings>,
}

impl ServeArgs {
    /// How long the server polls before it sleeps.
    pub(crate) fn busy_poll_max(&self) -> Duration {
        let default = match self.node {
            Some(_) => BusyPollMicros::OF_A_NODE,
            None => BusyPollMicros::ALONE,
        };
        self.busy_poll_us.unwrap_or(default).duration()
    }
}

#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// A file (made if it does not exist) or a block device.
    #[arg(value_name = "STORE")]
    pub(crate) path: PathBuf,
    /// Size of the store [default: all of what exists].
    #[arg(long)]
    pub(crate) size: Option<Size>,
    /// Destroy what is there.
    #[arg(long)]
    pub(crate) force: bool,
    /// Report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which store or server is meant.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// The store [default: ashlar.store].
    #[arg(long, value_name = "PATH", global = true)]
    pub(crate) store: Option<PathBuf>,
    /// The server's admin socket [default: STORE.sock].
    #[arg(long, value_name = "PATH", global = true)]
    pub(crate) admin: Option<PathBuf>,
}

impl StoreArgs {
    /// The store that is meant.
    pub(crate) fn store(&self) -> PathBuf {
        self.store.clone().unwrap_or_else(|| STORE_DEFAULT.into())
    }
}

#[derive(Debug, Args)]
pub(crate) struct VolumeArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Report as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Create a thin volume: it takes space only for what is written to it.
    Create {
        /// Letters, digits, '.', '_' and '-'.
        name: String,
        /// A multiple of 512 bytes; may be larger than the store.
        #[arg(long)]
        size: Size,
        /// In a cluster, how it is kept: replicas=3, replicas=3,apart=rack, replicas=2,witness.
        #[arg(long, value_name = "POLICY")]
        policy: Option<String>,
    },
    /// List all volumes.
    List,
    /// Show one volume.
    Show {
        /// Its name.
        name: String,
    },
    /// Delete a volume and everything in it, at once and without asking.
    Delete {
        /// Its name.
        name: String,
        /// Although clients have it open.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The store.
    #[arg(value_name = "STORE")]
    pub(crate) path: PathBuf,
    /// Report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["target", "store"]))]
pub(crate) struct BenchArgs {
    /// nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH.
    #[arg(long, value_name = "NBD-URI", value_parser = parse_target)]
    pub(crate) target: Option<Target>,
    /// A store, measured in this process.
    #[arg(long, value_name = "STORE")]
    pub(crate) store: Option<PathBuf>,
    /// Measure writes to the target too: destroys what it holds.
    #[arg(long)]
    pub(crate) write: bool,
    /// Seconds for each row of the table.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// How much of the target is used, from its start.
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub(crate) span: Size,
    /// Report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
