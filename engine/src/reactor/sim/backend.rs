//! One process of a world, as the executor sees it.
//!
//! Must never know: tasks.

use super::device;
use super::machine::Clock;
use super::net;
use super::world::{Core, Process, World};
use crate::error::{Error, ErrorKind, Result};
use crate::reactor::backend::{Backend, Wait};
use crate::reactor::remote::Doorbell;
use crate::reactor::{
    Address, BlockDevice, DeviceOptions, Listener, LocalBox, RandomStream, Stats, Stream,
};
use crate::units::Nanos;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a turn takes at least, so that a task that only yields does not stop the clock.
const TURN: Duration = Duration::from_nanos(100);

/// A doorbell that is looked at before time passes.
#[derive(Default)]
struct Flag {
    rang: AtomicBool,
}

impl Doorbell for Flag {
    fn ring(&self) {
        self.rang.store(true, Ordering::Release);
    }
}

/// The [`Backend`] in a world.
pub(super) struct SimBackend {
    _world: World,
    core: Rc<Core>,
    process: Rc<Process>,
    doorbell: Arc<Flag>,
    /// The machine's, if it is not the world's.
    clock: Option<Clock>,
}

impl SimBackend {
    pub(super) fn new(world: World, core: Rc<Core>, process: Rc<Process>) -> SimBackend {
        let doorbell = Arc::default();
        SimBackend { _world: world, core, process, doorbell, clock: None }
    }

    pub(super) fn with_clock(self, clock: Clock) -> SimBackend {
        SimBackend { clock: Some(clock), ..self }
    }
}

impl Backend for SimBackend {
    fn now(&self) -> Nanos {
        let world = self.core.now();
        self.clock.map_or(world, |clock| clock.shows(world))
    }

    fn park(&self, wait: Wait) {
        let rang = self.doorbell.rang.swap(false, Ordering::AcqRel);
        match wait {
            Wait::Until(deadline) if !rang => self.core.advance(deadline),
            _ => self.core.advance(Some(self.core.now() + TURN)),
        }
    }

    fn deliver(&self) {
        self.core.perform();
    }

    fn doorbell(&self) -> Arc<dyn Doorbell> {
        Arc::clone(&self.doorbell) as Arc<dyn Doorbell>
    }

    fn seed(&self) -> u64 {
        let name = format!("process {}", self.process.number);
        RandomStream::named(self.core.seed, &name).next_u64()
    }

    fn choose(&self, ready: usize) -> usize {
        self.core.choose(ready)
    }

    fn listen(&self, address: &Address) -> io::Result<Rc<dyn Listener>> {
        net::listen(&self.core, &self.process, address)
    }

    fn connect(&self, address: &Address) -> LocalBox<io::Result<Rc<dyn Stream>>> {
        net::connect(&self.core, &self.process, address)
    }

    fn open_device(&self, path: &Path, options: &DeviceOptions) -> Result<Rc<dyn BlockDevice>> {
        if !self.core.is_alive(&self.process) {
            return Err(Error::new(ErrorKind::Closed, "the reactor is shut down"));
        }
        device::open(&self.core, &self.process, path, options)
    }

    fn shutdown(&self) {
        if self.core.is_alive(&self.process) {
            self.process.closed.set(true);
            net::close_process(&self.core, self.process.number);
            self.core.drain(&self.process);
        }
    }

    fn add_stats(&self, stats: &mut Stats) {
        stats.ops_submitted += self.process.ops_submitted.get();
    }
}
