//! The one error of this crate: a kind that tells the caller what to do, and a sentence.

use std::fmt;

/// What went wrong, by what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong: out of bounds, bad name, bad size. Repeating it will not help.
    Invalid,
    /// No such volume or store.
    NotFound,
    /// A volume or store of that name exists already.
    Exists,
    /// Another process or client holds it.
    Busy,
    /// No space is left for data. Reads, trims and deletes still work.
    NoSpace,
    /// Stored bytes are damaged; nothing false was returned.
    Corrupt,
    /// The device cannot be used: missing, no permission, not a store, unknown version.
    Device,
    /// The store fenced itself after a failed write or flush; reopen it to recover.
    Failed,
    /// The store is closed or closing.
    Closed,
}

/// An operating failure. Bugs panic; bad input, bad disks and full disks come here.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

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

    /// Puts what was being done in front of the sentence.
    #[must_use]
    pub fn context(self, doing: impl fmt::Display) -> Error {
        Error { kind: self.kind, message: format!("{doing}: {}", self.message) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
