//! What nodes ask each other besides Raft's own messages, and the answers, as bytes.
//!
//! The first byte is the version, the second the kind. All numbers are little-endian. Blocks travel
//! as parts of the payload, in the order of the changes that write them.
//! Invariants: any bytes are decoded to an error or a message; lengths are bounded before anything
//! is allocated.
//! Must never know: sockets, what is done about a message.

use crate::control::{ClusterVolumeId, Command, Operation, PgId, Step};
use crate::limits::{HEAD_MAX_BYTES, READ_BLOCKS_MAX};
use crate::placement::StoreId;
use crate::types::encoding::{
    Bytes, EncodingError, bounded, decode_changes, decode_head, decode_stored_membership,
    encode_changes, encode_head, encode_stored_membership, gather_blocks,
};
use crate::types::{Changes, Payload, Proposal, StoredMembership};
use ashlar_engine::buffer::{Buffer, BufferPool};
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex, VolumeId};
use openraft::EntryPayload;
use std::fmt;

pub(super) const VERSION: u8 = 1;

pub(super) const PROPOSE: u8 = 32;
pub(super) const READ: u8 = 33;
pub(super) const EXTENTS: u8 = 34;
pub(super) const MAP: u8 = 35;
pub(super) const REPORT: u8 = 36;
pub(super) const START: u8 = 37;
pub(super) const PERFORM: u8 = 38;
pub(super) const SETTLE: u8 = 39;
pub(super) const LEAD: u8 = 40;
pub(super) const PULL: u8 = 41;
pub(super) const HEARD: u8 = 42;
pub(super) const COPY: u8 = 43;
pub(super) const ENTRY: u8 = 44;
pub(super) const LEFT: u8 = 45;
pub(super) const VOLUME_EPOCH: u8 = 46;

/// Blocks of a volume of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) volume: VolumeId,
    pub(super) first: BlockIndex,
    pub(super) count: u64,
}

/// Names an entry of a group: no two have the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryName {
    pub(super) term: u64,
    pub(super) index: u64,
}

/// What one node asks another.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    /// Propose this to the group, which you lead.
    Propose(Proposal),
    /// Read these blocks, as of now.
    Read(Range),
    /// How these blocks are mapped, as of now; so many extents at most.
    Extents(Range, u32),
    /// The cluster's map, if it is newer than this one.
    Map { known: u64 },
    /// Start the group with these members, if it was not.
    Start(StoredMembership),
    /// Carry out a step of the group, which you lead: see `control::Action::Perform`.
    Perform { epoch: u64, step: Step },
    /// See `control::Action::Settle`.
    Settle { epoch: u64, step: Step },
    /// Hand the leadership of the group to this member.
    Lead { to: StoreId },
    /// Send this member a snapshot that ends behind this entry.
    Pull { to: StoreId, behind: u64 },
    /// What did you hear of all nodes?
    Heard,
    /// These blocks as you have them, as of this entry or a later one, whoever leads.
    Copy { range: Range, applied: u64 },
    /// This entry of the group's log, whoever leads and whether your member runs or not.
    Entry(EntryName),
    /// What is left of this entry of the group's log, block by block.
    Left(EntryName),
    /// The newest epoch of a volume, as of now, from who leads the control group.
    VolumeEpoch(ClusterVolumeId),
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MessageError {
    /// Their encoding.
    Encoding(EncodingError),
    /// A part of it, in words.
    Part(String),
}

impl From<EncodingError> for MessageError {
    fn from(error: EncodingError) -> MessageError {
        MessageError::Encoding(error)
    }
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MessageError::Encoding(error) => write!(f, "{error}"),
            MessageError::Part(why) => f.write_str(why),
        }
    }
}

type Result<T> = std::result::Result<T, MessageError>;

impl Message {
    /// Head and payload. Blocks of changes that others hold too are copied.
    pub(super) fn encode(self, pool: &BufferPool) -> Result<(Vec<u8>, Vec<Buffer>)> {
        let mut head = vec![VERSION, 0];
        let mut payload = Vec::new();
        head[1] = match self {
            Message::Propose(proposal) => {
                payload = encode_proposal(proposal, pool, &mut head)?;
                PROPOSE
            }
            Message::Read(range) => {
                put_range(range, &mut head);
                READ
            }
            Message::Extents(range, extents_max) => {
                put_range(range, &mut head);
                head.extend(extents_max.to_le_bytes());
                EXTENTS
            }
            Message::Map { known } => {
                head.extend(known.to_le_bytes());
                MAP
            }
            Message::Start(members) => {
                head.extend(encode_stored_membership(&members)?);
                START
            }
            Message::Perform { epoch, step } => {
                put_step(epoch, step, &mut head)?;
                PERFORM
            }
            Message::Settle { epoch, step } => {
                put_step(epoch, step, &mut head)?;
                SETTLE
            }
            Message::Lead { to } => {
                head.extend(to.0.to_le_bytes());
                LEAD
            }
            Message::Pull { to, behind } => {
                head.extend(to.0.to_le_bytes());
                head.extend(behind.to_le_bytes());
                PULL
            }
            Message::Heard => HEARD,
            Message::Copy { range, applied } => {
                put_range(range, &mut head);
                head.extend(applied.to_le_bytes());
                COPY
            }
            Message::Entry(name) => {
                put_name(name, &mut head);
                ENTRY
            }
            Message::Left(name) => {
                put_name(name, &mut head);
                LEFT
            }
            Message::VolumeEpoch(volume) => {
                head.extend(volume.0.to_le_bytes());
                VOLUME_EPOCH
            }
        };
        Ok((head, payload))
    }

