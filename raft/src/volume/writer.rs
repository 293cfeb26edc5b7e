//! Writes of this process to one group, gathered into proposals.
//!
//! Invariants: a proposal is tried again, with the same serial, until it is known what became of
//! it, also after who wrote was told that nobody knows, but from then on without its changes if it
//! is refused; a serial that is open is never further
//! behind the newest than replicas can tell retries; only writes of equal epoch share a proposal;
//! what waits is bounded.
//! Must never know: volumes, who leads.

use super::gather::Gather;
use super::locks::Hold;
use super::{Group, ProposeError};
use crate::limits::{
    BLOCKS_WAITING_MAX, PROPOSAL_BLOCKS_MAX, PROPOSAL_CHANGES_MAX, PROPOSAL_WORTH_BLOCKS,
    PROPOSAL_WORTH_CHANGES, PROPOSALS_OPEN_MAX, PROPOSALS_UNDER_WAY, WRITE_MAX, WRITES_WAITING_MAX,
};
use crate::runtime::{Oneshot, OneshotSender};
use crate::types::encoding::lay_together;
use crate::types::{Change, Changes, Outcome, Write};
use ashlar_engine::reactor::Reactor;
use ashlar_engine::units::{BLOCK_SIZE_BYTES, Nanos};
use ashlar_engine::{Error, ErrorKind, Result};
use openraft_rt::{Oneshot as _, OneshotSender as _};
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Pause before the first retry; doubled by each further one.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause between retries.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// See the module.
pub struct Writer {
    reactor: Reactor,
    group: Rc<dyn Group>,
    proposer: u64,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// The newest serial.
    serial: u64,
    /// Serials whose outcome is not known.
    open: BTreeSet<u64>,
    waiting: VecDeque<Pending>,
    waiting_blocks: usize,
    gather: Gather,
    /// Those who wait for room.
    room: VecDeque<Waker>,
}

impl State {
    /// It is known what became of a proposal. Until when others are held, if they are.
    fn done(&mut self, serial: u64, answered: usize, took: Duration, now: Nanos) -> Option<Nanos> {
        self.open.remove(&serial);
        if !self.open.is_empty() {
            return None;
        }
        self.gather.begin(now, took, answered, self.waiting.len())
    }

    /// Whether what waits is held.
    fn held(&mut self, now: Nanos) -> bool {
        self.gather.holds(now, self.waiting.len())
    }
}

/// A write that is to be proposed.
struct Pending {
    epoch: u64,
    changes: Vec<Change>,
    blocks: usize,
    since: Nanos,
    /// Its blocks, until it is known what became of it.
    hold: Option<Hold>,
    done: Option<OneshotSender<Result<()>>>,
}

impl Pending {
    fn tell(&mut self, result: Result<()>) {
        if let Some(done) = self.done.take() {
            // Who wrote may have gone; it is carried out all the same.
            done.send(result).ok();
        }
    }
}

impl Writer {
    /// The writer of a group. `proposer`: another number for every start of every process.
    #[must_use]
    pub fn new(reactor: Reactor, group: Rc<dyn Group>, proposer: u64) -> Rc<Writer> {
        Rc::new(Writer { reactor, group, proposer, state: RefCell::default() })
    }

    /// Carries out changes, together or not at all. Carried out also if this is dropped.
    ///
    /// # Errors
    /// `Busy` if a newer writer has the volume; `NoSpace` and others that the group refuses with;
    /// `Failed` if nobody knows after [`WRITE_MAX`], then it may be carried out yet; or if it had
    /// to wait for others so long, then it is not.
    pub(super) async fn write(
        self: &Rc<Writer>,
        epoch: u64,
        changes: Vec<Change>,
        hold: Option<Hold>,
    ) -> Result<()> {
        let (blocks, since) = (changes.iter().map(blocks_of).sum(), self.reactor.now());
        self.room(blocks).await;
        let (sender, done) = Oneshot::channel();
        let pending = Pending { epoch, changes, blocks, since, hold, done: Some(sender) };
        {
            let mut state = self.state.borrow_mut();
            state.waiting_blocks += blocks;
            state.waiting.push_back(pending);
        }
        self.propose_waiting();
        let closed = |_| Err(Error::new(ErrorKind::Closed, "the node shuts down"));
        done.await.unwrap_or_else(closed)
    }

