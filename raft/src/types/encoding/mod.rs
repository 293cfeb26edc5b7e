//! The bytes of what a group agrees on, on disk and on the wire alike.
//!
//! All numbers are little-endian. Every encoding begins with its version; a decoder takes exactly
//! what its encoder makes, bounds every length before it allocates, and says what it expected and
//! what it found. Damage is not looked for here: who stores or sends the bytes has a checksum.
//! Must never know: I/O, where the bytes were.

mod bytes;
mod changes;
mod head;
mod ids;
mod outcome;

pub(crate) use bytes::{Bytes, bounded};
pub use changes::{ChangesError, decode_changes, encode_changes};
pub(crate) use changes::{gather_blocks, lay_together};
pub use head::{Head, decode_head, encode_head};
pub use ids::{decode_stored_membership, decode_vote, encode_stored_membership, encode_vote};
pub(crate) use ids::{put_log_id, take_log_id};
pub use outcome::{decode_outcome, encode_outcome};

use std::fmt;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodingError {
    /// They end too early.
    Short {
        /// Bytes that should have followed.
        expected: usize,
        /// Bytes that did.
        found: usize,
    },
    /// They go on behind their end.
    Long {
        /// Bytes too many.
        found: usize,
    },
    /// Another version.
    Version {
        /// The one that is known.
        expected: u8,
        /// The one they have.
        found: u8,
    },
    /// A number that names no kind.
    Kind {
        /// Of what.
        of: &'static str,
        /// The number.
        found: u8,
    },
    /// A count or length past its bound.
    Bound {
        /// Of what.
        of: &'static str,
        /// Its bound.
        expected: usize,
        /// Its value.
        found: usize,
    },
    /// A text that is not UTF-8.
    Text,
    /// Ids that are not in ascending order.
    Order,
    /// A membership that cannot be: a voter without a member, or no voters.
    Membership,
    /// An entry with another number of changes than its head says.
    Changes {
        /// As the head says.
        expected: usize,
        /// As there are.
        found: usize,
    },
}

impl fmt::Display for EncodingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodingError::Short { expected, found } => {
                write!(f, "{expected} more bytes were expected, {found} found")
            }
            EncodingError::Long { found } => write!(f, "{found} bytes follow the end"),
            EncodingError::Version { expected, found } => {
                write!(f, "version {expected} was expected, {found} found")
            }
            EncodingError::Kind { of, found } => write!(f, "{found} names no kind of {of}"),
            EncodingError::Bound { of, expected, found } => {
                write!(f, "{of} may be {expected} at most, {found} found")
            }
            EncodingError::Text => f.write_str("a text is not UTF-8"),
            EncodingError::Order => f.write_str("ids are not in ascending order"),
            EncodingError::Membership => {
                f.write_str("a membership without voters or their members")
            }
            EncodingError::Changes { expected, found } => {
                write!(f, "{expected} changes were expected, {found} found")
            }
        }
    }
}

impl std::error::Error for EncodingError {}
