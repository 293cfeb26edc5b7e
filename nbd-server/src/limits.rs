//! Every bound of the NBD server, with its reason.
//!
//! A client can make the server hold memory only through these numbers: while it haggles
//! [`HANDSHAKE_MEMORY_MAX_BYTES`], afterwards its in-flight bytes and one parse buffer.
//! Must never know: anything but the engine's limits.

use ashlar_engine::limits::ATOMIC_WRITE_MAX_BYTES;
use std::time::Duration;

/// Time from accept to the end of the handshake: a client that haggles longer is not one. One that
/// asks about many exports gets [`OPTION_TIME`] more for each option.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Clients that leave more to follow and send no more (`MSG_MORE`), as `nbdinfo --list` of libnbd
/// 1.14, have each such option held back for 200 ms by TCP.
pub const OPTION_TIME: Duration = Duration::from_millis(250);
/// Data of one option. The largest honest one names an export (4 KiB) and a few contexts.
pub const OPTION_DATA_MAX_BYTES: usize = 8 << 10;
/// Bytes of longer options that are read and thrown away before the connection is closed.
pub const OPTION_DRAIN_MAX_BYTES: u64 = 64 << 10;
/// Options of one handshake: enough for three on each of the most exports a cluster can have.
pub const OPTIONS_MAX: u32 = 65_536;
/// Bytes of a string (protocol, "Conventions").
pub const STRING_MAX_BYTES: usize = 4096;
/// Bytes of an error text sent to a client: one sentence.
pub const MESSAGE_MAX_BYTES: usize = 256;
/// Export names fetched from the registry at once while listing; each may be a long string.
pub const LIST_PAGE_MAX: usize = 2;
/// Handshake output that is gathered before it is sent.
pub const HANDSHAKE_OUTPUT_BYTES: usize = 8 << 10;
/// What one unfinished handshake may hold: parse buffer, output, one option's names.
pub const HANDSHAKE_MEMORY_MAX_BYTES: usize = 64 << 10;

/// Largest payload of a request or reply; the value most clients assume (32 MiB).
pub const PAYLOAD_MAX_BYTES: u32 = 32 << 20;
/// Requests are cut into pieces of at most this; one piece is written atomically.
pub const PIECE_MAX_BYTES: u32 = ATOMIC_WRITE_MAX_BYTES as u32;
/// Extents in one block status reply: 16 KiB of descriptors.
pub const EXTENTS_MAX: usize = 1024;

/// Parse buffer of an idle connection.
pub const PARSE_BUFFER_MIN_BYTES: usize = 16 << 10;
/// Parse buffer of a busy one: 64 requests of 4 KiB in one receive.
pub const PARSE_BUFFER_MAX_BYTES: usize = 256 << 10;
/// Receives in a row that would have fitted the small buffer before the large one is given back.
pub const PARSE_BUFFER_SHRINK_AFTER: u32 = 256;

/// Requests of one connection that are not answered or whose answer is not sent.
pub const IN_FLIGHT_REQUESTS_MAX: u32 = 1024;
/// Reads of more than one piece of one connection: as many as can have a piece each in flight.
pub const LONG_READS_MAX: u32 = 32;
/// Payload bytes of one connection in flight; reading stops when it is passed.
pub const IN_FLIGHT_MAX_BYTES: usize = 32 << 20;
/// Payload bytes of one connection that are granted even when the server's are used up, so that
/// clients that do not take their replies cannot stop the others.
pub const IN_FLIGHT_GRANTED_BYTES: usize = 256 << 10;
/// Payload bytes of all connections together, beyond which only the granted ones pass.
pub const IN_FLIGHT_TOTAL_MAX_BYTES: usize = 256 << 20;
/// How long a send may take while others wait for the bytes it holds.
pub const SEND_STALL_MAX: Duration = Duration::from_secs(30);

/// Connections served at once.
pub const CONNECTIONS_MAX: usize = 512;
/// Connections beyond that which are told so; further ones are closed without a word.
pub const REFUSALS_MAX: usize = 32;
/// Pause after accept failed for want of descriptors or memory.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long a closing connection may take to finish requests and send their replies.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

const _: () = assert!(IN_FLIGHT_MAX_BYTES >= PAYLOAD_MAX_BYTES as usize);
const _: () = assert!(IN_FLIGHT_TOTAL_MAX_BYTES >= 2 * IN_FLIGHT_MAX_BYTES);
const _: () = assert!(PARSE_BUFFER_MIN_BYTES >= OPTION_DATA_MAX_BYTES + 16);
const _: () = assert!(OPTION_DATA_MAX_BYTES >= STRING_MAX_BYTES + 64);
// Names are held twice, as fetched and encoded; vectors may have room for twice what they hold.
const _: () = assert!(
    PARSE_BUFFER_MIN_BYTES + HANDSHAKE_OUTPUT_BYTES + 4 * LIST_PAGE_MAX * (STRING_MAX_BYTES + 64)
        <= HANDSHAKE_MEMORY_MAX_BYTES
);
