//! Room for entries, before openraft has them.
//!
//! openraft must not wait for room: it is what has entries applied and given up, so that there is
//! some. So those wait who would have it append: who proposes, and who hands in what a leader sent.
//!
//! Invariants: what was admitted fits when it is appended; a leader's own entries leave half of the
//! room, because a member that comes back has to take all that its leader holds on top of what it
//! is to apply again.
//! Must never know: sockets, what entries mean.

use super::{ROOM_PAUSE, io_error};
use crate::runtime::Mutex;
use crate::types::{Change, Entry, Proposal};
use ashlar_engine::local::LocalGroup;
use ashlar_engine::{Error, ErrorKind, Result};
use openraft::EntryPayload;
use openraft_rt::Mutex as _;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// How long entries of a leader wait before it is told that there is no room.
const TURN_MAX: Duration = Duration::from_millis(100);

/// See the module.
pub(crate) struct Admission {
    group: LocalGroup,
    /// Blocks that were admitted and are not known to be appended.
    blocks: Rc<Cell<u64>>,
    turn: Mutex<()>,
}

/// What was admitted; held until it is appended, or will not be.
pub(crate) struct Admitted {
    all: Rc<Cell<u64>>,
    blocks: u64,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.blocks);
    }
}

impl Admission {
    pub(super) fn new(group: LocalGroup) -> Admission {
        Admission { group, blocks: Rc::default(), turn: Mutex::new(()) }
    }

    /// Waits until a leader may propose these changes.
    ///
    /// # Errors
    /// If the store is closed.
    pub(crate) async fn propose(&self, changes: &[Change]) -> io::Result<Admitted> {
        let half = self.group.unapplied_max_blocks() / 2;
        self.wait(std::iter::once(changes), half).await
    }

    /// For entries that a leader sent: whether they may be appended, or why not. Until the last of
    /// what is returned is dropped, nobody else's turn comes.
    ///
    /// # Errors
    /// If the store is closed.
    pub(crate) async fn turn(
        &self,
        entries: &[Entry],
    ) -> io::Result<(Result<Admitted>, impl Drop + use<'_>)> {
        let turn = self.turn.lock().await;
        let changes = entries.iter().map(changes_of);
        let reactor = self.group.store().reactor();
        let admitted = reactor.within(TURN_MAX, self.wait(changes.clone(), 0)).await.transpose()?;
        let full = || Error::new(ErrorKind::NoSpace, "too much waits for the device");
        let why = || self.admit(changes, 0).err().unwrap_or_else(full);
        Ok((admitted.ok_or_else(why), turn))
    }

    /// Waits for room, and for so many blocks beyond it.
    async fn wait<'a>(
        &self,
        entries: impl Iterator<Item = &'a [Change]> + Clone,
        beyond: u64,
    ) -> io::Result<Admitted> {
        loop {
            self.group.room().await.map_err(|error| io_error(&error))?;
            if let Ok(admitted) = self.admit(entries.clone(), beyond) {
                return Ok(admitted);
            }
            self.group.store().reactor().sleep(ROOM_PAUSE).await;
        }
    }

    fn admit<'a>(
        &self,
        entries: impl Iterator<Item = &'a [Change]> + Clone,
        beyond: u64,
    ) -> Result<Admitted> {
        let admitted = self.blocks.get();
        self.group.check_room(entries.clone(), admitted + beyond)?;
        let blocks = entries.flatten().map(Change::blocks).sum();
        self.blocks.set(admitted + blocks);
        Ok(Admitted { all: Rc::clone(&self.blocks), blocks })
    }
}

fn changes_of(entry: &Entry) -> &[Change] {
    match &entry.payload {
        EntryPayload::Normal(Proposal::Write(write)) => &write.changes,
        _ => &[],
    }
}
