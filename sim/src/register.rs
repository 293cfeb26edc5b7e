//! Is what was written to and read from one register linearisable?
//!
//! Where every value was written once, zones decide (Gibbons and Korach): the time in which a value
//! must have stood is compared with that of every other. Zeroes are written many times; there a
//! search over the orders of concurrent writes decides, bounded, or says that it cannot.
//! Must never know: what a register is.

mod search;
#[cfg(test)]
mod tests;
mod zones;

/// A write, from when it was asked to when it had happened at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// What it wrote.
    pub value: u64,
    /// When it was asked.
    pub begin: u64,
    /// When it was answered, or could no longer happen.
    pub end: u64,
    /// It may as well not have happened at all: nobody answered.
    pub optional: bool,
}

/// A read that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// What it saw.
    pub value: u64,
    /// When it was asked.
    pub begin: u64,
    /// When it was answered.
    pub end: u64,
}

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Some order explains everything.
    Valid,
    /// None does, and why.
    Invalid(String),
    /// Too many orders to look at.
    Unknown,
}

/// Judges one register that held `initial` before everything.
#[must_use]
pub fn check(initial: u64, writes: &[Write], reads: &[Read]) -> Verdict {
    let read = |value: u64| reads.iter().any(|read| read.value == value);
    let mut values: Vec<u64> = writes.iter().map(|write| write.value).collect();
    values.push(initial);
    values.sort_unstable();
    let twice = |value: u64| {
        let first = values.partition_point(|other| *other < value);
        values.get(first + 1) == Some(&value)
    };
    // What nobody saw and nobody answered need not have happened.
    let writes: Vec<Write> =
        writes.iter().filter(|write| !write.optional || read(write.value)).copied().collect();
    let ambiguous = |write: &Write| twice(write.value);
    if writes.iter().any(ambiguous) {
        search::check(initial, &writes, reads)
    } else {
        zones::check(initial, &writes, reads)
    }
}