    /// Waits until so many blocks more may wait.
    async fn room(&self, blocks: usize) {
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            let full = state.waiting.len() >= WRITES_WAITING_MAX
                || !state.waiting.is_empty() && state.waiting_blocks + blocks > BLOCKS_WAITING_MAX;
            if !full {
                return Poll::Ready(());
            }
            state.room.push_back(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Proposes what waits, as far as proposals may be under way.
    fn propose_waiting(self: &Rc<Writer>) {
        while let Some((serial, batch)) = self.next_batch() {
            let own = Rc::clone(self);
            let carry_out = async move {
                let (begun, answered) = (own.reactor.now(), batch.len());
                own.carry_out(serial, batch).await;
                let now = own.reactor.now();
                let held = own.state.borrow_mut().done(serial, answered, now.since(begun), now);
                own.propose_waiting();
                if let Some(held) = held {
                    own.reactor.sleep_until(held).await;
                    own.propose_waiting();
                }
            };
            self.reactor.spawn(carry_out).detach();
        }
    }

    /// The next proposal's serial and writes.
    fn next_batch(&self) -> Option<(u64, Vec<Pending>)> {
        let mut state = self.state.borrow_mut();
        let oldest = state.open.first().copied().unwrap_or(u64::MAX);
        let told_apart = state.serial + 1 < oldest.saturating_add(PROPOSALS_OPEN_MAX);
        let many_blocks = state.waiting_blocks >= PROPOSAL_WORTH_BLOCKS;
        let worth = state.waiting.len() >= PROPOSAL_WORTH_CHANGES || many_blocks;
        let may = match state.open.len() {
            0 => many_blocks || !state.held(self.reactor.now()),
            open => worth && open < PROPOSALS_UNDER_WAY,
        };
        if !may || !told_apart {
            return None;
        }
        let first = state.waiting.pop_front()?;
        let (mut changes, mut blocks) = (first.changes.len(), first.blocks);
        let mut batch = vec![first];
        while let Some(next) = state.waiting.front() {
            let fits = next.epoch == batch[0].epoch
                && changes + next.changes.len() <= PROPOSAL_CHANGES_MAX
                && blocks + next.blocks <= PROPOSAL_BLOCKS_MAX;
            if !fits {
                break;
            }
            let next = state.waiting.pop_front().expect("invariant: it was just looked at");
            changes += next.changes.len();
            blocks += next.blocks;
            batch.push(next);
        }
        state.waiting_blocks -= blocks;
        state.serial += 1;
        let serial = state.serial;
        state.open.insert(serial);
        let room = std::mem::take(&mut state.room);
        drop(state);
        room.into_iter().for_each(Waker::wake);
        Some((serial, batch))
    }

    /// Tells those who wrote and waited too long for others: theirs was not tried.
    fn give_up_waiting(&self) {
        let now = self.reactor.now();
        let mut state = self.state.borrow_mut();
        let mut late = Vec::new();
        while state.waiting.front().is_some_and(|first| now >= first.since + WRITE_MAX) {
            let first = state.waiting.pop_front().expect("invariant: it was just looked at");
            state.waiting_blocks -= first.blocks;
            late.push(first);
        }
        let room = if late.is_empty() { VecDeque::new() } else { std::mem::take(&mut state.room) };
        drop(state);
        for mut pending in late {
            let why = "the group's members do not answer: this was not written";
            pending.tell(Err(Error::new(ErrorKind::Failed, why)));
        }
        room.into_iter().for_each(Waker::wake);
    }

    /// Proposes until it is known what became of it.
    async fn carry_out(&self, serial: u64, mut batch: Vec<Pending>) {
        let epoch = batch[0].epoch;
        let changes = batch.iter_mut().flat_map(|pending| std::mem::take(&mut pending.changes));
        let mut changes: Vec<Change> = changes.collect();
        lay_together(&mut changes, self.reactor.pool());
        let mut changes = Rc::new(changes);
        let deadline = batch[0].since + WRITE_MAX;
        let (mut pause, mut sure) = (RETRY_PAUSE_MIN, true);
        let result = loop {
            let proposer = self.proposer;
            let attempt = Changes::from(Rc::clone(&changes));
            let write = Write { proposer, serial, epoch, changes: attempt };
            let proposed = self.group.propose(write).await;
            let refused = matches!(proposed, Err(ProposeError::Refused(_)));
            let fault = match proposed {
                Ok(Outcome::Done) => break Ok(()),
                Ok(Outcome::Fenced { epoch }) => break Err(fenced(epoch)),
                // No earlier attempt can be on its way: nothing was done.
                Err(ProposeError::Refused(error)) if sure => break Err(error),
                // It was judged and not done, but may be in the log once more.
                Ok(Outcome::Busy) => {
                    Error::new(ErrorKind::Failed, "the group has too many writers just now")
                }
                Ok(other) => {
                    let why = format!("the group answered another question: {other}");
                    Error::new(ErrorKind::Failed, why)
                }
                Err(ProposeError::Refused(error)) => error,
                Err(ProposeError::Unknown(error)) => {
                    sure = false;
                    error
                }
            };
            if self.reactor.now() >= deadline {
                give_up(&mut batch, &fault);
                // A group without room may refuse it for ever. Nothing at all, under the same
                // serial, needs none: if it is carried out, no earlier attempt will be.
                if refused {
                    changes = Rc::default();
                }
            }
            self.give_up_waiting();
            self.reactor.sleep(pause).await;
            pause = (2 * pause).min(RETRY_PAUSE_MAX);
        };
        batch.iter_mut().for_each(|pending| pending.tell(result.clone()));
    }
}

/// Tells those who wrote that nobody knows; nobody else writes to those blocks until it is known.
fn give_up(batch: &mut [Pending], why: &Error) {
    for pending in batch {
        if pending.done.is_some() {
            pending.hold.iter().for_each(Hold::keep_alone);
            let text = format!("nobody knows whether this was written: {why}");
            pending.tell(Err(Error::new(ErrorKind::Failed, text)));
        }
    }
}

/// A newer writer has the volume.
pub(super) fn fenced(epoch: u64) -> Error {
    let why = format!("another node has attached the volume since (epoch {epoch})");
    Error::new(ErrorKind::Busy, why)
}

fn blocks_of(change: &Change) -> usize {
    match change {
        Change::Write { data, .. } => data.len() / BLOCK_SIZE_BYTES,
        _ => 0,
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.borrow();
        write!(f, "Writer({} open, {} waiting)", state.open.len(), state.waiting.len())
    }
}
