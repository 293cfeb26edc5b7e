//! Where the log may go on though nothing was found: places that the device cannot read.
//!
//! A header that is not there was torn; one that cannot be read may have been whole, and its batch
//! acknowledged: loss of power makes no block unreadable. So the log does not end before such a
//! place, the store is refused.
//! Must never know: what the batches hold.

use super::image::Image;
use super::tail::Tail;
use crate::format::{DecodeError, Seal, SegmentHeader, decode_batch};
use crate::units::{Location, Lsn, SegmentSequence};

/// A batch of a segment, by its header or by a copy of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) location: Location,
    pub(super) end: Location,
    pub(super) lsn: Lsn,
    /// The last batch of its segment.
    pub(super) seals: bool,
}

/// What of a scanned segment matters for the end of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scanned {
    pub(super) sequence: SegmentSequence,
    /// Which append point; `None` if nothing tells.
    pub(super) is_cold: Option<bool>,
    /// The newest epoch found in it.
    pub(super) epoch: Option<u64>,
    /// Its first batch that was found.
    pub(super) first: Option<Lsn>,
    /// Where a batch header may be that cannot be read.
    pub(super) hidden: Option<Location>,
}

/// The first place of a segment where a batch header must be if there is one, and cannot be read.
pub(super) fn hidden_header(
    seal: &Seal,
    sequence: SegmentSequence,
    start: Location,
    image: &Image,
    spans: &[Span],
) -> Option<Location> {
    if image.is_whole() {
        return None;
    }
    let ends = spans.iter().filter(|span| !span.seals).map(|span| span.end);
    let mut heads: Vec<_> = ends.chain([start.offset(1)]).collect();
    heads.sort_unstable();
    heads.into_iter().find(|head| {
        let at = head.0 - start.0;
        let is_known = spans.iter().any(|span| span.location == *head);
        // A header that is cut short by an unreadable block, not by the end of the segment.
        let is_cut = || match decode_batch(seal, sequence, *head, image.from(at)) {
            Err(DecodeError::Short { blocks }) => at + blocks <= image.blocks(),
            _ => false,
        };
        !is_known && at < image.blocks() && (image.is_unreadable(at) || is_cut())
    })
}

/// Which append point a segment's own header names.
pub(super) fn heat_of(seal: &Seal, start: Location, image: &Image) -> Option<bool> {
    SegmentHeader::decode(seal, start, image.block(0)).ok().map(|header| header.flags != 0)
}

impl Tail {
    /// The place, if there is one, that may hold a batch after `last`, or vouch for one, and cannot
    /// be read. `epoch`: the newest one known.
    pub(super) fn hidden_after(&self, last: Lsn, epoch: u64) -> Option<Location> {
        let open = |segment: &&Scanned| {
            // Void: the newest epoch began at or before the end of the log.
            let is_void = segment.epoch.is_some_and(|own| own < epoch);
            // The append point has gone on elsewhere: what is hidden is older than that.
            let is_left = self.scanned.iter().any(|later| {
                later.sequence > segment.sequence
                    && later.epoch == Some(epoch)
                    && later.is_cold.is_some_and(|cold| segment.is_cold == Some(cold))
                    && later.first.is_some_and(|first| first <= last)
            });
            !is_void && !is_left
        };
        self.scanned.iter().filter(open).find_map(|segment| segment.hidden)
    }

    /// Any place where a batch header may be that cannot be read.
    pub(super) fn hidden(&self) -> Option<Location> {
        self.scanned.iter().find_map(|segment| segment.hidden)
    }
}
