//! Volume table: names, sizes and identities.
//!
//! Invariants: names and ids are unique; an id is never handed out twice.
//! Must never know: where blocks are.

use crate::error::{Error, ErrorKind, Result};
use crate::format::{RootVolume, validate_volume_name};
use crate::limits::{VOLUME_MAX_BYTES, VOLUMES_MAX};
use crate::units::{BLOCK_SIZE_BYTES, VolumeId};
use std::collections::BTreeMap;

/// Volume sizes are multiples of this.
pub(crate) const VOLUME_SIZE_UNIT_BYTES: u64 = 512;

/// See the module.
#[derive(Debug)]
pub(crate) struct Volumes {
    by_id: BTreeMap<VolumeId, RootVolume>,
    /// Creations on their way into the log: their names are taken already.
    creating: Vec<String>,
    /// Deletions on their way into the log: nothing is taken for these any more.
    deleting: Vec<VolumeId>,
    next: VolumeId,
    /// Volumes of groups among them.
    of_groups: usize,
}

impl Volumes {
    /// No volumes yet; ids start with `next`.
    pub(crate) fn new(next: VolumeId) -> Volumes {
        Volumes {
            by_id: BTreeMap::new(),
            creating: Vec::new(),
            deleting: Vec::new(),
            next: VolumeId(next.0.max(1)),
            of_groups: 0,
        }
    }

    /// Checks a creation and takes its name and an id for it.
    pub(crate) fn start_create(&mut self, name: &str, size_bytes: u64) -> Result<VolumeId> {
        if let Some(why) = validate_volume_name(name) {
            return Err(Error::new(ErrorKind::Invalid, format!("{why}: {name:?}")));
        }
        if size_bytes == 0 || !size_bytes.is_multiple_of(VOLUME_SIZE_UNIT_BYTES) {
            let why = format!(
                "a volume's size must be a positive multiple of 512 bytes, not {size_bytes}"
            );
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        if size_bytes > VOLUME_MAX_BYTES {
            let why = format!("a volume has at most {VOLUME_MAX_BYTES} bytes");
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        if self.by_name(name).is_some() || self.creating.iter().any(|taken| taken == name) {
            let why = format!("volume {name:?} exists already");
            return Err(Error::new(ErrorKind::Exists, why));
        }
        if self.by_id.len() - self.of_groups + self.creating.len() >= VOLUMES_MAX {
            let why = format!("a store holds at most {VOLUMES_MAX} volumes");
            return Err(Error::new(ErrorKind::NoSpace, why));
        }
        self.creating.push(name.to_owned());
        let id = self.next;
        self.next = VolumeId(id.0 + 1);
        Ok(id)
    }

    /// A creation is durable (or is being replayed).
    pub(crate) fn created(&mut self, volume: RootVolume) {
        self.creating.retain(|name| *name != volume.name);
        let id = volume.id;
        let is_new = self.by_id.insert(id, volume).is_none();
        if id.is_of_group() {
            self.of_groups += usize::from(is_new);
        } else {
            self.next = VolumeId(self.next.0.max(id.0 + 1));
        }
    }

    /// Checks a deletion; from now on the volume takes no requests.
    pub(crate) fn start_delete(&mut self, id: VolumeId) -> Result<()> {
        self.usable(id)?;
        self.deleting.push(id);
        Ok(())
    }

    /// A deletion is durable (or is being replayed).
    pub(crate) fn deleted(&mut self, id: VolumeId) {
        self.deleting.retain(|deleting| *deleting != id);
        let was_there = self.by_id.remove(&id).is_some();
        self.of_groups -= usize::from(was_there && id.is_of_group());
    }

    /// The volume, if it takes requests.
    pub(crate) fn usable(&self, id: VolumeId) -> Result<&RootVolume> {
        match self.by_id.get(&id) {
            Some(volume) if !self.deleting.contains(&id) => Ok(volume),
            _ => Err(Error::new(ErrorKind::NotFound, "the volume does not exist any more")),
        }
    }

    /// Whether it exists, taking requests or not.
    pub(crate) fn contains(&self, id: VolumeId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// The volume of that name.
    pub(crate) fn by_name(&self, name: &str) -> Option<&RootVolume> {
        self.plain().find(|volume| volume.name == name)
    }

    /// Volumes that belong to groups.
    pub(crate) fn of_groups(&self) -> usize {
        self.of_groups
    }

    /// Volumes that belong to no group, by id.
    pub(crate) fn plain(&self) -> impl Iterator<Item = &RootVolume> {
        self.by_id.range(..VolumeId::GROUPS).map(|(_, volume)| volume)
    }

    /// All volumes by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &RootVolume> {
        self.by_id.values()
    }

    /// Next id that will be handed out.
    pub(crate) fn next(&self) -> VolumeId {
        self.next
    }
}

/// Blocks of a volume of this size.
pub(crate) fn volume_blocks(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(BLOCK_SIZE_BYTES as u64)
}
