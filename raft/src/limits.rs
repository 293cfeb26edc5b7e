//! Every bound of the crate, why it is there, and how the bounds relate.
//!
//! Must never know: anything but the engine's limits.

use ashlar_engine::units::BLOCK_SIZE_BYTES;

/// Blocks that the changes of one proposal write: 1 MiB, what the engine writes atomically.
pub const PROPOSAL_BLOCKS_MAX: usize = (1 << 20) / BLOCK_SIZE_BYTES;
/// Changes of one proposal.
pub const PROPOSAL_CHANGES_MAX: usize = 64;
/// Bytes of the head of an entry, and of a group's applied head: the engine's bound.
pub const HEAD_MAX_BYTES: usize = 64 << 10;
/// Bytes of a control command or of its answer.
pub const COMMAND_MAX_BYTES: usize = 60 << 10;

/// Members of a group, voters and learners.
pub const MEMBERS_MAX: usize = 16;
/// Sets of voters in force at once: two while the membership changes.
pub const VOTER_SETS_MAX: usize = 2;
/// Bytes of a node's address.
pub const ADDRESS_MAX_BYTES: usize = 128;
/// Bytes of a node's failure-domain labels: five of at most 64 bytes, with their names.
pub const LABELS_MAX_BYTES: usize = 384;

/// Most bytes of an encoded membership.
pub const MEMBERSHIP_MAX_BYTES: usize = 2
    + VOTER_SETS_MAX * (1 + 8 * MEMBERS_MAX)
    + MEMBERS_MAX * (8 + 2 + ADDRESS_MAX_BYTES + 2 + LABELS_MAX_BYTES);

const _: () = assert!(COMMAND_MAX_BYTES + 64 <= HEAD_MAX_BYTES);
const _: () = assert!(MEMBERSHIP_MAX_BYTES <= 12 << 10);
const _: () = assert!(MEMBERS_MAX <= u8::MAX as usize);
