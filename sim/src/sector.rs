//! What a written sector holds: who wrote it, where, as which request, and a checksum over that.
//!
//! Every word of a sector follows from its stamp, so a sector is proved whole: of this volume, of
//! this address, by one request. Anything else is foreign. Must never know: how it travelled.

/// Bytes of a sector: the unit in which a disk tears.
pub const SECTOR_BYTES: usize = 512;
/// Sectors of a block of the store.
pub const BLOCK_SECTORS: u64 = 8;

const WORDS: usize = SECTOR_BYTES / 8;
const MAGIC: u64 = 0x524f_5443_4553_4153;

/// Who wrote a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// The volume's life: a name that is used again gets another one.
    pub volume: u64,
    /// Sector of the volume.
    pub address: u64,
    /// The client.
    pub writer: u64,
    /// Number of the request in the volume's history; never 0.
    pub sequence: u64,
}

/// What a sector turned out to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Only zeroes.
    Zero,
    /// One whole stamp.
    Written(Stamp),
    /// Neither: the first words.
    Foreign([u64; 2]),
}

/// The finisher of a well-known generator (splitmix64): every bit depends on every bit.
#[must_use]
pub fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl Stamp {
    fn words(&self) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        words[..5].copy_from_slice(&[MAGIC, self.volume, self.address, self.writer, self.sequence]);
        let checksum = words[..5].iter().fold(0, |sum, word| mix(sum ^ word));
        for (i, word) in words.iter_mut().enumerate().skip(5) {
            *word = checksum.rotate_left(i as u32) ^ i as u64;
        }
        words
    }

    /// Fills a sector.
    pub fn encode(&self, sector: &mut [u8]) {
        for (bytes, word) in sector.chunks_exact_mut(8).zip(self.words()) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }
}

impl Content {
    /// Takes a sector apart.
    #[must_use]
    pub fn decode(sector: &[u8]) -> Content {
        if sector.iter().all(|byte| *byte == 0) {
            return Content::Zero;
        }
        let word = |i: usize| {
            let bytes = sector.get(i * 8..i * 8 + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_le_bytes)
        };
        let stamp = Stamp { volume: word(1), address: word(2), writer: word(3), sequence: word(4) };
        let whole = stamp.words().iter().enumerate().all(|(i, expected)| word(i) == *expected);
        match whole && sector.len() == SECTOR_BYTES {
            true => Content::Written(stamp),
            false => Content::Foreign([word(0), word(1)]),
        }
    }
}

/// Fills a payload that starts at sector `first`.
pub fn encode_all(volume: u64, first: u64, writer: u64, sequence: u64, payload: &mut [u8]) {
    for (i, sector) in payload.chunks_exact_mut(SECTOR_BYTES).enumerate() {
        Stamp { volume, address: first + i as u64, writer, sequence }.encode(sector);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { volume: 3, address: 99, writer: 2, sequence: 17 };

    #[test]
    fn a_stamp_comes_back_and_every_flipped_bit_is_seen() {
        let mut sector = [0; SECTOR_BYTES];
        assert_eq!(Content::decode(&sector), Content::Zero);
        STAMP.encode(&mut sector);
        assert_eq!(Content::decode(&sector), Content::Written(STAMP));
        for bit in 0..SECTOR_BYTES * 8 {
            sector[bit / 8] ^= 1 << (bit % 8);
            let found = Content::decode(&sector);
            assert!(matches!(found, Content::Foreign(_)), "bit {bit}: {found:?}");
            sector[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn halves_of_two_sectors_are_foreign() {
        let (mut one, mut two) = ([0; SECTOR_BYTES], [0; SECTOR_BYTES]);
        STAMP.encode(&mut one);
        Stamp { sequence: 18, ..STAMP }.encode(&mut two);
        one[256..].copy_from_slice(&two[256..]);
        assert!(matches!(Content::decode(&one), Content::Foreign(_)));
    }
}
