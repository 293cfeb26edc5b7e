//! Bytes of Raft's messages and of their answers.
//!
//! The first byte is the version, the second the kind (of a message) or the code (of an answer);
//! then, in a message, the store it is for u64. All numbers are little-endian. An append is the
//! vote, the entry before, what is committed, a count u32, and for each entry term and index u64,
//! its head and its table of changes, each behind its length u32. An entry's blocks are one part of
//! the payload.
//! Invariants: any bytes are decoded to an error or a message; lengths are bounded before anything
//! is allocated.
//! Must never know: sockets.

use crate::limits::{HEAD_MAX_BYTES, VOTE_BYTES};
use crate::types::encoding::{
    Bytes, ChangesError, EncodingError, bounded, decode_changes, decode_head, decode_vote,
    encode_changes, encode_head, encode_vote, gather_blocks, put_log_id, take_log_id,
};
use crate::types::{Change, Config, Entry, Proposal, Vote, log_id};
use ashlar_engine::buffer::{Buffer, BufferPool};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use std::fmt;

const VERSION: u8 = 1;

const APPEND: u8 = 1;
const VOTE: u8 = 2;
const PRE_VOTE: u8 = 3;
const TRANSFER: u8 = 4;

/// Entries of an append: each takes this many bytes of the head at least.
const ENTRY_MIN_BYTES: usize = 8 + 8 + 4 + 4;
/// Bytes of a table of changes.
const TABLE_MAX_BYTES: usize =
    2 + crate::limits::WIRE_CHANGE_MAX_BYTES * crate::limits::PROPOSAL_CHANGES_MAX;

/// What one member says to another.
#[derive(Debug)]
pub(super) enum Message {
    Append(AppendEntriesRequest<Config>),
    Vote(VoteRequest<Config>),
    PreVote(VoteRequest<Config>),
    Transfer(TransferLeaderRequest<Config>),
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodecError {
    Encoding(EncodingError),
    Changes(ChangesError),
    /// Parts that belong to no entry, or are missing.
    Parts,
}

impl From<EncodingError> for CodecError {
    fn from(error: EncodingError) -> CodecError {
        CodecError::Encoding(error)
    }
}

impl From<ChangesError> for CodecError {
    fn from(error: ChangesError) -> CodecError {
        CodecError::Changes(error)
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodecError::Encoding(error) => write!(f, "{error}"),
            CodecError::Changes(error) => write!(f, "{error}"),
            CodecError::Parts => f.write_str("an append has one part for each entry with blocks"),
        }
    }
}

type Result<T> = std::result::Result<T, CodecError>;

impl Message {
    /// Head and payload of a message to a store. Blocks are copied: others read them too.
    pub(super) fn encode(&self, to: u64, pool: &BufferPool) -> Result<(Vec<u8>, Vec<Buffer>)> {
        let mut head = vec![VERSION, 0];
        head.extend(to.to_le_bytes());
        let mut payload = Vec::new();
        head[1] = match self {
            Message::Append(append) => {
                put_append(append, pool, &mut head, &mut payload)?;
                APPEND
            }
            Message::Vote(vote) => {
                put_vote_request(vote, &mut head);
                VOTE
            }
            Message::PreVote(vote) => {
                put_vote_request(vote, &mut head);
                PRE_VOTE
            }
            Message::Transfer(transfer) => {
                head.extend(encode_vote(transfer.from_leader()));
                head.extend(transfer.to_node_id().to_le_bytes());
                put_log_id(transfer.last_log_id().copied(), &mut head);
                TRANSFER
            }
        };
        Ok((head, payload))
    }

    /// What [`Message::encode`] made these of, and the store that it is for.
    pub(super) fn decode(head: &[u8], payload: Vec<Buffer>) -> Result<(u64, Message)> {
        let mut bytes = Bytes::of_version(VERSION, head)?;
        let kind = bytes.u8()?;
        let to = bytes.u64()?;
        if kind != APPEND && !payload.is_empty() {
            return Err(CodecError::Parts);
        }
        let message = match kind {
            APPEND => Message::Append(take_append(&mut bytes, payload)?),
            VOTE => Message::Vote(take_vote_request(&mut bytes)?),
            PRE_VOTE => Message::PreVote(take_vote_request(&mut bytes)?),
            TRANSFER => {
                let (from, to) = (take_vote(&mut bytes)?, bytes.u64()?);
                let last = take_log_id(&mut bytes)?;
                Message::Transfer(TransferLeaderRequest::new(from, to, last))
            }
            found => return Err(EncodingError::Kind { of: "message", found }.into()),
        };
        bytes.end()?;
        Ok((to, message))
    }
}

