//! Every bound of the crate, why it is there, and how the bounds relate.
//!
//! Must never know: anything but the limits of the engine and of frames.

use ashlar_engine::limits::{
    APPLIED_HEAD_MAX_BYTES, ENTRY_BLOCKS_MAX, ENTRY_CHANGES_MAX, ENTRY_HEAD_MAX_BYTES,
    VOTE_MAX_BYTES,
};
use ashlar_engine::units::BLOCK_SIZE_BYTES;
use std::time::Duration;

/// Blocks that the changes of one proposal write: 1 MiB, what the engine writes atomically, and one
/// more if its ends lie inside blocks.
pub const PROPOSAL_BLOCKS_MAX: usize = (1 << 20) / BLOCK_SIZE_BYTES + 1;
/// Changes of one proposal.
pub const PROPOSAL_CHANGES_MAX: usize = 64;
/// Bytes of the head of an entry: the engine's bound.
pub const HEAD_MAX_BYTES: usize = ENTRY_HEAD_MAX_BYTES;
/// Bytes of a group's applied head: the engine's bound. Only the control group's is longer than an
/// entry's.
pub const APPLIED_MAX_BYTES: usize = APPLIED_HEAD_MAX_BYTES;
/// Bytes of a control command or of its answer.
pub const COMMAND_MAX_BYTES: usize = 60 << 10;

/// Group of the engine in which a node keeps who it is. No placement group has this number.
pub const IDENTITY_GROUP: u32 = u32::MAX;
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
    + MEMBERS_MAX * (8 + 8 + 2 + ADDRESS_MAX_BYTES + 2 + LABELS_MAX_BYTES);

/// Bytes of a vote.
pub const VOTE_BYTES: usize = 18;
/// Bytes of what a member keeps with its vote.
pub const SAVED_BYTES: usize = 2 + VOTE_BYTES + 1 + 3 * 8;

/// Bytes of entries that are read at once to be sent: one full proposal, or many small ones. More
/// are in flight by pipelining.
pub const READ_MAX_BYTES: usize = 1 << 20;
/// Blocks that a leader keeps free in its store: what may be under way to members that have as much
/// room as it has itself.
pub const ROOM_MARGIN_BLOCKS: u64 = 16 * PROPOSAL_BLOCKS_MAX as u64;
/// Blocks that one node reads for another at once.
pub const READ_BLOCKS_MAX: u64 = PROPOSAL_BLOCKS_MAX as u64;
/// Time in which the members of a group must answer a leader that wants to know whether it still
/// leads, before who reads is told that nobody knows.
pub const READ_BARRIER_MAX: Duration = Duration::from_secs(2);
/// Members that are asked one after the other who leads a group, before who asks is told that
/// nobody does. The pauses between them add up to about two elections.
pub const ASK_LEADER_ATTEMPTS: u32 = 10;
/// Time in which a node answers another one. Longer than a write that waits for room.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which a command to the control group that has no outcome is given up.
pub const COMMAND_MAX: Duration = Duration::from_secs(30);
/// Entries that a member keeps for others that may fall behind, once they are applied.
pub const ENTRIES_KEPT: u64 = 8192;
/// Entries that a leader keeps for members that are behind, if its store has room. One that is
/// further behind gets a snapshot.
pub const ENTRIES_KEPT_BEHIND: u64 = 1 << 17;
/// Entries beyond [`ENTRIES_KEPT`] after which they are given up: not one by one.
pub const ENTRIES_PURGED_MIN: u64 = 4096;
/// Bytes of a change on the wire, but for its blocks; and of what an entry says besides its head.
pub const WIRE_CHANGE_MAX_BYTES: usize = 32;
/// Bytes of heads and changes that are read at once to be sent, besides one entry's: with that they
/// fit the head of a frame.
pub const READ_HEADS_MAX_BYTES: usize = 128 << 10;
/// Entries that are applied at once, before their proposers are answered.
pub const APPLY_ENTRIES_MAX: usize = 64;

/// How long a member that has all entries is not told that more of them are committed, if entries
/// that say so may come: more than the time between two writes of a client that waits for each.
pub const COMMIT_HELD_MAX: Duration = Duration::from_millis(10);

/// Blocks of one piece of a snapshot: 1 MiB.
pub const SNAPSHOT_PIECE_BLOCKS: u64 = (1 << 20) / BLOCK_SIZE_BYTES as u64;
/// Pieces of a snapshot that are under way: enough to keep a network and a disk busy together.
pub const SNAPSHOT_PIECES_UNDER_WAY: usize = 4;
/// How long after a client's last request a node counts as used,
pub const SNAPSHOT_BUSY_TIME: Duration = Duration::from_millis(100);
/// and the pause between pieces of its snapshots then: at most 50 MiB in a second, all together.
pub const SNAPSHOT_BUSY_PAUSE: Duration = Duration::from_millis(20);
/// A snapshot no longer waits for clients once the store has given up this part of the entries
/// that it had when the snapshot began: without those behind it, the member needs another one.
pub const SNAPSHOT_GIVEN_UP_PART: u64 = 8;
/// How often room is made for one piece of a snapshot, before there is none.
pub const SNAPSHOT_ROOM_ATTEMPTS: u32 = 8;
/// Time without a piece after which a member asks for another snapshot: the sender may be dead.
pub const SNAPSHOT_SILENCE_MAX: Duration = Duration::from_secs(1);
/// Time in which a piece of a snapshot is taken in; the store may have to write a checkpoint first.
pub const SNAPSHOT_CALL_MAX: Duration = Duration::from_secs(30);

