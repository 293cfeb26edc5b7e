//! Volumes: creation, deletion, and who may write.

use super::super::ControlState;
use super::super::limits;
use super::super::model::{ClusterVolumeId, NodeState, Volume};
use super::super::outcome::{Bound, Outcome, Refusal};
use super::super::policy::Policy;
use super::Applied;
use crate::placement::{NodeId, StoreId};
use ashlar_engine::format::validate_volume_name;
use ashlar_engine::limits::VOLUME_MAX_BYTES;

/// Volume sizes are multiples of this, as in a single store.
const SIZE_UNIT_BYTES: u64 = 512;

impl ControlState {
    pub(super) fn create_volume(
        &mut self,
        index: u64,
        name: String,
        size_bytes: u64,
        policy: Policy,
        slice_bytes: Option<u64>,
        avoid: Vec<StoreId>,
    ) -> Applied {
        if validate_volume_name(&name).is_some() {
            let end = name.floor_char_boundary(limits::TEXT_MAX_BYTES);
            return Err(Refusal::Name(name[..end].to_owned()));
        }
        if size_bytes == 0
            || size_bytes > VOLUME_MAX_BYTES
            || !size_bytes.is_multiple_of(SIZE_UNIT_BYTES)
        {
            return Err(Refusal::VolumeSize(size_bytes));
        }
        if let Some((id, _)) = self.volume_by_name(&name) {
            return Err(Refusal::NameTaken(id));
        }
        if self.volumes.len() >= limits::VOLUMES_MAX {
            return Err(Refusal::Full(Bound::Volumes));
        }
        let slice_bytes = slice_bytes.unwrap_or(default_slice_bytes(size_bytes));
        if !possible_slice(slice_bytes) {
            return Err(Refusal::SliceSize(slice_bytes));
        }
        let count = size_bytes.div_ceil(slice_bytes);
        if count > limits::SLICES_PER_VOLUME_MAX as u64 {
            return Err(Refusal::TooManySlices(count));
        }
        let held: usize = self.volumes.values().map(|volume| volume.slices.len()).sum();
        if held + count as usize > limits::SLICES_MAX {
            return Err(Refusal::Full(Bound::Slices));
        }
        // Ids of the engine's volumes are made of these numbers.
        let first_slice = self.next_slice;
        let next_slice = first_slice.checked_add(count as u32);
        let next_slice = next_slice.filter(|next| *next <= limits::SLICE_NUMBERS_MAX);
        let next_slice = next_slice.ok_or(Refusal::Full(Bound::Slices))?;
        let (policy, slices) = self.provide(policy, count as usize, avoid)?;
        let (epoch, writer, deleting) = (0, None, false);
        self.next_slice = next_slice;
        let volume = Volume {
            name,
            size_bytes,
            policy,
            slice_bytes,
            first_slice,
            slices,
            epoch,
            writer,
            deleting,
        };
        self.volumes.insert(ClusterVolumeId(index), volume);
        self.changed();
        Ok(Outcome::Volume(ClusterVolumeId(index)))
    }

    pub(super) fn delete_volume(&mut self, id: ClusterVolumeId) -> Applied {
        let volume = self.usable(id)?;
        if let Some(node) = volume.writer {
            return Err(Refusal::Attached { volume: id, node });
        }
        volume.deleting = true;
        volume.epoch += 1;
        self.changed();
        Ok(Outcome::Done)
    }

    pub(super) fn volume_dropped(&mut self, id: ClusterVolumeId) -> Applied {
        let volume = self.volumes.get(&id).ok_or(Refusal::UnknownVolume(id))?;
        if !volume.deleting {
            return Err(Refusal::NotDeleting(id));
        }
        for slice in &volume.slices {
            let group = self.groups.get_mut(slice).expect("invariant: every slice has a group");
            group.slices -= 1;
        }
        self.volumes.remove(&id);
        self.changed();
        Ok(Outcome::Done)
    }

    pub(super) fn attach(&mut self, id: ClusterVolumeId, node: NodeId) -> Applied {
        if self.present(node)?.state == NodeState::Joining {
            return Err(Refusal::NodeJoining(node));
        }
        let volume = self.usable(id)?;
        volume.writer = Some(node);
        volume.epoch += 1;
        let epoch = volume.epoch;
        self.changed();
        Ok(Outcome::Attached { volume: id, epoch })
    }

    pub(super) fn detach(&mut self, id: ClusterVolumeId, node: NodeId, epoch: u64) -> Applied {
        let volume = self.usable(id)?;
        if volume.writer != Some(node) {
            return Err(Refusal::NotAttached(node));
        }
        if volume.epoch != epoch {
            return Err(Refusal::OldEpoch { epoch: volume.epoch });
        }
        volume.writer = None;
        volume.epoch += 1;
        self.changed();
        Ok(Outcome::Done)
    }

    fn usable(&mut self, id: ClusterVolumeId) -> Result<&mut Volume, Refusal> {
        let volume = self.volumes.get_mut(&id).filter(|volume| !volume.deleting);
        volume.ok_or(Refusal::UnknownVolume(id))
    }
}

/// Whether slices may have this size.
pub(in super::super) fn possible_slice(bytes: u64) -> bool {
    let range = limits::SLICE_MIN_BYTES..=limits::SLICE_MAX_BYTES;
    bytes.is_power_of_two() && range.contains(&bytes)
}

/// Size of slices unless one is asked for.
fn default_slice_bytes(size_bytes: u64) -> u64 {
    let even = size_bytes.div_ceil(limits::SLICES_PER_VOLUME_TARGET).next_power_of_two();
    even.clamp(limits::SLICE_DEFAULT_MIN_BYTES, limits::SLICE_MAX_BYTES)
}
