//! One group on this node: its openraft, and what others may ask of it.
//!
//! Invariants: a read is answered with what was committed when it was asked, or later (Raft
//! section 6.4, "ReadIndex"): reads that wait together share one round of heartbeats that begins
//! after all of them were asked.
//! Must never know: sockets, other groups.

use super::answer::{Answer, Fault};
use super::message::{Range, bytes_of};
use crate::control::PgId;
use crate::limits::{READ_BARRIER_MAX, ROOM_MARGIN_BLOCKS};
use crate::log_store::LogStore;
use crate::network::Network;
use crate::placement::StoreId;
use crate::runtime::{Oneshot, OneshotSender, ReactorRuntime};
use crate::state_machine::StateMachine;
use crate::types::{Config, Outcome, Proposal};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::limits::ATOMIC_WRITE_MAX_BYTES;
use ashlar_engine::local::Extent;
use ashlar_engine::store::Mapping;
use ashlar_engine::units::BLOCK_SIZE_BYTES;
use ashlar_engine::{Error, ErrorKind};
use openraft::ReadPolicy;
use openraft::error::{ClientWriteError, Fatal, LinearizableReadError, RaftError};
use openraft_rt::watch::WatchReceiver as _;
use openraft_rt::{Oneshot as _, OneshotSender as _};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

/// openraft of one group.
pub(super) type Raft = openraft::Raft<Config, StateMachine>;

/// See the module.
pub(super) struct Replica {
    pub(super) id: PgId,
    /// The store it is in: openraft knows it by that number.
    pub(super) store: StoreId,
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) network: Network,
    runtime: ReactorRuntime,
    barriers: Barriers,
}

/// Reads that wait until this node is known to lead still.
#[derive(Default)]
struct Barriers {
    running: Cell<bool>,
    waiting: RefCell<Vec<OneshotSender<Answer<()>>>>,
}

impl Replica {
    pub(super) fn new(
        id: PgId,
        store: StoreId,
        raft: Raft,
        log: LogStore,
        network: Network,
        runtime: ReactorRuntime,
    ) -> Replica {
        Replica { id, store, raft, log, network, runtime, barriers: Barriers::default() }
    }

    /// Who leads, as far as this member knows.
    pub(super) fn leader(&self) -> Option<StoreId> {
        self.raft.metrics().borrow_watched().current_leader.map(StoreId)
    }

    /// Whether this member leads, as far as it knows.
    pub(super) fn leads(&self) -> bool {
        self.leader() == Some(self.store)
    }

    /// Whether the group's blocks are here.
    ///
    /// # Errors
    /// `NotLeader` if this is a witness: it soon leads no longer.
    pub(super) fn check_blocks(&self) -> Answer<()> {
        match self.network.source().keeps_blocks() {
            true => Ok(()),
            false => Err(Fault::NotLeader(None)),
        }
    }

