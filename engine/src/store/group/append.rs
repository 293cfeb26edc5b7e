//! What is asked of a group: checked, then gathered into a batch.
//!
//! Invariant: tables change at once, in the order of the requests, and so do the records in the
//! log; only purges, which make room, go by the cold append point, and change the table when they
//! are durable.
//! Must never know: how batches are written.

use super::entry::{Change, GroupEntry, inline};
use super::table::{Place, Slot};
use super::{Appended, GroupRequest};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Record, RecordKind};
use crate::limits::{GROUP_VOLUMES_MAX, VOTE_MAX_BYTES, group_entries_max};
use crate::store::log::{GroupRecords, Heat};
use crate::store::write::WAITING_RECORD_BYTES;
use crate::store::{Store, Waiting};
use crate::units::{BLOCK_SIZE_BYTES, BlockIndex, GroupId, Location, LogId, Nanos, VolumeId};
use std::rc::Rc;

/// Quarters of the space for data that entries which are not applied may hold where an owner asks
/// for room,
const UNAPPLIED_QUARTERS: u64 = 2;
/// and where they are appended: what was let in before others came is taken all the same.
const APPENDED_QUARTERS: u64 = 3;

/// A purge that is not in a batch yet.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Purging {
    pub(in crate::store) token: u64,
    pub(in crate::store) group: GroupId,
    pub(in crate::store) upto: LogId,
}

fn group_record(kind: RecordKind, group: GroupId, id: LogId) -> Record {
    let plain = Record::plain(kind, VolumeId(0), BlockIndex(id.leader), 0, Location(0));
    Record { group, term: id.term, index: id.index, ..plain }
}

impl Store {
    /// Appends entries to a group's log, in order; a [`super::super::Reply`] with this token
    /// follows once all are durable. They can be read, and counted on by later requests, at once.
    ///
    /// # Errors
    /// If they are refused; nothing is appended then.
    pub fn append_entries(
        &mut self,
        now: Nanos,
        token: u64,
        group: GroupId,
        entries: Vec<GroupEntry>,
    ) -> Result<()> {
        self.now = now;
        self.check_writable()?;
        self.check_append(group, &entries)?;
        let count = entries.len();
        if count == 0 {
            self.barrier(token);
            return Ok(());
        }
        for (i, entry) in entries.into_iter().enumerate() {
            let (id, blocks) = (entry.id, entry.blocks());
            let records = entry.records(group, &self.pool);
            let entries = &mut self.groups.group(group).entries;
            entries.push(Slot { id, place: Place::Memory });
            self.groups.retained += 1;
            self.groups.unapplied_blocks += blocks;
            self.pending_blocks += blocks;
            self.groups.appended.push_back(Appended { group, index: id.index, void: false });
            self.groups.cache.insert(group, Rc::new(entry));
            // Batches are installed in order: the last entry's answer covers all.
            self.push_group((i + 1 == count).then_some(token), records);
        }
        Ok(())
    }

    fn check_writable(&self) -> Result<()> {
        if self.failed.is_some() {
            return Err(self.failure());
        }
        if self.read_only {
            let why = "the store is open for reading only";
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        Ok(())
    }

    /// Whether [`Store::append_entries`] would take these entries now.
    ///
    /// # Errors
    /// Why it would not.
    pub fn check_append(&self, group: GroupId, entries: &[GroupEntry]) -> Result<()> {
        self.check_group(group)?;
        let mut next = self.groups.by_id.get(&group).and_then(|state| state.entries.next());
        for entry in entries {
            entry.check()?;
            let fits = next.map_or(entry.id.index <= 1, |next| entry.id.index == next);
            if !fits {
                let next = next.unwrap_or(1);
                let why = format!("entry {} does not follow: {next} is the next index", entry.id);
                return Err(Error::new(ErrorKind::Invalid, why));
            }
            next = Some(entry.id.index + 1);
        }
        if self.spent && entries.iter().any(GroupEntry::has_payload) {
            return Err(self.no_segment());
        }
        let changes = entries.iter().map(|entry| &*entry.changes);
        self.check_room_of(changes, 0, APPENDED_QUARTERS)
    }

    /// Whether there is room for entries with these changes, wherever in a log they come, if so
    /// many blocks more were appended and not applied.
    ///
    /// # Errors
    /// `NoSpace`, and for want of what.
    pub fn check_room<'a>(
        &self,
        entries: impl Iterator<Item = &'a [Change]> + Clone,
        beyond_blocks: u64,
    ) -> Result<()> {
        self.check_room_of(entries, beyond_blocks, UNAPPLIED_QUARTERS)
    }

