//! The transport: requests to other nodes and their answers, over one connection per pair of nodes.
//!
//! [`Peers`] keeps the connections and makes the calls; a [`Handler`] answers those of others. All
//! groups share a connection. What is promised:
//! - Requests of one group and lane reach the handler in the order in which they were made, those
//!   that are lost with a connection left out. Answers come in any order.
//! - Every call ends: with an answer, or with an [`Error`] whose kind says whether the request may
//!   have been carried out. A request is handed over at most once.
//! - What is on its way to and from a peer is bounded ([`limits`]): calls wait for room, in order.
//!   Nothing is received from a peer for which too much is held; if that does not end, the
//!   connection does. No peer delays another.
//! - A connection on which nothing is heard is cut after [`limits::SILENCE_MAX`]; one that is lost
//!   is made again after a pause that grows.
//! - Of two connections between the same nodes one stays, and both sides choose the same.
//!
//! Must never know: what heads and payloads mean, Raft.

mod calls;
mod connection;
mod dial;
mod ending;
mod error;
mod handshake;
pub mod limits;
mod outgoing;
mod peer;
mod peers;
mod serve;
mod tie;

pub use ending::{Ending, Misdeed};
pub use error::{Error, ErrorKind, Result};
pub use limits::Bounds;
pub use peers::{Call, Peers};

use crate::frame::{NodeId, charged_bytes};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::reactor::LocalBox;

/// What a peer is asked or told.
#[derive(Debug, Default)]
pub struct Request {
    /// Whose it is.
    pub group: u32,
    /// Requests of one group and lane are handed over in order.
    pub lane: u32,
    /// What is said.
    pub head: Vec<u8>,
    /// Blocks. They arrive in the same parts.
    pub payload: Vec<Buffer>,
    /// The largest answer that is taken, as [`Reply::charged_bytes`] counts.
    pub reply_max_bytes: u32,
}

impl Request {
    /// A request without payload, for an answer of at most [`limits::REPLY_BYTES_DEFAULT`].
    #[must_use]
    pub fn new(group: u32, lane: u32, head: Vec<u8>) -> Request {
        let reply_max_bytes = limits::REPLY_BYTES_DEFAULT as u32;
        Request { group, lane, head, payload: Vec::new(), reply_max_bytes }
    }
}

/// An answer.
#[derive(Debug, Default)]
pub struct Reply {
    /// What is said.
    pub head: Vec<u8>,
    /// Blocks. They arrive in the same parts.
    pub payload: Vec<Buffer>,
}

impl Reply {
    /// What it counts for: its head, and each part in whole blocks.
    #[must_use]
    pub fn charged_bytes(&self) -> usize {
        charged_bytes(self.head.len(), self.payload.iter().map(|part| part.len()))
    }
}

/// Answers what peers want.
pub trait Handler {
    /// Called for one request after the other, in the order in which they came; the future is
    /// polled once before the next request is handed over, and to its end in a task of its own.
    ///
    /// The future is dropped when the caller has given up or the connection has ended: what must
    /// not stop half-way belongs into a task of the handler's own. The answer to a request that
    /// wants none is dropped; its handler should not wait for the peer it came from.
    fn handle(
        &self,
        peer: NodeId,
        group: u32,
        lane: u32,
        head: Vec<u8>,
        payload: Vec<Buffer>,
    ) -> LocalBox<Result<Reply>>;
}

/// Where a peer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which.
    pub node: NodeId,
    /// There is a connection.
    pub connected: bool,
    /// Connections so far.
    pub connections: u64,
    /// How the last connection ended.
    pub last_ending: Option<Ending>,
    /// Why the last attempt at one that failed did so.
    pub last_failure: Option<Ending>,
    /// Calls to it whose result nobody has taken yet.
    pub calls: usize,
    /// Those of them that were sent and are not answered.
    pub calls_sent: usize,
    /// Those of them that wait for room.
    pub calls_waiting: usize,
    /// Bytes of requests that were sent and are not answered.
    pub in_flight_bytes: usize,
    /// Bytes that are to be sent.
    pub queued_bytes: usize,
    /// Its requests that are carried out.
    pub handlers: usize,
    /// Bytes of those.
    pub held_bytes: usize,
}

/// Somebody who called and was not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnedAway {
    /// Its address.
    pub from: String,
    /// Why.
    pub why: Ending,
    /// How many there were so far.
    pub count: u64,
}
