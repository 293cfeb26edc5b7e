//! What a laboratory writes down of one seed: what it counted and what it found; and the dice of
//! its workload.
//!
//! Invariant: nothing here is borrowed while anybody waits.
//! Must never know: what is tested.

use crate::invariants::Violation;
use ashlar_engine::reactor::RandomStream;
use ashlar_engine::reactor::sim::{FaultCounts, World};
use std::cell::{Cell, RefCell};

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
    /// Stores that said they were damaged; in clusters, blocks that were mended.
    pub damaged: u64,
    /// Sectors that had too many orders to be judged.
    pub unknown: u64,
    /// Faults by kind.
    pub faults: FaultCounts,
    /// Virtual time.
    pub virtual_nanos: u64,
}

/// See the module.
pub struct Notes {
    /// Where it all happens.
    pub world: World,
    /// What was done.
    pub tally: RefCell<Tally>,
    /// Requests that may still be begun.
    pub budget: Cell<u32>,
    found: RefCell<Vec<Violation>>,
    random: RefCell<RandomStream>,
    is_verbose: bool,
}

impl Notes {
    /// Empty ones.
    #[must_use]
    pub fn new(world: World, is_verbose: bool) -> Notes {
        let random = RefCell::new(world.random("workload"));
        let (tally, budget, found) = Default::default();
        Notes { world, tally, budget, found, random, is_verbose }
    }

    /// A number below `bound`, from the workload's stream.
    pub fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    /// True in so many of a hundred cases.
    pub fn percent(&self, percent: u64) -> bool {
        self.below(100) < percent
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
}
