//! Raft's messages of other members, handed to openraft.
//!
//! Must never know: connections.

use super::codec::{Message, encode_appended, encode_transferred, encode_voted};
use crate::frame::NodeId;
use crate::log_store::LogStore;
use crate::state_machine::StateMachine;
use crate::transport::{Error, ErrorKind, Reply, Result};
use crate::types::Config;
use ashlar_engine::buffer::Buffer;
use futures_util::poll;
use openraft::Raft;
use openraft::entry::RaftEntry;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use std::fmt::Display;
use std::pin::pin;
use std::task::Poll;

/// Answers one message to the member in the store `own`. Entries wait until the store has room, so
/// that openraft does not, and are left out if it has none for long. Polled once, a message is in
/// openraft's queue or in the line for it: messages that are polled in order are taken in order.
///
/// # Errors
/// `Refused` if it is not understood, or is for another store; `Busy` if openraft has ended or the
/// store has no room.
pub async fn serve(
    raft: &Raft<Config, StateMachine>,
    log: &LogStore,
    own: u64,
    peer: NodeId,
    head: &[u8],
    payload: Vec<Buffer>,
) -> Result<Reply> {
    let (to, message) = Message::decode(head, payload).map_err(|error| {
        let why = format!("a message of node {peer} is not understood: {error}");
        Error::new(ErrorKind::Refused, why)
    })?;
    if to != own {
        let why = format!("store {to} is not here any more, store {own} is");
        return Err(Error::new(ErrorKind::Refused, why));
    }
    let head = match message {
        // A heartbeat does not wait behind entries.
        Message::Append(append) if append.entries.is_empty() => {
            encode_appended(&raft.append_entries(append).await.map_err(ended)?)
        }
        Message::Append(append) => encode_appended(&append_admitted(raft, log, own, append).await?),
        Message::Vote(vote) => encode_voted(&raft.vote(vote).await.map_err(ended)?),
        Message::PreVote(vote) => encode_voted(&raft.pre_vote(vote).await.map_err(ended)?),
        Message::Transfer(transfer) => {
            let answer = raft.handle_transfer_leader(transfer).await;
            encode_transferred(&answer.map_err(ended)?)
        }
    };
    Ok(Reply { head, payload: Vec::new() })
}

/// Entries that this member lacks wait for room. Those that it has, maybe appended and not applied
/// yet, must not: the room may come from their being committed.
pub(crate) async fn append_admitted(
    raft: &Raft<Config, StateMachine>,
    log: &LogStore,
    own: u64,
    mut append: AppendEntriesRequest<Config>,
) -> Result<AppendEntriesResponse<Config>> {
    let had = append.entries.iter().take_while(|entry| log.contains(entry.log_id())).count();
    let last_had = append.entries[..had].last().map(RaftEntry::log_id);
    let (admitted, turn) = log.admission().turn(&append.entries[had..]).await.map_err(ended)?;
    if admitted.is_err() {
        // The rest of the message counts all the same.
        append.entries.truncate(had);
    }
    let mut appended = pin!(raft.append_entries(append));
    let at_once = poll!(appended.as_mut());
    drop(turn);
    let appended = match at_once {
        Poll::Ready(appended) => appended,
        Poll::Pending => appended.await,
    };
    match (appended.map_err(ended)?, admitted) {
        (AppendEntriesResponse::Success, Err(missing)) if had == 0 => {
            let why = format!("store {own} has no room for entries: {missing}");
            Err(Error::new(ErrorKind::Busy, why))
        }
        (AppendEntriesResponse::Success, Err(_)) => {
            Ok(AppendEntriesResponse::PartialSuccess(last_had))
        }
        (answer, _) => Ok(answer),
    }
}

/// Nothing has happened, and nothing will until the member is started again.
fn ended(error: impl Display) -> Error {
    Error::new(ErrorKind::Busy, format!("the member has ended: {error}"))
}
