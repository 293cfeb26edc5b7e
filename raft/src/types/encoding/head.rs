//! Heads of entries: what an entry is, without the changes and blocks that belong to it.
//!
//! version u8, kind u8, then by kind: nothing (blank); proposer, serial, epoch u64 and number of
//! changes u16 (write); volume u32 and epoch u64 (fence); the command (control); the membership.
//! Must never know: where heads and changes are kept.

use super::EncodingError;
use super::bytes::{Bytes, bounded};
use super::ids::{put_membership, take_membership};
use crate::limits::{COMMAND_MAX_BYTES, PROPOSAL_CHANGES_MAX};
use crate::types::{Changes, Membership, Payload, Proposal, Write};
use ashlar_engine::units::VolumeId;
use openraft::EntryPayload;

const VERSION: u8 = 1;

const BLANK: u8 = 0;
const WRITE: u8 = 1;
const FENCE: u8 = 2;
const CONTROL: u8 = 3;
const MEMBERSHIP: u8 = 4;

/// A decoded head.
#[derive(Clone, Debug, PartialEq)]
pub enum Head {
    /// Nothing.
    Blank,
    /// A [`Write`] without its changes.
    Write {
        /// Who proposes it.
        proposer: u64,
        /// Its number.
        serial: u64,
        /// The writer's epoch.
        epoch: u64,
        /// How many changes belong to it.
        changes: usize,
    },
    /// As [`Proposal::Fence`].
    Fence {
        /// Which volume.
        volume: VolumeId,
        /// The new writer's epoch.
        epoch: u64,
    },
    /// As [`Proposal::Control`].
    Control(Vec<u8>),
    /// The members of the group from here on.
    Membership(Membership),
}

/// The head of an entry with this payload.
///
/// # Errors
/// If the payload does not keep its bounds.
pub fn encode_head(payload: &Payload) -> Result<Vec<u8>, EncodingError> {
    let mut into = Vec::with_capacity(32);
    into.push(VERSION);
    match payload {
        EntryPayload::Blank => into.push(BLANK),
        EntryPayload::Normal(Proposal::Write(write)) => {
            let changes = bounded("changes", PROPOSAL_CHANGES_MAX, write.changes.len())?;
            into.push(WRITE);
            for number in [write.proposer, write.serial, write.epoch] {
                into.extend(number.to_le_bytes());
            }
            into.extend((changes as u16).to_le_bytes());
        }
        EntryPayload::Normal(Proposal::Fence { volume, epoch }) => {
            into.push(FENCE);
            into.extend(volume.0.to_le_bytes());
            into.extend(epoch.to_le_bytes());
        }
        EntryPayload::Normal(Proposal::Control(command)) => {
            let len = bounded("bytes of a command", COMMAND_MAX_BYTES, command.len())?;
            into.push(CONTROL);
            into.extend((len as u32).to_le_bytes());
            into.extend(command);
        }
        EntryPayload::Membership(membership) => {
            into.push(MEMBERSHIP);
            put_membership(membership, &mut into)?;
        }
    }
    Ok(into)
}

/// The head that [`encode_head`] made these bytes of.
///
/// # Errors
/// If there is none.
pub fn decode_head(bytes: &[u8]) -> Result<Head, EncodingError> {
    let mut bytes = Bytes::of_version(VERSION, bytes)?;
    let head = match bytes.u8()? {
        BLANK => Head::Blank,
        WRITE => Head::Write {
            proposer: bytes.u64()?,
            serial: bytes.u64()?,
            epoch: bytes.u64()?,
            changes: bounded("changes", PROPOSAL_CHANGES_MAX, bytes.u16()?.into())?,
        },
        FENCE => Head::Fence { volume: VolumeId(bytes.u32()?), epoch: bytes.u64()? },
        CONTROL => {
            let len = bounded("bytes of a command", COMMAND_MAX_BYTES, bytes.u32()? as usize)?;
            Head::Control(bytes.take(len)?.to_vec())
        }
        MEMBERSHIP => Head::Membership(take_membership(&mut bytes)?),
        found => return Err(EncodingError::Kind { of: "entry", found }),
    };
    bytes.end()?;
    Ok(head)
}

impl Head {
    /// Changes that belong to it.
    #[must_use]
    pub fn changes(&self) -> usize {
        match self {
            Head::Write { changes, .. } => *changes,
            _ => 0,
        }
    }

    /// The payload of head and changes.
    ///
    /// # Errors
    /// If those are not as many as the head says.
    pub fn with_changes(self, changes: Changes) -> Result<Payload, EncodingError> {
        if changes.len() != self.changes() {
            let (expected, found) = (self.changes(), changes.len());
            return Err(EncodingError::Changes { expected, found });
        }
        Ok(match self {
            Head::Blank => EntryPayload::Blank,
            Head::Write { proposer, serial, epoch, .. } => {
                EntryPayload::Normal(Proposal::Write(Write { proposer, serial, epoch, changes }))
            }
            Head::Fence { volume, epoch } => {
                EntryPayload::Normal(Proposal::Fence { volume, epoch })
            }
            Head::Control(command) => EntryPayload::Normal(Proposal::Control(command)),
            Head::Membership(membership) => EntryPayload::Membership(membership),
        })
    }
}
