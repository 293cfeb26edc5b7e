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
