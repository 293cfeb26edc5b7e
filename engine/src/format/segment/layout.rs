//! The segment header's fields, for the tables of `docs/format.md`.

use super::RawSegment;
use crate::format::layout::Layout;

pub(in crate::format) fn layouts() -> Vec<Layout> {
    vec![layout!("segment header", RawSegment, {
        magic: "`ashSEGMT`",
        checksum: "place checksum of bytes 12 to 4096 of the block",
        version: "version of this structure, 1",
        device: "identity of the store",
        sequence: "the segment's life; never 0",
        location: "block number of this block",
        flags: "bit 0: cold append point; the others 0",
    })]
}
