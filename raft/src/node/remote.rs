//! Asking whoever leads a group, here or at another node.
//!
//! Invariant: what is asked is handed to one member at a time; only where nothing can have happened
//! it is handed to another one, so an answer "unknown" is about one attempt.
//! Must never know: what is done with the answers.

use super::Inner;
use super::answer::{self, Answer, Fault};
use super::message::{Message, Range, bytes_of};
use super::replica::{Replica, refused, unknown};
use crate::control::{ClusterVolumeId, PgId};
use crate::frame;
use crate::limits::{ASK_LEADER_ATTEMPTS, ASK_TIMEOUT, READ_BLOCKS_MAX};
use crate::placement::{NodeId, StoreId};
use crate::transport::{self, ErrorKind as CallError};
use crate::types::encoding::decode_outcome;
use crate::types::{Outcome, Proposal};
use ashlar_engine::ErrorKind;
use ashlar_engine::buffer::Buffer;
use ashlar_engine::local::Extent;
use std::rc::Rc;
use std::time::Duration;

/// Pause before somebody else is asked who leads.
const NEXT_PAUSE: Duration = Duration::from_millis(50);

/// Where a member of a group is.
pub(super) enum Place {
    Here(Rc<Replica>),
    There(NodeId),
}

impl Inner {
    /// The member of a group in a store, as the map has it.
    fn place(&self, group: PgId, store: StoreId) -> Option<Place> {
        let map = self.map.newest();
        let node = map.stores().get(&store).map(|store| store.node);
        match self.replica(group).filter(|replica| replica.store == store) {
            Some(replica) => Some(Place::Here(replica)),
            None => node.filter(|node| *node != self.options.id).map(Place::There),
        }
    }

    /// Who is asked first: who led when last heard of, else the first voter.
    fn first_guess(&self, group: PgId) -> Option<StoreId> {
        let own = self.replica(group).and_then(|replica| replica.leader());
        own.or_else(|| self.leaders.borrow().get(&group).copied())
            .or_else(|| self.voter_after(group, None))
    }

    /// The voter that comes after one, in a circle.
    fn voter_after(&self, group: PgId, last: Option<StoreId>) -> Option<StoreId> {
        let map = self.map.newest();
        let voters: Vec<StoreId> = map.groups().get(&group)?.voters().collect();
        let next = voters.iter().copied().find(|store| Some(*store) > last);
        next.or_else(|| voters.first().copied())
    }

    /// Calls `ask` with the place of the leader, until somebody does not send us on.
    async fn at_leader<T, F>(&self, group: PgId, mut ask: impl FnMut(Place) -> F) -> Answer<T>
    where
        F: Future<Output = Answer<T>>,
    {
        let mut store = self.first_guess(group);
        for attempt in 0..ASK_LEADER_ATTEMPTS {
            let asked = store;
            let place = asked.and_then(|store| self.place(group, store));
            let hint = match place {
                None => None,
                Some(place) => match ask(place).await {
                    Err(Fault::NotLeader(hint)) => hint,
                    answer => {
                        let fine = answer.is_ok();
                        asked.filter(|_| fine).map(|s| self.leaders.borrow_mut().insert(group, s));
                        return answer;
                    }
                },
            };
            let other = hint.filter(|hint| Some(*hint) != asked);
            store = other.or_else(|| self.voter_after(group, asked));
            if other.is_none() {
                self.reactor.sleep(NEXT_PAUSE * (1 << attempt.min(4))).await;
            }
        }
        Err(unknown(&format!("placement group {group} has no leader")))
    }

    /// Proposes once at whoever leads the group. `make` gives the proposal again if it is needed.
    pub(super) async fn propose(
        &self,
        group: PgId,
        mut make: impl FnMut() -> Proposal,
    ) -> Answer<Outcome> {
        let ask = |place: Place| {
            let proposal = make();
            async move {
                match place {
                    Place::Here(replica) => replica.propose(proposal).await,
                    Place::There(node) => {
                        let message = Message::Propose(proposal);
                        let (bytes, _) = self.ask(node, group, message, 0).await?;
                        decode_outcome(&bytes).map_err(|error| unknown(&error))
                    }
                }
            }
        };
        self.at_leader(group, ask).await
    }

