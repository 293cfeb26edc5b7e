//! The header of every frame.
//!
//! Invariant: a header that decodes is proved by its checksum, and every length in it is in bounds.
//! Must never know: where the bytes came from.

use super::limits::{PARTS_MAX, PAYLOAD_MAX_BYTES};
use super::{Envelope, Kind};
use std::fmt;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First bytes of every frame.
pub const FRAME_MAGIC: [u8; 8] = *b"ashFRAME";

/// Bytes 0..12: magic and checksum, not covered by the checksum.
const CHECKED_FROM: usize = 12;

/// Bytes of a header.
pub const HEADER_BYTES: usize = size_of::<RawHeader>();

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    /// CRC-32 of what follows in the header.
    checksum: U32,
    version: U16,
    kind: u8,
    /// 0.
    flags: u8,
    group: U32,
    lane: U32,
    request: U64,
    /// Number of the frame in its direction of the connection.
    sequence: U64,
    head_bytes: U32,
    parts: U32,
    /// Sum over the parts, as they are on the wire.
    payload_bytes: U32,
    reply_max_bytes: U32,
    /// CRC-32 of the head and the table of parts.
    head_checksum: U32,
    /// CRC-32 of the parts.
    payload_checksum: U32,
}
const _: () = assert!(size_of::<RawHeader>() == 64 && align_of::<RawHeader>() == 1);
const _: () = assert!(std::mem::offset_of!(RawHeader, version) == CHECKED_FROM);

/// Why bytes are no frame that may stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// No frame begins so.
    Magic {
        /// What stood there, as far as it was received; zeroes behind.
        found: [u8; 8],
    },
    /// The header's bytes are not those that were sent.
    HeaderChecksum {
        /// As the header says.
        expected: u32,
        /// As computed.
        found: u32,
    },
    /// Not the version that was agreed on.
    Version {
        /// The one agreed on.
        expected: u16,
        /// The frame's.
        found: u16,
    },
    /// No such kind, or not to be sent yet.
    Kind {
        /// The frame's.
        found: u8,
    },
    /// Bits that have no meaning in this version.
    Flags {
        /// The frame's.
        found: u8,
    },
    /// A frame is missing, doubled or out of order.
    Sequence {
        /// The next number.
        expected: u64,
        /// The frame's.
        found: u64,
    },
    /// A number, answer bound or payload where none may be, or none where one must be.
    Shape {
        /// What the frame is.
        found: Kind,
    },
    /// The head is longer than such a frame's may be.
    HeadBytes {
        /// Longest.
        max: usize,
        /// The frame's.
        found: usize,
    },
    /// More parts than a frame may have.
    Parts {
        /// Most.
        max: usize,
        /// The frame's.
        found: usize,
    },
    /// A part that is longer than one may be.
    PartBytes {
        /// Longest.
        max: usize,
        /// The part's.
        found: usize,
    },
    /// The payload takes more memory than one may.
    PayloadBytes {
        /// Most.
        max: usize,
        /// The frame's.
        found: usize,
    },
    /// The parts do not add up.
    PayloadSum {
        /// As the header says.
        expected: usize,
        /// As the table says.
        found: usize,
    },
    /// Head or table are not what was sent.
    HeadChecksum {
        /// As the header says.
        expected: u32,
        /// As computed.
        found: u32,
    },
    /// The parts are not what was sent.
    PayloadChecksum {
        /// As the header says.
        expected: u32,
        /// As computed.
        found: u32,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Magic { found } => {
                write!(f, "a frame does not begin with {}", found.escape_ascii())
            }
            FrameError::HeaderChecksum { expected, found } => {
                write!(f, "header checksum: expected {expected:08x}, found {found:08x}")
            }
            FrameError::Version { expected, found } => {
                write!(f, "protocol version: expected {expected}, found {found}")
            }
            FrameError::Kind { found } => write!(f, "a frame of kind {found} may not stand here"),
            FrameError::Flags { found } => write!(f, "flags {found:#04x} have no meaning"),
            FrameError::Sequence { expected, found } => {
                write!(f, "frame number: expected {expected}, found {found}")
            }
            FrameError::Shape { found } => write!(f, "a {found:?} frame of a wrong shape"),
            FrameError::HeadBytes { max, found } => {
                write!(f, "a head of {found} bytes, at most {max}")
            }
            FrameError::Parts { max, found } => write!(f, "{found} parts, at most {max}"),
            FrameError::PartBytes { max, found } => {
                write!(f, "a part of {found} bytes, at most {max}")
            }
            FrameError::PayloadBytes { max, found } => {
                write!(f, "a payload of {found} bytes, at most {max}")
            }
            FrameError::PayloadSum { expected, found } => {
                write!(f, "payload bytes: expected {expected}, found {found}")
            }
            FrameError::HeadChecksum { expected, found } => {
                write!(f, "head checksum: expected {expected:08x}, found {found:08x}")
            }
            FrameError::PayloadChecksum { expected, found } => {
                write!(f, "payload checksum: expected {expected:08x}, found {found:08x}")
            }
        }
    }
}

