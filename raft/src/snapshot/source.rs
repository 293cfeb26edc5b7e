//! What a member gives to those that it brings up, and how fast.
//!
//! Invariant: while a snapshot is on its way, entries behind it are wanted here
//! ([`Source::holds`]): whoever is brought up needs them next.
//! Must never know: sockets.

use super::pace::Pace;
use super::pieces::Pieces;
use crate::log_store::{Mender, Mending};
use ashlar_engine::local::LocalGroup;
use ashlar_engine::units::VolumeId;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

/// A group's blocks as a source of snapshots. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Source {
    group: LocalGroup,
    /// Snapshots on their way, by number: to whom, and the index of the last entry.
    sending: Rc<RefCell<BTreeMap<u64, (u64, u64)>>>,
    next: Rc<Cell<u64>>,
    pace: Rc<Pace>,
    mending: Rc<Mending>,
}

/// A snapshot on its way, until this is dropped.
pub(crate) struct Sending {
    source: Source,
    number: u64,
}

impl Source {
    /// The blocks of a group. `pace`: shared by a node's groups.
    #[must_use]
    pub fn new(group: LocalGroup, pace: Rc<Pace>) -> Source {
        let mut random = group.store().reactor().random("snapshots");
        let mut first = [0; 8];
        random.fill_bytes(&mut first);
        // Numbers of another start of this process do not come again soon.
        let next = Rc::new(Cell::new(u64::from_le_bytes(first)));
        Source { group, sending: Rc::default(), next, pace, mending: Rc::default() }
    }

    /// Says who gets damaged blocks from other members.
    pub(crate) fn set_mender(&self, mender: Rc<dyn Mender>) {
        self.mending.set(mender);
    }

    /// A client's request has come.
    pub(crate) fn touch(&self) {
        self.pace.touch(self.group.store().reactor().now());
    }

    /// Lowest entry behind which entries are still wanted, if a snapshot is on its way.
    #[must_use]
    pub fn holds(&self) -> Option<u64> {
        self.sending.borrow().values().map(|(_, last)| *last).min()
    }

    /// Whether a snapshot is on its way to this member.
    pub(crate) fn sends_to(&self, target: u64) -> bool {
        self.sending.borrow().values().any(|(to, _)| *to == target)
    }

    /// Begins to send `target` the snapshot that ends with the entry `last`.
    pub(crate) fn begin(&self, target: u64, last: u64) -> Sending {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        self.sending.borrow_mut().insert(number, (target, last));
        Sending { source: self.clone(), number }
    }

    /// The pieces of a snapshot with these volumes.
    pub(crate) fn pieces(&self, volumes: &[(VolumeId, u64)]) -> Pieces {
        Pieces::new(self.group.clone(), Rc::clone(&self.mending), volumes)
    }

    /// Waits as long as the next piece should wait for clients.
    pub(crate) async fn pace(&self) {
        self.pace.piece(self.group.store().reactor()).await;
    }
}

impl Sending {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.source.sending.borrow_mut().remove(&self.number);
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({}, holds {:?})", self.group.id(), self.holds())
    }
}
