//! Checkpoint: the index in chunks of packed leaf images, and a root that lists chunks and volumes.
//!
//! A chunk holds leaf images of one or more volumes; among images of one leaf the one in the chunk
//! with the highest LSN counts. The root lists every chunk that still has an image that counts.
//! Chunks and roots are written twice, in different batches: a lost leaf would lose what is served.
//! Invariant: `decode(encode(x)) == x`; a decoder allocates no more than its input is long.
//! Must never know: I/O, how the index is kept in memory.

#[cfg(test)]
pub(super) mod layout;

use super::{LAYOUT_VERSION, checksum};
use crate::limits::{VOLUME_MAX_BYTES, VOLUME_NAME_MAX_BYTES, VOLUMES_MAX};
use crate::units::{BLOCK_SIZE_BYTES, Location, Lsn, SegmentSequence, VolumeId};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const CHUNK_MAGIC: [u8; 8] = *b"ashCHUNK";
const ROOT_MAGIC: [u8; 8] = *b"ashROOT1";

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct RawChunk {
    magic: [u8; 8],
    lsn: U64,
    images: U32,
    used_bytes: U32,
}
const _: () = assert!(size_of::<RawChunk>() == 24);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct RawImage {
    volume: U32,
    leaf: U32,
    form: U16,
    entries: U16,
}
const _: () = assert!(size_of::<RawImage>() == 12);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct RawRoot {
    magic: [u8; 8],
    version: U32,
    volumes: U32,
    chunks: U32,
    prepared_segments: U32,
    lsn: U64,
    epoch: U64,
    replay_from: U64,
    next_sequence: U64,
    next_volume: U32,
    group_pieces: U32,
}
const _: () = assert!(size_of::<RawRoot>() == 64);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct RawVolume {
    id: U32,
    name_bytes: U32,
    size_bytes: U64,
    created: U64,
    name: [u8; VOLUME_NAME_MAX_BYTES],
}
const _: () = assert!(size_of::<RawVolume>() == 152);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct RawChunkRef {
    location: U32,
    blocks: U32,
    checksum: U32,
    mirror: U32,
    lsn: U64,
}
const _: () = assert!(size_of::<RawChunkRef>() == 24);

/// Bytes of a dense leaf image: a bit per block, then 512 slots of location and check.
pub const IMAGE_DENSE_BYTES: usize = 512 / 8 + 512 * 8;
/// Bytes of one entry of a sparse leaf image.
const ENTRY_BYTES: usize = 12;

/// How a leaf image is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafForm {
    /// This many entries of 12 bytes: first u16, count u16, location u32, check u32.
    Sparse(u16),
    /// 64 bytes, a bit per block: its check is the checksum itself, not a header's place; then 512
    /// slots of 8 bytes: location u32, check u32.
    Dense,
}

impl LeafForm {
    /// Bytes of such an image's body.
    #[must_use]
    pub fn body_bytes(self) -> usize {
        match self {
            LeafForm::Sparse(entries) => usize::from(entries) * ENTRY_BYTES,
            LeafForm::Dense => IMAGE_DENSE_BYTES,
        }
    }
}

/// One leaf image inside a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkImage<'a> {
    /// Whose leaf.
    pub volume: VolumeId,
    /// Which leaf: first block / 512.
    pub leaf: u32,
    /// Encoding of the body.
    pub form: LeafForm,
    /// The encoded entries or slots.
    pub body: &'a [u8],
}

/// Packs leaf images into one chunk.
#[derive(Debug)]
pub struct ChunkWriter {
    bytes: Vec<u8>,
    images: u32,
    lsn: Lsn,
}

impl ChunkWriter {
    /// An empty chunk of the checkpoint that describes `lsn`.
    #[must_use]
    pub fn new(lsn: Lsn) -> ChunkWriter {
        ChunkWriter { bytes: vec![0; size_of::<RawChunk>()], images: 0, lsn }
    }

    /// Bytes the chunk has with one more image of this form.
    #[must_use]
    pub fn len_with(&self, form: LeafForm) -> usize {
        self.bytes.len() + size_of::<RawImage>() + form.body_bytes()
    }

