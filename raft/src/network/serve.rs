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
use openraft::raft::AppendEntriesResponse;
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
        Message::Append(mut append) => {
            let (admitted, turn) = log.admission().turn(&append.entries).await.map_err(ended)?;
            if admitted.is_err() {
                // What it has may wait to be committed, so the rest of the message counts.
                append.entries.clear();
            }
            let mut appended = pin!(raft.append_entries(append));
            let at_once = poll!(appended.as_mut());
            drop(turn);
            let appended = match at_once {
                Poll::Ready(appended) => appended,
                Poll::Pending => appended.await,
            };
            match (appended.map_err(ended)?, admitted) {
                (AppendEntriesResponse::Success, Err(missing)) => {
                    let why = format!("store {own} has no room for entries: {missing}");
                    return Err(Error::new(ErrorKind::Busy, why));
                }
                (answer, _) => encode_appended(&answer),
            }
        }
        Message::Vote(vote) => encode_voted(&raft.vote(vote).await.map_err(ended)?),
        Message::PreVote(vote) => encode_voted(&raft.pre_vote(vote).await.map_err(ended)?),
        Message::Transfer(transfer) => {
            let answer = raft.handle_transfer_leader(transfer).await;
            encode_transferred(&answer.map_err(ended)?)
        }
    };
    Ok(Reply { head, payload: Vec::new() })
}

/// Nothing has happened, and nothing will until the member is started again.
fn ended(error: impl Display) -> Error {
    Error::new(ErrorKind::Busy, format!("the member has ended: {error}"))
}
