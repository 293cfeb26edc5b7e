//! Superblock: what the device is, and where its newest checkpoint is. Two copies.
//!
//! Invariants: the copy with the higher generation wins; both copies of a generation are written,
//! one after the other, each durable, before anything the older generation needs is overwritten.
//! Must never know: what the checkpoint holds.

#[cfg(test)]
pub(super) mod layout;

use super::{DeviceId, FORMAT_VERSION, FORMAT_VERSION_OLDEST, checksum};
use crate::limits::{
    SEGMENT_BLOCKS_MAX, SEGMENT_BLOCKS_MIN, SEGMENTS_MIN, SEGMENTS_START_BLOCK, STORE_MAX_BYTES,
};
use crate::units::{BLOCK_SIZE_BYTES, Location, Lsn};
use std::fmt;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where the two copies are: 1 MiB apart, so one bad spot does not reach both.
pub const SUPERBLOCK_LOCATIONS: [Location; 2] = [Location(0), Location(256)];

const MAGIC: [u8; 8] = *b"ASHLAR\x01\n";

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    /// Over every byte of the block after this field.
    checksum: U32,
    device: [u8; 16],
    generation: U64,
    segment_blocks: U32,
    segments: U32,
    root_location: U32,
    root_blocks: U32,
    root_checksum: U32,
    copy: U32,
    root_lsn: U64,
    root_mirror: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<Raw>() == 80);
const CHECKED_FROM: usize = 16;

/// Decoded superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The format of everything on the device: a store keeps the version it was made with.
    pub version: u32,
    /// Identity of the device.
    pub device: DeviceId,
    /// Grows by one with every checkpoint.
    pub generation: u64,
    /// Blocks of a segment.
    pub segment_blocks: u32,
    /// Number of segments.
    pub segments: u32,
    /// First block of the newest checkpoint's root; 0 if the store is empty and never checkpointed.
    pub root_location: Location,
    /// First block of the root's second copy.
    pub root_mirror: Location,
    /// Blocks of the root.
    pub root_blocks: u32,
    /// CRC-32 of the root's bytes.
    pub root_checksum: u32,
    /// The state the root describes is the log up to and including this batch.
    pub root_lsn: Lsn,
}

/// Why a block is no superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuperblockError {
    /// No Ashlar magic.
    NotAStore,
    /// Written by a newer version.
    Version {
        /// The version found.
        found: u32,
    },
    /// The checksum does not match.
    Checksum,
    /// The checksum matches but the values contradict each other.
    Inconsistent,
}

impl fmt::Display for SuperblockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAStore => f.write_str("this is not an Ashlar store"),
            Self::Version { found } => write!(
                f,
                "the store has format version {found}, this program knows {FORMAT_VERSION}; \
                 use a newer ashlar"
            ),
            Self::Checksum => f.write_str("the superblock is damaged (checksum)"),
            Self::Inconsistent => f.write_str("the superblock is damaged (impossible values)"),
        }
    }
}

impl Superblock {
    /// Blocks on the device that the store uses.
    #[must_use]
    pub fn device_blocks(&self) -> u64 {
        u64::from(SEGMENTS_START_BLOCK) + u64::from(self.segment_blocks) * u64::from(self.segments)
    }

    /// Bytes of the copy with this number (0 or 1).
    #[must_use]
    pub fn encode(&self, copy: u32) -> [u8; BLOCK_SIZE_BYTES] {
        let mut raw = Raw {
            magic: MAGIC,
            version: self.version.into(),
            checksum: 0.into(),
            device: self.device.0,
            generation: self.generation.into(),
            segment_blocks: self.segment_blocks.into(),
            segments: self.segments.into(),
            root_location: self.root_location.0.into(),
            root_blocks: self.root_blocks.into(),
            root_checksum: self.root_checksum.into(),
            copy: copy.into(),
            root_lsn: self.root_lsn.0.into(),
            root_mirror: self.root_mirror.0.into(),
            reserved: 0.into(),
        };
        let mut block = [0; BLOCK_SIZE_BYTES];
        block[..size_of::<Raw>()].copy_from_slice(raw.as_bytes());
        raw.checksum = checksum(self.version, &block[CHECKED_FROM..]).into();
        block[..size_of::<Raw>()].copy_from_slice(raw.as_bytes());
        block
    }

