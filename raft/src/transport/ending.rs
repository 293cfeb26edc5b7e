//! Why a connection ended, or did not come to be.
//!
//! Must never know: what is done about it.

use crate::frame::{Farewell, FrameError, HelloError, Notice, Refusal};
use std::fmt;
use std::io;

/// The end of a connection, or of the attempt to have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The other side closed it without a word.
    Left,
    /// The system says so.
    Broken(io::ErrorKind),
    /// Nobody answered in time.
    TimedOut,
    /// What came is no frame.
    Garbage(FrameError),
    /// What came is no hello.
    BadHello(HelloError),
    /// A frame that may not be sent then.
    Misbehaved(Misdeed),
    /// This side does not speak with the other.
    Refused(Refusal),
    /// The other side closed it, and said why.
    Told(Farewell, String),
    /// Nothing was heard for too long.
    Silent,
    /// The other side did not take what was sent.
    Stalled,
    /// What the other side wants does not end, and there is no room for more.
    Overloaded,
    /// The other side has made a new one.
    Superseded,
    /// The peer is no longer one.
    Removed,
    /// This side shuts down.
    ShuttingDown,
}

/// What no peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misdeed {
    /// Said hello twice, or something else first.
    Hello,
    /// Used a request's number again while it was carried out.
    RequestTwice,
    /// Answered with more bytes than the caller takes.
    ReplyTooLarge,
}

impl fmt::Display for Misdeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Misdeed::Hello => "a hello where none may stand, or none where one must",
            Misdeed::RequestTwice => "two requests of one number",
            Misdeed::ReplyTooLarge => "an answer that is larger than was asked for",
        })
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Left => f.write_str("the other side closed the connection"),
            Ending::Broken(kind) => write!(f, "{kind}"),
            Ending::TimedOut => f.write_str("nobody answered in time"),
            Ending::Garbage(error) => write!(f, "not a frame: {error}"),
            Ending::BadHello(error) => write!(f, "not a hello: {error}"),
            Ending::Misbehaved(misdeed) => write!(f, "the other side broke the rules: {misdeed}"),
            Ending::Refused(refusal) => write!(f, "{refusal}"),
            Ending::Told(_, text) => write!(f, "the other side closed the connection: {text}"),
            Ending::Silent => f.write_str("nothing was heard for too long"),
            Ending::Stalled => f.write_str("the other side does not take what is sent"),
            Ending::Overloaded => f.write_str("too many of its requests do not end"),
            Ending::Superseded => f.write_str("the other side made a new connection"),
            Ending::Removed => f.write_str("it is no longer a node of this cluster"),
            Ending::ShuttingDown => f.write_str("the node shuts down"),
        }
    }
}

impl Ending {
    /// The last words to the other side, if there are any.
    pub(super) fn farewell(&self) -> Option<Notice> {
        let reason = match self {
            Ending::Garbage(_) | Ending::BadHello(_) | Ending::Misbehaved(_) => Farewell::Garbage,
            Ending::Refused(refusal) => refusal.farewell(),
            Ending::Superseded => Farewell::Duplicate,
            Ending::Silent => Farewell::Silent,
            Ending::Overloaded => Farewell::Overloaded,
            Ending::ShuttingDown => Farewell::ShuttingDown,
            Ending::Removed => Farewell::Removed,
            Ending::Left
            | Ending::Broken(_)
            | Ending::TimedOut
            | Ending::Told(..)
            | Ending::Stalled => return None,
        };
        Some(Notice { code: reason as u8, text: self.to_string() })
    }

    /// Whether one side does not want to speak with the other, now and later.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Ending::Refused(refusal) => *refusal != Refusal::Duplicate,
            Ending::Told(reason, _) => matches!(
                reason,
                Farewell::OtherCluster
                    | Farewell::OtherNode
                    | Farewell::Itself
                    | Farewell::NoVersion
                    | Farewell::Stranger
                    | Farewell::OlderLife
                    | Farewell::Removed
            ),
            _ => false,
        }
    }
}
