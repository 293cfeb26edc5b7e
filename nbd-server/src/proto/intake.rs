//! The receiving side of the transmission phase: a byte stream, cut anyhow, becomes [`Event`]s.
//!
//! Memory is asked for twice: one parse buffer, and one aligned buffer for the piece of a write
//! that is being received. What of a piece is in the parse buffer already is copied; the rest is
//! received into the piece itself, with the parse buffer behind it for what follows.
//! Invariant: while a piece is incomplete the parse buffer is empty.
//! Must never know: sockets, when it is wise to go on.

use super::Command;
use super::request::{Garbage, Header, Parameters, Refusal, Request, Verdict};
use crate::limits::{
    PARSE_BUFFER_MAX_BYTES, PARSE_BUFFER_MIN_BYTES, PARSE_BUFFER_SHRINK_AFTER, PIECE_MAX_BYTES,
};
use ashlar_engine::buffer::{Buffer, BufferPool};
use ashlar_engine::reactor::ReceiveBuffers;
use ashlar_engine::units::BLOCK_SIZE_BYTES;

/// The next thing that a client wants.
#[derive(Debug)]
pub enum Event {
    /// Receive more.
    NeedBytes,
    /// A request without payload.
    Request(Request),
    /// A piece of a write.
    Write(WritePiece),
    /// A request to answer with an error.
    Refuse(Refusal),
    /// The client is done.
    Disconnect,
}

/// A piece of a write. Writes of at most [`PIECE_MAX_BYTES`] come in one.
#[derive(Debug)]
pub struct WritePiece {
    /// The whole request.
    pub request: Request,
    /// Where this piece goes.
    pub offset: u64,
    /// What goes there.
    pub data: Buffer,
    /// No more pieces follow.
    pub last: bool,
}

#[derive(Debug)]
enum Payload {
    None,
    /// `piece` is allocated when its first byte is wanted.
    Write {
        request: Request,
        offset: u64,
        piece: Option<Buffer>,
        filled: usize,
    },
    Skip {
        left: usize,
        refusal: Refusal,
    },
}

/// Receiving state of one connection.
#[derive(Debug)]
pub struct Intake {
    parameters: Parameters,
    pool: BufferPool,
    parse: Option<Buffer>,
    start: usize,
    end: usize,
    payload: Payload,
    parse_bytes: usize,
    small_receives: u32,
}

impl Intake {
    /// Starts with what the handshake left over in `parse[start..end]`.
    #[must_use]
    pub fn new(
        parameters: Parameters,
        pool: BufferPool,
        parse: Buffer,
        start: usize,
        end: usize,
    ) -> Intake {
        assert!(start <= end && end <= parse.len());
        Intake {
            parameters,
            pool,
            parse_bytes: parse.len(),
            parse: Some(parse),
            start,
            end,
            payload: Payload::None,
            small_receives: 0,
        }
    }

    /// The next event, from bytes received before.
    ///
    /// # Errors
    /// [`Garbage`] when the stream cannot be followed; the connection must be closed.
    pub fn next_event(&mut self) -> Result<Event, Garbage> {
        loop {
            let parse = self.parse.as_ref().expect("invariant: no receive is under way");
            let bytes = &parse[self.start..self.end];
            match &mut self.payload {
                Payload::None => {
                    let Some(header) = Header::decode(bytes, self.parameters.framing)? else {
                        return Ok(Event::NeedBytes);
                    };
                    self.start += Header::size_bytes(self.parameters.framing);
                    if let Some(event) = self.take_header(&header) {
                        return Ok(event);
                    }
                }
                Payload::Skip { left, refusal } => {
                    let used = bytes.len().min(*left);
                    self.start += used;
                    *left -= used;
                    if *left > 0 {
                        return Ok(Event::NeedBytes);
                    }
                    let refusal = *refusal;
                    self.payload = Payload::None;
                    return Ok(Event::Refuse(refusal));
                }
                Payload::Write { request, offset, piece, filled } => {
                    let piece = piece
                        .get_or_insert_with(|| self.pool.allocate(piece_bytes(request, *offset)));
                    let used = bytes.len().min(piece.len() - *filled);
                    piece[*filled..*filled + used].copy_from_slice(&bytes[..used]);
                    self.start += used;
                    *filled += used;
                    if *filled < piece.len() {
                        return Ok(Event::NeedBytes);
                    }
                    return Ok(Event::Write(self.finish_piece()));
                }
            }
        }
    }

