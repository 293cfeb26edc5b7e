//! Members of this node that are being brought up by a snapshot.
//!
//! One that has a log gets its snapshot when the leader finds that it lacks entries which are given
//! up. One without a log to count on, because a snapshot was not ended or entries are damaged, is
//! gated: it does not run, and asks the leader for one. While the snapshot is under way it votes
//! all the same, for who has all that it will have: else the others could not do without the leader
//! that sends.
//! Invariants: a member's log is given up only for a snapshot that ends behind all it may have
//! acknowledged, and was committed without it; one group takes in one snapshot at a time.
//! Must never know: how blocks are sent.

use super::Inner;
use super::answer::Answer;
use super::handler::not_here;
use super::replica::{Replica, refused};
use crate::control::PgId;
use crate::frame::NodeId;
use crate::limits::SNAPSHOT_SILENCE_MAX;
use crate::log_store::{Install, Saved};
use crate::network;
use crate::placement::StoreId;
use crate::snapshot::Installer;
use crate::snapshot::message::{Answer as Taken, Message};
use crate::transport::{Error, ErrorKind, Reply, Result};
use crate::types::{Changes, LogId, Proposal, Vote, Write};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::local::LocalGroup;
use ashlar_engine::units::{GroupId, Nanos};
use openraft_rt::Mutex as _;
use openraft_rt::watch::WatchReceiver as _;
use std::cell::Cell;
use std::fmt::Display;
use std::rc::Rc;

/// A snapshot that comes in.
pub(super) struct Incoming {
    peer: NodeId,
    sending: u64,
    last: LogId,
    head: Vec<u8>,
    installer: Installer,
    /// When something of it came last.
    heard: Cell<Nanos>,
}

fn fault(why: impl Display) -> Error {
    Error::new(ErrorKind::Refused, why.to_string())
}

/// Whether a group has no log here that a member could run with.
fn is_gated(group: &LocalGroup) -> bool {
    let under =
        Saved::load(group).is_ok_and(|saved| matches!(saved.install, Install::Under { .. }));
    under || !group.state().faulty.is_empty()
}

/// Entry behind which a snapshot for a gated member must end; 0: any will do.
fn behind(group: &LocalGroup) -> u64 {
    match Saved::load(group) {
        Ok(saved) if !matches!(saved.install, Install::Under { .. }) => {
            let last = group.span().last;
            last.and_then(|last| saved.raft_index(last.index)).unwrap_or(0)
        }
        _ => 0,
    }
}

fn applied_index(replica: &Replica) -> Option<u64> {
    replica.log.applied().map(|id| id.index())
}

impl Inner {
    fn group(&self, id: PgId) -> LocalGroup {
        self.store.group(GroupId(id.0))
    }

    /// Answers a message of Raft to a member that does not run.
    pub(super) async fn answer_for_gated(
        &self,
        id: PgId,
        head: &[u8],
        payload: Vec<Buffer>,
    ) -> Result<Reply> {
        // What is kept with a vote is read and written by one at a time.
        let _one_at_a_time = self.installing.lock().await;
        let group = self.group(id);
        let voted = network::vote_for_gated(&group, self.store_id.get().0, head, payload);
        voted.await?.ok_or_else(|| not_here(id))
    }

    /// Takes in a message of a snapshot. Polled in the order in which they came.
    pub(super) async fn take_snapshot(
        self: &Rc<Inner>,
        id: PgId,
        peer: NodeId,
        head: &[u8],
        payload: Vec<Buffer>,
    ) -> Result<Reply> {
        let (to, sending, message) = Message::decode(head, payload).map_err(|error| {
            fault(format_args!("a snapshot of node {peer} is not understood: {error}"))
        })?;
        let own = self.store_id.get();
        if to != own.0 {
            return Err(fault(format_args!("store {to} is not here any more, store {own} is")));
        }
        let answer = match message {
            Message::Begin { vote, last, head } => {
                self.begin_snapshot(id, (peer, sending), vote, last, head).await?
            }
            Message::Piece { number, changes } => {
                let incoming = self.incoming(id, peer, sending)?;
                let changes = changes.into_vec();
                incoming.heard.set(self.reactor.now());
                incoming.installer.take(number, changes).await.map_err(fault)?;
                incoming.heard.set(self.reactor.now());
                Taken::Taken
            }
            Message::End { pieces } => self.end_snapshot(id, peer, sending, pieces).await?,
        };
        Ok(Reply { head: answer.encode(), payload: Vec::new() })
    }

    fn incoming(&self, id: PgId, peer: NodeId, sending: u64) -> Result<Rc<Incoming>> {
        let installs = self.installs.borrow();
        let incoming = installs
            .get(&id)
            .filter(|incoming| incoming.peer == peer && incoming.sending == sending);
        incoming.cloned().ok_or_else(|| fault("this snapshot has not begun, or was given up"))
    }

