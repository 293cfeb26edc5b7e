//! Answering other nodes.
//!
//! Invariant: Raft's messages of one group are handed to openraft in the order in which they came.
//! Must never know: connections.

use super::answer::{self, Answer, Fault, encode_extents};
use super::message::{Message, REPORT};
use super::replica::{Replica, refused};
use super::report::Report;
use super::{ANSWER_MAX_BYTES, Inner};
use crate::control::PgId;
use crate::frame::NodeId;
use crate::network;
use crate::placement;
use crate::snapshot::message::{KINDS_END, KINDS_START};
use crate::transport::{Error, ErrorKind, Handler, Reply, Result};
use crate::types::encoding::encode_outcome;
use ashlar_engine::ErrorKind as EngineError;
use ashlar_engine::buffer::Buffer;
use ashlar_engine::reactor::LocalBox;
use std::rc::{Rc, Weak};

/// Kinds below this one are Raft's own messages, then come those of snapshots.
const RAFT_KINDS_END: u8 = KINDS_START;

/// Hands what peers want to the node, as long as there is one.
pub(super) struct Answering(pub(super) Weak<Inner>);

impl Handler for Answering {
    fn handle(
        &self,
        peer: NodeId,
        group: u32,
        _lane: u32,
        head: Vec<u8>,
        payload: Vec<Buffer>,
    ) -> LocalBox<Result<Reply>> {
        let Some(node) = self.0.upgrade() else {
            return Box::pin(async { Err(Error::new(ErrorKind::Refused, "the node has ended")) });
        };
        let (runtime, id) = (node.runtime.clone(), PgId(group));
        match head.get(1) {
            Some(kind) if *kind < RAFT_KINDS_END => {
                let Some(replica) = node.replica(id) else {
                    return Box::pin(
                        runtime
                            .enter(async move { node.answer_for_gated(id, &head, payload).await }),
                    );
                };
                Box::pin(runtime.enter(async move {
                    let (raft, log) = (&replica.raft, &replica.log);
                    network::serve(raft, log, replica.store.0, peer, &head, payload).await
                }))
            }
            Some(kind) if *kind < KINDS_END => Box::pin(
                runtime.enter(async move { node.take_snapshot(id, peer, &head, payload).await }),
            ),
            Some(&REPORT) => {
                if let Ok(report) = Report::decode(&head)
                    && report.node.0 == peer.0
                    && node.reports.borrow_mut().take(node.reactor.now(), report)
                {
                    node.news.stir();
                }
                Box::pin(async { Ok(Reply::default()) })
            }
            _ => Box::pin(runtime.enter(async move {
                let message = Message::decode(&head, payload);
                let message =
                    message.map_err(|error| Error::new(ErrorKind::Refused, error.to_string()))?;
                Ok(node.answer(id, message).await)
            })),
        }
    }
}

pub(super) fn not_here(id: PgId) -> Error {
    Error::new(ErrorKind::Refused, format!("this node has no member of placement group {id} yet"))
}

impl Inner {
    async fn answer(self: &Rc<Inner>, id: PgId, message: Message) -> Reply {
        let mut payload = Vec::new();
        let answer = match message {
            Message::Map { known } => Ok(self.answer_map(known)),
            Message::Heard => {
                Ok(self.reports.borrow().tell(self.reactor.now(), ANSWER_MAX_BYTES / 2))
            }
            Message::Start(members) => self.start_group(id, &members).await.map(|()| Vec::new()),
            Message::Entry(name) => self.entry_for(id, name, &mut payload).await,
            Message::Left(name) => self.left_for(id, name, &mut payload).await,
            message => match self.replica(id) {
                None => Err(Fault::NotLeader(None)),
                Some(replica) => self.answer_leader(&replica, message, &mut payload).await,
            },
        };
        Reply { head: answer::encode(answer), payload }
    }

    /// What is asked of a group's leader, or of any member.
    async fn answer_leader(
        self: &Rc<Inner>,
        replica: &Rc<Replica>,
        message: Message,
        payload: &mut Vec<Buffer>,
    ) -> Answer<Vec<u8>> {
        match message {
            Message::Propose(proposal) => {
                let outcome = replica.propose(proposal).await?;
                let encoded = encode_outcome(&outcome);
                encoded.map_err(|error| refused(EngineError::Failed, &error))
            }
            Message::Read(range) => {
                *payload = self.read_here(replica, range).await?;
                Ok(Vec::new())
            }
            Message::Copy { range, applied } => {
                let (as_of, parts) = replica.copy(range, applied).await?;
                *payload = parts;
                Ok(as_of.to_le_bytes().to_vec())
            }
            Message::Extents(range, extents_max) => {
                let extents_max = extents_max.min(super::EXTENTS_MAX) as usize;
                Ok(encode_extents(&replica.extents(range, extents_max).await?))
            }
            Message::Perform { epoch, step } => {
                self.perform_here(replica, epoch, step).await.map(|()| Vec::new())
            }
            Message::Settle { epoch, step } => {
                self.settle_here(replica, epoch, step).await.map(|()| Vec::new())
            }
            Message::VolumeEpoch(volume) => {
                let epoch = self.epoch_here(replica, volume).await?;
                Ok(epoch.to_le_bytes().to_vec())
            }
            Message::Lead { to } => {
                let moved = replica.raft.trigger().transfer_leader(to.0).await;
                moved.map(|()| Vec::new()).map_err(|error| super::replica::unknown(&error))
            }
            Message::Pull { to, behind } => {
                self.send_snapshot(replica, to, behind).await.map(|()| Vec::new())
            }
            Message::Map { .. }
            | Message::Start(_)
            | Message::Heard
            | Message::Entry(_)
            | Message::Left(_) => {
                Err(refused(EngineError::Invalid, &"this is not asked of a leader"))
            }
        }
    }

    /// Who leads the control group, then the map if it is newer than the one known.
    fn answer_map(&self, known: u64) -> Vec<u8> {
        let leader = self.replica(PgId::CONTROL).and_then(|replica| replica.leader());
        let mut into = leader.unwrap_or_default().0.to_le_bytes().to_vec();
        let map = self.map.newest();
        if map.epoch() > known {
            into.extend(map.encode());
        }
        into
    }
}

impl From<NodeId> for placement::NodeId {
    fn from(node: NodeId) -> placement::NodeId {
        placement::NodeId(node.0)
    }
}