    /// Whether no image was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.images == 0
    }

    /// Adds an image; `fill` writes exactly the body's bytes.
    pub fn push(
        &mut self,
        volume: VolumeId,
        leaf: u32,
        form: LeafForm,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let (code, entries) = match form {
            LeafForm::Sparse(entries) => (0u16, entries),
            LeafForm::Dense => (1, 0),
        };
        let raw = RawImage {
            volume: volume.0.into(),
            leaf: leaf.into(),
            form: code.into(),
            entries: entries.into(),
        };
        self.bytes.extend_from_slice(raw.as_bytes());
        let body = self.bytes.len();
        self.bytes.resize(body + form.body_bytes(), 0);
        fill(&mut self.bytes[body..]);
        self.images += 1;
    }

    /// The finished chunk, padded to whole blocks, and its checksum.
    #[must_use]
    pub fn finish(mut self) -> (Vec<u8>, u32) {
        let raw = RawChunk {
            magic: CHUNK_MAGIC,
            lsn: self.lsn.0.into(),
            images: self.images.into(),
            used_bytes: (self.bytes.len() as u32).into(),
        };
        self.bytes[..size_of::<RawChunk>()].copy_from_slice(raw.as_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK_SIZE_BYTES), 0);
        let sum = checksum(LAYOUT_VERSION, &self.bytes);
        (self.bytes, sum)
    }
}

/// Iterates over the images of a checked chunk.
#[derive(Debug)]
pub struct ChunkReader<'a> {
    rest: &'a [u8],
    left: u32,
}

/// Checks a chunk's bytes against its reference and opens it; `None` if it is damaged.
#[must_use]
pub fn decode_chunk<'a>(bytes: &'a [u8], reference: &ChunkRef) -> Option<ChunkReader<'a>> {
    if checksum(LAYOUT_VERSION, bytes) != reference.checksum {
        return None;
    }
    let (raw, _) = RawChunk::ref_from_prefix(bytes).ok()?;
    if raw.magic != CHUNK_MAGIC || raw.lsn.get() != reference.lsn.0 {
        return None;
    }
    let rest = bytes.get(size_of::<RawChunk>()..raw.used_bytes.get() as usize)?;
    Some(ChunkReader { rest, left: raw.images.get() })
}

impl<'a> Iterator for ChunkReader<'a> {
    type Item = ChunkImage<'a>;

    /// The next image; ends early where the bytes are inconsistent.
    fn next(&mut self) -> Option<ChunkImage<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (raw, rest) = RawImage::ref_from_prefix(self.rest).ok()?;
        let form = match (raw.form.get(), raw.entries.get()) {
            (0, entries) if entries <= 512 => LeafForm::Sparse(entries),
            (1, 0) => LeafForm::Dense,
            _ => return None,
        };
        let body = rest.get(..form.body_bytes())?;
        self.rest = &rest[body.len()..];
        Some(ChunkImage { volume: VolumeId(raw.volume.get()), leaf: raw.leaf.get(), form, body })
    }
}

/// A volume as the root and its creation record describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootVolume {
    /// Its identity.
    pub id: VolumeId,
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// The batch that created it.
    pub created: Lsn,
}

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    /// First block.
    pub location: Location,
    /// First block of the second copy.
    pub mirror: Location,
    /// Blocks.
    pub blocks: u32,
    /// CRC-32 of all its bytes.
    pub checksum: u32,
    /// The checkpoint that wrote it.
    pub lsn: Lsn,
}

/// Decoded checkpoint root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Root {
    /// The state described is the log up to and including this batch.
    pub lsn: Lsn,
    /// Epoch of the store that wrote it.
    pub epoch: u64,
    /// Batches after `lsn` are only in segments of this life or later.
    pub replay_from: SegmentSequence,
    /// Next segment life to hand out.
    pub next_sequence: SegmentSequence,
    /// Next volume id to hand out.
    pub next_volume: VolumeId,
    /// Segments `0..prepared_segments` have been written once.
    pub prepared_segments: u32,
    /// All volumes.
    pub volumes: Vec<RootVolume>,
    /// All chunks that count.
    pub chunks: Vec<ChunkRef>,
    /// Pieces of what it says of the groups.
    pub groups: Vec<ChunkRef>,
}

/// Why a volume's name is refused; `None` if it is fine.
///
/// Allowed are 1 to 128 of `A-Z a-z 0-9 . _ -`, not starting with `.` or `-`: names are also file
/// names, command arguments and URI parts, and `NAME@SNAP` names a snapshot.
#[must_use]
pub fn validate_volume_name(name: &str) -> Option<&'static str> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() {
        Some("a volume name must not be empty")
    } else if name.len() > VOLUME_NAME_MAX_BYTES {
        Some("a volume name has at most 128 characters")
    } else if !name.chars().all(fine) {
        Some("a volume name holds only letters, digits, '.', '_' and '-'")
    } else if name.starts_with(['.', '-']) {
        Some("a volume name must not start with '.' or '-'")
    } else {
        None
    }
}