/// A header's fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) version: u16,
    pub(super) sequence: u64,
    pub(super) envelope: Envelope,
    pub(super) head_bytes: usize,
    pub(super) parts: usize,
    pub(super) payload_bytes: usize,
    pub(super) head_checksum: u32,
    pub(super) payload_checksum: u32,
}

impl Header {
    /// Bytes of the table of parts.
    pub(super) fn table_bytes(&self) -> usize {
        self.parts * size_of::<u32>()
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let Envelope { kind, group, lane, request, reply_max_bytes } = self.envelope;
        let short = |len: usize| {
            U32::from(u32::try_from(len).expect("invariant: lengths were checked by the caller"))
        };
        let mut raw = RawHeader {
            magic: FRAME_MAGIC,
            checksum: 0.into(),
            version: self.version.into(),
            kind: kind as u8,
            flags: 0,
            group: group.into(),
            lane: lane.into(),
            request: request.into(),
            sequence: self.sequence.into(),
            head_bytes: short(self.head_bytes),
            parts: short(self.parts),
            payload_bytes: short(self.payload_bytes),
            reply_max_bytes: reply_max_bytes.into(),
            head_checksum: self.head_checksum.into(),
            payload_checksum: self.payload_checksum.into(),
        };
        raw.checksum = crc32fast::hash(&raw.as_bytes()[CHECKED_FROM..]).into();
        zerocopy::transmute!(raw)
    }

    /// The header at the start of `bytes`; `None` if more bytes are needed.
    pub(super) fn decode(
        bytes: &[u8],
        version: u16,
        sequence: u64,
    ) -> Result<Option<Header>, FrameError> {
        let mut magic = [0; 8];
        let known = bytes.len().min(magic.len());
        magic[..known].copy_from_slice(&bytes[..known]);
        if magic[..known] != FRAME_MAGIC[..known] {
            return Err(FrameError::Magic { found: magic });
        }
        let Ok((raw, _)) = RawHeader::ref_from_prefix(bytes) else { return Ok(None) };
        let (expected, found) =
            (raw.checksum.get(), crc32fast::hash(&raw.as_bytes()[CHECKED_FROM..]));
        if expected != found {
            return Err(FrameError::HeaderChecksum { expected, found });
        }
        if raw.version.get() != version {
            return Err(FrameError::Version { expected: version, found: raw.version.get() });
        }
        let kind = Kind::from_byte(raw.kind).ok_or(FrameError::Kind { found: raw.kind })?;
        if raw.flags != 0 {
            return Err(FrameError::Flags { found: raw.flags });
        }
        if raw.sequence.get() != sequence {
            return Err(FrameError::Sequence { expected: sequence, found: raw.sequence.get() });
        }
        let header = Header {
            version,
            sequence,
            envelope: Envelope {
                kind,
                group: raw.group.get(),
                lane: raw.lane.get(),
                request: raw.request.get(),
                reply_max_bytes: raw.reply_max_bytes.get(),
            },
            head_bytes: raw.head_bytes.get() as usize,
            parts: raw.parts.get() as usize,
            payload_bytes: raw.payload_bytes.get() as usize,
            head_checksum: raw.head_checksum.get(),
            payload_checksum: raw.payload_checksum.get(),
        };
        header.check().map(|()| Some(header))
    }

    fn check(&self) -> Result<(), FrameError> {
        let kind = self.envelope.kind;
        let payload_fits = kind.has_payload() || (self.parts == 0 && self.payload_bytes == 0);
        let number_fits = kind.is_numbered() == (self.envelope.request != 0);
        let bound_fits = kind == Kind::Request || self.envelope.reply_max_bytes == 0;
        if !(payload_fits && number_fits && bound_fits) {
            return Err(FrameError::Shape { found: kind });
        }
        let max = kind.head_max_bytes();
        if self.head_bytes > max {
            return Err(FrameError::HeadBytes { max, found: self.head_bytes });
        }
        if self.parts > PARTS_MAX {
            return Err(FrameError::Parts { max: PARTS_MAX, found: self.parts });
        }
        if self.payload_bytes > PAYLOAD_MAX_BYTES {
            let max = PAYLOAD_MAX_BYTES;
            return Err(FrameError::PayloadBytes { max, found: self.payload_bytes });
        }
        Ok(())
    }
}
