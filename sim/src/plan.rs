//! What one seed does: which classes of trouble there are in it, how hard they hit, how long it
//! lasts.
//!
//! Every class has a random stream of its own, so that a class can be taken away and the rest
//! stays as it was: that is how a failing seed is made small.
//! Must never know: how trouble is made.

use ashlar_engine::reactor::RandomStream;
use ashlar_engine::reactor::sim::{Chance, DiskFaults, FaultId, Latency, NetFaults};
use std::collections::BTreeSet;
use std::time::Duration;

/// Something that makes a seed harder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Device operations of very different speed.
    Latency,
    /// Some take far longer.
    Stall,
    /// Operations in two steps.
    Short,
    /// Reads that fail once.
    ReadError,
    /// Writes that fail.
    WriteError,
    /// Syncs that fail.
    SyncError,
    /// One block damaged while nobody looks.
    Damage,
    /// Blocks damaged all the time, reads of the wrong place, unreadable blocks.
    Rot,
    /// Writes that go elsewhere or were never durable.
    Lies,
    /// A file system without room for the whole store.
    Full,
    /// Bytes in pieces, and late.
    Split,
    /// Connections that break.
    Cut,
    /// Little room on the way.
    Narrow,
    /// Clients that leave in the middle of a request.
    Vanish,
    /// Requests that begin and end inside blocks.
    Partial,
    /// Requests of up to some MiB.
    Large,
    /// Zeroes and trims.
    Zeroes,
    /// Volumes come and go.
    Volumes,
    /// Much is written, so that space runs short.
    Heavy,
    /// Crashes soon after the start.
    Early,
    /// The power goes; otherwise only processes die.
    Power,
    /// Ready tasks run in any order.
    Shuffle,
    /// In a cluster: nodes are killed.
    NodeKill,
    /// Hosts lose their power.
    NodePower,
    /// Nodes are ended in order and started again.
    NodeStop,
    /// All hosts lose their power at once.
    Blackout,
    /// A host is cut off from all others.
    Isolate,
    /// Bytes go one way only between two hosts.
    OneWay,
    /// Two halves that see each other through one host only.
    Bridge,
    /// A host stands still for a while.
    Pause,
    /// A disk is far slower than the others for a while.
    SlowDisk,
    /// A disk fails writes until its node starts again.
    DiskFails,
    /// A host loses its disk, and gets an empty one.
    Wipe,
    /// Blocks at rest change on one host.
    RotOne,
    /// Blocks at rest change on all hosts, each elsewhere.
    RotAll,
    /// A file system has no more room for a while.
    DiskFull,
    /// A node is drained, and taken back.
    Members,
    /// Bits change on the way between nodes.
    Garble,
    /// Clocks are apart, and go fast or slow.
    Clocks,
    /// Clients take volumes over from each other all the time.
    Takeover,
    /// Two troubles at once.
    Double,
    /// One of three replicas is a witness, without blocks.
    Witness,
    /// Volumes that their stores hardly hold, overwritten without pauses, and one host whose disk
    /// is slower than the others all the time.
    Tight,
}

impl Class {
    /// All classes, and in how many seeds of 100 each is.
    pub const ALL: [(Class, u64); 22] = [
        (Class::Latency, 70),
        (Class::Stall, 15),
        (Class::Short, 20),
        (Class::ReadError, 12),
        (Class::WriteError, 10),
        (Class::SyncError, 5),
        (Class::Damage, 25),
        (Class::Rot, 8),
        (Class::Lies, 4),
        (Class::Full, 6),
        (Class::Split, 40),
        (Class::Cut, 20),
        (Class::Narrow, 20),
        (Class::Vanish, 40),
        (Class::Partial, 70),
        (Class::Large, 30),
        (Class::Zeroes, 80),
        (Class::Volumes, 50),
        (Class::Heavy, 12),
        (Class::Early, 50),
        (Class::Power, 75),
        (Class::Shuffle, 80),
    ];

