//! Votes of a member that is being brought up, whose openraft does not run.
//!
//! Everything that it may have acknowledged came before the snapshot's last entry, and was
//! committed without it up to there. So it may vote as if that entry were its last one (Raft
//! section 5.4.1): for who has that entry, at least. A promised vote is durable before it is told.
//! Must never know: who sends the snapshot.

use super::codec::{Message, encode_voted};
use crate::log_store::{Install, Saved};
use crate::transport::{Error, ErrorKind, Reply, Result};
use crate::types::{Config, LogId};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::local::LocalGroup;
use openraft::raft::{VoteRequest, VoteResponse};
use std::fmt::Display;

fn refused(why: impl Display) -> Error {
    Error::new(ErrorKind::Refused, why.to_string())
}

/// Answers a message to such a member in the store `own`, if it asks for a vote and there is one.
/// Nobody else may change the vote until this ends.
///
/// # Errors
/// `Refused` if it is not understood, is for another store, or the vote cannot be kept.
pub(crate) async fn vote_for_gated(
    group: &LocalGroup,
    own: u64,
    head: &[u8],
    payload: Vec<Buffer>,
) -> Result<Option<Reply>> {
    let (to, message) = Message::decode(head, payload).map_err(refused)?;
    let saved = Saved::load(group).map_err(refused)?;
    let Install::Under { upto } = saved.install else { return Ok(None) };
    if to != own {
        return Err(refused(format_args!("store {to} is not here any more, store {own} is")));
    }
    let answer = match message {
        Message::PreVote(request) => judge(saved, upto, &request),
        Message::Vote(request) => {
            let answer = judge(saved, upto, &request);
            if answer.vote_granted {
                let saved = Saved { vote: Some(request.vote), ..saved };
                saved.save(group).await.map_err(refused)?;
            }
            answer
        }
        _ => return Ok(None),
    };
    Ok(Some(Reply { head: encode_voted(&answer), payload: Vec::new() }))
}

fn judge(saved: Saved, upto: LogId, request: &VoteRequest<Config>) -> VoteResponse<Config> {
    let newest = saved.vote.is_none_or(|own| request.vote >= own);
    let has_all = request.last_log_id >= Some(upto);
    let vote = match (newest && has_all, saved.vote) {
        (false, Some(own)) => own,
        _ => request.vote,
    };
    VoteResponse::new(vote, Some(upto), newest && has_all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Vote, log_id};

    #[test]
    fn it_votes_for_who_has_the_snapshot_and_once_in_a_term() {
        let upto = log_id(4, 100);
        let saved = |term, node| Saved {
            vote: Some(Vote::new(term, node)),
            install: Install::Under { upto },
        };
        let asked = |saved, term, node, last| {
            judge(saved, upto, &VoteRequest::new(Vote::new(term, node), last)).vote_granted
        };
        assert!(asked(saved(5, 1), 6, 2, Some(upto)));
        assert!(asked(saved(5, 1), 6, 2, Some(log_id(5, 90))));
        assert!(!asked(saved(5, 1), 6, 2, Some(log_id(4, 99))), "it lacks entries");
        assert!(!asked(saved(5, 1), 6, 2, None));
        assert!(!asked(saved(6, 1), 6, 2, Some(upto)), "it voted for another one");
        assert!(asked(saved(6, 2), 6, 2, Some(upto)), "its vote, again");
        assert!(!asked(saved(7, 1), 6, 2, Some(upto)), "an old term");
    }
}
