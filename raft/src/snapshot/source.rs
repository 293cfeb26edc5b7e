//! What a member gives to those that it brings up, and how fast.
//!
//! Invariant: while a snapshot is on its way, entries behind it are wanted here
//! ([`Source::is_sending`]): whoever is brought up needs them next. If the store gives them up all
//! the same, for lack of room, the snapshot no longer waits for clients: it would never end.
//! Must never know: sockets.

use super::pace::Pace;
use super::pieces::Pieces;
use crate::limits::SNAPSHOT_GIVEN_UP_PART;
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
    keeps_blocks: bool,
    /// To whom snapshots are on their way, by their numbers.
    sending: Rc<RefCell<BTreeMap<u64, u64>>>,
    next: Rc<Cell<u64>>,
    pace: Rc<Pace>,
    mending: Rc<Mending>,
}

/// A snapshot on its way, until this is dropped.
pub(crate) struct Sending {
    source: Source,
    number: u64,
    /// The store's entries when it began: the first one, and the end.
    entries: (u64, u64),
}

impl Source {
    /// The blocks of a group. `pace`: shared by a node's groups. `keeps_blocks`: not a witness.
    #[must_use]
    pub fn new(group: LocalGroup, pace: Rc<Pace>, keeps_blocks: bool) -> Source {
        let mut random = group.store().reactor().random("snapshots");
        let mut first = [0; 8];
        random.fill_bytes(&mut first);
        // Numbers of another start of this process do not come again soon.
        let next = Rc::new(Cell::new(u64::from_le_bytes(first)));
        let (sending, mending) = (Rc::default(), Rc::default());
        Source { group, keeps_blocks, sending, next, pace, mending }
    }

    /// Whether there are blocks here that a snapshot could be made of.
    pub(crate) fn keeps_blocks(&self) -> bool {
        self.keeps_blocks
    }

    /// Says who gets damaged blocks from other members.
    pub(crate) fn set_mender(&self, mender: Rc<dyn Mender>) {
        self.mending.set(mender);
    }

    /// A client's request has come.
    pub(crate) fn touch(&self) {
        self.pace.touch(self.group.store().reactor().now());
    }

    /// Whether a snapshot is on its way.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        !self.sending.borrow().is_empty()
    }

    /// Whether a snapshot is on its way to this member.
    pub(crate) fn sends_to(&self, target: u64) -> bool {
        self.sending.borrow().values().any(|to| *to == target)
    }

    /// Begins to send `target` a snapshot.
    pub(crate) fn begin(&self, target: u64) -> Sending {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        self.sending.borrow_mut().insert(number, target);
        Sending { source: self.clone(), number, entries: self.entries() }
    }

    /// The entries that the store has: the first one, and the end.
    fn entries(&self) -> (u64, u64) {
        let span = self.group.span();
        let end = span.last.map_or(0, |last| last.index + 1);
        (span.first.unwrap_or(end), end)
    }

    /// The pieces of a snapshot with these volumes.
    pub(crate) fn pieces(&self, volumes: &[(VolumeId, u64)]) -> Pieces {
        Pieces::new(self.group.clone(), Rc::clone(&self.mending), volumes)
    }
}

impl Sending {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Waits as long as the next piece should wait for clients.
    pub(crate) async fn pace(&self) {
        if !self.is_urgent() {
            self.source.pace.piece(self.source.group.store().reactor()).await;
        }
    }

    /// Whether a good part of what could be given up before the entries behind the snapshot was.
    fn is_urgent(&self) -> bool {
        let (first, end) = self.entries;
        let (now, _) = self.source.entries();
        now.saturating_sub(first) > (end - first) / SNAPSHOT_GIVEN_UP_PART
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.source.sending.borrow_mut().remove(&self.number);
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({}, sends {})", self.group.id(), self.sending.borrow().len())
    }
}
