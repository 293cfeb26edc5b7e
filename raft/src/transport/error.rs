//! How a call ends without an answer: a kind that tells the caller what to do, and a sentence.
//!
//! Must never know: connections.

use crate::frame::Notice;
use std::fmt;

/// What became of a call, by what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no connection. The request was not sent: nothing has happened.
    Unreachable,
    /// No answer came in time. The request may have been carried out, or may yet be.
    TimedOut,
    /// The connection ended after the request was sent. It may have been carried out.
    Closed,
    /// The peer does not carry it out, or does not speak with this node at all.
    Refused,
    /// The request or its answer has more bytes than may be sent, or than the caller takes.
    TooLarge,
    /// Too many calls wait already, here or there. Nothing has happened.
    Busy,
}

/// A call without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// Result with this room's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Codes of errors that a peer answers with.
const CODES: [(ErrorKind, u8); 3] =
    [(ErrorKind::Refused, 1), (ErrorKind::TooLarge, 2), (ErrorKind::Busy, 3)];

impl Error {
    /// An error of `kind`, with one plain sentence for a person.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// As an answer. What happened to calls of the handler's own is a refusal for who asked it.
    pub(super) fn to_notice(&self) -> Notice {
        let code = CODES.iter().find(|(kind, _)| *kind == self.kind).map_or(1, |(_, code)| *code);
        Notice { code, text: self.message.clone() }
    }

    /// From an answer.
    pub(super) fn from_notice(notice: Notice) -> Error {
        let kind = CODES.iter().find(|(_, code)| *code == notice.code);
        Error { kind: kind.map_or(ErrorKind::Refused, |(kind, _)| *kind), message: notice.text }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
