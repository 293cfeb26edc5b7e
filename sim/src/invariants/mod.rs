//! What must hold, one file each. The letters are those of docs/testing.md.
//!
//! Must never know: how the world is driven.

pub mod atomic;
pub mod foreign;
pub mod linearizable;
pub mod survives;
#[cfg(test)]
mod tests;

use std::fmt;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub invariant: &'static str,
    /// What was seen, for a person.
    pub what: String,
}

impl Violation {
    /// A broken promise.
    pub fn new(invariant: &'static str, what: impl Into<String>) -> Violation {
        Violation { invariant, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}
