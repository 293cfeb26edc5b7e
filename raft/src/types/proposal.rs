//! What is proposed to a group, and what comes of it.
//!
//! Must never know: how it is encoded, who carries it out.

use crate::limits::{COMMAND_MAX_BYTES, PROPOSAL_BLOCKS_MAX, PROPOSAL_CHANGES_MAX};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex, VolumeId};
use std::fmt;

/// What an entry does to a volume of its group.
#[derive(Debug)]
pub enum Change {
    /// Writes whole blocks.
    Write {
        /// To which volume.
        volume: VolumeId,
        /// First block.
        first: BlockIndex,
        /// The blocks.
        data: Buffer,
    },
    /// Makes blocks read as zeroes.
    Zero {
        /// Of which volume.
        volume: VolumeId,
        /// First block.
        first: BlockIndex,
        /// Blocks.
        count: u32,
        /// Keep their space.
        reserve: bool,
    },
    /// Creates a volume of the group.
    CreateVolume {
        /// Its id.
        volume: VolumeId,
        /// Its size.
        size_bytes: u64,
    },
    /// Deletes a volume of the group and everything in it.
    DeleteVolume {
        /// Which.
        volume: VolumeId,
    },
}

impl Change {
    /// The volume it changes.
    #[must_use]
    pub fn volume(&self) -> VolumeId {
        match self {
            Change::Write { volume, .. }
            | Change::Zero { volume, .. }
            | Change::CreateVolume { volume, .. }
            | Change::DeleteVolume { volume } => *volume,
        }
    }
}

impl PartialEq for Change {
    fn eq(&self, other: &Change) -> bool {
        use Change::{CreateVolume, DeleteVolume, Write, Zero};
        match (self, other) {
            (
                Write { volume, first, data },
                Write { volume: other_volume, first: other_first, data: other_data },
            ) => (volume, first, &**data) == (other_volume, other_first, &**other_data),
            (
                Zero { volume, first, count, reserve },
                Zero { volume: v, first: f, count: c, reserve: r },
            ) => (volume, first, count, reserve) == (v, f, c, r),
            (
                CreateVolume { volume, size_bytes },
                CreateVolume { volume: other_volume, size_bytes: other_size },
            ) => (volume, size_bytes) == (other_volume, other_size),
            (DeleteVolume { volume }, DeleteVolume { volume: other_volume }) => {
                volume == other_volume
            }
            _ => false,
        }
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
    pub changes: Vec<Change>,
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
        let unaligned = |change: &&Change| match change {
            Change::Write { data, .. } => {
                data.is_empty() || !data.len().is_multiple_of(BLOCK_SIZE_BYTES)
            }
            _ => false,
        };
        if self.changes.iter().any(|change| unaligned(&change)) {
            return Err(ProposalError::Unaligned);
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
    /// A change writes nothing, or a part of a block.
    Unaligned,
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
            ProposalError::Unaligned => f.write_str("a proposal writes whole blocks"),
            ProposalError::Command { found } => {
                write!(f, "a command has at most {COMMAND_MAX_BYTES} bytes, this one {found}")
            }
        }
    }
}

impl std::error::Error for ProposalError {}
