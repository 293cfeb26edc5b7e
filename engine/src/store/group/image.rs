//! Groups as a checkpoint keeps them.
//!
//! Invariant: an image is what the log says up to the checkpoint's LSN, and what is applied then:
//! entries that are not durable yet are not in it, those whose truncation is not durable are.
//! Must never know: how a checkpoint is written.

use super::Group;
use super::table::{Place, Slot};
use crate::format::{EntryImage, EntryState, GroupImage, RootVolume, encode_group_pieces};
use crate::store::Store;
use crate::units::{GroupId, Location, LogId, Lsn, SegmentId};
use std::collections::VecDeque;

/// What a checkpoint under way says of the groups.
#[derive(Debug, Default)]
pub(in crate::store) struct FrozenGroups {
    /// Bytes and checksums of the pieces not written yet.
    pub(in crate::store) pieces: VecDeque<(Vec<u8>, u32)>,
    /// What is applied in it.
    saved: Vec<(GroupId, Option<LogId>)>,
    /// Segments of entries that it leaves out.
    pub(in crate::store) releasing: Vec<SegmentId>,
}

fn entry_image(slot: &Slot) -> EntryImage {
    let (location, record, state) = match slot.place {
        Place::At { header, record, faulty: false } => (header, record, EntryState::Fine),
        Place::At { header, record, faulty: true } => (header, record, EntryState::Faulty),
        Place::Lost { known: true } => (Location(0), 0, EntryState::Lost),
        Place::Lost { known: false } | Place::Memory => (Location(0), 0, EntryState::Unknown),
    };
    EntryImage { id: slot.id, location, record, state }
}

fn place_of(image: &EntryImage) -> Place {
    let (header, record) = (image.location, image.record);
    match image.state {
        EntryState::Fine => Place::At { header, record, faulty: false },
        EntryState::Faulty => Place::At { header, record, faulty: true },
        EntryState::Lost => Place::Lost { known: true },
        EntryState::Unknown => Place::Lost { known: false },
    }
}

impl Store {
    /// The groups as of now, for a checkpoint.
    pub(in crate::store) fn freeze_groups(&mut self, lsn: Lsn) -> FrozenGroups {
        let mut bytes = Vec::new();
        for (id, group) in &self.groups.by_id {
            let size = |id| Some((id, self.volumes.usable(id).ok()?.size_bytes));
            let image = GroupImage {
                id: *id,
                vote: group.vote.clone(),
                purged: group.purged,
                applied: group.applied,
                applied_head: group.applied_head.clone(),
                first: group.entries.next().map(|_| group.entries.first()),
                entries: group.entries.durable().map(entry_image).collect(),
                volumes: group.volumes.iter().copied().filter_map(size).collect(),
            };
            image.encode(&mut bytes);
        }
        FrozenGroups {
            pieces: encode_group_pieces(lsn, &bytes).into(),
            saved: self.groups.by_id.iter().map(|(id, group)| (*id, group.applied)).collect(),
            releasing: std::mem::take(&mut self.groups.releasing),
        }
    }

    /// The checkpoint that says this is durable.
    pub(in crate::store) fn groups_saved(&mut self, frozen: &FrozenGroups) {
        for (id, applied) in &frozen.saved {
            self.groups.group(*id).saved = *applied;
        }
        self.release_entries(&frozen.releasing);
    }

    /// At start: a group as the checkpoint has it.
    pub(in crate::store) fn restore_group(&mut self, image: GroupImage) {
        let mut group = Group {
            vote: image.vote,
            purged: image.purged,
            applied: image.applied,
            saved: image.applied,
            applied_head: image.applied_head,
            ..Group::default()
        };
        group.entries.restore_first(image.first);
        for entry in &image.entries {
            let place = place_of(entry);
            if let Place::At { header, .. } = place {
                self.segments.retain(header);
            }
            group.entries.push(Slot { id: entry.id, place });
        }
        self.groups.retained += group.entries.len();
        for (id, size_bytes) in image.volumes {
            group.volumes.insert(id);
            self.index.create(id);
            let name = String::new();
            self.volumes.created(RootVolume { id, name, size_bytes, created: Lsn(0) });
        }
        self.groups.by_id.insert(image.id, group);
    }
}
