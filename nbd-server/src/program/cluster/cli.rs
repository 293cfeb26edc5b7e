//! The command line of `ashlar cluster`.
//!
//! Must never know: what the commands do.

use crate::program::cli::{NewVolume, StoreArgs};
use crate::program::size::Size;
use clap::{Args, Subcommand};
use std::path::PathBuf;

pub(crate) const CLUSTER_EXAMPLES: &str = "\
Examples:
  ashlar cluster local --nodes 3 --dir /tmp/demo --create vm0:4G
      three nodes on this machine, one volume with three replicas
  ashlar cluster init --store /srv/ashlar.store
      on the first node of a real cluster, which runs `ashlar serve --config node.toml`
  ashlar cluster add-node 10.0.0.2:7400 --label host=b --store /srv/ashlar.store
      prints the settings for the new node";

#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    pub(crate) command: ClusterCommand,
}

/// Which node is asked, and how it is shown.
#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Make a cluster with the node that runs on this store as its first.
    Init {
        #[command(flatten)]
        ask: AskArgs,
        /// How the cluster's own map is kept once there are enough nodes.
        #[arg(long, default_value = "replicas=3")]
        policy: String,
    },
    /// Show nodes, stores and placement groups, and what is degraded and why.
    Status {
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Admit a node, and print the settings that it must be started with.
    AddNode {
        #[command(flatten)]
        ask: AskArgs,
        /// Where other nodes will reach it: IP:PORT.
        address: String,
        /// Where it stands: operator, region, zone, rack or host=NAME; may be given several times.
        #[arg(long, value_name = "LEVEL=NAME")]
        label: Vec<String>,
        /// It keeps no data: it votes, so that two sites and this one are safe.
        #[arg(long)]
        witness: bool,
    },
    /// As `add-node --witness`: admit a node that votes and keeps no data.
    Witness {
        #[command(flatten)]
        ask: AskArgs,
        /// Where other nodes will reach it: IP:PORT.
        address: String,
        /// As for add-node.
        #[arg(long, value_name = "LEVEL=NAME")]
        label: Vec<String>,
    },
    /// Remove a node for good; drain it first.
    RemoveNode {
        #[command(flatten)]
        ask: AskArgs,
        /// Its id.
        id: u64,
    },
    /// Move everything a node holds to others, before it is taken away.
    Drain {
        #[command(flatten)]
        ask: AskArgs,
        /// Its id.
        id: u64,
        /// Take it back into service.
        #[arg(long)]
        off: bool,
    },
    /// Say what is being moved; the cluster spreads load by itself.
    Rebalance {
        #[command(flatten)]
        ask: AskArgs,
        /// How many placement groups may move at once only to spread load; 0 stops it.
        #[arg(long)]
        moves: Option<u16>,
    },
    /// Set what holds for the whole cluster.
    Settings {
        #[command(flatten)]
        ask: AskArgs,
        /// Seconds after which a dead node's replicas are made elsewhere.
        #[arg(long, value_name = "SECONDS")]
        grace: Option<u32>,
        /// How many placement groups may move at once only to spread load.
        #[arg(long)]
        moves: Option<u16>,
    },
    /// Run a cluster of real node processes on this machine, until SIGTERM or SIGINT.
    ///
    /// Prints `ready URI` for each node and `pid NODE PID`, and keeps its data in DIR: the same
    /// command starts it again. A node that dies is reported, not started again.
    Local(LocalArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LocalArgs {
    /// How many nodes [default: as many as DIR has, or 3].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(crate) nodes: Option<u16>,
    /// Where stores, settings and logs of the nodes are; made if it does not exist.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Create this volume if it does not exist; may be given several times.
    #[arg(long, value_name = "NAME:SIZE")]
    pub(crate) create: Vec<NewVolume>,
    /// Size of each node's store that is made now [default: enough for the volumes to create].
    #[arg(long)]
    pub(crate) size: Option<Size>,
    /// Start this node again, which was killed; returns when it serves.
    #[arg(long, value_name = "NODE", conflicts_with_all = ["nodes", "create", "size"])]
    pub(crate) restart: Option<u16>,
}
