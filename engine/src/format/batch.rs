//! Batch headers: what a log write says about itself.
//!
//! A segment is one header block, then batches one after another. A batch is a header area (1 to 5
//! blocks) and its payload blocks, written in one piece. The header area holds the batch's table
//! (records, one checksum per payload block) and a copy of the table of the batch before it in the
//! same segment, so that one damaged header loses nothing. A segment ends with an empty batch.
//! Invariant: `decode(encode(x)) == x`, and any changed byte is refused.
//! Must never know: I/O, the index.

#[cfg(test)]
pub(super) mod layout;

use super::group::{inline_bytes, is_valid};
use super::record::{RECORD_BYTES, Record};
use super::{LAYOUT_VERSION, Seal};
use crate::limits::{
    BATCH_BLOCKS_MAX, BATCH_HEADER_BLOCKS_MAX, BATCH_INLINE_MAX_BYTES, BATCH_RECORDS_MAX,
};
use crate::units::{BLOCK_SIZE_BYTES, Location, Lsn, SegmentSequence};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First bytes of every batch header.
pub const BATCH_MAGIC: [u8; 8] = *b"ashBATCH";

/// Batch flag: written at the cold append point.
pub const FLAG_COLD: u16 = 1;
/// Batch flag: last batch of its segment.
pub const FLAG_SEAL: u16 = 2;

/// Bytes 0..12 of the header: magic and checksum, not covered by the checksum.
const CHECKED_FROM: usize = 12;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct RawBatch {
    magic: [u8; 8],
    checksum: U32,
    version: U16,
    header_blocks: U16,
    device: [u8; 16],
    sequence: U64,
    location: U32,
    flags: U16,
    previous_header_blocks: U16,
    lsn: U64,
    durable: U64,
    epoch: U64,
    epoch_first: U64,
    records: U32,
    payload_blocks: U32,
    previous_location: U32,
    previous_checksum: U32,
    previous_lsn: U64,
    previous_records: U32,
    previous_payload_blocks: U32,
    preceding_empty: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<RawBatch>() == 120);

const HEADER_BYTES: usize = size_of::<RawBatch>();
const _: () = assert!(
    HEADER_BYTES
        + 2 * (BATCH_RECORDS_MAX as usize * RECORD_BYTES
            + BATCH_BLOCKS_MAX as usize * 4
            + BATCH_INLINE_MAX_BYTES)
        <= BATCH_HEADER_BLOCKS_MAX as usize * BLOCK_SIZE_BYTES
);

/// Fixed part of a batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Life of the segment it is in.
    pub sequence: SegmentSequence,
    /// Where its first header block is.
    pub location: Location,
    /// [`FLAG_COLD`], [`FLAG_SEAL`].
    pub flags: u16,
    /// Its number.
    pub lsn: Lsn,
    /// Every batch up to here was durable when this one was written.
    pub durable: Lsn,
    /// Which opening of the store wrote it.
    pub epoch: u64,
    /// First batch of that epoch: batches of older epochs from here on are void.
    pub epoch_first: Lsn,
    /// So many batches right before this one, by LSN, have no records: nothing is lost with them.
    pub preceding_empty: u32,
}

/// Which batch came before in the same segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Previous {
    /// Where its header is.
    pub location: Location,
    /// Blocks of its header area.
    pub header_blocks: u32,
    /// The checksum its header carries.
    pub checksum: u32,
    /// Its number.
    pub lsn: Lsn,
}

/// Copy of the previous batch's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableCopy {
    /// Whose table it is.
    pub of: Previous,
    /// Its records.
    pub records: Vec<Record>,
    /// One checksum per payload block.
    pub checksums: Vec<u32>,
    /// Short heads and votes of its records, in order, each padded to a multiple of 4.
    pub inline: Vec<u8>,
}

/// A decoded batch header area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchTable {
    /// Fixed part.
    pub header: BatchHeader,
    /// Blocks of the header area.
    pub header_blocks: u32,
    /// The checksum it carries.
    pub checksum: u32,
    /// In payload order.
    pub records: Vec<Record>,
    /// One per payload block.
    pub checksums: Vec<u32>,
    /// As in [`TableCopy::inline`].
    pub inline: Vec<u8>,
    /// The table before it in the segment; `None` for a segment's first batch.
    pub previous: Option<TableCopy>,
}

impl BatchTable {
    /// Where the payload starts.
    #[must_use]
    pub fn payload_location(&self) -> Location {
        self.header.location.offset(self.header_blocks)
    }

    /// First block after the batch.
    #[must_use]
    pub fn end(&self) -> Location {
        self.payload_location().offset(self.checksums.len() as u32)
    }
}

/// Why bytes are no header for this place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Other bytes: no magic, another device, another place, a bad checksum.
    NotHere,
    /// A header that needs this many blocks to be decoded.
    Short {
        /// Blocks of the header area.
        blocks: u32,
    },
    /// The checksum is right, the content impossible: written by something that is not us.
    Inconsistent,
}

