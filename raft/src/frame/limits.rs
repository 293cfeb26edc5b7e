//! Every bound of a frame, with its reason. A peer can make a decoder hold no more than one frame.
//!
//! Must never know: anything but the engine's limits.

use ashlar_engine::limits::REQUEST_BLOCKS_MAX;
use ashlar_engine::units::BLOCK_SIZE_BYTES;

/// Protocol versions that this code speaks.
pub const VERSION_OLDEST: u16 = 1;
/// See [`VERSION_OLDEST`].
pub const VERSION_NEWEST: u16 = 1;
/// The version of the frames that agree on one: the same for ever.
pub const VERSION_OF_HELLO: u16 = 1;

/// Head of a request or reply: what the control group knows, or several log entries' heads of at
/// most 64 KiB, and what names them.
pub const HEAD_MAX_BYTES: usize = (1 << 20) + (64 << 10);
/// Head of a hello: nobody has been identified yet, so little is taken from him.
pub const HELLO_MAX_BYTES: usize = 512;
/// Head of an error or a farewell: a code and one sentence.
pub const NOTICE_MAX_BYTES: usize = 256;

/// One part of a payload: the largest write of the engine, whose ends may lie inside a block.
pub const PART_MAX_BYTES: usize = REQUEST_BLOCKS_MAX as usize * BLOCK_SIZE_BYTES;
/// All parts of a payload, each counted in whole blocks: a few of the largest.
pub const PAYLOAD_MAX_BYTES: usize = 4 * PART_MAX_BYTES;
/// Parts of a payload: each has a block at least.
pub const PARTS_MAX: usize = PAYLOAD_MAX_BYTES / BLOCK_SIZE_BYTES;

/// Buffer that small frames are received into: a dozen with a block each.
pub const PARSE_BUFFER_BYTES: usize = 64 << 10;

const _: () = assert!(VERSION_OLDEST <= VERSION_NEWEST && VERSION_OLDEST > 0);
const _: () = assert!(PARSE_BUFFER_BYTES >= super::HEADER_BYTES + HELLO_MAX_BYTES);
const _: () = assert!(NOTICE_MAX_BYTES <= HELLO_MAX_BYTES && HELLO_MAX_BYTES <= HEAD_MAX_BYTES);
const _: () = assert!(PAYLOAD_MAX_BYTES <= u32::MAX as usize);
// The table of parts is held with the head while it is received.
const _: () = assert!(PARTS_MAX * size_of::<u32>() <= HEAD_MAX_BYTES);