    /// Reads blocks of a group, as of now.
    pub(super) async fn read(&self, group: PgId, range: Range) -> Answer<Vec<Buffer>> {
        if range.count > READ_BLOCKS_MAX {
            return Err(refused(ErrorKind::Invalid, &"too many blocks are read at once"));
        }
        let ask = |place| async move {
            match place {
                Place::Here(replica) => self.read_here(&replica, range).await,
                Place::There(node) => {
                    let bytes = bytes_of(range.count);
                    let asked = self.ask(node, group, Message::Read(range), bytes).await;
                    let (_, parts) = asked?;
                    match parts.iter().map(|part| part.len()).sum::<usize>() == bytes {
                        true => Ok(parts),
                        false => Err(unknown(&"a node sent other blocks than asked for")),
                    }
                }
            }
        };
        self.at_leader(group, ask).await
    }

    /// How blocks of a group are mapped, as of now.
    pub(super) async fn extents(
        &self,
        group: PgId,
        range: Range,
        extents_max: usize,
    ) -> Answer<Vec<Extent>> {
        let ask = |place| async move {
            match place {
                Place::Here(replica) => replica.extents(range, extents_max).await,
                Place::There(node) => {
                    let message = Message::Extents(range, extents_max as u32);
                    let (bytes, _) = self.ask(node, group, message, 0).await?;
                    answer::decode_extents(&bytes).map_err(|error| unknown(&error))
                }
            }
        };
        self.at_leader(group, ask).await
    }

    /// The newest epoch of a volume, as of now: 0 if there is no such volume.
    pub(super) async fn volume_epoch(&self, volume: ClusterVolumeId) -> Answer<u64> {
        let ask = |place| async move {
            match place {
                Place::Here(replica) => self.epoch_here(&replica, volume).await,
                Place::There(node) => {
                    let message = Message::VolumeEpoch(volume);
                    let (bytes, _) = self.ask(node, PgId::CONTROL, message, 0).await?;
                    let epoch = bytes.try_into().map(u64::from_le_bytes);
                    epoch.map_err(|_| unknown(&"a node answered with no epoch"))
                }
            }
        };
        self.at_leader(PgId::CONTROL, ask).await
    }

    /// The same from this node's member of the control group, which leads.
    pub(super) async fn epoch_here(
        &self,
        replica: &Rc<Replica>,
        volume: ClusterVolumeId,
    ) -> Answer<u64> {
        if replica.id != PgId::CONTROL {
            return Err(refused(ErrorKind::Invalid, &"only the control group knows of volumes"));
        }
        replica.barrier().await?;
        Ok(self.map.newest().volumes().get(&volume).map_or(0, |volume| volume.epoch))
    }

    /// Asks whoever leads a group to begin to send a snapshot.
    pub(super) async fn ask_for_snapshot(
        &self,
        group: PgId,
        to: StoreId,
        behind: u64,
    ) -> Answer<()> {
        let ask = |place| async move {
            match place {
                // Who has no member here cannot lead.
                Place::Here(_) => Err(Fault::NotLeader(None)),
                Place::There(node) => {
                    let message = Message::Pull { to, behind };
                    self.ask(node, group, message, 0).await.map(drop)
                }
            }
        };
        self.at_leader(group, ask).await
    }

    /// Asks one node. The answer's head, and its blocks; at most so many bytes more than what any
    /// answer may have.
    pub(super) async fn ask(
        &self,
        node: NodeId,
        group: PgId,
        message: Message,
        more_bytes: usize,
    ) -> Answer<(Vec<u8>, Vec<Buffer>)> {
        let Some(peers) = self.peers() else {
            return Err(unknown(&"this node is in no cluster yet"));
        };
        let encoded = message.encode(self.reactor.pool());
        let (head, payload) = encoded.map_err(|error| refused(ErrorKind::Invalid, &error))?;
        let mut request = transport::Request::new(group.0, super::LANE_ASK, head);
        request.payload = payload;
        request.reply_max_bytes = (super::ANSWER_MAX_BYTES + more_bytes) as u32;
        let reply = peers.call(frame::NodeId(node.0), request, ASK_TIMEOUT).await;
        let reply = reply.map_err(|error| match error.kind() {
            // It was not handed over: another one may be asked.
            CallError::Unreachable | CallError::Busy => Fault::NotLeader(None),
            _ => unknown(&error),
        })?;
        let bytes = answer::decode(&reply.head)?.to_vec();
        Ok((bytes, reply.payload))
    }
}
