//! Fields of chunk, root and volume description, for the tables of `docs/format.md`.

use super::{RawChunk, RawChunkRef, RawImage, RawRoot, RawVolume};
use crate::format::layout::Layout;

pub(in crate::format) fn layouts() -> Vec<Layout> {
    vec![chunk(), image(), root(), volume(), reference()]
}

fn chunk() -> Layout {
    layout!("chunk header", RawChunk, {
        magic: "`ashCHUNK`",
        lsn: "the checkpoint that wrote it, by the LSN it describes",
        images: "leaf images that follow",
        used_bytes: "bytes in use, this header included; zeroes from there to the end of the block",
    })
}

fn image() -> Layout {
    layout!("leaf image header", RawImage, {
        volume: "whose leaf",
        leaf: "which leaf: first block / 512",
        form: "0: sparse, 1: dense",
        entries: "sparse: number of entries, at most 512; dense: 0",
    })
}

fn root() -> Layout {
    layout!("root header", RawRoot, {
        magic: "`ashROOT1`",
        version: "version of this structure, 1",
        volumes: "volume descriptions that follow, at most 4096",
        chunks: "chunk references that follow them",
        prepared_segments: "this many segments, counted from 0, have been written with zeroes once",
        lsn: "the state described is the log up to and including this batch",
        epoch: "epoch of the store that wrote it",
        replay_from: "batches after `lsn` lie only in segments of this life or later",
        next_sequence: "next segment life to hand out",
        next_volume: "next volume identity to hand out",
        group_pieces: "references of pieces of the groups' part that follow the chunk references",
    })
}

fn volume() -> Layout {
    layout!("volume description", RawVolume, {
        id: "identity within the store; never reused",
        name_bytes: "bytes of the name, 1 to 128",
        size_bytes: "size, at most 2^48",
        created: "last durable batch when it was created",
        name: "UTF-8, zeroes after it",
    })
}

fn reference() -> Layout {
    layout!("chunk reference", RawChunkRef, {
        location: "first block of the chunk",
        blocks: "its blocks",
        checksum: "CRC-32 of all its bytes, started from 1",
        mirror: "first block of the second copy",
        lsn: "the checkpoint that wrote it",
    })
}