    /// Decodes the copy with this number.
    ///
    /// # Errors
    /// Says whether the block is no superblock, a newer one, or a damaged one.
    pub fn decode(block: &[u8], copy: u32) -> Result<Superblock, SuperblockError> {
        let Ok((raw, _)) = Raw::ref_from_prefix(block) else {
            return Err(SuperblockError::NotAStore);
        };
        if raw.magic != MAGIC || block.len() != BLOCK_SIZE_BYTES {
            return Err(SuperblockError::NotAStore);
        }
        // The version is outside the checksum: a newer version may checksum differently.
        if raw.version.get() > FORMAT_VERSION {
            return Err(SuperblockError::Version { found: raw.version.get() });
        }
        if raw.checksum.get() != checksum(raw.version.get(), &block[CHECKED_FROM..]) {
            return Err(SuperblockError::Checksum);
        }
        let superblock = Superblock {
            version: raw.version.get(),
            device: DeviceId(raw.device),
            generation: raw.generation.get(),
            segment_blocks: raw.segment_blocks.get(),
            segments: raw.segments.get(),
            root_location: Location(raw.root_location.get()),
            root_blocks: raw.root_blocks.get(),
            root_checksum: raw.root_checksum.get(),
            root_lsn: Lsn(raw.root_lsn.get()),
            root_mirror: Location(raw.root_mirror.get()),
        };
        if raw.copy.get() == copy && superblock.is_consistent() {
            Ok(superblock)
        } else {
            Err(SuperblockError::Inconsistent)
        }
    }

    fn is_consistent(&self) -> bool {
        let last_copy = self.root_location.0.max(self.root_mirror.0);
        let root_end = u64::from(last_copy) + u64::from(self.root_blocks);
        self.version >= FORMAT_VERSION_OLDEST
            && (SEGMENT_BLOCKS_MIN..=SEGMENT_BLOCKS_MAX).contains(&self.segment_blocks)
            && self.segments >= SEGMENTS_MIN
            && self.device_blocks() <= STORE_MAX_BYTES / BLOCK_SIZE_BYTES as u64
            && root_end <= self.device_blocks()
            && [self.root_location, self.root_mirror].iter().all(|root| {
                (root.0 == 0) == (self.root_blocks == 0)
                    && (root.0 == 0 || root.0 >= SEGMENTS_START_BLOCK)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Superblock {
        Superblock {
            version: FORMAT_VERSION,
            device: DeviceId([7; 16]),
            generation: 3,
            segment_blocks: 1024,
            segments: 20,
            root_location: Location(600),
            root_mirror: Location(700),
            root_blocks: 2,
            root_checksum: 99,
            root_lsn: Lsn(12),
        }
    }

    #[test]
    fn round_trip_and_copy_number() {
        let block = sample().encode(1);
        assert_eq!(Superblock::decode(&block, 1), Ok(sample()));
        assert_eq!(Superblock::decode(&block, 0), Err(SuperblockError::Inconsistent));
        assert_eq!(Superblock::decode(&[0; 4096], 0), Err(SuperblockError::NotAStore));
        assert_eq!(Superblock::decode(&[], 0), Err(SuperblockError::NotAStore));
    }

    #[test]
    fn newer_version_is_named_and_older_ones_are_kept() {
        let of = |version| Superblock { version, ..sample() };
        let decoded = |version| Superblock::decode(&of(version).encode(0), 0);
        let newer = FORMAT_VERSION + 1;
        assert_eq!(decoded(newer), Err(SuperblockError::Version { found: newer }));
        for version in FORMAT_VERSION_OLDEST..=FORMAT_VERSION {
            assert_eq!(decoded(version), Ok(of(version)));
        }
        assert_eq!(decoded(0), Err(SuperblockError::Inconsistent));
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_refused(at in 0usize..4096, bit in 0u8..8) {
            let mut block = sample().encode(0);
            block[at] ^= 1 << bit;
            prop_assert!(Superblock::decode(&block, 0).is_err());
        }
    }
}