/// Proposals of a writer that are under way at once: what comes meanwhile gathers.
pub const PROPOSALS_UNDER_WAY: usize = 4;
/// Writes that must have gathered for another proposal while one is under way: each costs all
/// members much before its first write, so that half as many cost more CPU at depth 128;
pub const PROPOSAL_WORTH_CHANGES: usize = 48;
/// or their blocks: 256 KiB keep a network and a disk busy.
pub const PROPOSAL_WORTH_BLOCKS: usize = 64;
/// Longest time for which writes that wait are held until others come to share their proposal,
pub const GATHER_MAX: Duration = Duration::from_micros(500);
/// and proposals, at most, after which that is not tried where nobody came.
pub const GATHER_SKIPPED_MAX: u32 = 64;
/// Writes of one writer that wait to be proposed; a further one waits for room.
pub const WRITES_WAITING_MAX: usize = 1024;
/// Blocks of those.
pub const BLOCKS_WAITING_MAX: usize = 16 << 8;
/// Time after which who writes is told that nobody knows what became of it; or, if it waited so
/// long for others, that it was not written.
pub const WRITE_MAX: Duration = Duration::from_secs(30);
/// Proposals of one proposer in a group that may be unanswered at once: retries are told from new
/// ones as far back.
pub const PROPOSALS_OPEN_MAX: u64 = 64;
/// Proposers that a group tells retries of. Another one is refused while none of these is idle.
pub const PROPOSERS_MAX: usize = 512;
/// Entries after which a proposer that was silent may be forgotten: by then it has long given up
/// what it has open.
pub const PROPOSER_IDLE_ENTRIES: u64 = 1 << 16;
/// Volumes of a group that have a writer epoch.
pub const EPOCHS_MAX: usize = 1024;
/// Bytes of the control group's state, which is kept with the applied index and sent whole.
pub const CONTROL_STATE_MAX_BYTES: usize = 960 << 10;
/// Bytes of what a group knows besides its volumes and the control group's state.
const KEPT_MAX_BYTES: usize = 64 + MEMBERSHIP_MAX_BYTES + 32 * PROPOSERS_MAX + 12 * EPOCHS_MAX;

const _: () = assert!(PROPOSAL_BLOCKS_MAX <= ENTRY_BLOCKS_MAX as usize);
const _: () = assert!(PROPOSAL_CHANGES_MAX <= ENTRY_CHANGES_MAX);
const _: () = assert!(
    READ_HEADS_MAX_BYTES + HEAD_MAX_BYTES + WIRE_CHANGE_MAX_BYTES * (2 + PROPOSAL_CHANGES_MAX)
        <= crate::frame::limits::HEAD_MAX_BYTES
);
const _: () = assert!(READ_MAX_BYTES + (1 << 20) <= crate::frame::limits::PAYLOAD_MAX_BYTES);
const _: () = assert!(SAVED_BYTES <= VOTE_MAX_BYTES);
const _: () = assert!(KEPT_MAX_BYTES <= HEAD_MAX_BYTES);
const _: () = assert!(KEPT_MAX_BYTES + CONTROL_STATE_MAX_BYTES <= APPLIED_MAX_BYTES);
const _: () = assert!(APPLIED_MAX_BYTES + 256 <= crate::frame::limits::HEAD_MAX_BYTES);
const _: () = assert!(SNAPSHOT_PIECE_BLOCKS as usize <= PROPOSAL_BLOCKS_MAX);
const _: () = assert!(COMMAND_MAX_BYTES + 64 <= HEAD_MAX_BYTES);
const _: () = assert!(MEMBERSHIP_MAX_BYTES <= 12 << 10);
const _: () = assert!(MEMBERS_MAX <= u8::MAX as usize);

/// How long a member waits to have applied what another one's copy of a block is as of.
pub const MEND_APPLY_MAX: Duration = Duration::from_secs(3);
/// How often a copy is read until no entry was applied meanwhile.
pub const MEND_COPY_ATTEMPTS: u32 = 16;
/// Rest between two passes of the scrubber.
pub const SCRUB_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Pause after each MiB that it reads: at most 10 MiB a second.
pub const SCRUB_PAUSE: Duration = Duration::from_millis(100);
/// How long one node is asked for an entry that is damaged here.
pub const REPAIR_ASK_MAX: Duration = Duration::from_secs(3);
