//! The checkpoint as read, into the store: volumes, groups, index, segments.
//!
//! Must never know: the log after it.

use super::ReadResult;
use super::{Recovery, Step, corrupt};
use crate::error::Result;
use crate::format::{ChunkRef, decode_chunk, decode_group_piece};
use crate::store::leaf::Leaf;
use crate::store::segments::{Segment, State};
use crate::store::volumes::Volumes;
use crate::units::SegmentSequence;
use std::collections::VecDeque;

fn is_whole(bytes: &[u8], reference: &ChunkRef) -> bool {
    decode_chunk(bytes, reference).is_some() || decode_group_piece(bytes, reference).is_some()
}

impl Recovery {
    /// Everything that the root refers to.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &ChunkRef> {
        self.root.chunks.iter().chain(&self.root.groups)
    }

    pub(super) fn take_chunks(
        &mut self,
        next: usize,
        mirrors: bool,
        mut damaged: Vec<ChunkRef>,
        results: Vec<ReadResult>,
    ) -> Result<Step> {
        let taken = results.len();
        let references: Vec<ChunkRef> = if mirrors {
            damaged.drain(..taken).collect()
        } else {
            self.pieces().skip(next).take(taken).copied().collect()
        };
        for (reference, result) in references.into_iter().zip(results) {
            match result {
                Ok(bytes) if is_whole(&bytes, &reference) => {
                    if mirrors {
                        sometimes!("recovery: a chunk's mirror was used");
                    }
                    self.chunks.push((reference, bytes));
                }
                _ if mirrors => {
                    return Err(corrupt("both copies of a piece of the index are damaged"));
                }
                _ => damaged.push(reference),
            }
        }
        if !mirrors && next + taken < self.pieces().count() {
            return Ok(Step::Chunks { next: next + taken, mirrors, damaged });
        }
        if !damaged.is_empty() {
            return Ok(Step::Chunks { next: 0, mirrors: true, damaged });
        }
        self.load_chunks()?;
        Ok(Step::Headers { next: 0, unknown: VecDeque::new() })
    }

    /// Fills the volume table from the root.
    pub(super) fn load_volumes(&mut self) {
        let store = self.store.as_mut().expect("invariant: the superblock was read");
        store.volumes = Volumes::new(self.root.next_volume);
        for volume in &self.root.volumes {
            store.index.create(volume.id);
            store.volumes.created(volume.clone());
        }
        store.checkpointer.restore_root(&store.superblock);
        store.checkpointer.restore_groups(self.root.groups.clone());
    }

    /// Fills the index from the chunks, older images first.
    pub(super) fn load_chunks(&mut self) -> Result<()> {
        self.load_groups()?;
        let store = self.store.as_mut().expect("invariant: the superblock was read");
        self.chunks.sort_by_key(|(reference, _)| reference.lsn);
        for (reference, bytes) in std::mem::take(&mut self.chunks) {
            let images: Vec<_> = decode_chunk(&bytes, &reference).into_iter().flatten().collect();
            let leaves = images.iter().map(|image| (image.volume, image.leaf)).collect();
            let number = store.checkpointer.restore_chunk(reference, leaves);
            for image in images {
                let leaf = Leaf::decode(image.form, image.body)
                    .ok_or_else(|| corrupt("a piece of the index contradicts itself"))?;
                let replaced = store.index.load(image.volume, image.leaf, leaf, number);
                store.checkpointer.image_gone(replaced.unwrap_or(number));
            }
        }
        Ok(())
    }

    /// What the checkpoint and the headers together say of every segment.
    pub(super) fn settle_checkpoint(&mut self) {
        let store = self.store.as_mut().expect("invariant: the superblock was read");
        let is_lost = |s: &Segment| (s.live > 0 || s.entries > 0) && s.state != State::Sealed;
        let segments = store.segments.iter().filter(|(_, segment)| is_lost(segment));
        let lost: Vec<_> = segments.map(|(id, _)| id).collect();
        for id in lost {
            sometimes!("recovery: a segment in use had lost its headers");
            // Of no life that was ever handed out: nothing in it proves itself, nor is it reused.
            store.segments.restore(id, SegmentSequence(0));
        }
        store.segments.set_prepared(self.root.prepared_segments);
        store.segments.set_next_sequence(self.root.next_sequence);
        let replay_from = self.root.replay_from.max(SegmentSequence(1));
        store.segments.release_before(replay_from, self.root.lsn);
    }
}
