//! Which faults there are, how often they come, and the dice that decide.
//!
//! Invariants: every kind has a random stream of its own on every disk and in the network, so that
//! taking one away does not shift the others; a kind that is off draws nothing.
//! Must never know: what a fault does.

use crate::reactor::RandomStream;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// How often something happens: so many times in a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chance(pub u32);

impl Chance {
    /// Not at all.
    pub const NEVER: Chance = Chance(0);
    /// Every time.
    pub const ALWAYS: Chance = Chance(1_000_000);

    pub(super) fn hits(self, random: &mut RandomStream) -> bool {
        self != Chance::NEVER && random.below(u64::from(Chance::ALWAYS.0)) < u64::from(self.0)
    }
}

/// A class of faults. What each may do stands at the top of [`super`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum FaultKind {
    /// A read failed; the next one may work.
    ReadError,
    /// A block cannot be read until it is written again.
    BadBlock,
    /// A write failed.
    WriteError,
    /// A sync failed; what it was for reads back until the power goes.
    SyncLost,
    /// A sync failed; what it was for reads as before.
    SyncReverted,
    /// A sync, or a sync write, was reported done and was not.
    SyncLied,
    /// A write went elsewhere.
    MisdirectedWrite,
    /// A read came from elsewhere.
    MisdirectedRead,
    /// One bit at rest flipped.
    BitRot,
    /// A sector at rest became random bytes.
    Garbage,
    /// A sector at rest became zeroes.
    Zeroed,
    /// A sector at rest became what it was before its last write.
    Stale,
    /// An operation went through in two steps.
    Short,
    /// An operation went through in part, and failed.
    ShortError,
    /// The file system had no room for a block that was never written.
    Full,
    /// An operation took far longer than others.
    Stall,
    /// The power went while something was not durable, or in flight.
    Torn,
    /// Bytes were handed over in pieces.
    NetSplit,
    /// Bytes stayed on the way far longer than others.
    NetStall,
    /// A connection broke.
    NetCut,
    /// A sender had to wait for room.
    NetFull,
    /// A bit of what was sent over TCP changed.
    NetGarble,
}

/// How many kinds there are.
const KINDS: usize = FaultKind::ALL.len();

impl FaultKind {
    /// All kinds, in order.
    pub const ALL: [FaultKind; 22] = [
        FaultKind::ReadError,
        FaultKind::BadBlock,
        FaultKind::WriteError,
        FaultKind::SyncLost,
        FaultKind::SyncReverted,
        FaultKind::SyncLied,
        FaultKind::MisdirectedWrite,
        FaultKind::MisdirectedRead,
        FaultKind::BitRot,
        FaultKind::Garbage,
        FaultKind::Zeroed,
        FaultKind::Stale,
        FaultKind::Short,
        FaultKind::ShortError,
        FaultKind::Full,
        FaultKind::Stall,
        FaultKind::Torn,
        FaultKind::NetSplit,
        FaultKind::NetStall,
        FaultKind::NetCut,
        FaultKind::NetFull,
        FaultKind::NetGarble,
    ];
}

/// One injected fault: the `number`th of its kind in this world, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FaultId {
    /// Its kind.
    pub kind: FaultKind,
    /// Which of that kind.
    pub number: u64,
}

/// Faults injected so far, by kind.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts {
    counts: [u64; KINDS],
}

impl FaultCounts {
    /// How many of this kind.
    #[must_use]
    pub fn of(&self, kind: FaultKind) -> u64 {
        self.counts[kind as usize]
    }

    /// Of all kinds together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds another world's.
    pub fn add(&mut self, other: &FaultCounts) {
        self.counts.iter_mut().zip(other.counts).for_each(|(own, more)| *own += more);
    }

    /// All kinds with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (FaultKind, u64)> + '_ {
        FaultKind::ALL.into_iter().map(|kind| (kind, self.of(kind)))
    }
}

impl fmt::Debug for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().filter(|(_, count)| *count > 0)).finish()
    }
}

/// How long operations take: spread evenly on a scale of doublings around a median.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Half of all operations are faster.
    pub median: Duration,
    /// Doublings between the median and the typical slow or fast one, in sixteenths.
    pub spread_sixteenths: u32,
    /// How often an operation stalls.
    pub stall: Chance,
    /// Longest stall.
    pub stall_max: Duration,
}

impl Latency {
    /// A latency without stalls.
    #[must_use]
    pub fn around(median: Duration) -> Latency {
        Latency { median, spread_sixteenths: 16, stall: Chance::NEVER, stall_max: Duration::ZERO }
    }

    /// Draws one, stalls left aside. Log-normal in shape, in integers so that every build agrees.
    pub(super) fn draw(&self, random: &mut RandomStream) -> Duration {
        const ONE: u64 = 1 << 16;
        let median = u64::try_from(self.median.as_nanos()).unwrap_or(u64::MAX >> 24);
        // Eight uniform bytes add up to nearly a normal curve: mean 1020, deviation 209.
        let sum: u64 = random.next_u64().to_le_bytes().into_iter().map(u64::from).sum();
        let deviations = (sum as i64 - 1020) * ONE as i64 / 209;
        let doublings = deviations * i64::from(self.spread_sixteenths) / 16;
        let whole = doublings.div_euclid(ONE as i64).clamp(-20, 20);
        let mantissa = ONE + doublings.rem_euclid(ONE as i64) as u64;
        let scaled = u128::from(median) * u128::from(mantissa) / u128::from(ONE);
        let nanos = if whole >= 0 { scaled << whole } else { scaled >> -whole };
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX).max(1))
    }
}

