//! Fields of the batch header, for the tables of `docs/format.md`.

use super::RawBatch;
use crate::format::layout::Layout;

pub(in crate::format) fn layouts() -> Vec<Layout> {
    vec![batch()]
}

fn batch() -> Layout {
    layout!("batch header", RawBatch, {
        magic: "`ashBATCH`",
        checksum: "place checksum of bytes 12 to the end of the header area",
        version: "version of this structure, 1",
        header_blocks: "blocks of the header area, 1 to 5",
        device: "identity of the store",
        sequence: "the life of the segment it is in",
        location: "block number of the header area's first block",
        flags: "bit 0: cold append point; bit 1: last batch of its segment",
        previous_header_blocks: "header blocks of the previous batch",
        lsn: "number of this batch",
        durable: "every batch up to here was durable when this one was written",
        epoch: "which opening of the store wrote it",
        epoch_first: "first batch of that epoch",
        records: "records in the table, at most 128",
        payload_blocks: "payload blocks and checksums in the table, at most 504",
        previous_location: "block number of the previous batch of this segment; 0: there is none",
        previous_checksum: "the checksum that the previous batch's header carries",
        previous_lsn: "number of the previous batch",
        previous_records: "records in the copy of its table",
        previous_payload_blocks: "checksums in the copy of its table",
        preceding_empty: "so many batches right before this one, by LSN, have no records",
        reserved: "0",
    })
}
