//! What another node says, taken apart and put together again: for fuzzing, and for tools that look
//! at what nodes say.

use super::message::{Message, REPORT};
use super::report::Report;
use crate::network;
use crate::snapshot::message as snapshot;
use ashlar_engine::buffer::{Buffer, BufferPool};

/// Head and payload of a message between nodes, as it is understood, encoded anew.
///
/// # Errors
/// Why a node would refuse it.
pub fn understand(
    head: &[u8],
    payload: Vec<Buffer>,
    pool: &BufferPool,
) -> Result<(Vec<u8>, Vec<Buffer>), String> {
    match head.get(1).copied() {
        None => Err("a message has a version and a kind".to_owned()),
        Some(kind) if kind < snapshot::KINDS_START => {
            network::understand(head, payload, pool).map_err(|error| error.to_string())
        }
        Some(kind) if kind < snapshot::KINDS_END => {
            let (to, sending, message) =
                snapshot::Message::decode(head, payload).map_err(|error| error.to_string())?;
            message.encode(to, sending, pool).map_err(|error| error.to_string())
        }
        Some(REPORT) => {
            let report = Report::decode(head).map_err(|error| error.to_string())?;
            Ok((report.encode(), Vec::new()))
        }
        Some(_) => {
            let message = Message::decode(head, payload).map_err(|error| error.to_string())?;
            message.encode(pool).map_err(|error| error.to_string())
        }
    }
}