fn take_vote(bytes: &mut Bytes<'_>) -> Result<Vote> {
    Ok(decode_vote(bytes.take(VOTE_BYTES)?)?)
}

fn put_vote_request(request: &VoteRequest<Config>, into: &mut Vec<u8>) {
    into.extend(encode_vote(&request.vote));
    put_log_id(request.last_log_id, into);
    into.push(u8::from(request.leadership_transfer));
}

fn take_vote_request(bytes: &mut Bytes<'_>) -> Result<VoteRequest<Config>> {
    let mut request = VoteRequest::new(take_vote(bytes)?, take_log_id(bytes)?);
    request.leadership_transfer = bytes.flag("transfer")?;
    Ok(request)
}

fn put_append(
    append: &AppendEntriesRequest<Config>,
    pool: &BufferPool,
    into: &mut Vec<u8>,
    payload: &mut Vec<Buffer>,
) -> Result<()> {
    into.extend(encode_vote(&append.vote));
    put_log_id(append.prev_log_id, into);
    put_log_id(append.leader_commit, into);
    into.extend((append.entries.len() as u32).to_le_bytes());
    for entry in &append.entries {
        let id = entry.log_id();
        into.extend(id.committed_leader_id().term.to_le_bytes());
        into.extend(id.index().to_le_bytes());
        put_bytes(&encode_head(&entry.payload)?, into);
        match &entry.payload {
            EntryPayload::Normal(Proposal::Write(write)) => {
                put_bytes(&encode_changes(&write.changes)?, into);
                payload.extend(gather_blocks(&write.changes, pool));
            }
            _ => put_bytes(&[], into),
        }
    }
    Ok(())
}

fn put_bytes(bytes: &[u8], into: &mut Vec<u8>) {
    into.extend((bytes.len() as u32).to_le_bytes());
    into.extend(bytes);
}

fn take_append(
    bytes: &mut Bytes<'_>,
    payload: Vec<Buffer>,
) -> Result<AppendEntriesRequest<Config>> {
    let vote = take_vote(bytes)?;
    let (prev_log_id, leader_commit) = (take_log_id(bytes)?, take_log_id(bytes)?);
    let count = bytes.u32()? as usize;
    let count = bounded("entries", bytes.rest().len() / ENTRY_MIN_BYTES, count)?;
    let mut parts = payload.into_iter();
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(take_entry(bytes, &mut parts)?);
    }
    match parts.next() {
        None => Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit }),
        Some(_) => Err(CodecError::Parts),
    }
}

fn take_entry(bytes: &mut Bytes<'_>, parts: &mut impl Iterator<Item = Buffer>) -> Result<Entry> {
    let id = log_id(bytes.u64()?, bytes.u64()?);
    let len = bounded("bytes of a head", HEAD_MAX_BYTES, bytes.u32()? as usize)?;
    let head = decode_head(bytes.take(len)?)?;
    let len = bounded("bytes of changes", TABLE_MAX_BYTES, bytes.u32()? as usize)?;
    let table = bytes.take(len)?;
    if table.is_empty() {
        return Ok(Entry::new(id, head.with_changes(Vec::new().into())?));
    }
    // Only who decodes the table knows whether there are blocks; a part is taken if there are.
    let changes = match decode_changes(table, None) {
        Err(ChangesError::Blocks { .. }) => {
            decode_changes(table, Some(parts.next().ok_or(CodecError::Parts)?))?
        }
        decoded => decoded?,
    };
    debug_assert!(
        changes
            .iter()
            .all(|change| !matches!(change, Change::Write { data, .. } if data.is_empty()))
    );
    Ok(Entry::new(id, head.with_changes(changes)?))
}

