//! Reads of any size: looked up, read from the device, proved by their checksums, answered.
//!
//! Invariant: bytes are answered only if their checksum, seeded with what they must be, matches the
//! one the index or the batch's table holds. A mismatch is read once more, then it is an error.
//! Must never know: how the index is kept.

use super::cache::Sums;
use super::leaf::{Check, RESERVED};
use super::{Io, Outcome, Store};
use crate::buffer::Buffer;
use crate::error::{Error, ErrorKind};
use crate::format::{BlockIdentity, DecodeError, decode_batch};
use crate::limits::{BATCH_BLOCKS_MAX, BATCH_HEADER_BLOCKS_MAX};
use crate::reactor::DeviceOp;
use crate::units::{BLOCK_SIZE_BYTES, BlockIndex, Location, SegmentId, SegmentSequence, VolumeId};
use std::io;

/// Blocks after a damaged header in which the copy of its table must begin.
const COPY_WITHIN_BLOCKS: u32 = BATCH_BLOCKS_MAX + 2 * BATCH_HEADER_BLOCKS_MAX;

/// Blocks that lie one after another on the device and have their checksum in one place.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Blocks from the request's first.
    at: u32,
    count: u32,
    location: Location,
    /// Life of the segment when the read was planned. A part that is in does not keep its segment
    /// from being used again while other parts are still awaited.
    sequence: SegmentSequence,
    check: Check,
}

/// Where a batch's checksums are looked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum SumsAt {
    /// In its header: so many blocks of it.
    Header(u32),
    /// In the copy that the next batch carries.
    Copy,
}

/// Blocks that one device operation reads (or that are zeroes).
#[derive(Debug)]
struct Part {
    buffer: Option<Buffer>,
    at: u32,
    blocks: u32,
    /// `None`: zeroes.
    location: Option<Location>,
}

/// A read under way.
#[derive(Debug)]
pub(super) struct ReadState {
    token: u64,
    volume: VolumeId,
    first: BlockIndex,
    count: u32,
    parts: Vec<Part>,
    pieces: Vec<Piece>,
    /// Tables of the batches whose index entries only name the header.
    sums: Vec<(Location, Sums)>,
    pending: usize,
    is_retry: bool,
    error: bool,
}

impl Store {
    pub(super) fn start_read(
        &mut self,
        token: u64,
        volume: VolumeId,
        first: BlockIndex,
        count: u32,
        is_retry: bool,
    ) {
        let (parts, pieces) = self.plan(volume, first, count);
        let id = self.reads.insert(ReadState {
            token,
            volume,
            first,
            count,
            parts: Vec::new(),
            pieces,
            sums: Vec::new(),
            pending: 0,
            is_retry,
            error: false,
        });
        let mut rest = Some(self.pool.allocate(count as usize * BLOCK_SIZE_BYTES));
        let mut pending = 0;
        let mut placed = Vec::with_capacity(parts.len());
        for (i, mut part) in parts.into_iter().enumerate() {
            let mut buffer = rest.take().expect("invariant: parts cover the request exactly");
            let part_bytes = part.blocks as usize * BLOCK_SIZE_BYTES;
            if part_bytes < buffer.len() {
                let (head, tail) = buffer.split_at(part_bytes);
                (buffer, rest) = (head, Some(tail));
            }
            if let Some(location) = part.location {
                pending += 1;
                self.pin(location, 1);
                let op = DeviceOp::Read { offset_bytes: location.offset_bytes(), buffer };
                self.start(Io::Read { read: id, part: i }, op);
            } else {
                buffer.fill(0);
                part.buffer = Some(buffer);
            }
            placed.push(part);
        }
        let state = &mut self.reads[id];
        state.parts = placed;
        state.pending = pending;
        self.find_sums(id);
        if self.reads[id].pending == 0 {
            self.finish_read(id);
        }
    }

    /// Which blocks are where.
    fn plan(&self, volume: VolumeId, first: BlockIndex, count: u32) -> (Vec<Part>, Vec<Piece>) {
        let mut parts: Vec<Part> = Vec::with_capacity(1);
        let mut pieces: Vec<Piece> = Vec::with_capacity(1);
        let mut at = 0;
        while at < count {
            let stretch = self.index.lookup(volume, first.offset(at.into()));
            let blocks = stretch.count.min(count - at);
            let place = stretch.place.filter(|(location, _)| *location != RESERVED);
            let location = place.map(|(location, _)| location);
            if let Some((location, check)) = place {
                let sequence = self.sequence_of(location);
                pieces.push(Piece { at, count: blocks, location, sequence, check });
            }
            match parts.last_mut() {
                Some(last) if last.location.map(|l| l.offset(last.blocks)) == location => {
                    last.blocks += blocks;
                }
                _ => parts.push(Part { buffer: None, at, blocks, location }),
            }
            at += blocks;
        }
        (parts, pieces)
    }

