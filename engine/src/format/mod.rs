//! All bytes on the device, format version 1. `docs/format.md` shows the same as tables.
//!
//! Invariants: every structure is little-endian, has no hidden padding, proves its size at compile
//! time and starts with a magic and a checksum. Checksums are seeded with the device, the segment's
//! life and the place, so recycled or misdirected bytes never validate.
//! Must never know: I/O, time, what the engine does with a record.

#[cfg(test)]
#[macro_use]
mod layout;

mod batch;
mod checkpoint;
mod group;
mod group_table;
mod record;
mod segment;
mod superblock;
#[cfg(test)]
mod tests;

pub use batch::{
    BATCH_MAGIC, BatchHeader, BatchTable, DecodeError, FLAG_COLD, FLAG_SEAL, Previous, Table,
    TableCopy, decode_batch, encode_batch, header_blocks, peek_sequence,
};
pub use checkpoint::{
    ChunkImage, ChunkReader, ChunkRef, ChunkWriter, IMAGE_DENSE_BYTES, LeafForm, Root, RootVolume,
    decode_chunk, decode_root, encode_root, validate_volume_name,
};
pub use group::{head_blocks, inline_of, padded};
pub use group_table::{
    EntryImage, EntryState, GroupImage, decode_group_piece, encode_group_pieces,
};
pub use record::{Record, RecordKind};
pub use segment::{SEGMENT_MAGIC, SegmentHeader};
pub use superblock::{SUPERBLOCK_LOCATIONS, Superblock, SuperblockError};

use crate::units::{BlockIndex, Location, SegmentSequence, VolumeId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Format version of new stores.
pub const FORMAT_VERSION: u32 = 2;
/// Oldest version that this code reads and goes on writing. Version 1 proves blocks by a CRC-32.
pub const FORMAT_VERSION_OLDEST: u32 = 1;
/// Version that segment headers, batches and checkpoints carry: their layout, the same in every
/// format version so far.
const LAYOUT_VERSION: u32 = 1;

/// Identity of a formatted device; random, chosen at format time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceId(pub [u8; 16]);

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a block's bytes are bound to besides the bytes themselves.
#[derive(Clone, Copy, Debug)]
pub struct BlockIdentity {
    /// Life of the segment that holds the block.
    pub sequence: SegmentSequence,
    /// Where it is on the device.
    pub location: Location,
    /// Whose block it is.
    pub volume: VolumeId,
    /// Which block of that volume.
    pub block: BlockIndex,
}

/// Seeds checksums for one device: derived once from its id.
#[derive(Clone, Copy, Debug)]
pub struct Seal {
    device: DeviceId,
    version: u32,
    salt: u64,
}

impl Seal {
    /// The seal of a store of this format version on `device`.
    #[must_use]
    pub fn new(device: DeviceId, version: u32) -> Seal {
        let (low, high) = device.0.split_at(8);
        let word = |half: &[u8]| u64::from_le_bytes(half.try_into().expect("invariant: 8 bytes"));
        Seal { device, version, salt: mix(word(low)) ^ mix(word(high).rotate_left(32)) }
    }

    /// The device it was made for.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// XXH3 of a block, seeded with the identity the block must have; the low 32 bits.
    ///
    /// Not a CRC: a CRC is linear, so it is the same for all bytes that end in their own CRC, and
    /// clients store such sectors and pages. Another block's bytes, or a torn mix, would pass.
    /// Stores of version 1 have a CRC-32 here all the same.
    #[must_use]
    pub fn block_checksum(&self, identity: BlockIdentity, bytes: &[u8]) -> u32 {
        let place = mix(self.salt ^ identity.sequence.0).wrapping_add(identity.location.0.into());
        let owner = mix(place).wrapping_add(u64::from(identity.volume.0));
        let seed = mix(mix(owner).wrapping_add(identity.block.0));
        if self.version == 1 {
            return checksum(seed as u32, bytes);
        }
        xxh3_64_with_seed(bytes, seed) as u32
    }

    /// CRC-32 (IEEE) of a structure, seeded with where it must be.
    #[must_use]
    pub fn place_checksum(
        &self,
        sequence: SegmentSequence,
        location: Location,
        bytes: &[u8],
    ) -> u32 {
        let place = mix(self.salt ^ sequence.0).wrapping_add(location.0.into());
        checksum(mix(place) as u32, bytes)
    }
}

/// CRC-32 (IEEE 802.3) of `bytes`, started from `seed`.
pub(crate) fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}
