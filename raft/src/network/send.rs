//! Sending a snapshot to one member.
//!
//! Must never know: how the other one takes it in.

use super::link::Link;
use crate::limits::{SNAPSHOT_CALL_MAX, SNAPSHOT_PIECES_UNDER_WAY};
use crate::snapshot::message::{Answer, Message};
use crate::state_machine::Manifest;
use crate::transport::{self, Reply};
use crate::types::{CommittedLeaderId, Config, Member, Vote};
use futures_util::stream::{StreamExt, unfold};
use openraft::error::{StreamingError, Unreachable};
use openraft::storage::Snapshot;
use std::cell::Cell;
use std::fmt;
use std::pin::pin;

type Sent<T> = Result<T, StreamingError<Config>>;

impl Link {
    /// Sends a snapshot; the other's vote, once it has the whole.
    pub(crate) async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot<CommittedLeaderId, u64, Member, Manifest>,
    ) -> Sent<Vote> {
        let (Some(last), manifest) = (snapshot.meta.last_log_id, snapshot.snapshot) else {
            return Err(failed(&"a snapshot of nothing cannot be sent"));
        };
        let source = &self.network.source;
        if !source.keeps_blocks() {
            return Err(failed(&"a witness has no blocks to send"));
        }
        if source.sends_to(self.target) {
            return Err(failed(&"another snapshot is on its way"));
        }
        let sending = source.begin(self.target);
        let number = sending.number();
        let begin = Message::Begin { vote, last, head: manifest.head };
        let volumes = match self.ask_taker(Ok(begin), number).await? {
            Answer::Taken => manifest.volumes,
            Answer::WithoutBlocks => Vec::new(),
            Answer::Has => return Ok(vote),
            Answer::HigherVote(higher) => return Ok(higher),
        };
        let count = Cell::new(0);
        let pieces = unfold(source.pieces(&volumes), |mut pieces| async {
            sending.pace().await;
            match pieces.next().await {
                Ok(Some(changes)) => {
                    let message = Message::Piece { number: count.get(), changes: changes.into() };
                    count.set(count.get() + 1);
                    Some((Ok(message), pieces))
                }
                Ok(None) => None,
                Err(error) => Some((Err(failed(&error)), pieces)),
            }
        });
        let answers = pieces.map(|message| self.ask_taker(message, number));
        let mut answers = pin!(answers.buffered(SNAPSHOT_PIECES_UNDER_WAY));
        while let Some(answer) = answers.next().await {
            match answer? {
                Answer::Taken | Answer::WithoutBlocks => {}
                Answer::Has => return Ok(vote),
                Answer::HigherVote(higher) => return Ok(higher),
            }
        }
        match self.ask_taker(Ok(Message::End { pieces: count.get() }), number).await? {
            Answer::HigherVote(higher) => Ok(higher),
            Answer::Has => Ok(vote),
            Answer::Taken | Answer::WithoutBlocks => {
                Err(failed(&"the member did not end the snapshot"))
            }
        }
    }

    /// Sends one message now; what the other says.
    fn ask_taker(
        &self,
        message: Sent<Message>,
        number: u64,
    ) -> impl Future<Output = Sent<Answer>> + use<'_> {
        let encoded = message.and_then(|message| {
            message.encode(self.target, number, self.network.peers.pool()).map_err(|e| failed(&e))
        });
        let call = encoded.map(|encoded| self.call_encoded(encoded, SNAPSHOT_CALL_MAX));
        async move {
            let answer: transport::Result<Reply> = call?.await;
            let reply = answer.map_err(|error| StreamingError::from(Unreachable::new(&error)))?;
            Answer::decode(&reply.head).map_err(|error| failed(&error))
        }
    }
}

fn failed(why: &impl fmt::Display) -> StreamingError<Config> {
    StreamingError::Unreachable(Unreachable::from_string(why))
}