    /// What [`Message::encode`] made these of.
    pub(super) fn decode(head: &[u8], payload: Vec<Buffer>) -> Result<Message> {
        let mut bytes = Bytes::of_version(VERSION, head)?;
        let kind = bytes.u8()?;
        if kind != PROPOSE && !payload.is_empty() {
            return Err(MessageError::Part(format!("a message of kind {kind} has no blocks")));
        }
        let rest = head.get(2..).unwrap_or_default();
        let message = match kind {
            PROPOSE => return decode_proposal(bytes, payload).map(Message::Propose),
            START => return Ok(Message::Start(decode_stored_membership(rest)?)),
            PERFORM | SETTLE => {
                let (epoch, step) = take_step(rest)?;
                return Ok(match kind {
                    PERFORM => Message::Perform { epoch, step },
                    _ => Message::Settle { epoch, step },
                });
            }
            READ => {
                let range = take_range(&mut bytes)?;
                bounded("blocks", READ_BLOCKS_MAX as usize, range.count as usize)?;
                Message::Read(range)
            }
            EXTENTS => Message::Extents(take_range(&mut bytes)?, bytes.u32()?),
            MAP => Message::Map { known: bytes.u64()? },
            LEAD => Message::Lead { to: StoreId(bytes.u64()?) },
            PULL => Message::Pull { to: StoreId(bytes.u64()?), behind: bytes.u64()? },
            HEARD => Message::Heard,
            COPY => {
                let range = take_range(&mut bytes)?;
                bounded("blocks", READ_BLOCKS_MAX as usize, range.count as usize)?;
                Message::Copy { range, applied: bytes.u64()? }
            }
            ENTRY => Message::Entry(take_name(&mut bytes)?),
            LEFT => Message::Left(take_name(&mut bytes)?),
            VOLUME_EPOCH => Message::VolumeEpoch(ClusterVolumeId(bytes.u64()?)),
            found => return Err(EncodingError::Kind { of: "message", found }.into()),
        };
        bytes.end()?;
        Ok(message)
    }
}

fn put_name(name: EntryName, into: &mut Vec<u8>) {
    into.extend(name.term.to_le_bytes());
    into.extend(name.index.to_le_bytes());
}

fn take_name(bytes: &mut Bytes<'_>) -> Result<EntryName> {
    Ok(EntryName { term: bytes.u64()?, index: bytes.u64()? })
}

fn put_range(range: Range, into: &mut Vec<u8>) {
    into.extend(range.volume.0.to_le_bytes());
    into.extend(range.first.0.to_le_bytes());
    into.extend(range.count.to_le_bytes());
}

fn take_range(bytes: &mut Bytes<'_>) -> Result<Range> {
    let volume = VolumeId(bytes.u32()?);
    Ok(Range { volume, first: BlockIndex(bytes.u64()?), count: bytes.u64()? })
}

/// A step, as the command that begins it.
fn put_step(epoch: u64, step: Step, into: &mut Vec<u8>) -> Result<()> {
    let operation = Operation::Begin { group: PgId(0), epoch, step };
    let command = Command { proposer: 0, serial: 0, operation };
    let bytes = command.encode().map_err(|_| MessageError::Part("a step is short".into()))?;
    into.extend(bytes);
    Ok(())
}

fn take_step(bytes: &[u8]) -> Result<(u64, Step)> {
    let command = Command::decode(bytes).map_err(|e| MessageError::Part(e.to_string()))?;
    match command.operation {
        Operation::Begin { epoch, step, .. } => Ok((epoch, step)),
        _ => Err(MessageError::Part("this command is no step".into())),
    }
}

/// Head of the entry with its length, then the table of changes.
fn encode_proposal(
    proposal: Proposal,
    pool: &BufferPool,
    into: &mut Vec<u8>,
) -> Result<Vec<Buffer>> {
    let payload: Payload = EntryPayload::Normal(proposal);
    let head = encode_head(&payload)?;
    bounded("bytes of a head", HEAD_MAX_BYTES, head.len())?;
    into.extend((head.len() as u32).to_le_bytes());
    into.extend(head);
    let EntryPayload::Normal(Proposal::Write(write)) = payload else { return Ok(Vec::new()) };
    into.extend(encode_changes(&write.changes)?);
    Ok(gather_blocks(&write.changes, pool).into_iter().collect())
}

fn decode_proposal(mut bytes: Bytes<'_>, mut payload: Vec<Buffer>) -> Result<Proposal> {
    let len = bounded("bytes of a head", HEAD_MAX_BYTES, bytes.u32()? as usize)?;
    let head = decode_head(bytes.take(len)?)?;
    if payload.len() > 1 {
        return Err(MessageError::Part("a proposal's blocks come in one part".into()));
    }
    let changes = match bytes.rest() {
        [] => Changes::from(Vec::new()),
        table => decode_changes(table, payload.pop())
            .map_err(|error| MessageError::Part(error.to_string()))?,
    };
    if !payload.is_empty() {
        return Err(MessageError::Part("these blocks belong to no change".into()));
    }
    match head.with_changes(changes)? {
        EntryPayload::Normal(proposal) => Ok(proposal),
        _ => Err(MessageError::Part("only openraft makes such an entry".into())),
    }
}

/// Bytes of blocks.
pub(super) fn bytes_of(blocks: u64) -> usize {
    blocks as usize * BLOCK_SIZE_BYTES
}