    async fn begin_snapshot(
        self: &Rc<Inner>,
        id: PgId,
        (peer, sending): (NodeId, u64),
        vote: Vote,
        last: LogId,
        head: Vec<u8>,
    ) -> Result<Taken> {
        let _one_at_a_time = self.installing.lock().await;
        // Nobody starts the member meanwhile.
        let _starting = self.starting.lock().await;
        if let Some(answer) = self.judge_snapshot(id, vote, last)? {
            return Ok(answer);
        }
        let older = self.installs.borrow_mut().remove(&id);
        if let Some(older) = older {
            older.installer.stop().await;
        }
        if let Some(replica) = self.replica(id) {
            self.stop_replica(&replica).await;
        }
        let why = format!("placement group {id} is being brought up by a snapshot");
        self.troubles.borrow_mut().insert(id, why);
        let installer = Installer::begin(self.group(id), vote, last).await.map_err(fault)?;
        let heard = Cell::new(self.reactor.now());
        let incoming = Incoming { peer, sending, last, head, installer, heard };
        self.installs.borrow_mut().insert(id, Rc::new(incoming));
        Ok(if self.keeps_blocks(id) { Taken::Taken } else { Taken::WithoutBlocks })
    }

    /// Whether a snapshot is to be taken in: `None` if it is.
    pub(super) fn judge_snapshot(
        &self,
        id: PgId,
        vote: Vote,
        last: LogId,
    ) -> Result<Option<Taken>> {
        let (group, replica) = (self.group(id), self.replica(id));
        let saved = Saved::load(&group).map_err(fault)?;
        if let Some(own) = saved.vote.filter(|own| *own > vote) {
            return Ok(Some(Taken::HigherVote(own)));
        }
        match replica {
            Some(replica) if replica.log.contains(last) => return Ok(Some(Taken::Has)),
            Some(replica) if applied_index(&replica) >= Some(last.index()) => {
                return Err(fault("the snapshot contradicts what is committed here"));
            }
            Some(_) => {}
            None if !is_gated(&group) => return Err(not_here(id)),
            // With a damaged log nobody knows what it has acknowledged of what it holds.
            None => {
                let upto = group.span().last.and_then(|id| saved.raft_index(id.index));
                let damaged = !matches!(saved.install, Install::Under { .. });
                if damaged && upto.is_some_and(|upto| upto >= last.index()) {
                    return Err(fault("the damaged log reaches further than this snapshot"));
                }
            }
        }
        Ok(None)
    }

    async fn end_snapshot(
        self: &Rc<Inner>,
        id: PgId,
        peer: NodeId,
        sending: u64,
        pieces: u64,
    ) -> Result<Taken> {
        let _one_at_a_time = self.installing.lock().await;
        let incoming = self.incoming(id, peer, sending)?;
        let Incoming { installer, last, head, .. } = &*incoming;
        installer.finish(pieces, *last, head.clone()).await.map_err(fault)?;
        installer.stop().await;
        self.installs.borrow_mut().remove(&id);
        self.start_replica(id).await.map_err(fault)?;
        Ok(Taken::Has)
    }

    /// Whether a snapshot comes in whose sender is not silent.
    fn comes_in(&self, id: PgId) -> bool {
        let installs = self.installs.borrow();
        let silent_at = |incoming: &Rc<Incoming>| incoming.heard.get() + SNAPSHOT_SILENCE_MAX;
        installs.get(&id).is_some_and(|incoming| self.reactor.now() < silent_at(incoming))
    }

    /// Asks for snapshots of the groups that are gated here.
    pub(super) fn ask_for_snapshots(self: &Rc<Inner>) {
        let ids: Vec<PgId> = self.troubles.borrow().keys().copied().collect();
        for id in ids.into_iter().filter(|id| *id != PgId(0)) {
            let idle = self.replica(id).is_none() && !self.asking.borrow().contains(&id);
            if !idle || self.comes_in(id) || !is_gated(&self.group(id)) {
                continue;
            }
            self.asking.borrow_mut().insert(id);
            let own = Rc::clone(self);
            self.runtime.start_task(async move {
                if own.repair_log(id).await.is_ok_and(|repaired| repaired > 0) {
                    own.asking.borrow_mut().remove(&id);
                    return;
                }
                // If nobody sends one, it is asked for again.
                let behind = behind(&own.group(id));
                own.ask_for_snapshot(id, own.store_id.get(), behind).await.ok();
                own.asking.borrow_mut().remove(&id);
            });
        }
    }

    /// The leader begins to send a snapshot to a member that asked for one, if it does not.
    pub(super) async fn send_snapshot(
        self: &Rc<Inner>,
        replica: &Rc<Replica>,
        to: StoreId,
        behind: u64,
    ) -> Answer<()> {
        let (membership, _) = replica.membership();
        let Some(member) = membership.membership().get_node(&to.0).cloned() else {
            return Err(refused(ashlar_engine::ErrorKind::NotFound, &"it is no member"));
        };
        if replica.network.source().sends_to(to.0) {
            return Ok(());
        }
        replica.check_blocks()?;
        if behind > 0 && replica.log.applied().is_none_or(|applied| applied.index() <= behind) {
            // One entry that is committed without the member.
            let (proposer, serial) = (self.proposer, self.next_drop_serial(replica.id));
            let changes = Changes::from(Vec::new());
            let nothing = Proposal::Write(Write { proposer, serial, epoch: 0, changes });
            replica.propose(nothing).await?;
        }
        let vote = replica.raft.metrics().borrow_watched().vote;
        let snapshot = self.runtime.enter(replica.raft.get_snapshot()).await;
        let snapshot = snapshot.map_err(|error| super::replica::unknown(&error))?;
        let Some(snapshot) = snapshot else {
            return Err(super::replica::unknown(&"there is nothing to send"));
        };
        let link = replica.network.snapshot_link(to.0, &member);
        // It asks again if it does not get all of it.
        let send = async move { drop(link.send_snapshot(vote, snapshot).await) };
        self.runtime.start_task(send);
        Ok(())
    }
}
