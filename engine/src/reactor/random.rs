//! Random streams: each named use has its own, so that one more draw here changes nothing there.
//!
//! Not for secrets. Must never know: who draws, and why.

/// A small, fast generator (xoshiro256++).
#[derive(Clone, Debug)]
pub struct RandomStream {
    state: [u64; 4],
}

impl RandomStream {
    /// A stream that depends on `seed` alone.
    #[must_use]
    pub fn from_seed(seed: u64) -> RandomStream {
        let mut mixer = SplitMix(seed);
        RandomStream { state: std::array::from_fn(|_| mixer.next()) }
    }

    /// A stream that depends on `seed` and `name`.
    #[must_use]
    pub fn named(seed: u64, name: &str) -> RandomStream {
        let mut mixer = SplitMix(seed);
        for byte in name.bytes() {
            mixer.0 ^= u64::from(byte);
            mixer.0 = mixer.next();
        }
        RandomStream::from_seed(mixer.0)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let state = &mut self.state;
        let result = state[0].wrapping_add(state[3]).rotate_left(23).wrapping_add(state[0]);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        result
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below 0");
        // Multiply and shift: the bias is below 2^-64 * bound, far too small to matter here.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Fills `bytes`.
    pub fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// Spreads a seed over many words.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_and_name_and_repeat() {
        let draw = |seed, name| {
            let mut bytes = [0; 21];
            RandomStream::named(seed, name).fill_bytes(&mut bytes);
            bytes
        };
        assert_eq!(draw(1, "disk"), draw(1, "disk"));
        assert_ne!(draw(1, "disk"), draw(1, "net"));
        assert_ne!(draw(1, "disk"), draw(2, "disk"));
    }

    #[test]
    fn below_reaches_every_number_and_none_beyond() {
        let mut random = RandomStream::from_seed(3);
        let mut seen = [0_u32; 7];
        for _ in 0..7000 {
            seen[random.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (800..1200).contains(&count)), "{seen:?}");
    }
}
