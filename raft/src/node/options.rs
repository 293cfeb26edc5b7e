//! What a node is told when it is started.

use crate::control::ClusterId;
use crate::placement::{Labels, NodeId};
use ashlar_engine::reactor::Address;
use ashlar_engine::{Error, ErrorKind, Result};
use openraft::SnapshotPolicy;
use std::sync::Arc;

/// What a node is, and whom it knows.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its number in the cluster. The first one is 1; others get theirs when they are admitted.
    pub id: NodeId,
    /// The cluster it belongs to; `None` for the first node, which makes it.
    pub cluster: Option<ClusterId>,
    /// Where it lets other nodes in.
    pub listen: Address,
    /// Where other nodes reach it: `IP:PORT`.
    pub address: String,
    /// Where NBD clients reach it.
    pub nbd: Vec<String>,
    /// Where it stands.
    pub labels: Labels,
    /// Nodes to ask for the cluster's map, and where they are reached.
    pub peers: Vec<(NodeId, String)>,
    /// Whether its store holds only witnesses.
    pub witness: bool,
    /// When its process was started, in seconds since 1970; 0 if nobody knows. Of two processes
    /// that claim to be the same node the later one is believed.
    pub started: u64,
    /// How fast it notices that others are gone.
    pub timing: Timing,
}

/// How fast groups notice that their leader is gone. The same at all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Milliseconds between heartbeats of a leader that has nothing else to send.
    pub heartbeat_ms: u64,
    /// Shortest time without a leader after which a member stands for election.
    pub election_min_ms: u64,
    /// Longest such time.
    pub election_max_ms: u64,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing { heartbeat_ms: 500, election_min_ms: 1200, election_max_ms: 2200 }
    }
}

/// Messages that wait for one group's openraft, in each of its queues.
const CHANNEL_SIZE: u64 = 1024;
/// Entries in one append. Bytes are bounded where they are read.
const APPEND_ENTRIES_MAX: u64 = 256;

impl Timing {
    /// At witnesses: others, which have blocks, are to stand for election first.
    #[must_use]
    pub fn of_witness(self) -> Timing {
        let late = self.election_max_ms - (self.election_max_ms - self.election_min_ms) / 8;
        // Not the longest time: leases are as long, and the same for all.
        Timing { election_min_ms: late.min(self.election_max_ms - 1), ..self }
    }

    /// openraft's settings.
    ///
    /// # Errors
    /// `Invalid` if the times do not fit together.
    pub fn config(self) -> Result<Arc<openraft::Config>> {
        let config = openraft::Config {
            cluster_name: "ashlar".into(),
            heartbeat_interval: self.heartbeat_ms,
            heartbeat_min_interval: Some(self.heartbeat_ms),
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            enable_pre_vote: Some(true),
            // A leader that starts again has forgotten what it has appended, and must not append
            // another entry under the same id, nor answer reads as if it had applied all.
            enable_leader_restore: Some(false),
            // Entries are given up by the node, when it knows that nobody needs them.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            max_payload_entries: APPEND_ENTRIES_MAX,
            api_channel_size: Some(CHANNEL_SIZE),
            notification_channel_size: Some(CHANNEL_SIZE),
            state_machine_channel_size: Some(CHANNEL_SIZE),
            ..openraft::Config::default()
        };
        let config = config.validate();
        config.map(Arc::new).map_err(|error| {
            let why = format!("heartbeat and election times do not fit together: {error}");
            Error::new(ErrorKind::Invalid, why)
        })
    }
}

/// An address that other nodes are reached at.
///
/// # Errors
/// `Invalid` if it is none.
pub fn parse_address(text: &str) -> Result<Address> {
    let refused = || {
        let why = format!("{text:?} is no address of a node: write IP:PORT");
        Error::new(ErrorKind::Invalid, why)
    };
    text.parse().map(Address::Tcp).map_err(|_| refused())
}
