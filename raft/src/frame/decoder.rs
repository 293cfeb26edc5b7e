//! The receiving side: a byte stream, cut anyhow, becomes [`Frame`]s.
//!
//! Memory is asked for piece by piece: one parse buffer, the head of one frame, and each part when
//! its first byte is wanted. What of a part is in the parse buffer already is copied; the rest is
//! received into the part itself, with the parse buffer behind it for what follows.
//! Invariant: while a part is incomplete the parse buffer is empty.
//! Must never know: sockets, when it is wise to go on.

use super::header::{FrameError, HEADER_BYTES, Header};
use super::limits::{PARSE_BUFFER_BYTES, PART_MAX_BYTES, PAYLOAD_MAX_BYTES, VERSION_OF_HELLO};
use super::{Frame, Kind, part_charge};
use ashlar_engine::buffer::{Buffer, BufferPool};
use ashlar_engine::reactor::ReceiveBuffers;

/// What of a frame is there.
#[derive(Debug)]
enum Stage {
    /// Nothing, or a part of the header.
    Header,
    /// The header, and some of the head and of the table behind it.
    Head { header: Header, bytes: Vec<u8> },
    /// Some parts, and some of the one that is being received.
    Parts(Parts),
}

#[derive(Debug)]
struct Parts {
    header: Header,
    head: Vec<u8>,
    /// Lengths of the parts, the next one last.
    lengths: Vec<usize>,
    done: Vec<Buffer>,
    filling: Option<Buffer>,
    filled: usize,
}

/// Receiving state of one direction.
#[derive(Debug)]
pub struct Decoder {
    pool: BufferPool,
    version: u16,
    sequence: u64,
    /// Who is there has not been said yet: nothing else is taken.
    greeting: bool,
    parse: Option<Buffer>,
    start: usize,
    end: usize,
    stage: Stage,
}

impl Decoder {
    /// A decoder that takes a hello or a farewell, until [`Decoder::set_version`].
    #[must_use]
    pub fn new(pool: BufferPool) -> Decoder {
        Decoder {
            version: VERSION_OF_HELLO,
            sequence: 0,
            greeting: true,
            parse: Some(pool.allocate(PARSE_BUFFER_BYTES)),
            pool,
            start: 0,
            end: 0,
            stage: Stage::Header,
        }
    }

    /// Takes all kinds of frames from now on, of this version.
    pub fn set_version(&mut self, version: u16) {
        self.version = version;
        self.greeting = false;
    }

    /// The next frame, from bytes received before; `None` if more are needed.
    ///
    /// # Errors
    /// When the stream cannot be followed: the connection must be closed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            let parse = self.parse.as_ref().expect("invariant: no receive is under way");
            let bytes = &parse[self.start..self.end];
            match &mut self.stage {
                Stage::Header => {
                    let Some(header) = Header::decode(bytes, self.version, self.sequence)? else {
                        return Ok(None);
                    };
                    let kind = header.envelope.kind;
                    if self.greeting && !matches!(kind, Kind::Hello | Kind::Close) {
                        return Err(FrameError::Kind { found: kind as u8 });
                    }
                    self.start += HEADER_BYTES;
                    self.sequence += 1;
                    let bytes = Vec::with_capacity(header.head_bytes + header.table_bytes());
                    self.stage = Stage::Head { header, bytes };
                }
                Stage::Head { header, bytes: head } => {
                    let wanted = header.head_bytes + header.table_bytes() - head.len();
                    let used = bytes.len().min(wanted);
                    head.extend_from_slice(&bytes[..used]);
                    self.start += used;
                    if used < wanted {
                        return Ok(None);
                    }
                    let parts = Parts::new(*header, std::mem::take(head))?;
                    self.stage = Stage::Parts(parts);
                }
                Stage::Parts(parts) => {
                    self.start += parts.fill(bytes, &self.pool);
                    if !parts.is_whole() {
                        return Ok(None);
                    }
                    let Stage::Parts(parts) = std::mem::replace(&mut self.stage, Stage::Header)
                    else {
                        unreachable!("invariant: matched above");
                    };
                    return parts.finish().map(Some);
                }
            }
        }
    }

    /// Memory for the next receive. Call when [`Decoder::next_frame`] wants more; give it back
    /// through [`Decoder::handle_received`].
    pub fn take_buffers(&mut self) -> ReceiveBuffers {
        let mut parse = self.parse.take().expect("invariant: no receive is under way");
        parse.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if let Stage::Parts(parts) = &mut self.stage
            && let Some(first) = parts.filling.take()
        {
            assert!(self.end == 0, "the parse buffer is empty while a part is incomplete");
            return ReceiveBuffers { first, first_filled: parts.filled, second: Some(parse) };
        }
        ReceiveBuffers { first: parse, first_filled: self.end, second: None }
    }

    /// Takes the buffers of a receive back, with `count` new bytes in them.
    pub fn handle_received(&mut self, buffers: ReceiveBuffers, count: usize) {
        let ReceiveBuffers { first, second, .. } = buffers;
        match second {
            None => {
                self.end += count;
                self.parse = Some(first);
            }
            Some(parse) => {
                let Stage::Parts(parts) = &mut self.stage else {
                    unreachable!("invariant: two buffers are out only for a part");
                };
                let into_part = count.min(first.len() - parts.filled);
                parts.filled += into_part;
                parts.filling = Some(first);
                self.end = count - into_part;
                self.parse = Some(parse);
            }
        }
    }
}