    /// Why its openraft gave up, if it did.
    pub(super) fn died_of(&self) -> Option<String> {
        let ended = self.raft.metrics().borrow_watched().running_state.clone();
        match ended {
            Ok(()) | Err(Fatal::Stopped) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    /// The other members.
    pub(super) fn others(&self) -> Vec<StoreId> {
        let (membership, _) = self.membership();
        let ids = membership.membership().nodes().map(|(id, _)| StoreId(*id));
        ids.filter(|store| *store != self.store).collect()
    }

    /// Proposes at this member.
    pub(super) async fn propose(&self, proposal: Proposal) -> Answer<Outcome> {
        if let Err(error) = proposal.check() {
            return Err(refused(ErrorKind::Invalid, &error));
        }
        self.network.source().touch();
        let mut admitted = None;
        if let Proposal::Write(write) = &proposal {
            // Members may have less room than this one: who writes is told before all are stuck.
            let room = self.log.group().check_changes(&write.changes, ROOM_MARGIN_BLOCKS);
            room.map_err(Fault::Refused)?;
            let room = self.log.admission().propose(&write.changes).await;
            admitted = Some(room.map_err(|error| unknown(&error))?);
        }
        let written = self.runtime.enter(self.raft.client_write(proposal)).await;
        drop(admitted);
        match written {
            Ok(response) => Ok(response.data),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(Fault::NotLeader(forward.leader_id.map(StoreId)))
            }
            Err(error) => Err(unknown(&error)),
        }
    }

    /// Waits until everything that was committed when this was called is applied here, and this
    /// member is known to have led after that.
    pub(super) async fn barrier(self: &Rc<Replica>) -> Answer<()> {
        let (sender, answer) = Oneshot::channel();
        self.barriers.waiting.borrow_mut().push(sender);
        if !self.barriers.running.replace(true) {
            self.runtime.start_task(rounds(Rc::clone(self)));
        }
        let answer = answer.await;
        answer.unwrap_or_else(|_| Err(unknown(&"the node shuts down")))
    }

    /// One round for all who wait.
    async fn round(&self) -> Answer<()> {
        let linearizable = self.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        let within = self.runtime.reactor().within(READ_BARRIER_MAX, linearizable);
        match within.await {
            Some(Ok(_)) => Ok(()),
            Some(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(Fault::NotLeader(forward.leader_id.map(StoreId)))
            }
            Some(Err(error)) => Err(unknown(&error)),
            None => Err(unknown(&"the group's members do not answer")),
        }
    }

    /// Blocks as of now. What the group does not have reads as zeroes.
    pub(super) async fn read(self: &Rc<Replica>, range: Range) -> Answer<Vec<Buffer>> {
        self.check_blocks()?;
        self.network.source().touch();
        self.barrier().await?;
        let volume = match self.log.group().volume(range.volume) {
            Ok(volume) => volume,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(vec![self.zeroes(range.count)]);
            }
            Err(error) => return Err(Fault::Refused(error)),
        };
        let offset = range.first.0.saturating_mul(BLOCK_SIZE_BYTES as u64);
        let (mut at, end) = (offset, offset.saturating_add(bytes_of(range.count) as u64));
        let mut parts = Vec::new();
        while at < end {
            // A request that begins and ends inside blocks has one block more than the store reads.
            let length = (end - at).min(ATOMIC_WRITE_MAX_BYTES as u64) as usize;
            parts.extend(volume.read(at, length).await.map_err(Fault::Refused)?);
            at += length as u64;
        }
        Ok(parts)
    }

    fn zeroes(&self, blocks: u64) -> Buffer {
        let mut zeroes = self.runtime.reactor().pool().allocate(bytes_of(blocks));
        zeroes.fill(0);
        zeroes
    }

    /// How blocks are mapped, as of now: at least one extent, at most `extents_max`.
    pub(super) async fn extents(
        self: &Rc<Replica>,
        range: Range,
        extents_max: usize,
    ) -> Answer<Vec<Extent>> {
        self.check_blocks()?;
        self.barrier().await?;
        let length = range.count.saturating_mul(BLOCK_SIZE_BYTES as u64);
        let volume = match self.log.group().volume(range.volume) {
            Ok(volume) => volume,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(vec![Extent { length_bytes: length, mapping: Mapping::Hole }]);
            }
            Err(error) => return Err(Fault::Refused(error)),
        };
        let offset = range.first.0.saturating_mul(BLOCK_SIZE_BYTES as u64);
        volume.block_status(offset, length, extents_max.max(1)).map_err(Fault::Refused)
    }
}

/// Rounds as long as anybody waits.
async fn rounds(replica: Rc<Replica>) {
    loop {
        let asked = replica.barriers.waiting.take();
        if asked.is_empty() {
            replica.barriers.running.set(false);
            return;
        }
        let answer = replica.round().await;
        for sender in asked {
            // Who asked may have gone.
            sender.send(answer.clone()).ok();
        }
    }
}

pub(super) fn refused(kind: ErrorKind, why: &impl fmt::Display) -> Fault {
    Fault::Refused(Error::new(kind, why.to_string()))
}

pub(super) fn unknown(why: &impl fmt::Display) -> Fault {
    Fault::Unknown(Error::new(ErrorKind::Failed, why.to_string()))
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replica({}, {})", self.id, self.store)
    }
}
