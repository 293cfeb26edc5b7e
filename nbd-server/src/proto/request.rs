//! Requests of the transmission phase: decoded, then checked before anything is done.
//!
//! Invariant: a [`Request`] lies inside the export, may be done on it, and carries only flags that
//! mean something for its command.
//! Must never know: how requests are carried out.

use super::wire::{Reader, command, command_flag};
use super::{Errno, Framing};
use crate::limits::{PAYLOAD_MAX_BYTES, PIECE_MAX_BYTES};

/// What was agreed on in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Framing of requests and replies.
    pub framing: Framing,
    /// Size of the export when it was chosen.
    pub size_bytes: u64,
    /// Transmission flags as sent to the client.
    pub flags: u16,
    /// Writes are refused.
    pub read_only: bool,
    /// `base:allocation` was selected.
    pub block_status: bool,
}

/// A checked request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Names the request in its reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes; fits in 32 bits for reads and writes.
    pub length: u64,
    /// What to do.
    pub command: Command,
}

/// What a request asks for. FUA is accepted everywhere and changes nothing: whatever is
/// acknowledged is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read; in one content chunk if `whole`.
    Read {
        /// The client set DF.
        whole: bool,
    },
    /// Write; the payload follows.
    Write,
    /// Make finished writes durable.
    Flush,
    /// Give up a range.
    Trim,
    /// Expect reads of a range.
    Cache,
    /// Zero a range.
    WriteZeroes {
        /// Keep space for it (NO_HOLE).
        allocate: bool,
        /// Fail unless that is quick.
        fast: bool,
    },
    /// Tell which parts hold data.
    BlockStatus {
        /// Only one extent.
        one: bool,
    },
}

/// A request that is answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Names the request in its reply.
    pub cookie: u64,
    /// The request's offset; extended replies repeat it.
    pub offset: u64,
    /// Error value.
    pub errno: Errno,
    /// Why, for people.
    pub reason: &'static str,
    /// The connection is closed after the reply.
    pub close: bool,
}

/// What to do about a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Carry it out; a write's payload follows.
    Serve(Request),
    /// Skip `payload` bytes, then refuse it.
    Refuse {
        /// The answer.
        refusal: Refusal,
        /// Bytes to skip.
        payload: u32,
    },
    /// The client takes its leave.
    Disconnect,
}

/// Bytes that are not a request: the stream cannot be followed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbage {
    /// What stood where a magic number belongs.
    pub found: u32,
}

/// A request header as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Header {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    pub length: u64,
}

impl Header {
    /// Bytes of a header on the wire.
    #[must_use]
    pub fn size_bytes(framing: Framing) -> usize {
        if framing == Framing::Extended { 32 } else { 28 }
    }

    /// Decodes the header at the front of `bytes`; `None` if it is not all there.
    ///
    /// # Errors
    /// [`Garbage`] as soon as the magic number is wrong.
    pub fn decode(bytes: &[u8], framing: Framing) -> Result<Option<Header>, Garbage> {
        let mut reader = Reader(bytes);
        let Some(magic) = reader.u32() else { return Ok(None) };
        let extended = framing == Framing::Extended;
        let expected =
            if extended { super::wire::EXTENDED_REQUEST_MAGIC } else { super::wire::REQUEST_MAGIC };
        if magic != expected {
            return Err(Garbage { found: magic });
        }
        Ok(Header::decode_fields(reader, extended))
    }

    fn decode_fields(mut reader: Reader<'_>, extended: bool) -> Option<Header> {
        Some(Header {
            flags: reader.u16()?,
            command: reader.u16()?,
            cookie: reader.u64()?,
            offset: reader.u64()?,
            length: if extended { reader.u64()? } else { u64::from(reader.u32()?) },
        })
    }
}

