//! Volumes over placement groups.
//!
//! Must never know: who leads a group, sockets.

use crate::control::Volume;
use ashlar_engine::units::VolumeId;

/// The engine's volume that is slice `slice` of a volume, on every store that has it.
#[must_use]
pub fn slice_volume(volume: &Volume, slice: usize) -> VolumeId {
    VolumeId(VolumeId::GROUPS.0 + volume.first_slice + slice as u32)
}
