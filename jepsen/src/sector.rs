//! Self-describing sectors: every 512 bytes written by a run say what they are and who wrote them.
//!
//! Invariant: `decode(encode(stamp, volume, sector))` at the same place gives the stamp back, and
//! bytes from another volume, another address or half a sector never pass. The checksum is a CRC-32
//! at the end on purpose: data of that kind defeats a store that relies on CRCs itself.

/// Bytes of a sector.
pub const SECTOR_SIZE_BYTES: usize = 512;

const MAGIC: u64 = 0x4153_484c_4152_5345;
/// Where the checksum of everything before it stands.
const CHECKSUM_AT: usize = SECTOR_SIZE_BYTES - 4;

/// Who wrote a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the connection.
    pub writer: u32,
    /// Number of the request; unique in its volume over the whole run, never 0.
    pub sequence: u64,
}

/// A place: volume and sector number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the volume in the run.
    pub volume: u64,
    /// Number of the sector in the volume.
    pub sector: u64,
}

/// What a sector turned out to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// All zero bytes.
    Zero,
    /// Written by a request of this run, at this place.
    Written(Stamp),
    /// Anything else, and what is wrong with it.
    Foreign(String),
}

/// Fills one sector.
pub fn encode(bytes: &mut [u8], place: Place, stamp: Stamp) {
    assert_eq!(bytes.len(), SECTOR_SIZE_BYTES, "one sector at a time");
    let filler = stamp.sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ place.sector;
    for word in bytes.chunks_exact_mut(8) {
        word.copy_from_slice(&filler.to_le_bytes());
    }
    bytes[0..8].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[8..16].copy_from_slice(&place.volume.to_le_bytes());
    bytes[16..24].copy_from_slice(&place.sector.to_le_bytes());
    bytes[24..32].copy_from_slice(&stamp.sequence.to_le_bytes());
    bytes[32..36].copy_from_slice(&stamp.writer.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..CHECKSUM_AT]);
    bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads one sector.
pub fn decode(bytes: &[u8], place: Place) -> Content {
    assert_eq!(bytes.len(), SECTOR_SIZE_BYTES, "one sector at a time");
    let word = |at: usize| {
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("invariant: eight bytes"))
    };
    if word(0) == 0 && bytes.iter().all(|b| *b == 0) {
        return Content::Zero;
    }
    if word(0) != MAGIC {
        return Content::Foreign("bytes that no writer of this run wrote".into());
    }
    let checksum = crc32fast::hash(&bytes[..CHECKSUM_AT]).to_le_bytes();
    if checksum != bytes[CHECKSUM_AT..] {
        return Content::Foreign(format!("a damaged sector of request {}", word(24)));
    }
    let found = Place { volume: word(8), sector: word(16) };
    if found != place {
        return Content::Foreign(format!("{found:?}, written by request {}", word(24)));
    }
    let writer = word(32) as u32;
    Content::Written(Stamp { writer, sequence: word(24) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_place_and_whole_bytes_pass() {
        let place = Place { volume: 1, sector: 77 };
        let stamp = Stamp { writer: 3, sequence: 9 };
        let mut bytes = [0u8; SECTOR_SIZE_BYTES];
        assert_eq!(decode(&bytes, place), Content::Zero);
        encode(&mut bytes, place, stamp);
        assert_eq!(decode(&bytes, place), Content::Written(stamp));
        let elsewhere = Place { volume: 1, sector: 78 };
        assert!(matches!(decode(&bytes, elsewhere), Content::Foreign(_)));
        let mut half = bytes;
        half[256..].fill(0);
        assert!(matches!(decode(&half, place), Content::Foreign(_)));
    }
}
