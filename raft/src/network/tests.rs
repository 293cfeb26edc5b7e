//! Goal: messages are understood as they were meant, other bytes are refused.
//! Method: round trips, every cut, changed counts, random bytes.

use super::codec::{
    Message, decode_appended, decode_transferred, decode_voted, encode_appended,
    encode_transferred, encode_voted,
};
use crate::types::{Change, Entry, Proposal, Vote, Write, log_id};
use ashlar_engine::buffer::{Buffer, BufferPool, PoolOptions};
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex, VolumeId};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use proptest::prelude::*;

const V: VolumeId = VolumeId(VolumeId::GROUPS.0 + 1);

fn vote(term: u64) -> Vote {
    Vote::new_committed(term, 3)
}

fn entry(pool: &BufferPool, index: u64, blocks: &[usize]) -> Entry {
    let write = |(i, count): (usize, &usize)| {
        let mut data = pool.allocate(count * BLOCK_SIZE_BYTES);
        data.fill(index as u8);
        Change::Write { volume: V, first: BlockIndex(i as u64), data }
    };
    let mut changes: Vec<Change> = blocks.iter().enumerate().map(write).collect();
    changes.push(Change::CreateVolume { volume: V, size_bytes: 1 << 20 });
    let write = Write { proposer: 9, serial: index, epoch: 2, changes: changes.into() };
    Entry::new(log_id(4, index), EntryPayload::Normal(Proposal::Write(write)))
}

fn append(pool: &BufferPool) -> AppendEntriesRequest<crate::types::Config> {
    let control = EntryPayload::Normal(Proposal::Control(vec![7; 300]));
    let entries = vec![
        entry(pool, 8, &[1, 2]),
        Entry::new(log_id(4, 9), EntryPayload::Blank),
        entry(pool, 10, &[]),
        Entry::new(log_id(4, 11), control),
        entry(pool, 12, &[256]),
    ];
    let (prev_log_id, leader_commit) = (Some(log_id(3, 7)), None);
    AppendEntriesRequest { vote: vote(4), prev_log_id, entries, leader_commit }
}

fn messages(pool: &BufferPool) -> Vec<Message> {
    let mut request = VoteRequest::new(vote(6), Some(log_id(5, 5)));
    request.leadership_transfer = true;
    let empty = AppendEntriesRequest {
        vote: vote(1),
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: Some(log_id(1, 1)),
    };
    vec![
        Message::Append(append(pool)),
        Message::Append(empty),
        Message::Vote(request.clone()),
        Message::PreVote(request),
        Message::Transfer(TransferLeaderRequest::new(vote(2), 8, None)),
    ]
}

fn copies(parts: &[Buffer], pool: &BufferPool) -> Vec<Buffer> {
    let copy = |part: &Buffer| {
        let mut copied = pool.allocate(part.len());
        copied.copy_from_slice(part);
        copied
    };
    parts.iter().map(copy).collect()
}

#[test]
fn messages_are_understood_as_they_were_meant() {
    let pool = BufferPool::new(PoolOptions::default());
    for message in messages(&pool) {
        let (head, payload) = message.encode(77, &pool).expect("keeps its bounds");
        let (to, decoded) = Message::decode(&head, copies(&payload, &pool)).expect("a message");
        assert_eq!(to, 77);
        let (same, blocks) = decoded.encode(77, &pool).expect("keeps its bounds");
        assert!(same == head && blocks.len() == payload.len());
        assert!(blocks.iter().zip(&payload).all(|(one, other)| **one == **other));
    }
}

#[test]
fn messages_cut_short_and_other_parts_are_refused() {
    let pool = BufferPool::new(PoolOptions::default());
    for message in messages(&pool) {
        let (head, payload) = message.encode(77, &pool).expect("keeps its bounds");
        for end in 0..head.len() {
            assert!(Message::decode(&head[..end], copies(&payload, &pool)).is_err(), "at {end}");
        }
        let mut more = copies(&payload, &pool);
        more.push(pool.allocate(BLOCK_SIZE_BYTES));
        assert!(Message::decode(&head, more).is_err());
        for missing in 0..payload.len() {
            let mut fewer = copies(&payload, &pool);
            fewer.remove(missing);
            assert!(Message::decode(&head, fewer).is_err());
        }
    }
}

#[test]
fn answers_are_understood_as_they_were_meant() {
    let appended = [
        AppendEntriesResponse::Success,
        AppendEntriesResponse::Conflict,
        AppendEntriesResponse::HigherVote(vote(9)),
        AppendEntriesResponse::PartialSuccess(Some(log_id(2, 3))),
        AppendEntriesResponse::PartialSuccess(None),
    ];
    for answer in appended {
        assert_eq!(decode_appended(&encode_appended(&answer)).expect("an answer"), answer);
    }
    for granted in [true, false] {
        let answer = VoteResponse::new(vote(3), Some(log_id(1, 2)), granted);
        assert_eq!(decode_voted(&encode_voted(&answer)).expect("an answer"), answer);
    }
    let changed = TransferLeaderError::VoteChanged { expected: vote(1), actual: vote(2) };
    let unflushed =
        TransferLeaderError::LogNotFlushed { expected: None, actual: Some(log_id(1, 1)) };
    for answer in [Ok(()), Err(changed), Err(unflushed)] {
        assert_eq!(decode_transferred(&encode_transferred(&answer)).expect("an answer"), answer);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        count in 0usize..3,
    ) {
        let pool = BufferPool::new(PoolOptions::default());
        let parts = |count| (0..count).map(|_| pool.allocate(BLOCK_SIZE_BYTES)).collect::<Vec<_>>();
        Message::decode(&bytes, Vec::new()).ok();
        decode_appended(&bytes).ok();
        decode_voted(&bytes).ok();
        decode_transferred(&bytes).ok();
        if bytes.len() > 30 {
            // As far as a count of entries with a sound beginning.
            bytes[0] = 1;
            bytes[10] = 1;
            bytes[11] &= 1;
            for kind in 1..=4 {
                bytes[1] = kind;
                Message::decode(&bytes, parts(if kind == 1 { count } else { 0 })).ok();
            }
        }
    }
}
