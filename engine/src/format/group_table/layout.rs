//! Fields of the groups' part of a checkpoint, for the tables of `docs/format.md`.

use super::{RawGroup, RawGroupVolume, RawPiece, RawPlace, RawRun};
use crate::format::layout::Layout;

pub(in crate::format) fn layouts() -> Vec<Layout> {
    vec![piece(), group(), volume(), run(), place()]
}

fn piece() -> Layout {
    layout!("group piece header", RawPiece, {
        magic: "`ashGROUP`",
        lsn: "the checkpoint that wrote it, by the LSN it describes",
        number: "which piece, counted from 0",
        used_bytes: "bytes in use, this header included; zeroes from there to the end of the block",
    })
}

fn group() -> Layout {
    layout!("group image header", RawGroup, {
        id: "which group; not 0",
        flags: "bit 0: something is purged; bit 1: something is applied; bit 2: `first` is decided",
        purged_term: "entries up to this one are given up: its term",
        purged_leader: "... its leader",
        purged_index: "... its index",
        applied_term: "entries up to this one are applied: its term",
        applied_leader: "... its leader",
        applied_index: "... its index",
        first: "index of the first entry that is retained, or that will be appended next",
        entries: "entries that are retained",
        runs: "runs of entries with one term and leader",
        volumes: "volumes of the group",
        vote_bytes: "bytes of the vote, at most 64",
        head_bytes: "bytes of the applied head, at most 1048576",
        reserved: "0",
    })
}

fn volume() -> Layout {
    layout!("group volume", RawGroupVolume, {
        id: "identity within the store; bit 31 is set",
        reserved: "0",
        size_bytes: "size, at most 2^48",
    })
}

fn run() -> Layout {
    layout!("entry run", RawRun, {
        index: "its first entry",
        term: "term of its entries",
        leader: "leader of its entries",
    })
}

fn place() -> Layout {
    layout!("entry place", RawPlace, {
        location: "block number of the header of the entry's batch",
        record: "number of the entry's record in the batch's table",
        state: "0: fine; 1: something of it is damaged; 2: its place is lost; 3: nothing is known",
    })
}
