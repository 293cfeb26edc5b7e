//! A group's state machine for openraft: entries that are committed become visible in its volumes.
//!
//! Applying is the engine's: it points its index at the blocks where the log has them. What is
//! decided here is whether an entry's changes count: a retry does not, nor does a writer that was
//! fenced. Invariants: what is decided follows from the entries before alone, so replicas and
//! restarts decide alike; applied index, volumes and [`AppliedHead`] become durable together.
//! Must never know: sockets, how the log is written.

mod head;

pub use head::AppliedHead;

use crate::limits::APPLY_ENTRIES_MAX;
use crate::log_store::LogStore;
use crate::types::{Config, Entry, LogId, Member, NodeId, Outcome, Proposal, StoredMembership};
use ashlar_engine::units::VolumeId;
use futures_util::stream::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::storage::{
    ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta,
};
use std::fmt;
use std::io;

/// The control group's state machine, as this room sees it: commands in, answers out.
///
/// Its state is kept with the applied index, at most
/// [`crate::limits::CONTROL_STATE_MAX_BYTES`] of it.
pub trait Commands {
    /// Carries out a command; it must depend on nothing but state, index and command.
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8>;

    /// The whole state.
    fn save(&self) -> Vec<u8>;

    /// Goes on from a saved state; empty: from the beginning.
    ///
    /// # Errors
    /// If the bytes are no state.
    fn restore(&mut self, saved: &[u8]) -> io::Result<()>;
}

/// What a snapshot is made of: the group's state but for its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The encoded [`AppliedHead`] at the snapshot's last entry.
    pub head: Vec<u8>,
    /// The group's volumes then, and their sizes in bytes.
    pub volumes: Vec<(VolumeId, u64)>,
}

type GroupSnapshot = Snapshot<crate::types::CommittedLeaderId, NodeId, Member, Manifest>;
type GroupSnapshotMeta = SnapshotMeta<crate::types::CommittedLeaderId, NodeId, Member>;

/// The state machine of one group.
pub struct StateMachine {
    log: LogStore,
    head: AppliedHead,
    applied: Option<LogId>,
    commands: Option<Box<dyn Commands>>,
    /// Whether the group's volumes are kept here.
    keeps_blocks: bool,
}

impl StateMachine {
    /// The state machine over the same group as `log`, as it was left. `commands`: in the control
    /// group, what carries them out.
    ///
    /// # Errors
    /// If what was left is not understood.
    pub fn open(
        log: LogStore,
        mut commands: Option<Box<dyn Commands>>,
    ) -> io::Result<StateMachine> {
        let state = log.group().state();
        let head = match &*state.applied_head {
            [] => AppliedHead::default(),
            bytes => AppliedHead::decode(bytes).map_err(io::Error::other)?,
        };
        if let Some(commands) = &mut commands {
            commands.restore(&head.control)?;
        }
        let applied = log.applied();
        Ok(StateMachine { log, head, applied, commands, keeps_blocks: true })
    }

    /// The same, at a witness: it decides as all others do, and keeps nothing of what is written.
    #[must_use]
    pub fn without_blocks(self) -> StateMachine {
        StateMachine { keeps_blocks: false, ..self }
    }

    /// The state of now, but for its blocks.
    fn snapshot(&self) -> io::Result<GroupSnapshot> {
        let meta = GroupSnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.head.membership().clone(),
        };
        let head = self.head.encode().map_err(io::Error::other)?;
        let volumes = self.log.group().volumes();
        Ok(Snapshot { meta, snapshot: Manifest { head, volumes } })
    }

    /// Decides what becomes of an entry. Those whose changes do not count are added to `skipped`.
    ///
    /// # Errors
    /// If it brings members that cannot be kept.
    fn judge(&mut self, entry: &Entry, skipped: &mut Vec<u64>) -> io::Result<Outcome> {
        let index = entry.log_id.index();
        Ok(match &entry.payload {
            EntryPayload::Blank => Outcome::Nothing,
            EntryPayload::Membership(membership) => {
                let id = Some(entry.log_id);
                let stored = StoredMembership::new(id, membership.clone());
                self.head.set_membership(stored).map_err(io::Error::other)?;
                Outcome::Nothing
            }
            EntryPayload::Normal(Proposal::Write(write)) => {
                let (outcome, counts) = self.head.write(index, write);
                if !counts || !self.keeps_blocks {
                    skipped.push(index);
                }
                outcome
            }
            EntryPayload::Normal(Proposal::Fence { volume, epoch }) => {
                self.head.fence(*volume, *epoch)
            }
            EntryPayload::Normal(Proposal::Control(command)) => match &mut self.commands {
                Some(commands) => {
                    let answer = commands.apply(index, command);
                    self.head.control = commands.save();
                    Outcome::Control(answer)
                }
                None => Outcome::Nothing,
            },
        })
    }

    /// Applies what was judged, then answers.
    async fn settle(&mut self, judged: &mut Judged) -> io::Result<()> {
        let Some(last) = judged.last.take() else { return Ok(()) };
        // A quorum of others may have committed what this node has not on the device yet.
        self.log.wait_durable(last.index()).await?;
        let head = self.head.encode().map_err(io::Error::other)?;
        self.log.apply_except(last.index(), &judged.skipped, head)?;
        self.applied = Some(last);
        judged.skipped.clear();
        for (responder, outcome) in judged.answers.drain(..) {
            responder.send(outcome);
        }
        Ok(())
    }
}

/// Entries that are judged and not applied.
#[derive(Default)]
struct Judged {
    last: Option<LogId>,
    count: usize,
    skipped: Vec<u64>,
    answers: Vec<(ApplyResponder<Config>, Outcome)>,
}

impl RaftStateMachine<Config> for StateMachine {
    type SnapshotData = Manifest;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.head.membership().clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Config>, io::Error>> + Unpin,
    {
        let mut judged = Judged::default();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let outcome = self.judge(&entry, &mut judged.skipped)?;
            judged.last = Some(entry.log_id());
            judged.answers.extend(responder.map(|responder| (responder, outcome)));
            judged.count += 1;
            if judged.count.is_multiple_of(APPLY_ENTRIES_MAX) {
                self.settle(&mut judged).await?;
            }
        }
        self.settle(&mut judged).await
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { built: Some(self.snapshot()) }
    }

    /// Refused: a member is brought up while its openraft does not run (`crate::snapshot`).
    async fn install_snapshot(
        &mut self,
        meta: &GroupSnapshotMeta,
        _: Manifest,
    ) -> Result<(), io::Error> {
        let why = format!("snapshot {meta} cannot be taken in by a member that runs");
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }

    /// Of now: a manifest is small, and blocks are read when they are sent.
    async fn get_current_snapshot(&mut self) -> Result<Option<GroupSnapshot>, io::Error> {
        self.applied.map(|_| self.snapshot()).transpose()
    }
}

impl fmt::Debug for StateMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateMachine({:?}, applied {:?})", self.log, self.applied)
    }
}

/// A snapshot of the moment at which this was made: a manifest is small, so it is taken at once.
#[derive(Debug)]
pub struct SnapshotBuilder {
    built: Option<io::Result<GroupSnapshot>>,
}

impl RaftSnapshotBuilder<Config> for SnapshotBuilder {
    type SnapshotData = Manifest;

    async fn build_snapshot(&mut self) -> Result<GroupSnapshot, io::Error> {
        self.built.take().unwrap_or_else(|| Err(io::Error::other("is built already")))
    }
}
