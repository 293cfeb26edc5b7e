//! Bytes of a snapshot on its way: one BEGIN, PIECEs in order, one END.
//!
//! The first byte is the version, the second the kind; then the store it is for u64 and the number
//! of the sending u64. BEGIN: the sender's vote, the last entry, and what is kept with the applied
//! index. PIECE: its number u64 and a table of changes, whose blocks are one part of the payload.
//! END: how many pieces there were u64. The answer is a version, a code and, if the code says so, a
//! vote. All numbers are little-endian.
//! Invariants: any bytes are decoded to an error or a message; lengths are bounded before anything
//! is allocated.
//! Must never know: sockets, stores.

use crate::limits::{APPLIED_MAX_BYTES, VOTE_BYTES};
use crate::types::encoding::{
    Bytes, ChangesError, EncodingError, bounded, decode_changes, decode_vote, encode_changes,
    encode_vote, gather_blocks, put_log_id, take_log_id,
};
use crate::types::{Change, Changes, LogId, Vote};
use ashlar_engine::buffer::{Buffer, BufferPool};
use std::fmt;

const VERSION: u8 = 1;

/// Kinds of a snapshot's messages are those from here on,
pub(crate) const KINDS_START: u8 = 16;
/// and below this one.
pub(crate) const KINDS_END: u8 = 32;

const BEGIN: u8 = 16;
const PIECE: u8 = 17;
const END: u8 = 18;

/// What a sender says.
#[derive(Debug)]
pub(crate) enum Message {
    /// A snapshot comes.
    Begin { vote: Vote, last: LogId, head: Vec<u8> },
    /// A part of it.
    Piece { number: u64, changes: Changes },
    /// That was all.
    End { pieces: u64 },
}

/// What the receiver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Go on.
    Taken,
    /// Go on to the end: a witness keeps no blocks.
    WithoutBlocks,
    /// The member has the snapshot's last entry.
    Has,
    /// It knows a newer vote.
    HigherVote(Vote),
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageError {
    Encoding(EncodingError),
    Changes(ChangesError),
    /// Blocks that belong to nothing.
    Parts,
    /// A change that no snapshot consists of.
    Change,
}

impl From<EncodingError> for MessageError {
    fn from(error: EncodingError) -> MessageError {
        MessageError::Encoding(error)
    }
}

impl From<ChangesError> for MessageError {
    fn from(error: ChangesError) -> MessageError {
        MessageError::Changes(error)
    }
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MessageError::Encoding(error) => write!(f, "{error}"),
            MessageError::Changes(error) => write!(f, "{error}"),
            MessageError::Parts => f.write_str("these blocks belong to no change"),
            MessageError::Change => f.write_str("a snapshot makes volumes and fills them, no more"),
        }
    }
}

type Result<T> = std::result::Result<T, MessageError>;

impl Message {
    /// Head and payload of a message to a store; `sending` tells snapshots of one sender apart.
    pub(crate) fn encode(
        &self,
        to: u64,
        sending: u64,
        pool: &BufferPool,
    ) -> Result<(Vec<u8>, Vec<Buffer>)> {
        let mut head = vec![VERSION, 0];
        head.extend(to.to_le_bytes());
        head.extend(sending.to_le_bytes());
        let mut payload = Vec::new();
        head[1] = match self {
            Message::Begin { vote, last, head: kept } => {
                head.extend(encode_vote(vote));
                put_log_id(Some(*last), &mut head);
                head.extend(kept);
                BEGIN
            }
            Message::Piece { number, changes } => {
                head.extend(number.to_le_bytes());
                head.extend(encode_changes(changes)?);
                payload.extend(gather_blocks(changes, pool));
                PIECE
            }
            Message::End { pieces } => {
                head.extend(pieces.to_le_bytes());
                END
            }
        };
        Ok((head, payload))
    }

    /// What [`Message::encode`] made these of: the store, the sending and the message.
    pub(crate) fn decode(head: &[u8], mut payload: Vec<Buffer>) -> Result<(u64, u64, Message)> {
        let mut bytes = Bytes::of_version(VERSION, head)?;
        let kind = bytes.u8()?;
        let (to, sending) = (bytes.u64()?, bytes.u64()?);
        if payload.len() > usize::from(kind == PIECE) {
            return Err(MessageError::Parts);
        }
        let message = match kind {
            BEGIN => {
                let vote = decode_vote(bytes.take(VOTE_BYTES)?)?;
                let last = take_log_id(&mut bytes)?;
                let last = last.ok_or(EncodingError::Kind { of: "last entry", found: 0 })?;
                let head = bytes.rest();
                bounded("bytes of a head", APPLIED_MAX_BYTES, head.len())?;
                Message::Begin { vote, last, head: head.to_vec() }
            }
            PIECE => {
                let number = bytes.u64()?;
                let changes = decode_changes(bytes.rest(), payload.pop())?;
                if changes.iter().any(|change| matches!(change, Change::DeleteVolume { .. })) {
                    return Err(MessageError::Change);
                }
                Message::Piece { number, changes }
            }
            END => {
                let pieces = bytes.u64()?;
                bytes.end()?;
                Message::End { pieces }
            }
            found => return Err(EncodingError::Kind { of: "message", found }.into()),
        };
        Ok((to, sending, message))
    }
}

const TAKEN: u8 = 0;
const HAS: u8 = 1;
const HIGHER_VOTE: u8 = 2;
const WITHOUT_BLOCKS: u8 = 3;

impl Answer {
    /// Its bytes.
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Answer::Taken => vec![VERSION, TAKEN],
            Answer::Has => vec![VERSION, HAS],
            Answer::WithoutBlocks => vec![VERSION, WITHOUT_BLOCKS],
            Answer::HigherVote(vote) => [vec![VERSION, HIGHER_VOTE], encode_vote(&vote)].concat(),
        }
    }

    /// See [`Answer::encode`].
    pub(crate) fn decode(head: &[u8]) -> Result<Answer> {
        let mut bytes = Bytes::of_version(VERSION, head)?;
        let answer = match bytes.u8()? {
            TAKEN => Answer::Taken,
            HAS => Answer::Has,
            WITHOUT_BLOCKS => Answer::WithoutBlocks,
            HIGHER_VOTE => Answer::HigherVote(decode_vote(bytes.take(VOTE_BYTES)?)?),
            found => return Err(EncodingError::Kind { of: "answer", found }.into()),
        };
        bytes.end()?;
        Ok(answer)
    }
}
