//! Groups: logs of entries whose changes count only once their owner applies them.
//!
//! The log is the replica: an entry is written once, as records of an ordinary batch, and applied
//! by pointing the index at its blocks where they already are. Applying is in memory only; it is
//! durable with the next checkpoint, which holds index and applied index together. A restart begins
//! with that checkpoint, and the owner applies again what came after.
//!
//! Invariants: applied <= durable <= last entry, and purged <= applied as of the durable
//! checkpoint; a segment with an entry that is retained, or that the durable checkpoint names, is
//! neither reused nor cleaned; segments that only an application emptied stay until the next
//! checkpoint, so that what a restart finds can be read.
//! Must never know: the rules by which entries are appended, truncated or applied.

mod append;
mod apply;
mod cache;
mod entry;
mod image;
mod install;
mod read;
mod refuse;
mod replay;
mod restore;
mod salvage;
mod space;
mod table;

pub use entry::{Change, GroupEntry};

use super::Store;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{ENTRY_CACHE_MAX_BYTES, groups_max};
use crate::units::{GroupId, LogId, SegmentId, VolumeId};
use append::Purging;
pub(super) use append::waiting_bytes;
use cache::EntryCache;
pub(super) use image::FrozenGroups;
pub(super) use read::EntryRead;
pub(super) use restore::EntryRestore;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use table::Entries;
pub(super) use table::Place;

/// Something of a group's log that did not prove itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faulty {
    /// Which entry.
    pub index: u64,
    /// Its identity, if that is known.
    pub known: Option<LogId>,
}

/// What a group knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The newest durable vote; empty if there never was one.
    pub vote: Vec<u8>,
    /// Entries up to this one are given up.
    pub purged: Option<LogId>,
    /// Entries up to this one are applied.
    pub applied: Option<LogId>,
    /// Entries up to this one are applied in the durable checkpoint: what a restart begins with.
    pub saved: Option<LogId>,
    /// What the owner said when it applied them.
    pub applied_head: Vec<u8>,
    /// Index of the first entry that is retained, if any is.
    pub first: Option<u64>,
    /// The last entry, durable or not; the purged one if none is retained.
    pub last: Option<LogId>,
    /// The last durable entry; the purged one if none is retained.
    pub durable: Option<LogId>,
    /// Entries that are damaged, by index.
    pub faulty: Vec<Faulty>,
}

/// How far a group's log goes: the part of [`GroupState`] that costs nothing to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupSpan {
    /// Entries up to this one are applied, perhaps in memory only.
    pub applied: Option<LogId>,
    /// Index of the first entry that is retained, if any is.
    pub first: Option<u64>,
    /// The last entry, durable or not; the purged one if none is retained.
    pub last: Option<LogId>,
    /// The last durable entry; the purged one if none is retained.
    pub durable: Option<LogId>,
}

/// A request to a group.
#[derive(Debug)]
pub enum GroupRequest {
    /// Makes a vote durable: at most [`crate::limits::VOTE_MAX_BYTES`].
    Vote(Vec<u8>),
    /// Makes the entries from this index on void; at once for readers.
    Truncate(u64),
    /// Gives up the entries up to this one, which must be applied. Waits for a checkpoint if the
    /// durable one does not have them applied.
    Purge(LogId),
    /// Reads the entry of this index.
    Read(u64),
    /// Reads what is left of the entry of this index, if it is damaged.
    Salvage(u64),
    /// Writes a damaged entry anew where it is, if this is the one.
    Restore(GroupEntry),
}

/// One group.
#[derive(Debug, Default)]
pub(super) struct Group {
    vote: Vec<u8>,
    purged: Option<LogId>,
    applied: Option<LogId>,
    saved: Option<LogId>,
    applied_head: Vec<u8>,
    pub(super) entries: Entries,
    volumes: BTreeSet<VolumeId>,
}