    pub(super) fn pin(&mut self, location: Location, change: i32) {
        if let Some(id) = self.segments.of(location) {
            let pins = &mut self.segments.get_mut(id).pins;
            *pins = pins.checked_add_signed(change).expect("invariant: pins are balanced");
        }
    }

    pub(super) fn sequence_of(&self, location: Location) -> SegmentSequence {
        let id: Option<SegmentId> = self.segments.of(location);
        id.map_or(SegmentSequence(0), |id| self.segments.get(id).sequence)
    }

    /// Collects the tables that the read's runs need, from the cache or by reading headers.
    fn find_sums(&mut self, id: usize) {
        for i in 0..self.reads[id].pieces.len() {
            let Check::Header(header) = self.reads[id].pieces[i].check else { continue };
            if self.reads[id].sums.iter().any(|(known, _)| *known == header) {
                continue;
            }
            let sequence = self.sequence_of(header);
            let known = self.cache.get(header, sequence).cloned();
            let missing = known.is_none();
            let sums = known.unwrap_or_else(|| Sums {
                sequence,
                payload: Location(0),
                checksums: [].into(),
            });
            self.reads[id].sums.push((header, sums));
            if missing {
                self.read_header(id, header, SumsAt::Header(BATCH_HEADER_BLOCKS_MAX));
            }
        }
    }

    fn read_header(&mut self, id: usize, header: Location, place: SumsAt) {
        sometimes!("read: a header was read");
        let end = self.segments.of(header).map_or(header, |segment| {
            self.segments.start(segment).offset(self.segments.segment_blocks())
        });
        let (start, most) = match place {
            SumsAt::Header(blocks) => (header, blocks),
            // Not from the header on: it may be what cannot be read.
            SumsAt::Copy => (header.offset(1), COPY_WITHIN_BLOCKS + BATCH_HEADER_BLOCKS_MAX),
        };
        let blocks = (end.0 - start.0).min(most);
        let buffer = self.pool.allocate(blocks as usize * BLOCK_SIZE_BYTES);
        self.reads[id].pending += 1;
        self.pin(header, 1);
        let op = DeviceOp::Read { offset_bytes: start.offset_bytes(), buffer };
        let table = self.reads[id].sums.iter().position(|(known, _)| *known == header);
        let table = table.expect("invariant: the table's place was noted before");
        self.start(Io::Header { read: id, table, place }, op);
    }

    /// A part was read.
    pub(super) fn handle_read(
        &mut self,
        id: usize,
        part: usize,
        result: io::Result<()>,
        mut buffers: Vec<Buffer>,
    ) {
        let state = &mut self.reads[id];
        state.pending -= 1;
        state.error |= result.is_err();
        state.parts[part].buffer = buffers.pop();
        let location = state.parts[part].location;
        self.counters.read_errors += u64::from(result.is_err());
        self.pin(location.expect("invariant: only placed parts are read"), -1);
        if self.reads[id].pending == 0 {
            self.finish_read(id);
        }
    }

    /// A batch header was read for its checksums; a damaged one is looked up in the copy that the
    /// next batch of the segment carries.
    pub(super) fn handle_header(
        &mut self,
        (id, table): (usize, usize),
        place: SumsAt,
        result: io::Result<()>,
        buffers: Vec<Buffer>,
    ) {
        let (header, sequence) = {
            let (header, sums) = &self.reads[id].sums[table];
            (*header, sums.sequence)
        };
        self.pin(header, -1);
        self.reads[id].pending -= 1;
        let bytes = buffers.first().filter(|_| result.is_ok()).map_or(&[][..], |buffer| buffer);
        let found = match place {
            SumsAt::Header(blocks) => self.find_header(sequence, header, bytes, blocks),
            SumsAt::Copy => Ok(self.find_copy(sequence, header, bytes)),
        };
        match found {
            Ok(Some(sums)) => {
                self.cache.insert(header, sums.clone());
                self.reads[id].sums[table].1 = sums;
            }
            Ok(None) => self.counters.read_errors += u64::from(result.is_err()),
            Err(next) => self.read_header(id, header, next),
        }
        if self.reads[id].pending == 0 {
            self.finish_read(id);
        }
    }