impl RootVolume {
    /// Bytes of the encoded description.
    pub const BYTES: usize = size_of::<RawVolume>();

    /// Appends the encoded description.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let mut name = [0; VOLUME_NAME_MAX_BYTES];
        name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        let raw = RawVolume {
            id: self.id.0.into(),
            name_bytes: (self.name.len() as u32).into(),
            size_bytes: self.size_bytes.into(),
            created: self.created.0.into(),
            name,
        };
        into.extend_from_slice(raw.as_bytes());
    }

    /// Decodes a description from the start of `bytes`; `None` if it is no valid one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<RootVolume> {
        let (raw, _) = RawVolume::ref_from_prefix(bytes).ok()?;
        let name = raw.name.get(..raw.name_bytes.get() as usize)?;
        let name = std::str::from_utf8(name).ok()?.to_owned();
        let size_bytes = raw.size_bytes.get();
        let fine = validate_volume_name(&name).is_none() && size_bytes <= VOLUME_MAX_BYTES;
        fine.then_some(RootVolume {
            id: VolumeId(raw.id.get()),
            name,
            size_bytes,
            created: Lsn(raw.created.get()),
        })
    }
}

/// Bytes of the root, padded to whole blocks, and their checksum.
#[must_use]
pub fn encode_root(root: &Root) -> (Vec<u8>, u32) {
    let raw = RawRoot {
        magic: ROOT_MAGIC,
        version: LAYOUT_VERSION.into(),
        volumes: (root.volumes.len() as u32).into(),
        chunks: (root.chunks.len() as u32).into(),
        prepared_segments: root.prepared_segments.into(),
        lsn: root.lsn.0.into(),
        epoch: root.epoch.into(),
        replay_from: root.replay_from.0.into(),
        next_sequence: root.next_sequence.0.into(),
        next_volume: root.next_volume.0.into(),
        group_pieces: (root.groups.len() as u32).into(),
    };
    let mut bytes = raw.as_bytes().to_vec();
    root.volumes.iter().for_each(|volume| volume.encode(&mut bytes));
    for chunk in root.chunks.iter().chain(&root.groups) {
        let raw = RawChunkRef {
            location: chunk.location.0.into(),
            blocks: chunk.blocks.into(),
            checksum: chunk.checksum.into(),
            mirror: chunk.mirror.0.into(),
            lsn: chunk.lsn.0.into(),
        };
        bytes.extend_from_slice(raw.as_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(BLOCK_SIZE_BYTES), 0);
    let sum = checksum(LAYOUT_VERSION, &bytes);
    (bytes, sum)
}

/// Decodes a root whose checksum must be `expected`; `None` if it is damaged.
#[must_use]
pub fn decode_root(bytes: &[u8], expected: u32) -> Option<Root> {
    if checksum(LAYOUT_VERSION, bytes) != expected {
        return None;
    }
    let (raw, mut rest) = RawRoot::ref_from_prefix(bytes).ok()?;
    let volumes = raw.volumes.get() as usize;
    if raw.magic != ROOT_MAGIC || raw.version.get() != LAYOUT_VERSION || volumes > VOLUMES_MAX {
        return None;
    }
    let mut root = Root {
        lsn: Lsn(raw.lsn.get()),
        epoch: raw.epoch.get(),
        replay_from: SegmentSequence(raw.replay_from.get()),
        next_sequence: SegmentSequence(raw.next_sequence.get()),
        next_volume: VolumeId(raw.next_volume.get()),
        prepared_segments: raw.prepared_segments.get(),
        volumes: Vec::new(),
        chunks: Vec::new(),
        groups: Vec::new(),
    };
    for _ in 0..volumes {
        root.volumes.push(RootVolume::decode(rest)?);
        rest = &rest[RootVolume::BYTES..];
    }
    rest = take_references(rest, raw.chunks.get(), &mut root.chunks)?;
    take_references(rest, raw.group_pieces.get(), &mut root.groups)?;
    Some(root)
}

/// Takes so many references off the bytes; returns what follows them.
fn take_references<'a>(
    mut rest: &'a [u8],
    count: u32,
    into: &mut Vec<ChunkRef>,
) -> Option<&'a [u8]> {
    for _ in 0..count {
        let (chunk, after) = RawChunkRef::ref_from_prefix(rest).ok()?;
        rest = after;
        into.push(ChunkRef {
            location: Location(chunk.location.get()),
            mirror: Location(chunk.mirror.get()),
            blocks: chunk.blocks.get(),
            checksum: chunk.checksum.get(),
            lsn: Lsn(chunk.lsn.get()),
        });
    }
    Some(rest)
}
