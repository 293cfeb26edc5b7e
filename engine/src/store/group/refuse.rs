//! Entries that wait for a segment when none can be had.
//!
//! Invariant: of the entries on their way, those that wait are the last ones, in the same order.
//! Must never know: why there is no segment.

use super::install::change_blocks;
use super::waiting_bytes;
use crate::format::RecordKind;
use crate::store::segments::State;
use crate::store::{Store, Waiting};
use crate::units::GroupId;
use std::collections::BTreeMap;

impl Waiting {
    /// The group of an entry.
    fn entry(&self) -> Option<GroupId> {
        let Waiting::Group { records, .. } = self else { return None };
        let first = records.records.first().filter(|first| first.kind == RecordKind::Entry);
        first.map(|entry| entry.group)
    }
}

impl Store {
    /// Whether segments may be had by giving up entries: the owners are told to by
    /// [`Store::purge_wanted`], and may have to apply some first.
    pub(in crate::store) fn entries_hold_segments(&self) -> bool {
        self.segments.iter().any(|(_, s)| s.state == State::Sealed && s.entries > 0)
    }

    /// Refuses the waiting entries that write blocks, and all of the same groups behind them, as an
    /// index must not be missing. Votes, truncations and entries without blocks go on.
    pub(in crate::store) fn refuse_entries(&mut self) {
        let count = self.waiting.iter().filter(|waiting| waiting.entry().is_some()).count();
        let on_their_way = self.groups.appended.len() - count;
        let mut appended = self.groups.appended.split_off(on_their_way).into_iter();
        // From which index on, unless a truncation took them out of the table before.
        let mut refused: BTreeMap<GroupId, Option<u64>> = BTreeMap::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let Some(group) = waiting.entry() else {
                self.waiting.push_back(waiting);
                continue;
            };
            let entry = appended.next().expect("invariant: an entry that waits is on its way");
            match waiting {
                Waiting::Group { token, records }
                    if records.blocks > 0 || refused.contains_key(&group) =>
                {
                    let from = refused.entry(group).or_default();
                    *from = from.or((!entry.void).then_some(entry.index));
                    self.waiting_bytes -= waiting_bytes(&records);
                    // The first record is the entry's own.
                    let blocks: u64 = records.records.iter().skip(1).map(change_blocks).sum();
                    self.pending_blocks -= blocks;
                    let error = self.no_segment();
                    token.into_iter().for_each(|token| self.reply(token, Err(error.clone())));
                }
                kept => {
                    self.groups.appended.push_back(entry);
                    self.waiting.push_back(kept);
                }
            }
        }
        for (group, from) in refused {
            if let Some(from) = from {
                self.cut(group, from);
            }
            if self.groups.group(group).is_blank() {
                self.groups.by_id.remove(&group);
            }
        }
    }
}
