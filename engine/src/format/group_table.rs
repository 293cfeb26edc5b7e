//! What a checkpoint says of the groups: one image per group, all images in one string of bytes,
//! cut into pieces that are written like chunks.
//!
//! Invariant: `decode(encode(x)) == x`; a decoder allocates no more than its input is long, times a
//! constant.
//! Must never know: I/O, what heads and votes mean.

#[cfg(test)]
pub(super) mod layout;

use super::{ChunkRef, LAYOUT_VERSION, checksum};
use crate::limits::{APPLIED_HEAD_MAX_BYTES, LEADER_MAX, VOLUME_MAX_BYTES, VOTE_MAX_BYTES};
use crate::units::{BLOCK_SIZE_BYTES, GroupId, Location, LogId, Lsn, VolumeId};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const PIECE_MAGIC: [u8; 8] = *b"ashGROUP";
/// Blocks of a piece.
const PIECE_BLOCKS_MAX: usize = 64;
const PIECE_BYTES: usize = PIECE_BLOCKS_MAX * BLOCK_SIZE_BYTES - size_of::<RawPiece>();

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct RawPiece {
    magic: [u8; 8],
    lsn: U64,
    number: U32,
    used_bytes: U32,
}
const _: () = assert!(size_of::<RawPiece>() == 24);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct RawGroup {
    id: U32,
    flags: U32,
    purged_term: U64,
    purged_leader: U64,
    purged_index: U64,
    applied_term: U64,
    applied_leader: U64,
    applied_index: U64,
    first: U64,
    entries: U32,
    runs: U32,
    volumes: U32,
    vote_bytes: U32,
    head_bytes: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<RawGroup>() == 88);

const HAS_PURGED: u32 = 1;
const HAS_APPLIED: u32 = 2;
const HAS_FIRST: u32 = 4;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct RawGroupVolume {
    id: U32,
    reserved: U32,
    size_bytes: U64,
}
const _: () = assert!(size_of::<RawGroupVolume>() == 16);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct RawRun {
    index: U64,
    term: U64,
    leader: U64,
}
const _: () = assert!(size_of::<RawRun>() == 24);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct RawPlace {
    location: U32,
    record: U16,
    state: U16,
}
const _: () = assert!(size_of::<RawPlace>() == 8);

/// What is known of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum EntryState {
    /// It is where the image says.
    Fine = 0,
    /// It is there, but something of it did not prove itself.
    Faulty = 1,
    /// Its place is not known.
    Lost = 2,
    /// Nothing is known of it.
    Unknown = 3,
}

/// An entry in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryImage {
    /// Its identity; only the index counts if the state is unknown.
    pub id: LogId,
    /// The header of its batch.
    pub location: Location,
    /// Its record in that batch.
    pub record: u16,
    /// What is known of it.
    pub state: EntryState,
}

/// A group as a checkpoint describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupImage {
    /// Which.
    pub id: GroupId,
    /// Its vote.
    pub vote: Vec<u8>,
    /// Entries up to this one are given up.
    pub purged: Option<LogId>,
    /// Entries up to this one are applied.
    pub applied: Option<LogId>,
    /// What was said when they were.
    pub applied_head: Vec<u8>,
    /// Index of the first entry, or where the next goes if there is none; `None`: not decided.
    pub first: Option<u64>,
    /// Entries that are retained, without gaps.
    pub entries: Vec<EntryImage>,
    /// Its volumes and their sizes.
    pub volumes: Vec<(VolumeId, u64)>,
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