/// An entry on its way to the device.
#[derive(Clone, Copy, Debug)]
struct Appended {
    group: GroupId,
    index: u64,
    /// It was truncated meanwhile.
    void: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Groups {
    pub(super) by_id: BTreeMap<GroupId, Group>,
    /// Entries on their way to the device, in order.
    appended: VecDeque<Appended>,
    cache: EntryCache,
    /// Entries in all tables.
    retained: usize,
    /// Blocks of entries that are not applied.
    unapplied_blocks: u64,
    /// Purges that wait for a checkpoint or for room in a batch.
    purging: Vec<Purging>,
    /// One segment per entry that was retained and is not, but that the durable checkpoint may
    /// name.
    releasing: Vec<SegmentId>,
}

impl Groups {
    pub(super) fn new() -> Groups {
        Groups {
            by_id: BTreeMap::new(),
            appended: VecDeque::new(),
            cache: EntryCache::new(ENTRY_CACHE_MAX_BYTES),
            retained: 0,
            unapplied_blocks: 0,
            purging: Vec::new(),
            releasing: Vec::new(),
        }
    }
}

impl Groups {
    /// Everybody who waits for a purge will wait in vain.
    pub(super) fn fail(&mut self) -> impl Iterator<Item = u64> {
        std::mem::take(&mut self.purging).into_iter().map(|purging| purging.token)
    }
}

impl Group {
    /// Index of the next entry to apply.
    fn next_to_apply(&self) -> u64 {
        self.applied.map_or(self.entries.first(), |applied| applied.index + 1)
    }

    /// Whether there is nothing of it.
    fn is_blank(&self) -> bool {
        self.entries.is_blank()
            && self.vote.is_empty()
            && self.purged.is_none()
            && self.applied_head.is_empty()
    }

    fn id_at(&self, index: u64) -> Option<LogId> {
        let known = [self.purged, self.applied].into_iter().flatten();
        let slot =
            self.entries.get(index).filter(|slot| slot.place != Place::Lost { known: false });
        slot.map(|slot| slot.id).or_else(|| known.into_iter().find(|id| id.index == index))
    }

    fn faulty(&self) -> Vec<Faulty> {
        let faulty = self.entries.iter().filter_map(|slot| {
            let known = match slot.place {
                Place::Lost { known } => known,
                Place::At { faulty: true, .. } => true,
                _ => return None,
            };
            Some(Faulty { index: slot.id.index, known: known.then_some(slot.id) })
        });
        faulty.collect()
    }

    fn span(&self) -> GroupSpan {
        let durable = self.entries.iter().rev().find(|slot| slot.place != Place::Memory);
        GroupSpan {
            applied: self.applied,
            first: (self.entries.len() > 0).then(|| self.entries.first()),
            last: self.entries.last().map(|slot| slot.id).or(self.purged),
            durable: durable.map(|slot| slot.id).or(self.purged),
        }
    }

    fn state(&self) -> GroupState {
        let GroupSpan { applied, first, last, durable } = self.span();
        GroupState {
            vote: self.vote.clone(),
            purged: self.purged,
            applied,
            saved: self.saved,
            applied_head: self.applied_head.clone(),
            first,
            last,
            durable,
            faulty: self.faulty(),
        }
    }
}

impl Store {
    /// All groups that have left something in the store.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        self.groups.by_id.keys().copied().collect()
    }

    /// What a group knows of itself; nothing for one that was never used.
    #[must_use]
    pub fn group_state(&self, group: GroupId) -> GroupState {
        self.groups.by_id.get(&group).map(Group::state).unwrap_or_default()
    }

    /// How far a group's log goes.
    #[must_use]
    pub fn group_span(&self, group: GroupId) -> GroupSpan {
        self.groups.by_id.get(&group).map(Group::span).unwrap_or_default()
    }

    /// The identity of an entry that is retained, or the last purged or applied.
    #[must_use]
    pub fn group_id_at(&self, group: GroupId, index: u64) -> Option<LogId> {
        self.groups.by_id.get(&group)?.id_at(index)
    }

    /// The volumes of a group and their sizes.
    #[must_use]
    pub fn group_volumes(&self, group: GroupId) -> Vec<(VolumeId, u64)> {
        let volumes = self.groups.by_id.get(&group).into_iter().flat_map(|group| &group.volumes);
        let sized = |id: &VolumeId| Some((*id, self.volumes.usable(*id).ok()?.size_bytes));
        volumes.filter_map(sized).collect()
    }

    /// Groups that it may have.
    pub(crate) fn groups_max(&self) -> usize {
        groups_max(self.segments.segment_blocks())
    }

    /// Whether something may be asked of this group; it may be new.
    fn check_group(&self, id: GroupId) -> Result<()> {
        if self.superblock.version < 2 {
            let why = "a store of format version 1 has no groups: move its volumes to a new store";
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        if id == GroupId(0) {
            return Err(Error::new(ErrorKind::Invalid, "0 is no group"));
        }
        let full = self.groups.by_id.len() >= self.groups_max();
        if full && !self.groups.by_id.contains_key(&id) {
            return Err(Error::new(ErrorKind::NoSpace, "the store holds no more groups"));
        }
        Ok(())
    }
}
