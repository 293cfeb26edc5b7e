//! The trace: one number that every step of a world goes into.
//!
//! Must never know: what the words mean.

/// Odd, with its bits well mixed: 2^64 divided by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// A rolling hash of words, and how many there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trace {
    hash: u64,
    words: u64,
}

/// What a line of the trace is about: the first word of each step.
#[derive(Clone, Copy)]
#[repr(u64)]
pub(super) enum Step {
    Task = 1,
    Process,
    Crash,
    DiskSubmit,
    DiskEnd,
    DiskDamage,
    NetConnect,
    NetSend,
    NetArrive,
    NetReceive,
    NetClose,
}

impl Trace {
    pub(super) fn new(seed: u64) -> Trace {
        Trace { hash: seed, words: 0 }
    }

    pub(super) fn add(&mut self, step: Step, words: &[u64]) {
        self.word(step as u64);
        words.iter().for_each(|word| self.word(*word));
    }

    fn word(&mut self, word: u64) {
        self.words += 1;
        self.hash = (self.hash ^ word).wrapping_mul(FACTOR).rotate_left(29);
    }

    pub(super) fn hash(&self) -> u64 {
        let hash = (self.hash ^ self.words).wrapping_mul(FACTOR);
        hash ^ (hash >> 32)
    }
}
