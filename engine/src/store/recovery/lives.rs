//! Which life every segment is in, from its first blocks.
//!
//! Invariant: a segment that may hold something acknowledged is never taken for an unused one, nor
//! for one in an older life.
//! Must never know: what the batches hold.

use super::image::Image;
use super::{ReadResult, Recovery, Step, unreadable};
use crate::error::Result;
use crate::format::{BatchHeader, FLAG_COLD, SegmentHeader, decode_batch, peek_sequence};
use crate::units::{BLOCK_SIZE_BYTES, Lsn, SegmentId, SegmentSequence};
use std::collections::{BTreeMap, VecDeque};

/// How far each append point had come when the checkpoint was made.
///
/// An append point fills one segment after the other, and batches are numbered as they leave: one
/// whose first batch the checkpoint knows has nothing that it does not know in segments before.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Whether a segment was the cold append point's, where its first blocks tell.
    heats: BTreeMap<SegmentId, bool>,
    /// Of the hot and the cold one: the newest segment whose first batch the checkpoint knows.
    reached: [SegmentSequence; 2],
}

impl Progress {
    /// `life`: the one that the segment is in.
    fn note(
        &mut self,
        (id, life): (SegmentId, SegmentSequence),
        own: Option<&SegmentHeader>,
        first: Option<&BatchHeader>,
        checkpoint: Lsn,
    ) {
        let own = own.filter(|header| header.sequence == life).map(|header| header.flags);
        let Some(flags) = own.or(first.map(|header| header.flags)) else { return };
        let is_cold = flags & FLAG_COLD != 0;
        self.heats.insert(id, is_cold);
        if first.is_some_and(|header| header.lsn <= checkpoint) {
            let reached = &mut self.reached[usize::from(is_cold)];
            *reached = life.max(*reached);
        }
    }

    /// Whether everything in this segment is older than the checkpoint.
    pub(super) fn is_behind(&self, id: SegmentId, life: SegmentSequence) -> bool {
        let reached = |cold: &bool| self.reached[usize::from(*cold)];
        let behind = self.heats.get(&id).is_some_and(|cold| life < reached(cold));
        if behind {
            sometimes!("recovery: a segment the checkpoint knows all of was left out");
        }
        behind
    }
}

impl Recovery {
    /// Takes the first two blocks of segments from `next` on.
    pub(super) fn take_headers(
        &mut self,
        next: u32,
        mut unknown: VecDeque<SegmentId>,
        results: &[ReadResult],
    ) -> Step {
        if next == 0 {
            self.count_live();
        }
        let store = self.store.as_mut().expect("invariant: the superblock was read");
        for (i, result) in results.iter().enumerate() {
            let id = SegmentId(next + i as u32);
            let segment = store.segments.get(id);
            let is_unused = segment.live == 0 && segment.entries == 0;
            let start = store.segments.start(id);
            let bytes = result.as_deref().unwrap_or(&[]);
            let header = bytes.get(..BLOCK_SIZE_BYTES);
            let header = header.and_then(|b| SegmentHeader::decode(&store.seal, start, b).ok());
            let second = bytes.get(BLOCK_SIZE_BYTES..).unwrap_or(&[]);
            let first = peek_sequence(&store.seal, start.offset(1), second);
            match (header.as_ref().map(|header| header.sequence), first) {
                (Some(own), Some(first)) if own < first => unknown.push_back(id),
                (Some(sequence), _) | (None, Some(sequence)) => {
                    store.segments.restore(id, sequence);
                    let table = decode_batch(&store.seal, sequence, start.offset(1), second).ok();
                    let first = table.as_ref().map(|table| &table.header);
                    let segment = (id, sequence);
                    self.progress.note(segment, header.as_ref(), first, self.root.lsn);
                }
                _ if is_unused && result.is_ok() && bytes.iter().all(|byte| *byte == 0) => {}
                _ => {
                    sometimes!("recovery: a segment header was damaged");
                    unknown.push_back(id);
                }
            }
        }
        let next = next + results.len() as u32;
        if next < store.segments.count() {
            return Step::Headers { next, unknown };
        }
        Step::lives(unknown)
    }

    /// Takes a segment whose first blocks did not tell.
    ///
    /// Its header may have been left behind by a crash when its first batch was not: the batch
    /// tells, for a later store that missed this life would begin it again, in front of that batch.
    /// If neither does, any batch header tells, unless the first one may be where the device fails:
    /// the others may be left over from an older life.
    pub(super) fn take_life(&mut self, id: SegmentId, image: &Image) -> Result<()> {
        let store = self.store.as_mut().expect("invariant: the superblock was read");
        let start = store.segments.start(id);
        let own = SegmentHeader::decode(&store.seal, start, image.block(0)).ok();
        let first = peek_sequence(&store.seal, start.offset(1), image.from(1));
        let mut life = own.map(|header| header.sequence).max(first);
        if life.is_none() {
            // The segment's header and its first batch are one write: no header, no batch.
            let block = image.block(0);
            let is_new = !block.is_empty() && block.iter().all(|byte| *byte == 0);
            if image.is_unreadable(1) && !is_new {
                return Err(unreadable(start.offset(1)));
            }
            let others = (2..image.blocks())
                .filter_map(|at| peek_sequence(&store.seal, start.offset(at), image.from(at)));
            life = others.max();
            if life.is_some() {
                sometimes!("recovery: a segment's life was found further in");
            }
        }
        if let Some(life) = life {
            store.segments.restore(id, life);
        }
        Ok(())
    }
}
