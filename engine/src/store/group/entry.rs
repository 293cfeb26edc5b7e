//! Entries of a group's log, and how they become records.
//!
//! Invariant: an entry that passes [`GroupEntry::check`] fits one batch.
//! Must never know: which group, what the head means.

use crate::buffer::{Buffer, BufferPool};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Record, RecordKind, head_blocks, padded};
use crate::limits::{
    ENTRY_BLOCKS_MAX, ENTRY_CHANGES_MAX, ENTRY_HEAD_MAX_BYTES, LEADER_MAX, VOLUME_MAX_BYTES,
};
use crate::store::leaf::RESERVED;
use crate::store::log::GroupRecords;
use crate::store::volumes::VOLUME_SIZE_UNIT_BYTES;
use crate::store::write::ZERO_RECORD_BLOCKS_MAX;
use crate::units::{BLOCK_SIZE_BYTES, BlockIndex, GroupId, Location, LogId, VolumeId};

/// An entry of a group's log. It is in the log whole or not at all.
#[derive(Debug)]
pub struct GroupEntry {
    /// Its identity.
    pub id: LogId,
    /// Bytes that only the group's owner understands; at most
    /// [`crate::limits::ENTRY_HEAD_MAX_BYTES`].
    pub head: Vec<u8>,
    /// What it does to volumes once it is applied, in order; at most
    /// [`crate::limits::ENTRY_CHANGES_MAX`], writing at most
    /// [`crate::limits::ENTRY_BLOCKS_MAX`] blocks.
    pub changes: Vec<Change>,
}

/// What an entry does to a volume of its group. One that names a volume which the group does not
/// have then, or blocks behind its end, has no effect.
#[derive(Clone, Debug)]
pub enum Change {
    /// Writes whole blocks.
    Write {
        /// To which volume.
        volume: VolumeId,
        /// First block.
        first: BlockIndex,
        /// The blocks.
        data: Buffer,
    },
    /// Makes blocks read as zeroes.
    Zero {
        /// Of which volume.
        volume: VolumeId,
        /// First block.
        first: BlockIndex,
        /// Blocks; at most 2^28.
        count: u32,
        /// Keep their space.
        reserve: bool,
    },
    /// Creates a volume of the group. No effect if there is a volume of that id.
    CreateVolume {
        /// Its id, [`VolumeId::GROUPS`] or above.
        volume: VolumeId,
        /// Its size: a positive multiple of 512.
        size_bytes: u64,
    },
    /// Deletes a volume of the group and everything in it.
    DeleteVolume {
        /// Which.
        volume: VolumeId,
    },
}

impl Change {
    /// Blocks that it maps.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        match self {
            Change::Write { data, .. } => (data.len() / BLOCK_SIZE_BYTES) as u64,
            Change::Zero { count, reserve: true, .. } => u64::from(*count),
            _ => 0,
        }
    }

    /// What it writes, if it writes.
    #[must_use]
    pub fn data(&self) -> Option<&Buffer> {
        match self {
            Change::Write { data, .. } => Some(data),
            _ => None,
        }
    }

    /// As [`Change::data`].
    #[must_use]
    pub fn data_mut(&mut self) -> Option<&mut Buffer> {
        match self {
            Change::Write { data, .. } => Some(data),
            _ => None,
        }
    }

    /// The volume it changes.
    #[must_use]
    pub fn volume(&self) -> VolumeId {
        match self {
            Change::Write { volume, .. }
            | Change::Zero { volume, .. }
            | Change::CreateVolume { volume, .. }
            | Change::DeleteVolume { volume } => *volume,
        }
    }

    /// Whether an entry may hold it.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub fn check(&self) -> std::result::Result<(), &'static str> {
        if !self.volume().is_of_group() {
            return Err("a change names a volume that cannot be of a group");
        }
        match self {
            Change::Write { first, data, .. } => {
                if data.is_empty() || !data.len().is_multiple_of(BLOCK_SIZE_BYTES) {
                    return Err("a change writes whole blocks");
                }
                check_end(*first, (data.len() / BLOCK_SIZE_BYTES) as u64)
            }
            Change::Zero { first, count, .. } => {
                if *count == 0 || u64::from(*count) > ZERO_RECORD_BLOCKS_MAX {
                    return Err("a change zeroes 1 to 2^28 blocks");
                }
                check_end(*first, (*count).into())
            }
            Change::CreateVolume { size_bytes, .. } => {
                let fine = *size_bytes > 0
                    && size_bytes.is_multiple_of(VOLUME_SIZE_UNIT_BYTES)
                    && *size_bytes <= VOLUME_MAX_BYTES;
                if fine { Ok(()) } else { Err("a change creates a volume of an impossible size") }
            }
            Change::DeleteVolume { .. } => Ok(()),
        }
    }

    /// Its record, but for the columns of the group.
    fn record(&self) -> Record {
        let nowhere = Location(0);
        match self {
            Change::Write { volume, first, data } => {
                let count = (data.len() / BLOCK_SIZE_BYTES) as u32;
                Record::plain(RecordKind::Data, *volume, *first, count, nowhere)
            }
            Change::Zero { volume, first, count, reserve: false } => {
                Record::plain(RecordKind::Zero, *volume, *first, *count, nowhere)
            }
            Change::Zero { volume, first, count, reserve: true } => {
                Record::plain(RecordKind::ZeroReserved, *volume, *first, *count, RESERVED)
            }
            Change::CreateVolume { volume, size_bytes } => {
                let size = BlockIndex(*size_bytes);
                Record::plain(RecordKind::GroupVolume, *volume, size, 0, nowhere)
            }
            Change::DeleteVolume { volume } => {
                Record::plain(RecordKind::VolumeDelete, *volume, BlockIndex(0), 0, nowhere)
            }
        }
    }

    /// The change that a record stands for; `data`: the payload of its kind, if it has one.
    pub(super) fn of(record: &Record, data: Option<Buffer>) -> Option<Change> {
        let Record { volume, first, count, .. } = *record;
        Some(match record.kind {
            RecordKind::Data => Change::Write { volume, first, data: data? },
            RecordKind::Zero => Change::Zero { volume, first, count, reserve: false },
            RecordKind::ZeroReserved => Change::Zero { volume, first, count, reserve: true },
            RecordKind::GroupVolume => Change::CreateVolume { volume, size_bytes: first.0 },
            RecordKind::VolumeDelete => Change::DeleteVolume { volume },
            _ => return None,
        })
    }
}