/// Blocks that the header area of such a batch needs; `inline`: bytes of both tables.
#[must_use]
pub fn header_blocks(
    records: usize,
    checksums: usize,
    previous_records: usize,
    previous_checksums: usize,
    inline: usize,
) -> u32 {
    let bytes = HEADER_BYTES
        + (records + previous_records) * RECORD_BYTES
        + (checksums + previous_checksums) * 4
        + inline;
    bytes.div_ceil(BLOCK_SIZE_BYTES) as u32
}

/// A table to be written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Table<'a> {
    /// In payload order.
    pub records: &'a [Record],
    /// One per payload block.
    pub checksums: &'a [u32],
    /// As in [`TableCopy::inline`].
    pub inline: &'a [u8],
}

impl TableCopy {
    /// Its table.
    #[must_use]
    pub fn table(&self) -> Table<'_> {
        Table { records: &self.records, checksums: &self.checksums, inline: &self.inline }
    }
}

fn put_table(area: &mut [u8], at: &mut usize, table: Table<'_>) {
    for record in table.records {
        record.encode(&mut area[*at..*at + RECORD_BYTES]);
        *at += RECORD_BYTES;
    }
    for sum in table.checksums {
        area[*at..*at + 4].copy_from_slice(&sum.to_le_bytes());
        *at += 4;
    }
    area[*at..*at + table.inline.len()].copy_from_slice(table.inline);
    *at += table.inline.len();
}

/// Fills a batch's header area and returns its checksum. The area is exactly [`header_blocks`]
/// long.
///
/// # Panics
/// If the area does not fit the table: a bug of the caller.
pub fn encode_batch(
    seal: &Seal,
    header: &BatchHeader,
    table: Table<'_>,
    previous: Option<&TableCopy>,
    area: &mut [u8],
) -> u32 {
    let Table { records, checksums, inline } = table;
    let none = Previous { location: Location(0), header_blocks: 0, checksum: 0, lsn: Lsn(0) };
    let (of, old) = previous.map_or((none, Table::default()), |copy| (copy.of, copy.table()));
    let blocks = header_blocks(
        records.len(),
        checksums.len(),
        old.records.len(),
        old.checksums.len(),
        inline.len() + old.inline.len(),
    );
    assert_eq!(area.len(), blocks as usize * BLOCK_SIZE_BYTES);
    let mut raw = RawBatch {
        magic: BATCH_MAGIC,
        checksum: 0.into(),
        version: (LAYOUT_VERSION as u16).into(),
        header_blocks: (blocks as u16).into(),
        device: seal.device().0,
        sequence: header.sequence.0.into(),
        location: header.location.0.into(),
        flags: header.flags.into(),
        previous_header_blocks: (of.header_blocks as u16).into(),
        lsn: header.lsn.0.into(),
        durable: header.durable.0.into(),
        epoch: header.epoch.into(),
        epoch_first: header.epoch_first.0.into(),
        records: (records.len() as u32).into(),
        payload_blocks: (checksums.len() as u32).into(),
        previous_location: of.location.0.into(),
        previous_checksum: of.checksum.into(),
        previous_lsn: of.lsn.0.into(),
        previous_records: (old.records.len() as u32).into(),
        previous_payload_blocks: (old.checksums.len() as u32).into(),
        preceding_empty: header.preceding_empty.into(),
        reserved: 0.into(),
    };
    let mut at = HEADER_BYTES;
    put_table(area, &mut at, table);
    put_table(area, &mut at, old);
    area[at..].fill(0);
    area[..HEADER_BYTES].copy_from_slice(raw.as_bytes());
    let sum = seal.place_checksum(header.sequence, header.location, &area[CHECKED_FROM..]);
    raw.checksum = sum.into();
    area[..HEADER_BYTES].copy_from_slice(raw.as_bytes());
    sum
}

/// Records, checksums and inline bytes.
type Columns = (Vec<Record>, Vec<u32>, Vec<u8>);

fn take_table(
    seal: &Seal,
    area: &[u8],
    at: &mut usize,
    records: u32,
    payload_blocks: u32,
) -> Result<Columns, DecodeError> {
    let mut table = Vec::with_capacity(records as usize);
    let mut payload = 0;
    for _ in 0..records {
        let bytes = area.get(*at..*at + RECORD_BYTES).ok_or(DecodeError::Inconsistent)?;
        let record = Record::decode(bytes, seal.version).ok_or(DecodeError::Inconsistent)?;
        if record.first.0.checked_add(record.count.into()).is_none() {
            return Err(DecodeError::Inconsistent);
        }
        payload += u64::from(record.payload_blocks());
        table.push(record);
        *at += RECORD_BYTES;
    }
    if payload != u64::from(payload_blocks) {
        return Err(DecodeError::Inconsistent);
    }
    let sums = area
        .get(*at..*at + payload_blocks as usize * 4)
        .ok_or(DecodeError::Inconsistent)?
        .chunks_exact(4)
        .map(|sum| u32::from_le_bytes(sum.try_into().expect("invariant: chunks of 4")))
        .collect();
    *at += payload_blocks as usize * 4;
    let inline = inline_bytes(&table).filter(|_| is_valid(&table));
    let inline = inline.ok_or(DecodeError::Inconsistent)?;
    let heads = area.get(*at..*at + inline).ok_or(DecodeError::Inconsistent)?.to_vec();
    *at += inline;
    Ok((table, sums, heads))
}

