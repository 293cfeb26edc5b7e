//! Scores of (group, store) pairs: `-log2(u) / weight`, with `u` a hash of the pair in (0, 1].
//!
//! Of independent exponential variables with rates w1, w2, ... the smallest is the i-th with
//! probability wi / sum, whatever else there is; that is what makes shares follow weights.
//! The logarithm is fixed point, since libraries of different machines round theirs differently.
//!
//! Invariant: a change of any bit here moves data in every cluster; golden vectors hold it.
//! Must never know: domains, labels.

/// Largest weight of a store. Up to here a score keeps 46 significant bits.
pub const WEIGHT_MAX: u32 = 1 << 16;

/// Bits behind the point of [`neg_log2`].
const FRACTION_BITS: u32 = 44;
/// Bits behind the point of the small terms.
const TERM_BITS: u32 = 60;
/// `1 / ln 2` with [`TERM_BITS`] behind the point.
const INVERSE_LN2: u64 = 0x1715_4765_2b82_fe17;
/// `log2(1 + i / 256)` with [`FRACTION_BITS`] behind the point.
const LOG2: [u64; 256] = table();

/// A store's score for a group; the smaller, the better. `weight` is not 0.
pub(super) fn score(group: u64, store: u64, weight: u32) -> u64 {
    let weight = u64::from(weight.clamp(1, WEIGHT_MAX));
    // At most 64 << 44, so 13 more bits fit.
    (neg_log2(hash(group, store)) << 13) / weight
}

/// The pair's hash.
pub(super) fn hash(group: u64, store: u64) -> u64 {
    mix(mix(group ^ 0x6173_686c_6172_2031) ^ mix(store.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

/// The finaliser of SplitMix64: every input bit turns about half of the output bits.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// `-log2(hash / 2^64)` with [`FRACTION_BITS`] behind the point; 0 counts as 1.
pub(super) fn neg_log2(hash: u64) -> u64 {
    let value = hash | 1;
    let zeros = value.leading_zeros();
    let mantissa = value << zeros; // 1.xxx with 63 bits behind the point.
    let first = mantissa >> 55; // 256 + the first 8 bits behind the point.
    // mantissa = first * (1 + rest), rest < 2^-8.
    let rest = ((mantissa - (first << 55)) << 5) / first;
    let times = |a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> TERM_BITS) as u64;
    let square = times(rest, rest);
    let cube = times(square, rest);
    let series = rest - square / 2 + cube / 3 - times(square, square) / 4;
    let small = times(series, INVERSE_LN2) >> (TERM_BITS - FRACTION_BITS);
    let fraction = LOG2[(first & 255) as usize] + small;
    (u64::from(zeros + 1) << FRACTION_BITS).saturating_sub(fraction)
}

/// Bit by bit: squaring a number doubles its logarithm, whose integer part is the next bit.
const fn table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut value = (256 + i as u128) << 55;
        let mut bit = FRACTION_BITS;
        while bit > 0 {
            bit -= 1;
            value = (value * value) >> 63;
            if value >> 64 != 0 {
                value >>= 1;
                table[i] |= 1 << bit;
            }
        }
        i += 1;
    }
    table
}
