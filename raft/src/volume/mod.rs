//! Volumes over placement groups: byte ranges of any alignment onto blocks of slices.
//!
//! A [`ClusterVolume`] is cut into slices of equal size, and each slice is a volume of the engine
//! on every store of its group. Reads ask the group's leader. Writes are proposals, gathered by one
//! [`Writer`] per group.
//!
//! Invariants: a write is acknowledged when it is durable on a quorum and applied by the leader;
//! one of at most 1 MiB inside a slice is one change of one proposal, so it is there whole or not
//! at all; it is applied once however often it is proposed; one whose fate is unknown keeps every
//! later write to its blocks waiting; a writer that was fenced never writes again under that
//! handle.
//! Must never know: who leads a group, sockets, NBD.

mod bytes;
mod gather;
mod handle;
mod locks;
mod sliced;
#[cfg(test)]
mod tests;
mod writer;

pub use handle::VolumeHandle;
pub use sliced::{ClusterVolume, VolumeSpec};
pub use writer::Writer;

use crate::control::{ClusterVolumeId, PgId, Volume};
use crate::types::{Outcome, Write};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::local::Extent;
use ashlar_engine::reactor::LocalBox;
use ashlar_engine::units::{BlockIndex, VolumeId};
use ashlar_engine::{Error, Result};
use std::rc::Rc;

/// The engine's volume that is slice `slice` of a volume, on every store that has it.
#[must_use]
pub fn slice_volume(volume: &Volume, slice: usize) -> VolumeId {
    slice_id(volume.first_slice, slice)
}

fn slice_id(first_slice: u32, slice: usize) -> VolumeId {
    VolumeId(VolumeId::GROUPS.0 + first_slice + slice as u32)
}

/// Why a proposal has no outcome.
#[derive(Clone, Debug)]
pub enum ProposeError {
    /// It was not carried out and will not be, and proposing it again does not help now.
    Refused(Error),
    /// It may have been carried out, or may yet be.
    Unknown(Error),
}

/// One placement group, as writers use it.
pub trait Group {
    /// Proposes once, at whoever leads.
    fn propose(&self, write: Write) -> LocalBox<std::result::Result<Outcome, ProposeError>>;
}

/// The groups of a cluster, and who may write, as volumes use them.
pub trait Groups {
    /// The group's writer of this process.
    fn writer(&self, group: PgId) -> Rc<Writer>;

    /// Blocks as of now, in order; what the group does not have reads as zeroes.
    fn read(
        &self,
        group: PgId,
        volume: VolumeId,
        first: BlockIndex,
        count: u64,
    ) -> LocalBox<Result<Vec<Buffer>>>;

    /// How blocks are mapped, as of now: at least one extent, at most `extents_max`.
    fn extents(
        &self,
        group: PgId,
        volume: VolumeId,
        first: BlockIndex,
        count: u64,
        extents_max: usize,
    ) -> LocalBox<Result<Vec<Extent>>>;

    /// Refuses what writers of older epochs have under way to a slice.
    fn fence(&self, group: PgId, volume: VolumeId, epoch: u64) -> LocalBox<Result<Outcome>>;

    /// Asks for the right to write to a volume: its epoch.
    fn attach(&self, volume: ClusterVolumeId) -> LocalBox<Result<u64>>;

    /// The newest epoch of a volume, as of now; `None` if that cannot be found out soon.
    fn newest_epoch(&self, volume: ClusterVolumeId) -> LocalBox<Option<u64>>;

    /// Gives that right back.
    fn detach(&self, volume: ClusterVolumeId, epoch: u64);
}