fn check_end(first: BlockIndex, count: u64) -> std::result::Result<(), &'static str> {
    match first.0.checked_add(count) {
        Some(end) if end <= VOLUME_MAX_BYTES / BLOCK_SIZE_BYTES as u64 => Ok(()),
        _ => Err("a change reaches past the end of the largest volume"),
    }
}

impl GroupEntry {
    /// Bytes that it keeps in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let data = |change: &Change| match change {
            Change::Write { data, .. } => data.len(),
            _ => 0,
        };
        let changes: usize = self.changes.iter().map(data).sum();
        changes + self.head.len() + self.changes.len() * size_of::<Change>()
    }

    /// Blocks that its changes write or reserve.
    pub(super) fn blocks(&self) -> u64 {
        self.changes.iter().map(Change::blocks).sum()
    }

    /// Whether its records have blocks.
    pub(super) fn has_payload(&self) -> bool {
        let writes = |change: &Change| matches!(change, Change::Write { .. });
        head_blocks(self.head.len()) > 0 || self.changes.iter().any(writes)
    }

    pub(super) fn check(&self) -> Result<()> {
        let invalid =
            |why: &str| Err(Error::new(ErrorKind::Invalid, format!("{}: {why}", self.id)));
        let written = self.changes.iter().map(|change| u64::from(change.record().payload_blocks()));
        if self.head.len() > ENTRY_HEAD_MAX_BYTES {
            return invalid("the head of an entry has at most 64 KiB");
        }
        if self.changes.len() > ENTRY_CHANGES_MAX {
            return invalid("an entry has at most 64 changes");
        }
        if self.id.leader > LEADER_MAX {
            return invalid("a leader's number is at most 2^63 - 1");
        }
        if let Some(why) = self.changes.iter().find_map(|change| change.check().err()) {
            return invalid(why);
        }
        if written.sum::<u64>() > ENTRY_BLOCKS_MAX.into() {
            return invalid("the changes of an entry write at most 257 blocks");
        }
        Ok(())
    }

    /// Its records, with its bytes to be written.
    pub(super) fn records(&self, group: GroupId, pool: &BufferPool) -> GroupRecords {
        let LogId { term, leader, index } = self.id;
        let blocks = head_blocks(self.head.len());
        let nowhere = Location(0);
        let plain =
            Record::plain(RecordKind::Entry, VolumeId(0), BlockIndex(leader), blocks, nowhere);
        let mut made = GroupRecords { blocks, ..GroupRecords::default() };
        made.records.push(Record {
            changes: self.changes.len() as u16,
            head_bytes: self.head.len() as u32,
            group,
            term,
            index,
            ..plain
        });
        if blocks > 0 {
            let mut payload = pool.allocate(blocks as usize * BLOCK_SIZE_BYTES);
            payload[..self.head.len()].copy_from_slice(&self.head);
            payload[self.head.len()..].fill(0);
            made.payload.push(payload);
        } else {
            made.inline = inline(&self.head);
        }
        for change in &self.changes {
            let record = Record { group, term, index, ..change.record() };
            made.blocks += record.payload_blocks();
            made.records.push(record);
            if let Change::Write { data, .. } = change {
                made.payload.push(aligned(data, pool));
            }
        }
        made
    }
}

/// The same bytes where a device takes them from: a copy only if they lie elsewhere.
fn aligned(data: &Buffer, pool: &BufferPool) -> Buffer {
    if data.as_ptr().addr().is_multiple_of(BLOCK_SIZE_BYTES) {
        return data.clone();
    }
    let mut copy = pool.allocate(data.len());
    copy.copy_from_slice(data);
    copy
}

/// A head or vote as it lies behind a table.
pub(super) fn inline(bytes: &[u8]) -> Vec<u8> {
    let mut inline = bytes.to_vec();
    inline.resize(padded(bytes.len()), 0);
    inline
}
