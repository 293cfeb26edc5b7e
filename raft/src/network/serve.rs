//! Raft's messages of other members, handed to openraft.
//!
//! Must never know: connections.

use super::codec::{Message, encode_appended, encode_transferred, encode_voted};
use crate::frame::NodeId;
use crate::state_machine::StateMachine;
use crate::transport::{Error, ErrorKind, Reply, Result};
use crate::types::Config;
use ashlar_engine::buffer::Buffer;
use openraft::Raft;
use std::fmt::Display;

/// Answers one message to the member in the store `own`. Polled once it is in openraft's queue, or
/// in the line for it: messages that are polled in order are taken in order.
///
/// # Errors
/// `Refused` if it is not understood, or is for another store; `Busy` if openraft has ended.
pub async fn serve(
    raft: &Raft<Config, StateMachine>,
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
        Message::Append(append) => {
            encode_appended(&raft.append_entries(append).await.map_err(ended)?)
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
