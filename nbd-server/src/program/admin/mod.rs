//! Questions to a running server, over its admin socket: one line of JSON each way.
//!
//! Invariants: bad input gets an error for an answer; a client can hold at most
//! [`LINE_MAX_BYTES`] of memory and one of [`CLIENTS_MAX`] places.
//! Must never know: NBD, who asks.

pub(crate) mod client;
mod cluster;
pub(crate) mod cluster_report;
mod command;
pub(crate) mod report;
pub(crate) mod server;
#[cfg(test)]
mod tests;

pub(crate) use cluster::ServedNode;
pub(crate) use command::{ServedStore, Serving, execute};

use ashlar_engine::reactor::LocalBox;
use ashlar_engine::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

/// Bytes of a request.
pub(crate) const LINE_MAX_BYTES: usize = 64 << 10;
/// Bytes of an answer: far more than the list of the most volumes a store can have.
pub(crate) const ANSWER_MAX_BYTES: usize = 16 << 20;
/// Clients served at once.
pub(crate) const CLIENTS_MAX: usize = 16;
/// A client that asks nothing for this long is cut off.
pub(crate) const IDLE_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Everything about the server.
    Status {},
    /// Reads and proves everything that is held; answers when that is done.
    Scrub {},
    /// All volumes.
    VolumeList {},
    /// One volume.
    VolumeShow {
        /// Which.
        name: String,
    },
    /// Creates a volume; answers with it.
    VolumeCreate {
        /// Its name.
        name: String,
        /// Its size.
        size_bytes: u64,
        /// How it is kept in a cluster, as text.
        #[serde(default)]
        policy: Option<String>,
    },
    /// Deletes a volume and what it holds; answers with what it was.
    VolumeDelete {
        /// Which.
        name: String,
        /// Although clients have it open.
        #[serde(default)]
        force: bool,
    },
    /// Makes a cluster with this node as its first.
    ClusterInit {
        /// How the control group is kept when there are more nodes, as text.
        policy: String,
    },
    /// Nodes, stores, placement groups.
    ClusterStatus {},
    /// Admits a node; answers with what it must be told.
    ClusterAddNode {
        /// Where other nodes will reach it.
        address: String,
        /// Where it stands, as text.
        labels: String,
    },
    /// Removes a node that holds nothing any more.
    ClusterRemoveNode {
        /// Which.
        id: u64,
    },
    /// Moves a node's replicas away, or takes it back into service.
    ClusterDrain {
        /// Which.
        id: u64,
        /// Whether to move away.
        on: bool,
    },
    /// Sets what holds for the whole cluster; what is left out stays.
    ClusterSettings {
        /// Seconds after which a dead node's replicas are made elsewhere.
        grace_seconds: Option<u32>,
        /// Groups that change members only to spread load, at once.
        moves_max: Option<u16>,
    },
}

/// Carries requests out.
pub(crate) trait Executor {
    /// Carries one request out.
    fn execute(&self, request: Request) -> LocalBox<ashlar_engine::Result<serde_json::Value>>;
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// It is done; this is the report.
    Done(serde_json::Value),
    /// It is not.
    Error(Refusal),
}

/// Why it is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// What the caller can do about it, in one word.
    pub(crate) kind: String,
    /// One sentence.
    pub(crate) message: String,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let kind = match error.kind() {
            ErrorKind::Invalid => "invalid",
            ErrorKind::NotFound => "not-found",
            ErrorKind::Exists => "exists",
            ErrorKind::Busy => "busy",
            ErrorKind::NoSpace => "no-space",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Device => "device",
            ErrorKind::Closed => "closed",
            _ => "failed",
        };
        Refusal { kind: kind.into(), message: error.to_string() }
    }
}
