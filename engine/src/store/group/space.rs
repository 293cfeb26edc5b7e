//! Space that entries hold, and which of them should be given up for it.
//!
//! Must never know: who still needs the entries.

use super::table::Place;
use crate::limits::group_entries_max;
use crate::store::Store;
use crate::store::cleaner::low_water;
use crate::store::segments::State;
use crate::units::{GroupId, LogId, SegmentSequence};

/// While less than this part of the segments is free or can be cleaned, entries hold no more than
/// as many: segments that they held have live blocks, too, and the cleaner needs many to choose
/// from.
const FREE_PART: usize = 4;

impl Store {
    /// Up to which of its applied entries a group should purge: set while segments are short and
    /// some are kept only for entries, or while the groups retain nearly as much as they may.
    #[must_use]
    pub fn purge_wanted(&self, group: GroupId) -> Option<LogId> {
        let state = self.groups.by_id.get(&group)?;
        let applied = state.applied?;
        let most = group_entries_max(self.segments.segment_blocks());
        if self.groups.retained > most / 2 {
            let half = applied.index.min(state.entries.first() + state.entries.len() as u64 / 2);
            return state.entries.get(half).map(|slot| slot.id);
        }
        let upto = self.crowded()?;
        let is_old = |header| {
            let segment = self.segments.of(header).map(|id| self.segments.get(id));
            segment.is_some_and(|s| s.state == State::Sealed && s.sequence <= upto)
        };
        let slots = state.entries.iter().take_while(|slot| slot.id.index <= applied.index);
        let slots = slots.take_while(|slot| match slot.place {
            Place::At { header, .. } => is_old(header),
            Place::Lost { .. } => true,
            Place::Memory => false,
        });
        slots.last().map(|slot| slot.id)
    }

    /// Whether the next checkpoint would release segments that entries hold.
    pub(in crate::store) fn groups_hold_back(&self) -> bool {
        !self.groups.releasing.is_empty()
    }

    /// Counts per segment the entries that keep it from being reused.
    pub(in crate::store) fn held_entries(&self) -> Vec<u32> {
        let mut held = vec![0; self.segments.count() as usize];
        let releasing = self.groups.releasing.iter().chain(self.checkpointer.releasing());
        releasing.for_each(|id| held[id.0 as usize] += 1);
        for slot in self.groups.by_id.values().flat_map(|group| group.entries.durable()) {
            if let Place::At { header, .. } = slot.place
                && let Some(id) = self.segments.of(header)
            {
                held[id.0 as usize] += 1;
            }
        }
        held
    }

    /// Whether segments are so short that entries must be given up at once, or nearly as many are
    /// retained as may be. Cheap.
    #[must_use]
    pub fn is_short_for_groups(&self) -> bool {
        let most = group_entries_max(self.segments.segment_blocks());
        self.groups.retained > most / 2 || self.missing() > 0
    }

    /// Segments that are missing to what the cleaner wants to be free.
    fn missing(&self) -> usize {
        (2 * low_water(&self.segments)).saturating_sub(self.soon())
    }

    /// Segments that are free, will be with the next checkpoint, or once the cleaner gets to them:
    /// what only waits for it to do so is no reason to give up entries.
    fn soon(&self) -> usize {
        let can_grow = self.segments.unprepared() > 0 && !self.device_full;
        let segments = &self.segments;
        if can_grow {
            usize::MAX
        } else {
            segments.free() + segments.empty() + segments.cleanable()
        }
    }

    /// The newest of the oldest segments whose entries should be given up: as many as are missing,
    /// or as hold entries beyond their part while less than that part is free. `None` if none.
    fn crowded(&self) -> Option<SegmentSequence> {
        let part = self.segments.count() as usize / FREE_PART;
        let lacking = part.saturating_sub(self.soon());
        if lacking.max(self.missing()) == 0 {
            return None;
        }
        let held = self.segments.iter().filter(|(_, s)| s.state == State::Sealed && s.entries > 0);
        let mut held: Vec<_> = held.map(|(_, segment)| segment.sequence).collect();
        let beyond = held.len().saturating_sub(part).min(lacking);
        let last = beyond.max(self.missing()).min(held.len()).checked_sub(1)?;
        Some(*held.select_nth_unstable(last).1)
    }
}
