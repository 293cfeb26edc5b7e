//! Every bound of the control group's state, and how the bounds relate.
//!
//! Must never know: anything but the engine's limits.

use crate::placement::WEIGHT_MAX;
use ashlar_engine::limits::{GROUP_VOLUMES_MAX, STORE_MAX_BYTES};
use std::time::Duration;

/// Nodes that are not removed. Every node keeps a connection to every other, and tells the control
/// group's leader now and then that it lives.
pub const NODES_MAX: usize = 1024;
/// Removed nodes that are remembered, so that one that returns is told so.
pub const NODES_REMOVED_KEPT: usize = 1024;
/// Stores: four for each node, one for each core of a usual machine.
pub const STORES_MAX: usize = 4096;
/// Placement groups: eight for each store if each has two members, the fewest worth the name.
pub const GROUPS_MAX: usize = 16_384;
/// Members of groups on each data store that new groups are made for. Between 4, so that a store's
/// groups can be led by several nodes, and 16, so that idle groups cost little.
pub const GROUPS_PER_STORE_TARGET: usize = 8;
/// Groups made by one command: each must be started, and places are computed while it is applied.
pub const GROUPS_PER_COMMAND_MAX: usize = 64;
/// Members of groups on a data store beyond which none is made on it, however many slices want one.
pub const GROUPS_MADE_PER_STORE_MAX: usize = 4 * GROUPS_PER_STORE_TARGET;
/// Slices of one group. Each is a volume of the engine on each of the group's stores.
pub const SLICES_PER_GROUP_MAX: usize = 384;
/// Slices of all volumes that a state may name; what its bytes may be is reached long before.
pub const SLICES_MAX: usize = 1 << 20;
/// Slices that are ever made: each has a number of its own, and an engine's volume id made of it.
pub const SLICE_NUMBERS_MAX: u32 = (1 << 31) - 1;
/// Slices of one volume.
pub const SLICES_PER_VOLUME_MAX: usize = 4096;
/// Smallest slice: a volume of less is one slice.
pub const SLICE_MIN_BYTES: u64 = 64 << 20;
/// Largest slice, a sixteenth of the largest store.
pub const SLICE_MAX_BYTES: u64 = 1 << 40;
/// Smallest slice that is chosen unless one is asked for.
pub const SLICE_DEFAULT_MIN_BYTES: u64 = 1 << 30;
/// Slices that are aimed at unless a size is asked for: enough to spread over the groups.
pub const SLICES_PER_VOLUME_TARGET: u64 = 16;
/// Volumes of a cluster, those being deleted included.
pub const VOLUMES_MAX: usize = 16_384;
/// Replicas of a policy.
pub const REPLICAS_MAX: u8 = 5;
/// Members of a group: all replicas, a witness, and one that comes while one goes.
pub const MEMBERS_MAX: usize = REPLICAS_MAX as usize + 2;
/// Policies: there are fewer different ones.
pub const POLICIES_MAX: usize = 64;
/// Bytes of a text in a command: a name that is too long must reach the answer that says so.
pub const TEXT_MAX_BYTES: usize = 256;
/// Bytes of an address.
pub const ADDRESS_MAX_BYTES: usize = 256;
/// NBD addresses of a node.
pub const NBD_ADDRESSES_MAX: usize = 8;
/// Processes whose last commands are remembered, so that a retry is not carried out twice. Those
/// that were silent for longest are forgotten; a retry comes within a minute.
pub const PROPOSERS_MAX: usize = 64;
/// Commands of one process that are remembered; so many may be under way at once.
pub const COMMANDS_PER_PROPOSER_MAX: usize = 4;

/// A node not heard of for so long takes no new work. Several heartbeats may be lost.
pub const DOWN_AFTER: Duration = Duration::from_secs(5);
/// Time after which a dead node's replicas are made elsewhere, unless set: longer than a restart.
pub const GRACE_DEFAULT_SECONDS: u32 = 600;
/// Shortest such time: a node restarts within it.
pub const GRACE_MIN_SECONDS: u32 = 10;
/// Longest such time: thirty days.
pub const GRACE_MAX_SECONDS: u32 = 30 * 24 * 3600;
/// Groups that change members only to spread load, at once, unless set.
pub const MOVES_DEFAULT: u16 = 4;
/// Most of them that may be set.
pub const MOVES_MAX: u16 = 1024;
/// Groups that change members at once, repairs included: above this, more would only make each
/// slower.
pub const REPAIRS_MAX: usize = 64;
/// Learners that one store takes in at once: they share its bandwidth.
pub const LEARNERS_PER_STORE_MAX: usize = 2;
/// Entries a member may lack and still count as caught up: what a busy group has under way.
pub const CAUGHT_UP_ENTRIES: u64 = 256;
/// Leaders moved in one plan, so that not every client waits for an election at once.
pub const LEADS_PER_PLAN_MAX: usize = 16;
/// Volumes whose slices one plan asks to drop.
pub const DROPS_PER_PLAN_MAX: usize = 64;

const _: () = assert!(GROUPS_MAX >= STORES_MAX * GROUPS_PER_STORE_TARGET / 2);
// If all of its groups are full, a store has a quarter of its volumes left for those that come.
const _: () =
    assert!(GROUPS_MADE_PER_STORE_MAX * SLICES_PER_GROUP_MAX <= GROUP_VOLUMES_MAX / 4 * 3);
const _: () = assert!(SLICES_PER_GROUP_MAX <= crate::limits::EPOCHS_MAX);
const _: () = assert!(SLICE_MAX_BYTES <= STORE_MAX_BYTES / 16);
const _: () = assert!(STORE_MAX_BYTES >> 30 <= WEIGHT_MAX as u64);
const _: () = assert!(
    SLICE_MAX_BYTES >= ashlar_engine::limits::VOLUME_MAX_BYTES / SLICES_PER_VOLUME_MAX as u64
);
const _: () = assert!(SLICES_PER_VOLUME_MAX <= GROUPS_PER_COMMAND_MAX * SLICES_PER_GROUP_MAX);
const _: () = assert!(TEXT_MAX_BYTES >= ADDRESS_MAX_BYTES);
const _: () = assert!(TEXT_MAX_BYTES > ashlar_engine::limits::VOLUME_NAME_MAX_BYTES + 4);
const _: () = assert!(POLICIES_MAX > REPLICAS_MAX as usize * 5 * 2);
const _: () = assert!(MOVES_MAX as usize >= REPAIRS_MAX);
