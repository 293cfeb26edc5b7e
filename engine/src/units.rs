//! Units: one type per meaning, so that an index, a count and a size cannot be mixed up.
//!
//! Must never know: anything else.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// Bytes in a block, the unit of the store.
pub const BLOCK_SIZE_BYTES: usize = 4096;

/// A point on the reactor's monotonic clock, in nanoseconds from an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Time from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Nanos) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Nanos {
    type Output = Nanos;
    fn add(self, delay: Duration) -> Nanos {
        let nanos = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        Nanos(self.0.saturating_add(nanos))
    }
}

/// Log sequence number: numbers the batches of one store's log, without gaps. The first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Index of a segment on its device, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u32);

/// Number of a segment's life: every time a segment is opened for writing it gets the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentSequence(pub u64);

/// Identity of a volume within one store. Never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub u32);

impl VolumeId {
    /// Ids from here on are those of volumes that belong to a group: their owner hands them out.
    pub const GROUPS: VolumeId = VolumeId(1 << 31);

    /// Whether it names a volume of a group.
    #[must_use]
    pub fn is_of_group(self) -> bool {
        self >= Self::GROUPS
    }
}

/// Identity of a placement group within one store. 0 means no group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Identity of an entry of a group's log: two entries with the same identity are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// That leader.
    pub leader: u64,
    /// Its place in the group's log, counted from 1.
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.term, self.leader, self.index)
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Index of a block within a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u64);

impl BlockIndex {
    /// The block `count` after this one.
    #[must_use]
    pub fn offset(self, count: u64) -> BlockIndex {
        BlockIndex(self.0 + count)
    }
}

/// A block on the device, counted in blocks from its start. 32 bits reach 16 TiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location(pub u32);

impl Location {
    /// Byte offset on the device.
    #[must_use]
    pub fn offset_bytes(self) -> u64 {
        u64::from(self.0) * BLOCK_SIZE_BYTES as u64
    }

    /// The block `count` after this one.
    #[must_use]
    pub fn offset(self, count: u32) -> Location {
        Location(self.0 + count)
    }
}
