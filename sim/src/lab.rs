//! What the parts of one seed share: its world and disk, its plan, what it knows of every volume,
//! and its notes.
//!
//! Invariant: nothing here is borrowed while anybody waits.
//! Must never know: requests, protocols.

use crate::notes::Notes;
use crate::plan::{Class, Limits, Plan, Trust};
use crate::volume::Volume;
use ashlar_engine::reactor::sim::{DiskFaults, FaultKind, SimDisk, World};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;

/// Where the store's disk is opened.
pub const DISK: &str = "disk";

/// See the module.
pub struct Lab {
    /// Its disk.
    pub disk: SimDisk,
    /// What happens.
    pub plan: Plan,
    /// What of it is left out.
    pub limits: Limits,
    /// Volumes by name.
    pub volumes: RefCell<BTreeMap<String, Rc<Volume>>>,
    /// Blocks damaged on purpose while the store was down.
    pub damage: Cell<u32>,
    /// The block that is damaged now.
    pub damaged_block: Cell<Option<u64>>,
    /// Blocks of clients that could not be read after the last opening.
    pub unreadable: Cell<u64>,
    /// The books as they were when the store last fell idle; a crash must not change them.
    pub settled: RefCell<Option<Vec<String>>>,
    next_life: Cell<u64>,
    notes: Notes,
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
        Rc::new(Lab {
            disk,
            plan,
            limits,
            volumes: RefCell::default(),
            damage: Cell::new(0),
            damaged_block: Cell::new(None),
            unreadable: Cell::new(0),
            settled: RefCell::default(),
            next_life: Cell::new(1),
            notes: Notes::new(world, is_verbose),
        })
    }

    /// A number for a new volume.
    pub fn next_life(&self) -> u64 {
        self.next_life.replace(self.next_life.get() + 1)
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

impl Deref for Lab {
    type Target = Notes;
    fn deref(&self) -> &Notes {
        &self.notes
    }
}
