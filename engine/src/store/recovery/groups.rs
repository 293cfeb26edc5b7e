//! Groups at start: what the checkpoint says of them, then what the log after it does.
//!
//! Entries are put into tables, never applied: their owner applies them again from where the
//! checkpoint is. An entry that is retained and not applied must have its batch's table at hand, so
//! the segments of those before the checkpoint's LSN are scanned as well.
//! Invariant: an entry that was durable is in its table, whole or as damaged, or the store is
//! refused.
//! Must never know: what entries mean.

#[cfg(test)]
mod tests;

use super::tail::Found;
use super::{Recovery, corrupt};
use crate::error::Result;
use crate::format::{GroupImage, decode_group_piece};
use crate::store::Store;
use crate::units::Location;
use std::collections::{BTreeMap, BTreeSet};

/// Batches up to the checkpoint that hold entries which are not applied.
#[derive(Debug, Default)]
pub(super) struct Older {
    wanted: BTreeSet<Location>,
    found: BTreeMap<Location, Found>,
}

impl Older {
    /// Whether the batch with this header is needed.
    pub(super) fn wants(&self, header: Location) -> bool {
        self.wanted.contains(&header)
    }

    pub(super) fn insert(&mut self, found: Found) {
        self.found.insert(found.table.of.location, found);
    }

    /// Headers of all that are needed.
    pub(super) fn wanted(&self) -> impl Iterator<Item = Location> {
        self.wanted.iter().copied()
    }
}

impl Recovery {
    /// Takes the groups' part of the checkpoint out of what was read.
    pub(super) fn load_groups(&mut self) -> Result<()> {
        let pieces = self
            .chunks
            .extract_if(.., |(reference, bytes)| decode_group_piece(bytes, reference).is_some());
        let pieces: Vec<_> = pieces.collect();
        let parts = pieces.iter().filter_map(|(reference, bytes)| {
            let bytes: &[u8] = bytes;
            decode_group_piece(bytes, reference)
        });
        let parts: BTreeMap<_, _> = parts.collect();
        let expected = 0..self.root.groups.len() as u32;
        if !parts.keys().copied().eq(expected) {
            return Err(corrupt("the checkpoint's groups contradict themselves"));
        }
        let bytes = parts.into_values().collect::<Vec<_>>().concat();
        let store = self.store.as_mut().expect("invariant: the superblock was read");
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (image, after) = GroupImage::decode(rest)
                .ok_or_else(|| corrupt("the checkpoint's groups contradict themselves"))?;
            rest = after;
            store.restore_group(image);
        }
        self.tail.older.wanted = store.unsourced().collect();
        Ok(())
    }

    /// After the tail: every entry that is not applied gets its batch, or counts as damaged.
    pub(super) fn settle_groups(&mut self) {
        let found = std::mem::take(&mut self.tail.older.found);
        let store = self.store.as_mut().expect("invariant: the superblock was read");
        store.source_older(&found);
        store.count_unapplied();
    }
}

impl Store {
    /// Takes the older batches that entries are in.
    fn source_older(&mut self, found: &BTreeMap<Location, Found>) {
        let headers: Vec<_> = self.unsourced().collect();
        for header in headers {
            let batch = found.get(&header);
            self.source(header, batch.map(|batch| (&batch.table, &batch.bad[..])));
        }
    }
}