    /// The table in a header, or where to look next for it.
    fn find_header(
        &self,
        sequence: SegmentSequence,
        header: Location,
        bytes: &[u8],
        blocks: u32,
    ) -> std::result::Result<Option<Sums>, SumsAt> {
        match decode_batch(&self.seal, sequence, header, bytes) {
            Ok(table) => Ok(Some(Sums {
                sequence,
                payload: table.payload_location(),
                checksums: table.checksums.into(),
            })),
            // What lies behind a short header may be unreadable: once more without it.
            Err(_) if bytes.is_empty() && blocks > 1 => Err(SumsAt::Header(1)),
            Err(DecodeError::Short { blocks: needed }) if blocks == 1 && needed > 1 => {
                Err(SumsAt::Header(needed))
            }
            Err(_) => Err(SumsAt::Copy),
        }
    }

    /// The table in the copy that follows; `bytes` begin one block behind the header.
    fn find_copy(&self, sequence: SegmentSequence, header: Location, bytes: &[u8]) -> Option<Sums> {
        sometimes!("read: a header's copy was read");
        let blocks = bytes.chunks(BLOCK_SIZE_BYTES).enumerate();
        let copies = blocks.filter_map(|(i, _)| {
            let bytes = &bytes[i * BLOCK_SIZE_BYTES..];
            let location = header.offset(1 + i as u32);
            decode_batch(&self.seal, sequence, location, bytes).ok()?.previous
        });
        let mut copies = copies.filter(|copy| copy.of.location == header);
        copies.next().map(|copy| {
            sometimes!("read: a header's copy was found");
            Sums {
                sequence,
                payload: copy.of.location.offset(copy.of.header_blocks),
                checksums: copy.checksums.into(),
            }
        })
    }

    /// Everything is in: proves it, then answers or tries once more.
    fn finish_read(&mut self, id: usize) {
        let mut state = self.reads.remove(id);
        let bad = if state.error { 1 } else { self.count_bad_blocks(&state) };
        if bad == 0 {
            self.counters.user_blocks_read += u64::from(state.count);
            let buffers = state.parts.iter_mut().filter_map(|part| part.buffer.take()).collect();
            self.reply(state.token, Ok(Outcome::Read(buffers)));
        } else if !state.is_retry {
            sometimes!("read: once more");
            self.start_read(state.token, state.volume, state.first, state.count, true);
        } else {
            sometimes!("read: refused as damaged");
            self.counters.corrupt_blocks += bad;
            let name = self.volumes.usable(state.volume).map(|v| v.name.clone());
            let why = format!(
                "volume {}: blocks {} to {} hold damaged data",
                name.unwrap_or_default(),
                state.first.0,
                state.first.0 + u64::from(state.count) - 1
            );
            self.reply(state.token, Err(Error::new(ErrorKind::Corrupt, why)));
        }
    }

    fn count_bad_blocks(&self, state: &ReadState) -> u64 {
        let mut bad = 0;
        let mut part = 0;
        for piece in &state.pieces {
            while state.parts[part].at + state.parts[part].blocks <= piece.at {
                part += 1;
            }
            let Part { buffer: Some(buffer), at, .. } = &state.parts[part] else { return 1 };
            let start = (piece.at - at) as usize * BLOCK_SIZE_BYTES;
            let bytes = buffer[start..].chunks_exact(BLOCK_SIZE_BYTES).take(piece.count as usize);
            for (i, data) in bytes.enumerate() {
                let location = piece.location.offset(i as u32);
                let expected = match piece.check {
                    Check::Sum(sum) => Some(sum),
                    Check::Header(header) => {
                        let table = state.sums.iter().find(|(known, _)| *known == header);
                        table.and_then(|(_, sums)| sums.of(location))
                    }
                };
                let identity = BlockIdentity {
                    sequence: piece.sequence,
                    location,
                    volume: state.volume,
                    block: state.first.offset(u64::from(piece.at) + i as u64),
                };
                let found = self.seal.block_checksum(identity, data);
                bad += u64::from(expected != Some(found));
            }
        }
        bad
    }
}