    fn take_header(&mut self, header: &Header) -> Option<Event> {
        match self.parameters.check(header) {
            Verdict::Disconnect => Some(Event::Disconnect),
            Verdict::Serve(request) if request.command == Command::Write && request.length > 0 => {
                let offset = request.offset;
                self.payload = Payload::Write { request, offset, piece: None, filled: 0 };
                None
            }
            Verdict::Serve(request) => Some(Event::Request(request)),
            Verdict::Refuse { refusal, payload: 0 } => Some(Event::Refuse(refusal)),
            Verdict::Refuse { refusal, payload } => {
                self.payload = Payload::Skip { left: payload as usize, refusal };
                None
            }
        }
    }

    fn finish_piece(&mut self) -> WritePiece {
        let Payload::Write { request, offset, piece: Some(data), .. } =
            std::mem::replace(&mut self.payload, Payload::None)
        else {
            unreachable!("invariant: called when a piece is full");
        };
        let next = offset + data.len() as u64;
        let last = next == request.offset + request.length;
        if !last {
            self.payload = Payload::Write { request, offset: next, piece: None, filled: 0 };
        }
        WritePiece { request, offset, data, last }
    }

    /// Memory for the next receive. Call when [`Event::NeedBytes`] was returned; give it back
    /// through [`Intake::handle_received`].
    pub fn take_buffers(&mut self) -> ReceiveBuffers {
        let parse = self.take_parse();
        if let Payload::Write { piece, filled, .. } = &mut self.payload
            && let Some(first) = piece.take()
        {
            assert!(self.end == 0, "the parse buffer is empty while a piece is incomplete");
            return ReceiveBuffers { first, first_filled: *filled, second: Some(parse) };
        }
        ReceiveBuffers { first: parse, first_filled: self.end, second: None }
    }

    /// The parse buffer, of the size that is wanted now, with what is unread at its start.
    fn take_parse(&mut self) -> Buffer {
        let mut parse = self.parse.take().expect("invariant: no receive is under way");
        let unread = self.start..self.end;
        let length = unread.len();
        if parse.len() == self.parse_bytes {
            parse.copy_within(unread, 0);
        } else {
            let mut resized = self.pool.allocate(self.parse_bytes);
            resized[..length].copy_from_slice(&parse[unread]);
            parse = resized;
        }
        (self.start, self.end) = (0, length);
        parse
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
                let Payload::Write { piece, filled, .. } = &mut self.payload else {
                    unreachable!("invariant: two buffers are out only for a piece");
                };
                let into_piece = count.min(first.len() - *filled);
                *filled += into_piece;
                *piece = Some(first);
                self.end = count - into_piece;
                self.parse = Some(parse);
            }
        }
        self.adapt();
    }

    /// Full receives make the parse buffer grow, a long row of small ones makes it shrink.
    fn adapt(&mut self) {
        if self.end == self.parse_bytes {
            self.parse_bytes = PARSE_BUFFER_MAX_BYTES;
            self.small_receives = 0;
        } else if self.end >= PARSE_BUFFER_MIN_BYTES {
            self.small_receives = 0;
        } else if self.parse_bytes > PARSE_BUFFER_MIN_BYTES {
            self.small_receives += 1;
            if self.small_receives == PARSE_BUFFER_SHRINK_AFTER {
                self.parse_bytes = PARSE_BUFFER_MIN_BYTES;
            }
        }
    }
}

/// Bytes of the piece at `offset`.
fn piece_bytes(request: &Request, offset: u64) -> usize {
    let left = request.offset + request.length - offset;
    usize::try_from(left.min(piece_limit(offset, request.length)))
        .expect("invariant: a piece is at most 1 MiB")
}

