//! Frames: what two nodes say to each other, as bytes.
//!
//! A connection is two streams of frames. A frame is a header of 64 bytes, a head (what is said),
//! a table with one length per part, and the parts (blocks, as they were handed over). All numbers
//! are little-endian.
//!
//! ```text
//! | header: what, for whom, lengths, checksums | head | u32 per part | part | part | ...
//!   \-- own checksum --> head checksum covers:   ------------------
//!                        payload checksum covers:                    ---------------
//! ```
//! Invariants: `decode(encode(x)) == x` however the bytes are cut; any changed byte is refused; no
//! length is trusted before its checksum and its bound have been checked. Frames of one direction
//! are numbered, so none can be lost, doubled or exchanged unnoticed.
//! Must never know: sockets, clocks, what heads and parts mean.

mod decoder;
mod encoder;
mod header;
mod hello;
pub mod limits;
mod notice;
#[cfg(test)]
mod tests;

pub use decoder::Decoder;
pub use encoder::{Encoder, Oversize, check_size};
pub use header::{FRAME_MAGIC, FrameError, HEADER_BYTES};
pub use hello::{Hello, HelloError, Identity, Refusal, Versions};
pub use notice::{Farewell, Notice};

use ashlar_engine::buffer::Buffer;
use ashlar_engine::units::BLOCK_SIZE_BYTES;
use std::fmt;

/// Identity of a cluster; random, chosen when it is founded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Identity of a node in its cluster. Never 0, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The first frame of each side: who it is.
    Hello = 1,
    /// Wants a reply.
    Request = 2,
    /// The answer to the request of that number.
    Reply = 3,
    /// The answer to the request of that number, when there is none.
    Error = 4,
    /// Wants no reply.
    OneWay = 5,
    /// Nobody waits any more for the answer to the request of that number.
    Cancel = 6,
    /// The last frame: why the connection ends.
    Close = 7,
    /// The sender is there.
    Ping = 8,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Hello,
        Kind::Request,
        Kind::Reply,
        Kind::Error,
        Kind::OneWay,
        Kind::Cancel,
        Kind::Close,
        Kind::Ping,
    ];

    fn from_byte(byte: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Longest head of such a frame.
    #[must_use]
    pub fn head_max_bytes(self) -> usize {
        match self {
            Kind::Hello => limits::HELLO_MAX_BYTES,
            Kind::Request | Kind::Reply | Kind::OneWay => limits::HEAD_MAX_BYTES,
            Kind::Error | Kind::Close => limits::NOTICE_MAX_BYTES,
            Kind::Cancel | Kind::Ping => 0,
        }
    }

    /// Whether such a frame may have parts.
    #[must_use]
    pub fn has_payload(self) -> bool {
        matches!(self, Kind::Request | Kind::Reply | Kind::OneWay)
    }

    /// Whether such a frame belongs to a request, and so has a number.
    #[must_use]
    pub fn is_numbered(self) -> bool {
        !matches!(self, Kind::Hello | Kind::Close | Kind::Ping)
    }
}

/// What a frame says besides its head and parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What it is.
    pub kind: Kind,
    /// Whose it is: a placement group, or whatever the two sides agree on.
    pub group: u32,
    /// Requests of one group and lane are delivered in order.
    pub lane: u32,
    /// Names a request among all of its sender; 0 where there is none.
    pub request: u64,
    /// Of a request: the largest answer that is taken, counted as [`charged_bytes`] does.
    pub reply_max_bytes: u32,
}

impl Envelope {
    /// An envelope that names neither group nor request.
    #[must_use]
    pub fn bare(kind: Kind) -> Envelope {
        Envelope { kind, group: 0, lane: 0, request: 0, reply_max_bytes: 0 }
    }
}

/// A frame that was received.
#[derive(Debug)]
pub struct Frame {
    /// What it is and for whom.
    pub envelope: Envelope,
    /// What is said.
    pub head: Vec<u8>,
    /// Blocks, in the parts in which they were sent.
    pub payload: Vec<Buffer>,
}

/// What a head and parts of these lengths count for: parts take whole blocks of memory.
pub fn charged_bytes(head_bytes: usize, parts: impl IntoIterator<Item = usize>) -> usize {
    head_bytes + parts.into_iter().map(part_charge).sum::<usize>()
}

/// Memory of one part.
fn part_charge(part_bytes: usize) -> usize {
    part_bytes.div_ceil(BLOCK_SIZE_BYTES).max(1) * BLOCK_SIZE_BYTES
}
