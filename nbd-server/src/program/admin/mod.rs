//! Questions to a running server, over its admin socket: one line of JSON each way.
//!
//! Invariants: bad input gets an error for an answer; a client can hold at most
//! [`LINE_MAX_BYTES`] of memory and one of [`CLIENTS_MAX`] places.
//! Must never know: NBD, who asks.

pub(crate) mod client;
mod command;
pub(crate) mod report;
pub(crate) mod server;
#[cfg(test)]
mod tests;

pub(crate) use command::{Serving, execute};

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
    },
    /// Deletes a volume and what it holds; answers with what it was.
    VolumeDelete {
        /// Which.
        name: String,
        /// Although clients have it open.
        #[serde(default)]
        force: bool,
    },
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
