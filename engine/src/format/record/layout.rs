//! Fields of the record, for the tables of `docs/format.md`.

use super::RawRecord;
use crate::format::layout::Layout;

pub(in crate::format) fn layouts() -> Vec<Layout> {
    vec![record()]
}

fn record() -> Layout {
    layout!("record", RawRecord, {
        kind: "what it does, see below",
        flags: "0",
        changes: "entry: so many records behind it are its changes, at most 64; otherwise 0",
        volume: "which volume; 0 for checkpoints, entries, votes, truncations and purges",
        count: "blocks",
        group: "the group whose log it is part of; 0: of none",
        first: "first block of the volume; checkpoints: the LSN described; entry, purge: the leader; \
            group volume: its size in bytes",
        term: "entry, its changes, purge: the term; otherwise 0",
        index: "entry, its changes, truncate, purge: the index; otherwise 0",
        source: "relocation: block number where the blocks were; reserved zeroes: 1; otherwise 0",
        head_bytes: "entry: bytes of its head; vote: bytes of the vote; otherwise 0",
    })
}