    fn check_room_of<'a>(
        &self,
        mut entries: impl Iterator<Item = &'a [Change]> + Clone,
        beyond_blocks: u64,
        quarters: u64,
    ) -> Result<()> {
        let changes = || entries.clone().flatten();
        let blocks: u64 = changes().map(Change::blocks).sum();
        let writes = |change: &Change| matches!(change, Change::Write { .. });
        if self.spent && changes().any(writes) {
            return Err(self.no_segment());
        }
        let most = group_entries_max(self.segments.segment_blocks());
        if self.groups.retained + entries.clone().count() > most {
            let why = format!("the groups of this store retain {most} entries: purge some");
            return Err(Error::new(ErrorKind::NoSpace, why));
        }
        let creates = |change: &&Change| matches!(change, Change::CreateVolume { .. });
        let created = changes().filter(creates).count();
        if created > 0 && self.volumes.of_groups() + created > GROUP_VOLUMES_MAX {
            let why = format!("the groups of a store have at most {GROUP_VOLUMES_MAX} volumes");
            return Err(Error::new(ErrorKind::NoSpace, why));
        }
        // What has none may be what others wait for to be applied: a leader's first entry.
        let unapplied_max = self.capacity_blocks() / 4 * quarters;
        let unapplied = self.groups.unapplied_blocks + beyond_blocks;
        if blocks > 0 && unapplied + blocks > unapplied_max {
            let why = format!(
                "{unapplied} of at most {unapplied_max} blocks are appended and not applied: \
                 apply or truncate first"
            );
            return Err(Error::new(ErrorKind::NoSpace, why));
        }
        entries.try_for_each(|changes| self.check_changes(changes, 0))
    }

    /// Blocks of entries that are not applied with which there is room.
    #[must_use]
    pub fn unapplied_max_blocks(&self) -> u64 {
        self.capacity_blocks() / 4 * UNAPPLIED_QUARTERS
    }

    /// Whether there is space for changes, and would be if `margin_blocks` more were mapped. An
    /// owner that asks before it proposes keeps a margin for what other members have less room for.
    ///
    /// # Errors
    /// `NoSpace` if there is not.
    pub fn check_changes(&self, changes: &[Change], margin_blocks: u64) -> Result<()> {
        changes.iter().try_for_each(|change| match *change {
            Change::Write { volume, first, ref data } => {
                let count = (data.len() / BLOCK_SIZE_BYTES) as u64;
                self.check_space_beside(margin_blocks, volume, first, count)
            }
            Change::Zero { volume, first, count, reserve: true } => {
                self.check_space_beside(margin_blocks, volume, first, count.into())
            }
            _ => Ok(()),
        })
    }

    /// Takes a request to a group.
    pub(in crate::store) fn group_request(
        &mut self,
        token: u64,
        group: GroupId,
        request: GroupRequest,
    ) -> Result<()> {
        if !matches!(request, GroupRequest::Read(_) | GroupRequest::Salvage(_)) {
            self.check_writable()?;
            self.check_group(group)?;
        }
        match request {
            GroupRequest::Vote(vote) => {
                if vote.len() > VOTE_MAX_BYTES {
                    let why = format!("a vote has at most {VOTE_MAX_BYTES} bytes");
                    return Err(Error::new(ErrorKind::Invalid, why));
                }
                let record = group_record(RecordKind::Vote, group, LogId::default());
                let record = Record { head_bytes: vote.len() as u32, ..record };
                let (records, inline) = (vec![record], inline(&vote));
                let records = GroupRecords { records, inline, ..GroupRecords::default() };
                self.push_group(Some(token), records);
                Ok(())
            }
            GroupRequest::Truncate(index) => self.truncate(token, group, index),
            GroupRequest::Purge(upto) => self.purge(Purging { token, group, upto }),
            GroupRequest::Read(index) => self.read_entry(token, group, index),
            GroupRequest::Salvage(index) => self.salvage_entry(token, group, index),
            GroupRequest::Restore(entry) => self.restore_entry(token, group, entry),
        }
    }

    fn truncate(&mut self, token: u64, group: GroupId, index: u64) -> Result<()> {
        let applied = self.groups.group(group).applied;
        if applied.is_some_and(|applied| index <= applied.index) {
            let why = format!("entry {index} is applied, it cannot be made void");
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        self.cut(group, index);
        for appended in &mut self.groups.appended {
            appended.void |= appended.group == group && appended.index >= index;
        }
        let id = LogId { index, ..LogId::default() };
        let records = vec![group_record(RecordKind::Truncate, group, id)];
        self.push_group(Some(token), GroupRecords { records, ..GroupRecords::default() });
        Ok(())
    }

    fn purge(&mut self, purging: Purging) -> Result<()> {
        let state = self.groups.group(purging.group);
        let (id, index) = (purging.upto, purging.upto.index);
        if state.applied.is_none_or(|applied| applied.index < index) {
            let why = format!("entry {id} is not applied, it cannot be given up");
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        if state.purged.is_some_and(|purged| index <= purged.index) {
            self.barrier(purging.token);
            return Ok(());
        }
        if state.id_at(index) != Some(id) {
            let why = format!("entry {id} is not in the log");
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        self.groups.purging.push(purging);
        self.push_purges();
        Ok(())
    }

    /// Puts purges into the cold batch that the durable checkpoint allows; asks for a checkpoint
    /// for the others.
    pub(in crate::store) fn push_purges(&mut self) {
        if self.groups.purging.is_empty() {
            return;
        }
        for purging in std::mem::take(&mut self.groups.purging) {
            let Purging { token, group, upto } = purging;
            let saved = self.groups.by_id.get(&group).and_then(|state| state.saved);
            let is_saved = saved.is_some_and(|saved| saved.index >= upto.index);
            let records = vec![group_record(RecordKind::Purge, group, upto)];
            let records = GroupRecords { records, ..GroupRecords::default() };
            if is_saved && self.log.has_room_for(Heat::Cold, &records) {
                self.log.push_group(Heat::Cold, records, Some(token));
                continue;
            }
            self.checkpointer.request_if(!is_saved);
            self.groups.purging.push(purging);
        }
    }

    fn push_group(&mut self, token: Option<u64>, records: GroupRecords) {
        let may_go = self.has_reserve || records.blocks == 0;
        if may_go && self.waiting.is_empty() && self.log.has_room_for(Heat::Hot, &records) {
            self.log.push_group(Heat::Hot, records, token);
        } else {
            self.waiting_bytes += waiting_bytes(&records);
            self.waiting.push_back(Waiting::Group { token, records });
        }
    }
}

/// What waiting records of a group count for.
pub(in crate::store) fn waiting_bytes(records: &GroupRecords) -> usize {
    records.blocks as usize * BLOCK_SIZE_BYTES + records.records.len() * WAITING_RECORD_BYTES
}