/// The longest piece at `offset` of a request: pieces of a long one end on block boundaries, so
/// that only its ends share blocks with others.
pub(crate) fn piece_limit(offset: u64, request_length: u64) -> u64 {
    let longest = u64::from(PIECE_MAX_BYTES);
    if request_length <= longest { longest } else { longest - offset % BLOCK_SIZE_BYTES as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Framing;
    use ashlar_engine::buffer::PoolOptions;

    fn intake(start: &[u8]) -> Intake {
        let parameters = Parameters {
            framing: Framing::Simple,
            size_bytes: 1 << 40,
            flags: 0,
            read_only: false,
            block_status: false,
        };
        let pool = BufferPool::new(PoolOptions { arena_bytes: 0, ..PoolOptions::default() });
        let mut parse = pool.allocate(PARSE_BUFFER_MIN_BYTES);
        parse[..start.len()].copy_from_slice(start);
        Intake::new(parameters, pool, parse, 0, start.len())
    }

    fn write_header(offset: u64, length: u32) -> Vec<u8> {
        let mut bytes = super::super::wire::REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, 1]);
        bytes.extend(7u64.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes
    }

    #[test]
    fn payloads_are_received_where_they_are_written_from() {
        let mut start = write_header(0, 100_000);
        start.extend([1; 10]);
        let mut intake = intake(&start);
        assert!(matches!(intake.next_event(), Ok(Event::NeedBytes)));
        let mut buffers = intake.take_buffers();
        assert_eq!((buffers.first.len(), buffers.first_filled), (100_000, 10));
        let place = buffers.first.as_ptr();
        buffers.first[10..].fill(1);
        let next = write_header(0, 1);
        let second = buffers.second.as_mut().expect("the parse buffer");
        second[..next.len()].copy_from_slice(&next);
        intake.handle_received(buffers, 99_990 + next.len());
        let Ok(Event::Write(piece)) = intake.next_event() else { panic!("a whole piece") };
        assert_eq!(piece.data.as_ptr(), place);
        assert!(piece.last && piece.data.iter().all(|byte| *byte == 1));
        assert!(matches!(intake.next_event(), Ok(Event::NeedBytes)));
        let buffers = intake.take_buffers();
        assert_eq!((buffers.first.len(), buffers.first_filled), (1, 0), "the next write's piece");
    }

    #[test]
    fn long_writes_are_cut_at_block_boundaries() {
        let cuts = |offset: u64, length: u64| {
            let (mut at, mut sizes) = (offset, Vec::new());
            while at < offset + length {
                let size = (offset + length - at).min(piece_limit(at, length));
                sizes.push(size);
                at += size;
            }
            sizes
        };
        let mib = u64::from(PIECE_MAX_BYTES);
        assert_eq!(cuts(4095, mib), [mib], "one piece is atomic");
        assert_eq!(cuts(4095, mib + 1), [mib - 4095, 4096]);
        assert_eq!(cuts(0, 3 * mib), [mib, mib, mib]);
    }

    #[test]
    fn parse_buffer_follows_the_load() {
        let mut intake = intake(&[]);
        let mut flush = write_header(0, 0);
        flush[7] = 3;
        let mut stream = flush.iter().cycle();
        // Receives at most `count` bytes of flush requests; returns the buffer's size.
        let mut receive = |count: usize| {
            let mut buffers = intake.take_buffers();
            let size = buffers.first.len();
            let room = &mut buffers.first[buffers.first_filled..];
            let count = count.min(room.len());
            room[..count].fill_with(|| *stream.next().expect("endless"));
            intake.handle_received(buffers, count);
            while !matches!(intake.next_event().expect("requests"), Event::NeedBytes) {}
            size
        };
        assert_eq!(receive(28), PARSE_BUFFER_MIN_BYTES);
        assert_eq!(receive(usize::MAX), PARSE_BUFFER_MIN_BYTES);
        assert_eq!(receive(usize::MAX), PARSE_BUFFER_MAX_BYTES, "grown");
        for _ in 0..PARSE_BUFFER_SHRINK_AFTER {
            assert_eq!(receive(28), PARSE_BUFFER_MAX_BYTES);
        }
        assert_eq!(receive(28), PARSE_BUFFER_MIN_BYTES, "shrunk");
    }
}