const SUCCESS: u8 = 0;
const CONFLICT: u8 = 1;
const HIGHER_VOTE: u8 = 2;
const PARTIAL: u8 = 3;

/// Head and payload of a message, as it is understood, encoded anew.
///
/// # Errors
/// Why it is refused.
pub(crate) fn understand(
    head: &[u8],
    payload: Vec<Buffer>,
    pool: &BufferPool,
) -> Result<(Vec<u8>, Vec<Buffer>)> {
    let (to, message) = Message::decode(head, payload)?;
    message.encode(to, pool)
}

/// The answer to an append.
pub(super) fn encode_appended(answer: &AppendEntriesResponse<Config>) -> Vec<u8> {
    let mut into = vec![VERSION];
    match answer {
        AppendEntriesResponse::Success => into.push(SUCCESS),
        AppendEntriesResponse::Conflict => into.push(CONFLICT),
        AppendEntriesResponse::HigherVote(vote) => {
            into.push(HIGHER_VOTE);
            into.extend(encode_vote(vote));
        }
        AppendEntriesResponse::PartialSuccess(last) => {
            into.push(PARTIAL);
            put_log_id(*last, &mut into);
        }
    }
    into
}

/// See [`encode_appended`].
pub(super) fn decode_appended(head: &[u8]) -> Result<AppendEntriesResponse<Config>> {
    let mut bytes = Bytes::of_version(VERSION, head)?;
    let answer = match bytes.u8()? {
        SUCCESS => AppendEntriesResponse::Success,
        CONFLICT => AppendEntriesResponse::Conflict,
        HIGHER_VOTE => AppendEntriesResponse::HigherVote(take_vote(&mut bytes)?),
        PARTIAL => AppendEntriesResponse::PartialSuccess(take_log_id(&mut bytes)?),
        found => return Err(EncodingError::Kind { of: "answer", found }.into()),
    };
    bytes.end()?;
    Ok(answer)
}

/// The answer to a vote or pre-vote.
pub(super) fn encode_voted(answer: &VoteResponse<Config>) -> Vec<u8> {
    let mut into = vec![VERSION, u8::from(answer.vote_granted)];
    into.extend(encode_vote(&answer.vote));
    put_log_id(answer.last_log_id, &mut into);
    into
}

/// See [`encode_voted`].
pub(super) fn decode_voted(head: &[u8]) -> Result<VoteResponse<Config>> {
    let mut bytes = Bytes::of_version(VERSION, head)?;
    let granted = bytes.flag("vote")?;
    let answer = VoteResponse::new(take_vote(&mut bytes)?, take_log_id(&mut bytes)?, granted);
    bytes.end()?;
    Ok(answer)
}

const DONE: u8 = 0;
const VOTE_CHANGED: u8 = 1;
const NOT_FLUSHED: u8 = 2;

/// The answer to a transfer of the leadership.
pub(super) fn encode_transferred(answer: &TransferLeaderResponse<Config>) -> Vec<u8> {
    let mut into = vec![VERSION];
    match answer {
        Ok(()) => into.push(DONE),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            into.push(VOTE_CHANGED);
            into.extend(encode_vote(expected));
            into.extend(encode_vote(actual));
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            into.push(NOT_FLUSHED);
            put_log_id(*expected, &mut into);
            put_log_id(*actual, &mut into);
        }
    }
    into
}

/// See [`encode_transferred`].
pub(super) fn decode_transferred(head: &[u8]) -> Result<TransferLeaderResponse<Config>> {
    let mut bytes = Bytes::of_version(VERSION, head)?;
    let answer = match bytes.u8()? {
        DONE => Ok(()),
        VOTE_CHANGED => {
            let (expected, actual) = (take_vote(&mut bytes)?, take_vote(&mut bytes)?);
            Err(TransferLeaderError::VoteChanged { expected, actual })
        }
        NOT_FLUSHED => {
            let (expected, actual) = (take_log_id(&mut bytes)?, take_log_id(&mut bytes)?);
            Err(TransferLeaderError::LogNotFlushed { expected, actual })
        }
        found => return Err(EncodingError::Kind { of: "answer", found }.into()),
    };
    bytes.end()?;
    Ok(answer)
}
