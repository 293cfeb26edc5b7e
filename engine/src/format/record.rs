//! Records: the entries of a batch's table.
//!
//! Invariant: `decode(encode(x)) == x`.
//! Must never know: the batch around them, what the store does with them.

#[cfg(test)]
pub(super) mod layout;

use crate::units::{BlockIndex, GroupId, Location, LogId, VolumeId};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct RawRecord {
    kind: u8,
    flags: u8,
    changes: U16,
    volume: U32,
    count: U32,
    group: U32,
    first: U64,
    term: U64,
    index: U64,
    source: U32,
    head_bytes: U32,
}
const _: () = assert!(size_of::<RawRecord>() == 48);

/// Bytes of one record in a table.
pub(super) const RECORD_BYTES: usize = size_of::<RawRecord>();

/// What a record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// Payload is `count` blocks of the volume from `first` on.
    Data = 1,
    /// `count` blocks from `first` on read as zeroes and take no space.
    Zero = 2,
    /// `count` blocks from `first` on read as zeroes and keep their space.
    ZeroReserved = 3,
    /// Payload is `count` blocks moved from `source`; they count only where the index still
    /// points there.
    Relocation = 4,
    /// A volume is created. Payload: its description, a block, twice.
    VolumeCreate = 5,
    /// The volume and everything in it is deleted.
    VolumeDelete = 6,
    /// Payload is part of a checkpoint; `first` is the LSN the checkpoint describes.
    Checkpoint = 7,
    /// An entry of a group's log; `first` is its leader. Its changes follow.
    Entry = 8,
    /// A group's vote.
    Vote = 9,
    /// A group's entries after `index` are void.
    Truncate = 10,
    /// A group's entries up to this one are given up; `first` is its leader.
    Purge = 11,
    /// A change: a volume of a group is created; `first` is its size in bytes.
    GroupVolume = 12,
}

impl RecordKind {
    fn decode(value: u8, version: u32) -> Option<RecordKind> {
        Some(match value {
            1 => Self::Data,
            2 => Self::Zero,
            3 => Self::ZeroReserved,
            4 => Self::Relocation,
            5 => Self::VolumeCreate,
            6 => Self::VolumeDelete,
            7 => Self::Checkpoint,
            _ if version < 2 => return None,
            8 => Self::Entry,
            9 => Self::Vote,
            10 => Self::Truncate,
            11 => Self::Purge,
            12 => Self::GroupVolume,
            _ => return None,
        })
    }

    /// Whether `count` blocks of payload belong to such a record.
    #[must_use]
    pub fn has_payload(self) -> bool {
        matches!(
            self,
            Self::Data | Self::Relocation | Self::VolumeCreate | Self::Checkpoint | Self::Entry
        )
    }
}

/// One entry of a batch's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it does.
    pub kind: RecordKind,
    /// Entries: so many of the records behind it are its changes.
    pub changes: u16,
    /// To which volume; 0 for checkpoints and what is no change of a volume.
    pub volume: VolumeId,
    /// First block of the volume.
    pub first: BlockIndex,
    /// Blocks.
    pub count: u32,
    /// Relocation: where the blocks were.
    pub source: Location,
    /// Whose log it is part of; 0: of none.
    pub group: GroupId,
    /// Entries and votes: bytes of the head or vote.
    pub head_bytes: u32,
    /// Term of the entry.
    pub term: u64,
    /// Index of the entry.
    pub index: u64,
}

impl Record {
    /// A record of no group.
    #[must_use]
    pub const fn plain(
        kind: RecordKind,
        volume: VolumeId,
        first: BlockIndex,
        count: u32,
        source: Location,
    ) -> Record {
        let group = GroupId(0);
        let (changes, head_bytes, term, index) = (0, 0, 0, 0);
        Record { kind, changes, volume, first, count, source, group, head_bytes, term, index }
    }

    /// Blocks of the batch's payload that belong to this record.
    #[must_use]
    pub fn payload_blocks(&self) -> u32 {
        if self.kind.has_payload() { self.count } else { 0 }
    }

    /// The identity that an entry or a purge names.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        LogId { term: self.term, leader: self.first.0, index: self.index }
    }

    /// Fills the record's bytes.
    pub(super) fn encode(&self, into: &mut [u8]) {
        let raw = RawRecord {
            kind: self.kind as u8,
            flags: 0,
            changes: self.changes.into(),
            volume: self.volume.0.into(),
            count: self.count.into(),
            group: self.group.0.into(),
            first: self.first.0.into(),
            term: self.term.into(),
            index: self.index.into(),
            source: self.source.0.into(),
            head_bytes: self.head_bytes.into(),
        };
        into.copy_from_slice(raw.as_bytes());
    }

    /// Decodes a record of a store of this format version; version 1 knows no groups and does not
    /// look at their columns.
    pub(super) fn decode(bytes: &[u8], version: u32) -> Option<Record> {
        let raw = RawRecord::ref_from_bytes(bytes).ok()?;
        let plain = Record::plain(
            RecordKind::decode(raw.kind, version)?,
            VolumeId(raw.volume.get()),
            BlockIndex(raw.first.get()),
            raw.count.get(),
            Location(raw.source.get()),
        );
        if version < 2 {
            return Some(plain);
        }
        Some(Record {
            changes: raw.changes.get(),
            group: GroupId(raw.group.get()),
            head_bytes: raw.head_bytes.get(),
            term: raw.term.get(),
            index: raw.index.get(),
            ..plain
        })
    }
}
