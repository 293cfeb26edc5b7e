//! Segment header: the first block of every segment that was ever written.
//!
//! Invariant: `decode(encode(x)) == x`, and any changed byte is refused.
//! Must never know: what the batches behind it hold.

#[cfg(test)]
pub(super) mod layout;

use super::{DecodeError, FLAG_COLD, LAYOUT_VERSION, Seal};
use crate::units::{BLOCK_SIZE_BYTES, Location, SegmentSequence};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First bytes of every segment header.
pub const SEGMENT_MAGIC: [u8; 8] = *b"ashSEGMT";

/// Bytes 0..12: magic and checksum, not covered by the checksum.
const CHECKED_FROM: usize = 12;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
pub(super) struct RawSegment {
    pub(super) magic: [u8; 8],
    pub(super) checksum: U32,
    pub(super) version: U32,
    pub(super) device: [u8; 16],
    pub(super) sequence: U64,
    pub(super) location: U32,
    pub(super) flags: U32,
}
const _: () = assert!(size_of::<RawSegment>() == 48);

/// Decoded segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The segment's life.
    pub sequence: SegmentSequence,
    /// Where the header is: the segment's first block.
    pub location: Location,
    /// [`FLAG_COLD`] or 0.
    pub flags: u16,
}

impl SegmentHeader {
    /// Fills the segment's first block.
    pub fn encode(&self, seal: &Seal, block: &mut [u8]) {
        block.fill(0);
        let mut raw = RawSegment {
            magic: SEGMENT_MAGIC,
            checksum: 0.into(),
            version: LAYOUT_VERSION.into(),
            device: seal.device().0,
            sequence: self.sequence.0.into(),
            location: self.location.0.into(),
            flags: u32::from(self.flags).into(),
        };
        block[..size_of::<RawSegment>()].copy_from_slice(raw.as_bytes());
        let sum = seal.place_checksum(self.sequence, self.location, &block[CHECKED_FROM..]);
        raw.checksum = sum.into();
        block[..size_of::<RawSegment>()].copy_from_slice(raw.as_bytes());
    }

    /// Decodes the block found at `location`.
    ///
    /// # Errors
    /// If it is not a segment header of this device for this place.
    pub fn decode(
        seal: &Seal,
        location: Location,
        block: &[u8],
    ) -> Result<SegmentHeader, DecodeError> {
        let Ok((raw, _)) = RawSegment::ref_from_prefix(block) else {
            return Err(DecodeError::NotHere);
        };
        let sequence = SegmentSequence(raw.sequence.get());
        if raw.magic != SEGMENT_MAGIC
            || raw.device != seal.device().0
            || raw.location.get() != location.0
            || block.len() != BLOCK_SIZE_BYTES
            || raw.checksum.get() != seal.place_checksum(sequence, location, &block[CHECKED_FROM..])
        {
            return Err(DecodeError::NotHere);
        }
        let flags = raw.flags.get();
        if flags > u32::from(FLAG_COLD) || sequence.0 == 0 {
            return Err(DecodeError::Inconsistent);
        }
        Ok(SegmentHeader { sequence, location, flags: flags as u16 })
    }
}