    /// The classes of clusters, and in how many of their seeds of 100 each is.
    pub const CLUSTER: [(Class, u64); 30] = [
        (Class::Latency, 60),
        (Class::Stall, 15),
        (Class::Split, 30),
        (Class::Cut, 15),
        (Class::Narrow, 10),
        (Class::Partial, 60),
        (Class::Zeroes, 60),
        (Class::Shuffle, 80),
        (Class::Heavy, 12),
        (Class::NodeKill, 50),
        (Class::NodePower, 50),
        (Class::NodeStop, 30),
        (Class::Blackout, 15),
        (Class::Isolate, 40),
        (Class::OneWay, 25),
        (Class::Bridge, 15),
        (Class::Pause, 35),
        (Class::SlowDisk, 20),
        (Class::DiskFails, 15),
        (Class::Wipe, 15),
        (Class::RotOne, 15),
        (Class::RotAll, 10),
        (Class::DiskFull, 10),
        (Class::Members, 25),
        (Class::Garble, 15),
        (Class::Clocks, 40),
        (Class::Takeover, 40),
        (Class::Double, 30),
        (Class::Witness, 15),
        (Class::Tight, 8),
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The class of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<Class> {
        let all = Class::ALL.into_iter().chain(Class::CLUSTER).map(|(class, _)| class);
        all.into_iter().find(|class| class.name() == name)
    }
}

/// What a seed is cut down to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Classes that are left out.
    pub without: BTreeSet<Class>,
    /// At most so many lives of the store.
    pub lives: Option<u32>,
    /// At most so many requests in each.
    pub requests: Option<u32>,
    /// Faults that do not happen.
    pub skip: BTreeSet<FaultId>,
    /// A store that is broken on purpose, to see that it is noticed.
    pub canary: Option<Canary>,
    /// Clusters instead of single stores.
    pub cluster: bool,
}

/// Ways to break the harness on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// The disk forgets what was durable, and nobody makes allowance for it.
    ForgetfulDisk,
    /// A client takes a request for done that was never sent.
    LyingClient,
    /// A client swaps two sectors of what it read.
    SwappedSectors,
}

/// How much the disk may be trusted in a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// It keeps every promise: so must the store.
    Honest,
    /// Operations fail, and say so.
    Failing,
    /// What is stored changes, while it is in use: nothing wrong is answered, but a crash may take
    /// for torn what was damaged.
    Damaged,
    /// Promises are broken: only that no wrong bytes are answered is left.
    Lying,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Classes of trouble in it.
    pub classes: BTreeSet<Class>,
    /// Lives of the store.
    pub lives: u32,
    /// Requests in each.
    pub requests: u32,
    /// Clients at once.
    pub clients: u32,
    /// Requests each has under way.
    pub depth: u32,
    /// Bytes of the largest volume.
    pub volume_bytes: u64,
    /// While the store serves.
    pub disk: DiskFaults,
    /// All the time.
    pub net: NetFaults,
}