/// Faults of a disk. All off by default; latency alone reorders operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFaults {
    /// How long operations take.
    pub latency: Latency,
    /// Per read: [`FaultKind::ReadError`].
    pub read_error: Chance,
    /// Per read: [`FaultKind::BadBlock`] for one block of it.
    pub bad_block: Chance,
    /// Per write: [`FaultKind::WriteError`].
    pub write_error: Chance,
    /// Per sync: [`FaultKind::SyncLost`].
    pub sync_lost: Chance,
    /// Per sync: [`FaultKind::SyncReverted`].
    pub sync_reverted: Chance,
    /// Per sync and sync write: [`FaultKind::SyncLied`].
    pub sync_lied: Chance,
    /// Per sync write: [`FaultKind::MisdirectedWrite`].
    pub misdirected_write: Chance,
    /// Per read: [`FaultKind::MisdirectedRead`].
    pub misdirected_read: Chance,
    /// Per operation: [`FaultKind::BitRot`] somewhere.
    pub bit_rot: Chance,
    /// Per operation: [`FaultKind::Garbage`] somewhere.
    pub garbage: Chance,
    /// Per operation: [`FaultKind::Zeroed`] somewhere.
    pub zeroed: Chance,
    /// Per operation: [`FaultKind::Stale`] somewhere. Set it before the disk is written.
    pub stale: Chance,
    /// Per read and write: [`FaultKind::Short`].
    pub short: Chance,
    /// Per read and write: [`FaultKind::ShortError`].
    pub short_error: Chance,
    /// [`FaultKind::Full`] for blocks from this offset on that were never written.
    pub full_from_bytes: Option<u64>,
    /// [`FaultKind::Full`] once so many bytes were ever written to.
    pub full_after_bytes: Option<u64>,
    /// Byte ranges that are never damaged at rest, misdirected to, or made bad.
    pub spared: Vec<Range<u64>>,
}

impl Default for DiskFaults {
    fn default() -> DiskFaults {
        DiskFaults {
            latency: Latency::around(Duration::from_micros(20)),
            read_error: Chance::NEVER,
            bad_block: Chance::NEVER,
            write_error: Chance::NEVER,
            sync_lost: Chance::NEVER,
            sync_reverted: Chance::NEVER,
            sync_lied: Chance::NEVER,
            misdirected_write: Chance::NEVER,
            misdirected_read: Chance::NEVER,
            bit_rot: Chance::NEVER,
            garbage: Chance::NEVER,
            zeroed: Chance::NEVER,
            stale: Chance::NEVER,
            short: Chance::NEVER,
            short_error: Chance::NEVER,
            full_from_bytes: None,
            full_after_bytes: None,
            spared: Vec::new(),
        }
    }
}

/// Faults of all sockets. Off by default, with room for 208 KiB on the way as on Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetFaults {
    /// How long bytes are on their way.
    pub latency: Latency,
    /// Per piece handed over, sending or receiving: [`FaultKind::NetSplit`].
    pub split: Chance,
    /// Per piece on its way: [`FaultKind::NetCut`].
    pub cut: Chance,
    /// Per piece on its way over TCP: [`FaultKind::NetGarble`].
    pub garble: Chance,
    /// Bytes of one direction that may be sent and not yet received.
    pub buffer_bytes: usize,
}

impl Default for NetFaults {
    fn default() -> NetFaults {
        NetFaults {
            latency: Latency::around(Duration::from_micros(10)),
            split: Chance::NEVER,
            cut: Chance::NEVER,
            garble: Chance::NEVER,
            buffer_bytes: 208 << 10,
        }
    }
}

/// What was injected, and what must not be.
#[derive(Default)]
pub(super) struct Injected {
    counts: FaultCounts,
    /// As counted, and those that were skipped.
    drawn: [u64; KINDS],
    skip: BTreeSet<FaultId>,
}

impl Injected {
    pub(super) fn new(skip: BTreeSet<FaultId>) -> Injected {
        Injected { skip, ..Injected::default() }
    }

    /// Counts a fault of `kind`, unless this one is to be skipped: then it must not happen.
    pub(super) fn take(&mut self, kind: FaultKind) -> bool {
        let number = self.drawn[kind as usize];
        self.drawn[kind as usize] += 1;
        let taken = !self.skip.contains(&FaultId { kind, number });
        self.counts.counts[kind as usize] += u64::from(taken);
        taken
    }

    pub(super) fn counts(&self) -> FaultCounts {
        self.counts
    }
}

/// One random stream per kind.
pub(super) struct Dice {
    streams: [RandomStream; KINDS],
}

impl Dice {
    /// Dice of the disk or network called `name`.
    pub(super) fn new(seed: u64, name: &str) -> Dice {
        let stream = |kind: FaultKind| RandomStream::named(seed, &format!("{name} {kind:?}"));
        Dice { streams: FaultKind::ALL.map(stream) }
    }

    pub(super) fn of(&mut self, kind: FaultKind) -> &mut RandomStream {
        &mut self.streams[kind as usize]
    }
}
