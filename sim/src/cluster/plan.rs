//! What one seed of a cluster does.
//!
//! Must never know: how trouble is made.

use crate::plan::{Class, Limits, Plan, chance};
use ashlar_engine::reactor::RandomStream;
use ashlar_engine::reactor::sim::{DiskFaults, Latency, NetFaults};
use std::collections::BTreeSet;
use std::time::Duration;

/// See the module.
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    /// Classes of trouble in it.
    pub classes: BTreeSet<Class>,
    /// Nodes.
    pub nodes: u32,
    /// Volumes.
    pub volumes: u32,
    /// Bytes of each.
    pub volume_bytes: u64,
    /// Troubles.
    pub troubles: u32,
    /// Requests of all clients together.
    pub requests: u32,
    /// Clients that write, to each volume.
    pub owners: u32,
    /// Requests that each has under way.
    pub depth: u32,
    /// Disks, all the time.
    pub disk: DiskFaults,
    /// A node whose disk is slower than the others, and how long it takes for an operation.
    pub slow: Option<(u32, Duration)>,
    /// Sockets, all the time.
    pub net: NetFaults,
}

impl ClusterPlan {
    /// The plan of a seed.
    #[must_use]
    pub fn draw(seed: u64, limits: &Limits) -> ClusterPlan {
        let mut random = RandomStream::named(seed, "cluster plan");
        let mut classes = Plan::classes(seed, limits);
        if classes.contains(&Class::Witness) {
            // Of some blocks there is one copy, until the other replica has caught up.
            classes.retain(|class| ![Class::Wipe, Class::RotOne, Class::RotAll].contains(class));
        }
        let takeover = classes.contains(&Class::Takeover);
        let mut plan = ClusterPlan {
            classes,
            nodes: [3, 3, 3, 3, 4, 5][random.below(6) as usize],
            volumes: 1 + random.below(2) as u32,
            volume_bytes: (32 << 10) << random.below(5),
            troubles: 1 + random.below(6) as u32,
            requests: 100 + random.below(500) as u32,
            owners: if takeover { 2 } else { 1 },
            depth: 1 + random.below(4) as u32,
            disk: DiskFaults::default(),
            slow: None,
            net: NetFaults::default(),
        };
        if plan.has(Class::Heavy) {
            // Stores fill up: entries are given up, and members that lack them get snapshots.
            plan.volume_bytes = 6 << 20;
            plan.troubles = plan.troubles.min(3);
            plan.requests = plan.requests.min(250);
        }
        if plan.has(Class::Tight) {
            let mut random = RandomStream::named(seed, "tight plan");
            plan.volume_bytes = (20 + random.below(9)) * (1 << 20) / u64::from(plan.volumes);
            plan.depth = 4 + random.below(5) as u32;
            plan.troubles = plan.troubles.min(2);
            plan.requests = 800;
            // The first one serves the first writer, so that it leads.
            let node = [1, 1, 2, 3][random.below(4) as usize];
            plan.slow = Some((node, Duration::from_millis(1 + random.below(15))));
        }
        plan.troubles = plan.troubles.min(limits.lives.unwrap_or(u32::MAX));
        plan.requests = plan.requests.min(limits.requests.unwrap_or(u32::MAX));
        plan.draw_faults(seed);
        plan
    }

    /// Whether stores may be without room.
    #[must_use]
    pub fn fills(&self) -> bool {
        self.has(Class::Heavy) || self.has(Class::Tight)
    }

    /// Faults of a node's disk, all the time.
    #[must_use]
    pub fn disk_of(&self, number: u32) -> DiskFaults {
        let mut disk = self.disk.clone();
        if let Some((_, latency)) = self.slow.filter(|(slow, _)| *slow == number) {
            disk.latency = Latency::around(latency);
        }
        disk
    }

    /// Replicas of a volume that have blocks.
    #[must_use]
    pub fn replicas(&self) -> usize {
        if self.has(Class::Witness) { 2 } else { 3 }
    }

    /// Whether a node keeps no blocks.
    #[must_use]
    pub fn is_witness(&self, number: u32) -> bool {
        self.has(Class::Witness) && number == self.nodes
    }

    /// Whether a class is in it.
    #[must_use]
    pub fn has(&self, class: Class) -> bool {
        self.classes.contains(&class)
    }

    fn draw_faults(&mut self, seed: u64) {
        let random = |class: Class| RandomStream::named(seed, &format!("{} plan", class.name()));
        let (has, disk, net) =
            (|class| self.classes.contains(&class), &mut self.disk, &mut self.net);
        disk.latency.median = Duration::from_micros(50);
        net.latency.median = Duration::from_micros(30);
        if has(Class::Latency) {
            let mut random = random(Class::Latency);
            let micros = 1 << random.below(12);
            let spread_sixteenths = 4 + random.below(24) as u32;
            let latency = Latency::around(Duration::from_micros(micros));
            disk.latency = Latency { spread_sixteenths, ..latency };
            net.latency.median = Duration::from_micros(1 << random.below(13));
        }
        if has(Class::Stall) {
            let mut random = random(Class::Stall);
            disk.latency.stall = chance(&mut random, 1_000, 10_000);
            disk.latency.stall_max = Duration::from_millis(1 + random.below(1_000));
            net.latency.stall = chance(&mut random, 100, 5_000);
            net.latency.stall_max = Duration::from_millis(1 + random.below(1_000));
        }
        if has(Class::Split) {
            net.split = chance(&mut random(Class::Split), 10_000, 200_000);
        }
        if has(Class::Cut) {
            net.cut = chance(&mut random(Class::Cut), 100, 2_000);
        }
        if has(Class::Narrow) {
            net.buffer_bytes = 1 << (12 + random(Class::Narrow).below(6));
        }
        if has(Class::Garble) {
            net.garble = chance(&mut random(Class::Garble), 100, 3_000);
        }
    }
}
