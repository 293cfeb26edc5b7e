//! The seam between the reactor and the world: what a simulated twin replaces.
//!
//! The executor, the timers and the handle are the same in both worlds; everything that touches a
//! clock, a file, a socket or a random source is behind [`Backend`].
//! Must never know: tasks.

use super::remote::Doorbell;
use super::{Address, BlockDevice, DeviceOptions, Listener, LocalBox, Stats, Stream};
use crate::error::Result;
use crate::units::Nanos;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// How long a [`Backend`] may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Not at all: tasks are ready.
    No,
    /// Until something completes or the doorbell rings, or the time has come, if there is one.
    Until(Option<Nanos>),
}

/// One thread's world.
pub(super) trait Backend {
    /// Reads the clock.
    fn now(&self) -> Nanos;

    /// Ends a turn: hands over what was submitted and sleeps as allowed.
    fn park(&self, wait: Wait);

    /// Wakes the tasks whose operations completed. Called awake: local wakes ring no doorbell.
    fn deliver(&self);

    /// How other threads end a sleep.
    fn doorbell(&self) -> Arc<dyn Doorbell>;

    /// Seed of all random streams.
    fn seed(&self) -> u64;

    /// Which of `ready` tasks runs next: the one that waits longest, unless schedules are explored.
    fn choose(&self, ready: usize) -> usize {
        let _ = ready;
        0
    }

    /// Listens.
    fn listen(&self, address: &Address) -> io::Result<Rc<dyn Listener>>;

    /// Connects.
    fn connect(&self, address: &Address) -> LocalBox<io::Result<Rc<dyn Stream>>>;

    /// Opens a block device.
    fn open_device(&self, path: &Path, options: &DeviceOptions) -> Result<Rc<dyn BlockDevice>>;

    /// Cancels what can be cancelled and waits until nothing uses memory of this process.
    /// Later operations fail.
    fn shutdown(&self);

    /// Adds its counters.
    fn add_stats(&self, stats: &mut Stats);
}