impl Parts {
    /// `bytes` are the head and the table.
    fn new(header: Header, mut bytes: Vec<u8>) -> Result<Parts, FrameError> {
        let (expected, found) = (header.head_checksum, crc32fast::hash(&bytes));
        if expected != found {
            return Err(FrameError::HeadChecksum { expected, found });
        }
        let table = &bytes[header.head_bytes..];
        let lengths = table.as_chunks().0.iter().map(|length| u32::from_le_bytes(*length) as usize);
        let lengths: Vec<usize> = lengths.rev().collect();
        if let Some(found) = lengths.iter().copied().find(|length| *length > PART_MAX_BYTES) {
            return Err(FrameError::PartBytes { max: PART_MAX_BYTES, found });
        }
        let (expected, found) = (header.payload_bytes, lengths.iter().sum());
        if expected != found {
            return Err(FrameError::PayloadSum { expected, found });
        }
        let found = lengths.iter().copied().map(part_charge).sum();
        if found > PAYLOAD_MAX_BYTES {
            return Err(FrameError::PayloadBytes { max: PAYLOAD_MAX_BYTES, found });
        }
        bytes.truncate(header.head_bytes);
        let done = Vec::with_capacity(lengths.len());
        Ok(Parts { header, head: bytes, lengths, done, filling: None, filled: 0 })
    }

    fn is_whole(&self) -> bool {
        self.lengths.is_empty() && self.filling.is_none()
    }

    /// Fills parts from the start of `bytes`; returns how many were used.
    fn fill(&mut self, bytes: &[u8], pool: &BufferPool) -> usize {
        let mut used = 0;
        loop {
            if self.filling.is_none() {
                let Some(length) = self.lengths.pop() else { return used };
                self.filling = Some(pool.allocate(length));
                self.filled = 0;
            }
            let Some(part) = &mut self.filling else { return used };
            let count = (bytes.len() - used).min(part.len() - self.filled);
            part[self.filled..self.filled + count].copy_from_slice(&bytes[used..used + count]);
            used += count;
            self.filled += count;
            if self.filled < part.len() {
                return used;
            }
            self.done.extend(self.filling.take());
        }
    }

    fn finish(self) -> Result<Frame, FrameError> {
        let mut sum = crc32fast::Hasher::new();
        self.done.iter().for_each(|part| sum.update(part));
        let (expected, found) = (self.header.payload_checksum, sum.finalize());
        if expected != found {
            return Err(FrameError::PayloadChecksum { expected, found });
        }
        Ok(Frame { envelope: self.header.envelope, head: self.head, payload: self.done })
    }
}
