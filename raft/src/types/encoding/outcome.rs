//! Outcomes, for proposers on other nodes.
//!
//! Must never know: sockets.

use super::EncodingError;
use super::bytes::{Bytes, bounded};
use crate::limits::COMMAND_MAX_BYTES;
use crate::types::Outcome;

const VERSION: u8 = 1;

const NOTHING: u8 = 0;
const DONE: u8 = 1;
const FENCED: u8 = 2;
const BUSY: u8 = 3;
const CONTROL: u8 = 4;

/// The bytes of an outcome.
///
/// # Errors
/// If an answer is too long.
pub fn encode_outcome(outcome: &Outcome) -> Result<Vec<u8>, EncodingError> {
    let mut into = vec![VERSION];
    match outcome {
        Outcome::Nothing => into.push(NOTHING),
        Outcome::Done => into.push(DONE),
        Outcome::Fenced { epoch } => {
            into.push(FENCED);
            into.extend(epoch.to_le_bytes());
        }
        Outcome::Busy => into.push(BUSY),
        Outcome::Control(answer) => {
            let len = bounded("bytes of an answer", COMMAND_MAX_BYTES, answer.len())?;
            into.push(CONTROL);
            into.extend((len as u32).to_le_bytes());
            into.extend(answer);
        }
    }
    Ok(into)
}

/// The outcome that [`encode_outcome`] made these bytes of.
///
/// # Errors
/// If there is none.
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, EncodingError> {
    let mut bytes = Bytes::of_version(VERSION, bytes)?;
    let outcome = match bytes.u8()? {
        NOTHING => Outcome::Nothing,
        DONE => Outcome::Done,
        FENCED => Outcome::Fenced { epoch: bytes.u64()? },
        BUSY => Outcome::Busy,
        CONTROL => {
            let len = bounded("bytes of an answer", COMMAND_MAX_BYTES, bytes.u32()? as usize)?;
            Outcome::Control(bytes.take(len)?.to_vec())
        }
        found => return Err(EncodingError::Kind { of: "outcome", found }),
    };
    bytes.end()?;
    Ok(outcome)
}
