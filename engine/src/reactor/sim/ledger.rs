//! The ledger of damage at rest: what was done where, and what became of it.
//!
//! Invariant: every damaged block has at least one open entry, and an entry is open until its block
//! is written, healed or restored.
//! Must never know: whether what read the damage noticed.

use super::faults::FaultKind;
use crate::units::{BLOCK_SIZE_BYTES, Nanos};
use std::collections::BTreeMap;
use std::ops::Range;

/// Damage at rest in one block. Whether it was detected, the reader of the bytes knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// What did it.
    pub kind: FaultKind,
    /// First damaged byte.
    pub offset_bytes: u64,
    /// Damaged bytes.
    pub len_bytes: u64,
    /// When.
    pub at: Nanos,
    /// Times that a read was given the block since, damage included.
    pub reads: u64,
    /// When the block was written again, healed or restored.
    pub gone: Option<Nanos>,
}

/// All damage of a disk.
#[derive(Default)]
pub(super) struct Ledger {
    entries: Vec<Corruption>,
    /// Open entries by block.
    open: BTreeMap<u64, Vec<usize>>,
}

impl Ledger {
    pub(super) fn add(&mut self, kind: FaultKind, bytes: Range<u64>, at: Nanos) {
        let block = bytes.start / BLOCK_SIZE_BYTES as u64;
        self.open.entry(block).or_default().push(self.entries.len());
        let (offset_bytes, len_bytes) = (bytes.start, bytes.end - bytes.start);
        self.entries.push(Corruption { kind, offset_bytes, len_bytes, at, reads: 0, gone: None });
    }

    /// A block with damage was read.
    pub(super) fn read(&mut self, block: u64) {
        for entry in self.open.get(&block).into_iter().flatten() {
            self.entries[*entry].reads += 1;
        }
    }

    /// The damage of a block is no more.
    pub(super) fn close(&mut self, block: u64, now: Nanos) {
        for entry in self.open.remove(&block).into_iter().flatten() {
            self.entries[entry].gone = Some(now);
        }
    }

    pub(super) fn close_all(&mut self, now: Nanos) {
        for entry in std::mem::take(&mut self.open).into_values().flatten() {
            self.entries[entry].gone = Some(now);
        }
    }

    pub(super) fn entries(&self) -> &[Corruption] {
        &self.entries
    }
}