/// Decodes the batch header area found at `location`; `bytes` may be longer than the area.
///
/// # Errors
/// If there is no batch header of this device and this segment life at this place, or if `bytes` is
/// too short to tell.
pub fn decode_batch(
    seal: &Seal,
    sequence: SegmentSequence,
    location: Location,
    bytes: &[u8],
) -> Result<BatchTable, DecodeError> {
    let Ok((raw, _)) = RawBatch::ref_from_prefix(bytes) else {
        return Err(DecodeError::NotHere);
    };
    if raw.magic != BATCH_MAGIC
        || raw.device != seal.device().0
        || raw.location.get() != location.0
        || raw.sequence.get() != sequence.0
    {
        return Err(DecodeError::NotHere);
    }
    let blocks = u32::from(raw.header_blocks.get());
    if blocks == 0 || blocks > BATCH_HEADER_BLOCKS_MAX {
        return Err(DecodeError::NotHere);
    }
    let Some(area) = bytes.get(..blocks as usize * BLOCK_SIZE_BYTES) else {
        return Err(DecodeError::Short { blocks });
    };
    let sum = seal.place_checksum(sequence, location, &area[CHECKED_FROM..]);
    if raw.checksum.get() != sum {
        return Err(DecodeError::NotHere);
    }
    decode_checked(seal, raw, area, blocks, sum)
}

/// The segment life that the batch header found at `location` names, if it is a whole one.
#[must_use]
pub fn peek_sequence(seal: &Seal, location: Location, bytes: &[u8]) -> Option<SegmentSequence> {
    let (raw, _) = RawBatch::ref_from_prefix(bytes).ok()?;
    let sequence = SegmentSequence(raw.sequence.get());
    match decode_batch(seal, sequence, location, bytes) {
        Ok(_) => Some(sequence),
        // The magic, device and place match; the area is longer than what was read.
        Err(DecodeError::Short { .. }) => Some(sequence),
        Err(_) => None,
    }
}

/// Decodes an area whose checksum is right.
fn decode_checked(
    seal: &Seal,
    raw: &RawBatch,
    area: &[u8],
    blocks: u32,
    checksum: u32,
) -> Result<BatchTable, DecodeError> {
    let too_many = raw.records.get() > BATCH_RECORDS_MAX
        || raw.previous_records.get() > BATCH_RECORDS_MAX
        || raw.payload_blocks.get() > BATCH_BLOCKS_MAX
        || raw.previous_payload_blocks.get() > BATCH_BLOCKS_MAX
        || u32::from(raw.previous_header_blocks.get()) > BATCH_HEADER_BLOCKS_MAX;
    if too_many || u32::from(raw.version.get()) != LAYOUT_VERSION {
        return Err(DecodeError::Inconsistent);
    }
    let mut at = HEADER_BYTES;
    let (records, checksums, inline) =
        take_table(seal, area, &mut at, raw.records.get(), raw.payload_blocks.get())?;
    let (old_records, old_blocks) = (raw.previous_records, raw.previous_payload_blocks);
    let (old_records, old_checksums, old_inline) =
        take_table(seal, area, &mut at, old_records.get(), old_blocks.get())?;
    let previous = (raw.previous_location.get() != 0).then(|| TableCopy {
        of: Previous {
            location: Location(raw.previous_location.get()),
            header_blocks: raw.previous_header_blocks.get().into(),
            checksum: raw.previous_checksum.get(),
            lsn: Lsn(raw.previous_lsn.get()),
        },
        records: old_records,
        checksums: old_checksums,
        inline: old_inline,
    });
    Ok(BatchTable {
        header: BatchHeader {
            sequence: SegmentSequence(raw.sequence.get()),
            location: Location(raw.location.get()),
            flags: raw.flags.get(),
            lsn: Lsn(raw.lsn.get()),
            durable: Lsn(raw.durable.get()),
            epoch: raw.epoch.get(),
            epoch_first: Lsn(raw.epoch_first.get()),
            preceding_empty: raw.preceding_empty.get(),
        },
        header_blocks: blocks,
        checksum,
        records,
        checksums,
        inline,
        previous,
    })
}
