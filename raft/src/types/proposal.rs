//! What is proposed to a group, and what comes of it.
//!
//! Must never know: how it is encoded, who carries it out.

use crate::limits::{COMMAND_MAX_BYTES, PROPOSAL_BLOCKS_MAX, PROPOSAL_CHANGES_MAX};
use ashlar_engine::store::GroupEntry;
use ashlar_engine::units::{BLOCK_SIZE_BYTES, VolumeId};
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

pub use ashlar_engine::store::Change;

/// Changes, in order, owned or as they lie in the log. Dereferences to them.
///
/// Those in the log are shared: an entry is read to be applied, and sent to several followers,
/// without a copy of its blocks.
#[derive(Debug)]
pub struct Changes(Kept);

#[derive(Debug)]
enum Kept {
    Own(Vec<Change>),
    Shared(Rc<Vec<Change>>),
    Logged(Rc<GroupEntry>),
}

impl Changes {
    /// The changes as one's own. Their blocks are not copied.
    #[must_use]
    pub fn into_vec(self) -> Vec<Change> {
        let entry = match self.0 {
            Kept::Own(changes) => return changes,
            Kept::Shared(changes) => {
                return Rc::try_unwrap(changes).unwrap_or_else(|shared| shared.to_vec());
            }
            Kept::Logged(entry) => entry,
        };
        match Rc::try_unwrap(entry) {
            Ok(entry) => entry.changes,
            Err(shared) => shared.changes.clone(),
        }
    }
}

impl Changes {
    /// The changes, to be proposed more than once.
    #[must_use]
    pub fn into_shared(self) -> Rc<Vec<Change>> {
        match self.0 {
            Kept::Shared(changes) => changes,
            _ => Rc::new(self.into_vec()),
        }
    }
}

impl Deref for Changes {
    type Target = [Change];
    fn deref(&self) -> &[Change] {
        match &self.0 {
            Kept::Own(changes) => changes,
            Kept::Shared(changes) => changes,
            Kept::Logged(entry) => &entry.changes,
        }
    }
}

impl From<Vec<Change>> for Changes {
    fn from(changes: Vec<Change>) -> Changes {
        Changes(Kept::Own(changes))
    }
}

impl From<Rc<Vec<Change>>> for Changes {
    fn from(changes: Rc<Vec<Change>>) -> Changes {
        Changes(Kept::Shared(changes))
    }
}

impl From<Rc<GroupEntry>> for Changes {
    fn from(entry: Rc<GroupEntry>) -> Changes {
        Changes(Kept::Logged(entry))
    }
}

impl PartialEq for Changes {
    fn eq(&self, other: &Changes) -> bool {
        self.len() == other.len() && self.iter().zip(&**other).all(|(one, other)| same(one, other))
    }
}

fn same(one: &Change, other: &Change) -> bool {
    use Change::{CreateVolume, DeleteVolume, Write, Zero};
    if one.volume() != other.volume() {
        return false;
    }
    match (one, other) {
        (Write { first: a, data: one, .. }, Write { first: b, data: other, .. }) => {
            (a, &**one) == (b, &**other)
        }
        (
            Zero { first: a, count: one, reserve: keep, .. },
            Zero { first: b, count: other, reserve: keep_other, .. },
        ) => (a, one, keep) == (b, other, keep_other),
        (CreateVolume { size_bytes: one, .. }, CreateVolume { size_bytes: other, .. }) => {
            one == other
        }
        (DeleteVolume { .. }, DeleteVolume { .. }) => true,
        _ => false,
    }
}

/// Changes by one writer, carried out together or not at all.
#[derive(Debug, PartialEq)]
pub struct Write {
    /// Who proposes it: another number for every start of every node that takes clients' writes.
    pub proposer: u64,
    /// Its number among those of the proposer in this group. A retry has the same.
    pub serial: u64,
    /// The writer's epoch. If a volume it changes has seen a newer one, nothing is changed.
    pub epoch: u64,
    /// What it does, in order.
    pub changes: Changes,
}

