//! Applying entries: their changes are done to the volumes of the group, in memory.
//!
//! Invariant: what an entry does follows from the volumes of the group and the entry alone, so
//! applying the same entries to the same state gives the same state, on every replica.
//! Must never know: why the entries may be applied.

use super::install::{change_blocks, changes_of};
use super::table::{Place, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Record, RecordKind, RootVolume};
use crate::limits::{APPLIED_HEAD_MAX_BYTES, ENTRY_HEAD_MAX_BYTES};
use crate::store::Store;
use crate::store::leaf::Run;
use crate::store::volumes::volume_blocks;
use crate::units::{GroupId, Lsn};

impl Store {
    /// Applies a group's entries up to this index, in order, and keeps `applied_head` with them.
    /// Durable with the next checkpoint, all at once; a restart begins with the durable one's.
    ///
    /// # Errors
    /// `Invalid` if entries are missing or not durable, or the head is too long; `Corrupt` if one
    /// of them is damaged. Nothing is applied then.
    pub fn apply_entries(
        &mut self,
        group: GroupId,
        upto: u64,
        applied_head: Vec<u8>,
    ) -> Result<()> {
        self.apply_entries_except(group, upto, &[], applied_head)
    }

    /// As [`Store::apply_entries`], but the changes of the entries in `skipped` are left undone.
    ///
    /// # Errors
    /// As [`Store::apply_entries`].
    pub fn apply_entries_except(
        &mut self,
        group: GroupId,
        upto: u64,
        skipped: &[u64],
        applied_head: Vec<u8>,
    ) -> Result<()> {
        self.check_applied_head(group, applied_head.len())?;
        let missing = |index: u64| {
            let why = format!("group {group}: entry {index} is not in the log, or not durable");
            Error::new(ErrorKind::Invalid, why)
        };
        let state = self.groups.by_id.get(&group).ok_or_else(|| missing(upto))?;
        let first = state.next_to_apply();
        let indexes = first..upto.saturating_add(1);
        for index in indexes.clone() {
            match state.entries.get(index).map(|slot| slot.place) {
                Some(Place::At { faulty: false, .. }) if state.entries.source(index).is_some() => {}
                None | Some(Place::Memory) => return Err(missing(index)),
                _ => {
                    let why = format!("group {group}: entry {index} is damaged");
                    return Err(Error::new(ErrorKind::Corrupt, why));
                }
            }
        }
        // What the durable checkpoint maps must be readable after a crash, and nothing in the log
        // tells of what happens here: so what it frees stays until a checkpoint tells.
        self.segments.set_hold(self.log.durable().next());
        for index in indexes {
            self.apply_entry(group, index, !skipped.contains(&index));
        }
        self.segments.set_hold(Lsn(0));
        let state = self.groups.group(group);
        if upto >= first {
            state.applied = state.entries.get(upto).map(|slot| slot.id);
        }
        state.applied_head = applied_head;
        Ok(())
    }

    /// Checkpoints must have room for what is kept with the applied indexes of all groups.
    fn check_applied_head(&self, group: GroupId, bytes: usize) -> Result<()> {
        if bytes <= ENTRY_HEAD_MAX_BYTES {
            return Ok(());
        }
        let mut others = self.groups.by_id.iter().filter(|(id, _)| **id != group);
        let why = if bytes > APPLIED_HEAD_MAX_BYTES {
            format!(
                "what is kept with the applied index has at most {APPLIED_HEAD_MAX_BYTES} bytes, \
                 not {bytes}"
            )
        } else if let Some((other, _)) =
            others.find(|(_, state)| state.applied_head.len() > ENTRY_HEAD_MAX_BYTES)
        {
            format!(
                "one group of a store keeps more than {ENTRY_HEAD_MAX_BYTES} bytes with its \
                 applied index, and that is group {other}; keep less in group {group}"
            )
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Invalid, why))
    }

    fn apply_entry(&mut self, group: GroupId, index: u64, is_done: bool) {
        let source = self.groups.group(group).entries.take_source(index);
        let Source { table, record } = source.expect("invariant: it was just looked for");
        let before = &table.records[..=usize::from(record)];
        let mut at: u32 = before.iter().map(Record::payload_blocks).sum();
        let payload = table.of.location.offset(table.of.header_blocks);
        for change in changes_of(&table, record) {
            let blocks = change.payload_blocks();
            let run = Run {
                location: payload.offset(at),
                header: table.of.location,
                checksums: &table.checksums[at as usize..(at + blocks) as usize],
            };
            at += blocks;
            self.pending_blocks -= change_blocks(change);
            self.groups.unapplied_blocks -= change_blocks(change);
            if is_done {
                self.apply_change(group, change, run);
            }
        }
    }

    fn apply_change(&mut self, group: GroupId, change: &Record, run: Run<'_>) {
        let volume = change.volume;
        if change.kind == RecordKind::GroupVolume {
            return self.create_group_volume(group, change);
        }
        if !self.groups.group(group).volumes.contains(&volume) {
            return;
        }
        if change.kind == RecordKind::VolumeDelete {
            self.groups.group(group).volumes.remove(&volume);
            return self.apply_delete(volume);
        }
        let size_bytes = self.volumes.usable(volume).map_or(0, |volume| volume.size_bytes);
        if change.first.0 + u64::from(change.count) > volume_blocks(size_bytes) {
            return;
        }
        match change.kind {
            RecordKind::Data => self.apply_data(change, run),
            RecordKind::Zero => self.apply_zero(volume, change.first, change.count, false),
            RecordKind::ZeroReserved => self.apply_zero(volume, change.first, change.count, true),
            _ => {}
        }
    }

    fn create_group_volume(&mut self, group: GroupId, change: &Record) {
        let id = change.volume;
        if self.volumes.contains(id) {
            return;
        }
        self.groups.group(group).volumes.insert(id);
        self.index.create(id);
        // An older volume of that id may have left images in chunks that still count.
        for leaf in self.checkpointer.leaves_of(id) {
            self.index.blank(id, leaf);
        }
        let created = self.log.durable();
        let (name, size_bytes) = (String::new(), change.first.0);
        self.volumes.created(RootVolume { id, name, size_bytes, created });
    }
}
