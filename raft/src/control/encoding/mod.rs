//! Bytes of commands, outcomes and the whole state.
//!
//! Little-endian, without padding. Every piece begins with its version. A list is its length in 32
//! bits and its entries; a text likewise; an alternative is its number in 8 bits and its parts; an
//! optional part is an alternative of nothing (0) and something (1).
//!
//! Invariants: what is decoded encodes to the same bytes; bytes cut short or continued are
//! refused; a list takes no more memory than a small multiple of the bytes that are there.
//! Must never know: where the bytes go.

#[macro_use]
mod macros;
mod bytes;
mod fields;
mod room;
mod state;

pub use bytes::{DecodeError, EncodeError};

use super::{Command, ControlState, Outcome};
use bytes::{Field, Reader, Writer};

/// Version of all encodings of the control group.
pub const CONTROL_VERSION: u16 = 2;

fn encode<T: Field>(value: &T) -> Result<Vec<u8>, EncodeError> {
    let mut writer = Writer::default();
    CONTROL_VERSION.put(&mut writer);
    value.put(&mut writer);
    writer.finish()
}

fn decode<T: Field>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut reader = Reader::new(bytes);
    let found = u16::read(&mut reader)?;
    if found != CONTROL_VERSION {
        return Err(DecodeError::Version { expected: CONTROL_VERSION, found });
    }
    let value = T::read(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

impl Command {
    /// The command's bytes; an error if a text or list in it is longer than any that could be
    /// carried out.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        encode(self)
    }

    /// Reads a command.
    pub fn decode(bytes: &[u8]) -> Result<Command, DecodeError> {
        decode(bytes)
    }
}

impl Outcome {
    /// The outcome's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self).expect("invariant: texts of outcomes are bounded")
    }

    /// Reads an outcome.
    pub fn decode(bytes: &[u8]) -> Result<Outcome, DecodeError> {
        decode(bytes)
    }
}

impl ControlState {
    /// The whole state's bytes: a snapshot.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self).expect("invariant: the state is bounded by its limits")
    }

    /// Reads a snapshot, and checks that it is one that could have come about.
    pub fn decode(bytes: &[u8]) -> Result<ControlState, DecodeError> {
        let state: ControlState = decode(bytes)?;
        state.check().map_err(DecodeError::Flaw)?;
        Ok(state)
    }
}
