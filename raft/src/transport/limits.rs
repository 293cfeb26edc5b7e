//! Every bound of the transport, with its reason.
//!
//! An honest peer keeps the bounds of who calls, so the bounds of who is called are at least as
//! wide: it stops receiving only for a peer that breaks them, and so never keeps answers waiting.
//! Must never know: anything but the limits of frames.

use crate::frame::limits::{HEAD_MAX_BYTES, PAYLOAD_MAX_BYTES};
use std::time::Duration;

/// Nodes that one node speaks with: each costs a parse buffer.
pub const PEERS_MAX: usize = 256;
/// Connections of which it is not known yet whose they are; further ones are closed at once.
pub const HANDSHAKES_MAX: usize = 64;

/// Calls to one peer that were sent and are not answered: several for each of many groups.
pub const CALLS_MAX: usize = 512;
/// Bytes of their requests. Covers what a fast network holds, and several of the largest.
pub const REQUESTS_MAX_BYTES: usize = 16 << 20;
/// Bytes that their answers may have.
pub const REPLIES_MAX_BYTES: usize = 16 << 20;
/// Bytes that are handed to a connection and not sent.
pub const QUEUED_MAX_BYTES: usize = 8 << 20;
/// Memory for small pieces that is kept from one send for the next.
pub const SPARE_MAX_BYTES: usize = 64 << 10;
/// Calls to one peer that wait for room; a further one is told that the peer is busy.
pub const WAITING_CALLS_MAX: usize = 4096;
/// Bytes of their requests.
pub const WAITING_MAX_BYTES: usize = 64 << 20;
/// What the largest answer is taken to be if the caller does not say.
pub const REPLY_BYTES_DEFAULT: usize = 16 << 10;

/// Requests of one peer that are carried out at once. Nothing is received from it beyond that.
pub const HANDLERS_MAX: usize = 2 * CALLS_MAX;
/// Bytes of their requests, and of answers that the peer has not taken.
pub const HELD_MAX_BYTES: usize = REQUESTS_MAX_BYTES + QUEUED_MAX_BYTES + REPLIES_MAX_BYTES;

/// Longest time-out of a call; longer ones are shortened.
pub const CALL_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Time to connect.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time from connecting to the other's hello.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for the last words on a connection.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after the first failure to connect; doubled by each further one. The actual pause is drawn
/// between half of that and all, so that nodes do not meet again and again.
pub const BACK_OFF_MIN: Duration = Duration::from_millis(20);
/// Longest pause. A connection that lasted this long ends the row of failures.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(1);
/// Pause after accept failed for want of descriptors or memory.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often a connection is looked after.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// A connection on which nothing was sent for this long carries a ping.
pub const PING_AFTER: Duration = Duration::from_secs(1);
/// A connection on which nothing was heard for this long is cut.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A connection whose peer has not taken what was sent for this long is cut.
pub const SEND_STALL_MAX: Duration = Duration::from_secs(10);
/// A connection from which nothing could be received for this long, for want of room, is cut: only
/// its end can free what does not end by itself.
pub const DEAF_MAX: Duration = Duration::from_secs(30);

const LARGEST_BYTES: usize = HEAD_MAX_BYTES + PAYLOAD_MAX_BYTES;
const _: () = assert!(REQUESTS_MAX_BYTES >= 2 * LARGEST_BYTES);
const _: () = assert!(REPLIES_MAX_BYTES >= 2 * LARGEST_BYTES);
const _: () = assert!(QUEUED_MAX_BYTES >= LARGEST_BYTES);
const _: () = assert!(HANDLERS_MAX >= CALLS_MAX);
const _: () = assert!(HELD_MAX_BYTES >= REQUESTS_MAX_BYTES + REPLIES_MAX_BYTES);
const _: () = assert!(REPLY_BYTES_DEFAULT * CALLS_MAX <= REPLIES_MAX_BYTES);
const _: () = assert!(BACK_OFF_MIN.as_nanos() < BACK_OFF_MAX.as_nanos());
// Two pings may be lost in a pause of the peer, and a third one late.
const _: () =
    assert!(3 * (PING_AFTER.as_nanos() + WATCH_INTERVAL.as_nanos()) <= SILENCE_MAX.as_nanos());

/// How much may be on its way to and from one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// See [`CALLS_MAX`].
    pub calls_max: usize,
    /// See [`REQUESTS_MAX_BYTES`]. One request passes whatever its size.
    pub requests_max_bytes: usize,
    /// See [`REPLIES_MAX_BYTES`]. One call passes whatever its answer's size.
    pub replies_max_bytes: usize,
    /// See [`QUEUED_MAX_BYTES`]. One frame passes whatever its size.
    pub queued_max_bytes: usize,
    /// See [`WAITING_CALLS_MAX`].
    pub waiting_calls_max: usize,
    /// See [`WAITING_MAX_BYTES`].
    pub waiting_max_bytes: usize,
    /// See [`HANDLERS_MAX`].
    pub handlers_max: usize,
    /// See [`HELD_MAX_BYTES`].
    pub held_max_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            calls_max: CALLS_MAX,
            requests_max_bytes: REQUESTS_MAX_BYTES,
            replies_max_bytes: REPLIES_MAX_BYTES,
            queued_max_bytes: QUEUED_MAX_BYTES,
            waiting_calls_max: WAITING_CALLS_MAX,
            waiting_max_bytes: WAITING_MAX_BYTES,
            handlers_max: HANDLERS_MAX,
            held_max_bytes: HELD_MAX_BYTES,
        }
    }
}
