//! What the parts of one seed share: its world and disk, its plan, what it knows of every volume,
//! what it has counted and what it has found.
//!
//! Invariant: nothing here is borrowed while anybody waits.
//! Must never know: requests, protocols.

use crate::invariants::Violation;
use crate::plan::{Class, Limits, Plan, Trust};
use crate::volume::Volume;
use ashlar_engine::reactor::RandomStream;
use ashlar_engine::reactor::sim::{DiskFaults, FaultCounts, FaultKind, SimDisk, World};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Where the store's disk is opened.
pub const DISK: &str = "disk";

/// What a seed did.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Changes and reads that were answered with success.
    pub acknowledged: u64,
    /// Requests that were answered with an error.
    pub refused: u64,
    /// Requests without an answer.
    pub lost: u64,
    /// Crashes of a store in use.
    pub crashes: u64,
    /// Openings that succeeded after one.
    pub recoveries: u64,
    /// Stores that said they were damaged.
    pub damaged: u64,
    /// Sectors that had too many orders to be judged.
    pub unknown: u64,
    /// Faults by kind.
    pub faults: FaultCounts,
    /// Virtual time.
    pub virtual_nanos: u64,
}

/// See the module.
pub struct Lab {
    /// The machine.
    pub world: World,
    /// Its disk.
    pub disk: SimDisk,
    /// What happens.
    pub plan: Plan,
    /// What of it is left out.
    pub limits: Limits,
    /// Volumes by name.
    pub volumes: RefCell<BTreeMap<String, Rc<Volume>>>,
    /// What was done.
    pub tally: RefCell<Tally>,
    /// Requests that may still be begun in this life.
    pub budget: Cell<u32>,
    /// Blocks damaged on purpose while the store was down.
    pub damage: Cell<u32>,
    /// The block that is damaged now.
    pub damaged_block: Cell<Option<u64>>,
    /// Blocks of clients that could not be read after the last opening.
    pub unreadable: Cell<u64>,
    /// The books as they were when the store last fell idle; a crash must not change them.
    pub settled: RefCell<Option<Vec<String>>>,
    found: RefCell<Vec<Violation>>,
    random: RefCell<RandomStream>,
    next_life: Cell<u64>,
    is_verbose: bool,
}

impl Lab {
    /// A laboratory that found nothing yet.
    #[must_use]
    pub fn new(
        world: World,
        disk: SimDisk,
        plan: Plan,
        limits: Limits,
        is_verbose: bool,
    ) -> Rc<Lab> {
        let random = RefCell::new(world.random("workload"));
        Rc::new(Lab {
            world,
            disk,
            plan,
            limits,
            volumes: RefCell::default(),
            tally: RefCell::default(),
            budget: Cell::new(0),
            damage: Cell::new(0),
            damaged_block: Cell::new(None),
            unreadable: Cell::new(0),
            settled: RefCell::default(),
            found: RefCell::default(),
            random,
            next_life: Cell::new(1),
            is_verbose,
        })
    }

    /// A number below `bound`, from the workload's stream.
    pub fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    /// True in so many of a hundred cases.
    pub fn percent(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A number for a new volume.
    pub fn next_life(&self) -> u64 {
        self.next_life.replace(self.next_life.get() + 1)
    }

    /// Notes a broken promise; the seed ends soon.
    pub fn violation(&self, violation: Violation) {
        self.log(|| format!("VIOLATION {violation}"));
        self.budget.set(0);
        self.found.borrow_mut().push(violation);
    }

    /// Whether a promise was broken.
    pub fn is_broken(&self) -> bool {
        !self.found.borrow().is_empty()
    }

    /// The first broken promise.
    pub fn first_violation(&self) -> Option<Violation> {
        self.found.borrow().first().cloned()
    }

    /// Notes a broken promise unless `holds`.
    pub fn check(&self, holds: bool, invariant: &'static str, what: impl FnOnce() -> String) {
        if !holds {
            self.violation(Violation::new(invariant, what()));
        }
    }

    /// A line for a person who replays the seed.
    pub fn log(&self, line: impl FnOnce() -> String) {
        if self.is_verbose {
            let micros = self.world.now().0 / 1000;
            println!("{:>6}.{:06} {}", micros / 1_000_000, micros % 1_000_000, line());
        }
    }

    /// Counts.
    pub fn count(&self, add: impl FnOnce(&mut Tally)) {
        add(&mut self.tally.borrow_mut());
    }

    /// How much the disk may be trusted.
    pub fn trust(&self) -> Trust {
        self.plan.trust()
    }

    /// Whether a read may fail although the store is well.
    pub fn may_fail_reads(&self) -> bool {
        let classes = [Class::ReadError, Class::WriteError];
        self.trust() >= Trust::Damaged
            || classes.into_iter().any(|class| self.plan.has(class))
            || self.damage.get() > 0
    }

    /// Sets the disk to fail as planned.
    pub fn trouble(&self) {
        self.disk.set_faults(self.plan.disk.clone());
    }

    /// Sets the disk to work, at its planned speed and size.
    pub fn peace(&self) {
        let planned = &self.plan.disk;
        self.disk.set_faults(DiskFaults {
            latency: planned.latency,
            full_from_bytes: planned.full_from_bytes,
            ..DiskFaults::default()
        });
    }

    /// Faults of a kind so far.
    pub fn faults_of(&self, kind: FaultKind) -> u64 {
        self.world.faults().of(kind)
    }
}
