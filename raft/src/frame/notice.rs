//! Heads of errors and farewells: a code that a program acts on, and a sentence for a person.
//!
//! Must never know: who sent it.

use super::limits::NOTICE_MAX_BYTES;

/// A code and one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What a program acts on.
    pub code: u8,
    /// What a person reads.
    pub text: String,
}

impl Notice {
    /// The head that says so. A text that is too long is cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let end = self.text.floor_char_boundary(NOTICE_MAX_BYTES - 1);
        let mut head = vec![self.code];
        head.extend_from_slice(&self.text.as_bytes()[..end]);
        head
    }

    /// Reads a head. One without a code has code 0; what is no text is replaced.
    #[must_use]
    pub fn decode(head: &[u8]) -> Notice {
        let (code, text) = head.split_first().map_or((0, head), |(code, text)| (*code, text));
        Notice { code, text: String::from_utf8_lossy(text).into_owned() }
    }
}

/// Why a side closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Farewell {
    /// A reason that this version does not know.
    Unknown = 0,
    /// The other belongs to another cluster.
    OtherCluster = 1,
    /// It is not the node that was wanted.
    OtherNode = 2,
    /// It is the node itself.
    Itself = 3,
    /// They have no protocol version in common.
    NoVersion = 4,
    /// The other is not a node of this cluster.
    Stranger = 5,
    /// The other has been started again since.
    OlderLife = 6,
    /// There is another connection between the two.
    Duplicate = 7,
    /// What the other sends cannot be understood.
    Garbage = 8,
    /// Nothing was heard for too long.
    Silent = 9,
    /// The node shuts down.
    ShuttingDown = 10,
    /// The other is no longer a node of this cluster.
    Removed = 11,
    /// What the other wants does not end.
    Overloaded = 12,
}

impl Farewell {
    /// The reason with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Farewell {
        const ALL: [Farewell; 12] = [
            Farewell::OtherCluster,
            Farewell::OtherNode,
            Farewell::Itself,
            Farewell::NoVersion,
            Farewell::Stranger,
            Farewell::OlderLife,
            Farewell::Duplicate,
            Farewell::Garbage,
            Farewell::Silent,
            Farewell::ShuttingDown,
            Farewell::Removed,
            Farewell::Overloaded,
        ];
        let known = ALL.into_iter().find(|reason| *reason as u8 == code);
        known.unwrap_or(Farewell::Unknown)
    }
}