impl GroupImage {
    /// Appends the encoded image.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let (purged, applied) = (self.purged.unwrap_or_default(), self.applied.unwrap_or_default());
        let flag = |is: bool, bit: u32| if is { bit } else { 0 };
        let flags = flag(self.purged.is_some(), HAS_PURGED)
            | flag(self.applied.is_some(), HAS_APPLIED)
            | flag(self.first.is_some(), HAS_FIRST);
        let author = |entry: &EntryImage| (entry.id.term, entry.id.leader);
        let runs: Vec<_> = self.entries.chunk_by(|a, b| author(a) == author(b)).collect();
        let raw = RawGroup {
            id: self.id.0.into(),
            flags: flags.into(),
            purged_term: purged.term.into(),
            purged_leader: purged.leader.into(),
            purged_index: purged.index.into(),
            applied_term: applied.term.into(),
            applied_leader: applied.leader.into(),
            applied_index: applied.index.into(),
            first: self.first.unwrap_or_default().into(),
            entries: (self.entries.len() as u32).into(),
            runs: (runs.len() as u32).into(),
            volumes: (self.volumes.len() as u32).into(),
            vote_bytes: (self.vote.len() as u32).into(),
            head_bytes: (self.applied_head.len() as u32).into(),
            reserved: 0.into(),
        };
        into.extend_from_slice(raw.as_bytes());
        for bytes in [&self.vote, &self.applied_head] {
            into.extend_from_slice(bytes);
            pad(into);
        }
        for (id, size_bytes) in &self.volumes {
            let (id, size_bytes) = (id.0.into(), (*size_bytes).into());
            let raw = RawGroupVolume { id, reserved: 0.into(), size_bytes };
            into.extend_from_slice(raw.as_bytes());
        }
        for run in runs {
            let LogId { term, leader, index } = run[0].id;
            let raw = RawRun { index: index.into(), term: term.into(), leader: leader.into() };
            into.extend_from_slice(raw.as_bytes());
        }
        for entry in &self.entries {
            let raw = RawPlace {
                location: entry.location.0.into(),
                record: entry.record.into(),
                state: (entry.state as u16).into(),
            };
            into.extend_from_slice(raw.as_bytes());
        }
    }

    /// Decodes the image at the start of `bytes`; returns it and the rest. `None` if it is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<(GroupImage, &[u8])> {
        let (raw, mut rest) = RawGroup::ref_from_prefix(bytes).ok()?;
        let flags = raw.flags.get();
        let id = |bit, term: U64, leader: U64, index: U64| {
            let id = LogId { term: term.get(), leader: leader.get(), index: index.get() };
            (flags & bit != 0).then_some(id)
        };
        let (vote_bytes, head_bytes) =
            (raw.vote_bytes.get() as usize, raw.head_bytes.get() as usize);
        if raw.id.get() == 0 || vote_bytes > VOTE_MAX_BYTES || head_bytes > APPLIED_HEAD_MAX_BYTES {
            return None;
        }
        let mut image = GroupImage {
            id: GroupId(raw.id.get()),
            vote: take_bytes(&mut rest, vote_bytes)?,
            purged: id(HAS_PURGED, raw.purged_term, raw.purged_leader, raw.purged_index),
            applied: id(HAS_APPLIED, raw.applied_term, raw.applied_leader, raw.applied_index),
            applied_head: take_bytes(&mut rest, head_bytes)?,
            first: (flags & HAS_FIRST != 0).then_some(raw.first.get()),
            ..GroupImage::default()
        };
        for _ in 0..raw.volumes.get() {
            let (volume, after) = RawGroupVolume::ref_from_prefix(rest).ok()?;
            rest = after;
            let (id, size_bytes) = (VolumeId(volume.id.get()), volume.size_bytes.get());
            if !id.is_of_group() || size_bytes > VOLUME_MAX_BYTES {
                return None;
            }
            image.volumes.push((id, size_bytes));
        }
        let runs = raw.runs.get() as usize * size_of::<RawRun>();
        let (runs, after) = rest.split_at_checked(runs)?;
        rest = take_entries(&mut image, runs, after, raw.entries.get())?;
        image.is_sound().then_some((image, rest))
    }

    fn is_sound(&self) -> bool {
        let ids = [self.purged, self.applied].into_iter().flatten();
        let ids = ids.chain(self.entries.iter().map(|entry| entry.id));
        let mut known = ids.into_iter();
        let end = self.first.map(|first| first.checked_add(self.entries.len() as u64));
        known.all(|id| id.leader <= LEADER_MAX && id.index < u64::MAX)
            && end.is_none_or(|end| end.is_some())
            && (self.first.is_some() || self.entries.is_empty())
            && self.purged.is_none_or(|purged| self.first == Some(purged.index + 1))
    }
}

fn take_bytes(rest: &mut &[u8], len: usize) -> Option<Vec<u8>> {
    let (bytes, after) = rest.split_at_checked(len.next_multiple_of(8))?;
    *rest = after;
    Some(bytes[..len].to_vec())
}

/// Takes so many entries off the bytes behind the runs; returns what follows them.
fn take_entries<'a>(
    image: &mut GroupImage,
    mut runs: &[u8],
    mut places: &'a [u8],
    count: u32,
) -> Option<&'a [u8]> {
    let first = image.first.unwrap_or_default();
    let mut author = None;
    for i in 0..count {
        let index = first.checked_add(i.into())?;
        if let Ok((run, after)) = RawRun::ref_from_prefix(runs)
            && run.index.get() == index
        {
            author = Some((run.term.get(), run.leader.get()));
            runs = after;
        }
        let (term, leader) = author?;
        let (place, after) = RawPlace::ref_from_prefix(places).ok()?;
        places = after;
        let state = match place.state.get() {
            0 => EntryState::Fine,
            1 => EntryState::Faulty,
            2 => EntryState::Lost,
            3 => EntryState::Unknown,
            _ => return None,
        };
        image.entries.push(EntryImage {
            id: LogId { term, leader, index },
            location: Location(place.location.get()),
            record: place.record.get(),
            state,
        });
    }
    runs.is_empty().then_some(places)
}

/// Cuts the images of all groups into pieces, each padded to whole blocks and with its checksum.
#[must_use]
pub fn encode_group_pieces(lsn: Lsn, images: &[u8]) -> Vec<(Vec<u8>, u32)> {
    let piece = |(number, part): (usize, &[u8])| {
        let raw = RawPiece {
            magic: PIECE_MAGIC,
            lsn: lsn.0.into(),
            number: (number as u32).into(),
            used_bytes: ((part.len() + size_of::<RawPiece>()) as u32).into(),
        };
        let mut bytes = [raw.as_bytes(), part].concat();
        bytes.resize(bytes.len().next_multiple_of(BLOCK_SIZE_BYTES), 0);
        let sum = checksum(LAYOUT_VERSION, &bytes);
        (bytes, sum)
    };
    images.chunks(PIECE_BYTES).enumerate().map(piece).collect()
}

/// Checks a piece against its reference; its number and its part of the images. `None` if it is
/// damaged or no such piece.
#[must_use]
pub fn decode_group_piece<'a>(bytes: &'a [u8], reference: &ChunkRef) -> Option<(u32, &'a [u8])> {
    if checksum(LAYOUT_VERSION, bytes) != reference.checksum {
        return None;
    }
    let (raw, _) = RawPiece::ref_from_prefix(bytes).ok()?;
    if raw.magic != PIECE_MAGIC || raw.lsn.get() != reference.lsn.0 {
        return None;
    }
    let part = bytes.get(size_of::<RawPiece>()..raw.used_bytes.get() as usize)?;
    Some((raw.number.get(), part))
}