impl Parameters {
    /// Decides about a header (proto: "Request types", "Command flags", "Error values").
    #[must_use]
    pub fn check(&self, header: &Header) -> Verdict {
        if header.command == command::DISC {
            return Verdict::Disconnect;
        }
        let payload = self.payload_bytes(header);
        // SHOULD disconnect, for nobody can skip that much; say why first.
        let too_long = payload > u64::from(PAYLOAD_MAX_BYTES);
        let checked = if too_long {
            Err((Errno::Invalid, "payload too long"))
        } else {
            self.command(header).and_then(|command| {
                self.check_range(header, command)?;
                Ok(command)
            })
        };
        let Header { cookie, offset, length, .. } = *header;
        match checked {
            Ok(command) => Verdict::Serve(Request { cookie, offset, length, command }),
            Err((errno, reason)) => Verdict::Refuse {
                refusal: Refusal { cookie, offset, errno, reason, close: too_long },
                payload: if too_long { 0 } else { payload as u32 },
            },
        }
    }

    /// Bytes that follow the header (proto: "Request message", also for extended headers). There
    /// a write MUST announce its payload; QEMU's client does not, but sends it, so a write is
    /// taken to have one either way, as QEMU's server does.
    fn payload_bytes(&self, header: &Header) -> u64 {
        let announced =
            self.framing == Framing::Extended && header.flags & command_flag::PAYLOAD_LEN != 0;
        if announced || header.command == command::WRITE { header.length } else { 0 }
    }

    fn command(&self, header: &Header) -> Result<Command, (Errno, &'static str)> {
        let flags = header.flags;
        let (command, allowed) = match header.command {
            command::READ => {
                let df = if self.framing == Framing::Simple { 0 } else { command_flag::DF };
                (Command::Read { whole: flags & command_flag::DF != 0 }, df)
            }
            command::WRITE => {
                let extended = self.framing == Framing::Extended;
                (Command::Write, if extended { command_flag::PAYLOAD_LEN } else { 0 })
            }
            command::FLUSH => (Command::Flush, 0),
            command::TRIM => (Command::Trim, 0),
            command::CACHE => (Command::Cache, 0),
            command::WRITE_ZEROES => {
                let allocate = flags & command_flag::NO_HOLE != 0;
                let fast = flags & command_flag::FAST_ZERO != 0;
                let allowed = command_flag::NO_HOLE | command_flag::FAST_ZERO;
                (Command::WriteZeroes { allocate, fast }, allowed)
            }
            command::BLOCK_STATUS => {
                let one = flags & command_flag::REQ_ONE != 0;
                (Command::BlockStatus { one }, command_flag::REQ_ONE)
            }
            // Resize among them: it is not offered.
            _ => return Err((Errno::Invalid, "unknown command")),
        };
        if flags & !(allowed | command_flag::FUA) != 0 {
            return Err((Errno::Invalid, "flag not valid for this command"));
        }
        Ok(command)
    }

    fn check_range(&self, header: &Header, command: Command) -> Result<(), (Errno, &'static str)> {
        let Header { offset, length, .. } = *header;
        let writes = matches!(command, Command::Write | Command::WriteZeroes { .. });
        if self.read_only && (writes || command == Command::Trim) {
            return Err((Errno::Permission, "the export is read-only"));
        }
        if command == Command::Flush {
            // Both are reserved and MUST be zero.
            let reserved = offset == 0 && length == 0;
            return if reserved { Ok(()) } else { Err((Errno::Invalid, "flush takes no range")) };
        }
        if offset.checked_add(length).is_none_or(|end| end > self.size_bytes) {
            let errno = if writes { Errno::NoSpace } else { Errno::Invalid };
            return Err((errno, "past the end of the export"));
        }
        match command {
            Command::Read { .. } if length > u64::from(PAYLOAD_MAX_BYTES) => {
                Err((Errno::Invalid, "read too long"))
            }
            Command::Read { whole: true } if length > u64::from(PIECE_MAX_BYTES) => {
                Err((Errno::Overflow, "too long for one chunk"))
            }
            // Writing zeroes into kept space is as slow as writing.
            Command::WriteZeroes { allocate: true, fast: true } => {
                Err((Errno::NotSupported, "cannot be done fast"))
            }
            Command::BlockStatus { .. } if !self.block_status => {
                Err((Errno::Invalid, "no metadata context was selected"))
            }
            // At least one extent MUST be returned, and none may be empty.
            Command::BlockStatus { .. } if length == 0 => Err((Errno::Invalid, "empty range")),
            _ => Ok(()),
        }
    }
}
