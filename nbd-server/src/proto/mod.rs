//! The NBD protocol without I/O: bytes in, requests out; results in, bytes out.
//!
//! The authority is `doc/proto.md` of the NBD project, cited by section as (proto: "Section").
//! Invariant: no bytes from a client make this room panic, or allocate more than
//! [`crate::limits`] allows. Must never know: sockets, tasks, clocks, volumes.

mod handshake;
mod intake;
mod options;
pub mod reply;
mod request;
pub mod wire;

pub use handshake::{Denial, Handshake, Negotiated, Progress};
pub(crate) use intake::piece_limit;
pub use intake::{Event, Intake, WritePiece};
pub use request::{Command, Garbage, Header, Parameters, Refusal, Request, Verdict};

/// How requests and replies are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// 28-byte requests, simple replies only.
    Simple,
    /// 28-byte requests, structured replies where the protocol asks for them.
    Structured,
    /// 32-byte requests and replies with 64-bit lengths.
    Extended,
}

/// Error values on the wire (proto: "Error values").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// Read-only export.
    Permission = 1,
    /// The store could not read or write.
    Io = 5,
    /// The request is wrong.
    Invalid = 22,
    /// Past the end, or no space is left.
    NoSpace = 28,
    /// Too long to be sent in one piece.
    Overflow = 75,
    /// Zeroing would not be fast.
    NotSupported = 95,
    /// The server is going away.
    Shutdown = 108,
}
