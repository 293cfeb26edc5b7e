//! The superblock's fields, for the tables of `docs/format.md`.

use super::Raw;
use crate::format::layout::Layout;

pub(in crate::format) fn layouts() -> Vec<Layout> {
    vec![layout!("superblock", Raw, {
        magic: "`ASHLAR`, 0x01, 0x0a",
        version: "format version, 1 or 2; not covered by the checksum: a newer one may change it",
        checksum: "CRC-32 of bytes 16 to 4096 of the block, started from `version`",
        device: "identity of the store, random, chosen when it is formatted",
        generation: "grows by one with every checkpoint; the higher valid copy wins",
        segment_blocks: "blocks of a segment",
        segments: "number of segments",
        root_location: "first block of the newest checkpoint's root; 0: never checkpointed",
        root_blocks: "blocks of the root; 0 exactly if `root_location` is 0",
        root_checksum: "CRC-32 of the root's blocks, started from 1",
        copy: "number of this copy, 0 or 1",
        root_lsn: "the root describes the log up to and including this batch",
        root_mirror: "first block of the root's second copy",
        reserved: "0",
    })]
}