/// Chance of `low` to `high` in a million.
pub fn chance(random: &mut RandomStream, low: u64, high: u64) -> Chance {
    Chance((low + random.below(high - low)) as u32)
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn draw(seed: u64, limits: &Limits) -> Plan {
        let mut random = RandomStream::named(seed, "plan");
        let classes = Plan::classes(seed, limits);
        let heavy = classes.contains(&Class::Heavy);
        let lives = 3 + random.below(8) as u32;
        let requests = 10 + random.below(50) as u32;
        let mut plan = Plan {
            classes,
            lives: if heavy { lives.min(5) } else { lives },
            requests: if heavy { requests + 60 } else { requests },
            clients: 1 + random.below(4) as u32,
            depth: 1 + random.below(5) as u32,
            volume_bytes: if heavy { 6 << 20 } else { (64 << 10) << random.below(5) },
            disk: DiskFaults::default(),
            net: NetFaults::default(),
        };
        plan.lives = plan.lives.min(limits.lives.unwrap_or(u32::MAX));
        plan.requests = plan.requests.min(limits.requests.unwrap_or(u32::MAX));
        plan.draw_net(seed);
        plan.draw_disk(seed);
        if limits.canary == Some(Canary::ForgetfulDisk) {
            plan.classes.insert(Class::Power);
            plan.disk.sync_lied = Chance(300_000);
        }
        plan
    }

    /// Classes of trouble in a seed.
    #[must_use]
    pub fn classes(seed: u64, limits: &Limits) -> BTreeSet<Class> {
        let all: &[(Class, u64)] = if limits.cluster { &Class::CLUSTER } else { &Class::ALL };
        let drawn = all.iter().filter(|(class, percent)| {
            RandomStream::named(seed, &class.name()).below(100) < *percent
                && !limits.without.contains(class)
        });
        drawn.map(|(class, _)| *class).collect()
    }

    /// Whether a class is in it.
    #[must_use]
    pub fn has(&self, class: Class) -> bool {
        self.classes.contains(&class)
    }

    /// How much its disk may be trusted.
    #[must_use]
    pub fn trust(&self) -> Trust {
        let failing = [Class::ReadError, Class::WriteError, Class::SyncError];
        if self.has(Class::Lies) {
            Trust::Lying
        } else if self.has(Class::Rot) {
            Trust::Damaged
        } else if failing.into_iter().any(|class| self.has(class)) {
            Trust::Failing
        } else {
            Trust::Honest
        }
    }

    fn random(&self, seed: u64, class: Class) -> Option<RandomStream> {
        self.has(class).then(|| RandomStream::named(seed, &format!("{} plan", class.name())))
    }

    fn draw_net(&mut self, seed: u64) {
        self.net.latency.median = Duration::from_micros(5);
        if let Some(mut random) = self.random(seed, Class::Split) {
            let net = &mut self.net;
            net.split = chance(&mut random, 10_000, 400_000);
            net.latency.stall = chance(&mut random, 0, 20_000);
            net.latency.stall_max = Duration::from_millis(1 + random.below(50));
        }
        if let Some(mut random) = self.random(seed, Class::Cut) {
            self.net.cut = chance(&mut random, 1_000, 20_000);
        }
        if let Some(mut random) = self.random(seed, Class::Narrow) {
            self.net.buffer_bytes = 1 << (10 + random.below(8));
        }
    }

    fn draw_disk(&mut self, seed: u64) {
        let draw = |class| self.random(seed, class);
        let mut disk = DiskFaults::default();
        disk.latency.median = Duration::from_micros(20);
        if let Some(mut random) = draw(Class::Latency) {
            let micros = 1 << random.below(12);
            let latency = Latency::around(Duration::from_micros(micros));
            let spread_sixteenths = 4 + random.below(40) as u32;
            disk.latency = Latency { spread_sixteenths, ..latency };
        }
        if let Some(mut random) = draw(Class::Stall) {
            disk.latency.stall = chance(&mut random, 1_000, 30_000);
            disk.latency.stall_max = Duration::from_millis(1 + random.below(2_000));
        }
        if let Some(mut random) = draw(Class::Short) {
            disk.short = chance(&mut random, 10_000, 300_000);
        }
        if let Some(mut random) = draw(Class::ReadError) {
            disk.read_error = chance(&mut random, 1_000, 60_000);
        }
        if let Some(mut random) = draw(Class::WriteError) {
            disk.write_error = chance(&mut random, 500, 10_000);
            disk.short_error = chance(&mut random, 0, 5_000);
        }
        if let Some(mut random) = draw(Class::SyncError) {
            disk.sync_lost = chance(&mut random, 0, 100_000);
            disk.sync_reverted = chance(&mut random, 0, 100_000);
        }
        if let Some(mut random) = draw(Class::Rot) {
            let most = 1 + random.below(20_000);
            disk.bit_rot = chance(&mut random, 0, most);
            disk.garbage = chance(&mut random, 0, most);
            disk.zeroed = chance(&mut random, 0, most);
            disk.stale = chance(&mut random, 0, most);
            disk.bad_block = chance(&mut random, 0, most);
            disk.misdirected_read = chance(&mut random, 0, most);
        }
        if let Some(mut random) = draw(Class::Lies) {
            disk.sync_lied = chance(&mut random, 0, 30_000);
            disk.misdirected_write = chance(&mut random, 0, 10_000);
        }
        if let Some(mut random) = draw(Class::Full) {
            disk.full_from_bytes = Some((22 << 20) + (random.below(38) << 20));
        }
        self.disk = disk;
    }
}