/// What may be proposed to a group.
#[derive(Debug, PartialEq)]
pub enum Proposal {
    /// Changes volumes.
    Write(Write),
    /// Makes `epoch` the volume's writer epoch, if it is newer: what writers of an older epoch
    /// have under way is refused from here on.
    Fence {
        /// Which volume.
        volume: VolumeId,
        /// The new writer's epoch.
        epoch: u64,
    },
    /// A command for the state machine of the control group.
    Control(Vec<u8>),
}

impl Proposal {
    /// Whether it keeps the bounds of an entry.
    ///
    /// # Errors
    /// Which one it does not.
    pub fn check(&self) -> Result<(), ProposalError> {
        match self {
            Proposal::Write(write) => write.check(),
            Proposal::Fence { .. } => Ok(()),
            Proposal::Control(command) if command.len() > COMMAND_MAX_BYTES => {
                Err(ProposalError::Command { found: command.len() })
            }
            Proposal::Control(_) => Ok(()),
        }
    }
}

impl Write {
    /// Blocks that its changes write.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.changes.iter().map(blocks).sum()
    }

    fn check(&self) -> Result<(), ProposalError> {
        if self.changes.len() > PROPOSAL_CHANGES_MAX {
            return Err(ProposalError::Changes { found: self.changes.len() });
        }
        if let Some(why) = self.changes.iter().find_map(|change| change.check().err()) {
            return Err(ProposalError::Impossible { why });
        }
        match self.blocks() {
            found if found > PROPOSAL_BLOCKS_MAX => Err(ProposalError::Blocks { found }),
            _ => Ok(()),
        }
    }
}

fn blocks(change: &Change) -> usize {
    match change {
        Change::Write { data, .. } => data.len() / BLOCK_SIZE_BYTES,
        _ => 0,
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proposal::Write(write) => {
                let Write { proposer, serial, epoch, changes } = write;
                let (changes, blocks) = (changes.len(), write.blocks());
                write!(f, "write {proposer:x}/{serial} of epoch {epoch}: ")?;
                write!(f, "{changes} changes, {blocks} blocks")
            }
            Proposal::Fence { volume, epoch } => write!(f, "epoch {epoch} of volume {volume}"),
            Proposal::Control(command) => write!(f, "command of {} bytes", command.len()),
        }
    }
}

/// What came of an entry when it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The entry is openraft's own.
    Nothing,
    /// It is done, now or, if this is a retry, before.
    Done,
    /// A newer writer has the volume; nothing was changed.
    Fenced {
        /// The volume's epoch.
        epoch: u64,
    },
    /// The group remembers as many proposers as it may; nothing was changed. Try again later.
    Busy,
    /// The control group's answer to its command.
    Control(Vec<u8>),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Nothing => f.write_str("nothing"),
            Outcome::Done => f.write_str("done"),
            Outcome::Fenced { epoch } => write!(f, "fenced by epoch {epoch}"),
            Outcome::Busy => f.write_str("too many proposers"),
            Outcome::Control(answer) => write!(f, "answer of {} bytes", answer.len()),
        }
    }
}

/// Which bound a proposal does not keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalError {
    /// Too many changes.
    Changes {
        /// How many.
        found: usize,
    },
    /// Too many blocks.
    Blocks {
        /// How many.
        found: usize,
    },
    /// A change that the engine would refuse: it must not get into a log.
    Impossible {
        /// Why.
        why: &'static str,
    },
    /// Too long a command.
    Command {
        /// Its bytes.
        found: usize,
    },
}

impl fmt::Display for ProposalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProposalError::Changes { found } => {
                write!(f, "a proposal has at most {PROPOSAL_CHANGES_MAX} changes, this one {found}")
            }
            ProposalError::Blocks { found } => {
                write!(
                    f,
                    "a proposal writes at most {PROPOSAL_BLOCKS_MAX} blocks, this one {found}"
                )
            }
            ProposalError::Impossible { why } => f.write_str(why),
            ProposalError::Command { found } => {
                write!(f, "a command has at most {COMMAND_MAX_BYTES} bytes, this one {found}")
            }
        }
    }
}

impl std::error::Error for ProposalError {}
