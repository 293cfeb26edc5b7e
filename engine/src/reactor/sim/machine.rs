//! Machines of a world: hosts that crash, stop and lose their network each for itself.
//!
//! A machine is one process on a host. Its reactor runs inside the turns of another one, the host
//! reactor of the world, which may be a laboratory's: all machines share its time.
//! Invariants: a machine that was crashed is told of nothing; what of it was in flight ends as the
//! fault model says; a paused machine runs no task, but its disks and sockets go on.
//! Must never know: what runs on it.

use super::backend::SimBackend;
use super::device;
use super::disk::SimDisk;
use super::net;
use super::trace::Step;
use super::world::{Core, Crash, Event, Process, World};
use crate::buffer::BufferPool;
use crate::reactor::handle::{Guest, Reactor};
use crate::units::Nanos;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// A number of a host, for cuts of the network. Processes that are on none are never cut off.
pub type Host = u32;

/// How a [`Machine`] is set up.
#[derive(Clone, Copy, Debug)]
pub struct MachineOptions {
    /// The host it is.
    pub host: Host,
    /// What its clock shows at its start.
    pub clock_start: Duration,
    /// By how many millionths its clock is faster than the world's.
    pub clock_fast_ppm: i32,
}

/// A clock of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Nanos,
    start: Duration,
    fast_ppm: i32,
}

const MILLION: i128 = 1_000_000;

impl Clock {
    /// What it shows at a time of the world.
    pub(super) fn shows(&self, world: Nanos) -> Nanos {
        let passed = i128::from(world.since(self.started).as_nanos() as u64);
        let shown = passed * (MILLION + i128::from(self.fast_ppm)) / MILLION;
        Nanos(self.start.as_nanos() as u64 + shown as u64)
    }

    /// The first time of the world at which it shows at least this.
    fn reaches(&self, shown: Nanos) -> Nanos {
        let passed = i128::from(shown.0.saturating_sub(self.start.as_nanos() as u64));
        let rate = MILLION + i128::from(self.fast_ppm);
        let world = (passed * MILLION + rate - 1).div_euclid(rate);
        Nanos(self.started.0.saturating_add(world as u64))
    }
}

/// One life of a host. Dropping it does not end it: [`Machine::crash`] or [`Machine::stop`] does.
pub struct Machine {
    core: Rc<Core>,
    process: Rc<Process>,
    reactor: Reactor,
    guest: Rc<Guest>,
    host: Host,
    /// What runs it; `None` when it has ended.
    running: RefCell<Option<crate::reactor::Task<()>>>,
    paused: Cell<bool>,
}

impl World {
    /// Starts a host, by and by in the turns of `reactor`. Connections that its former life left
    /// open are reset.
    #[must_use]
    pub fn machine(&self, reactor: &Reactor, options: MachineOptions) -> Machine {
        let core = self.core();
        let MachineOptions { host, clock_start, clock_fast_ppm } = options;
        let clock = Clock { started: core.now(), start: clock_start, fast_ppm: clock_fast_ppm };
        let process = Rc::new(self.process(Some(host)));
        net::host_is_back(core, host);
        let backend = SimBackend::new(self.clone(), Rc::clone(core), Rc::clone(&process));
        let backend = backend.with_clock(clock);
        let pool = BufferPool::new(core.options.pool);
        let (own, guest) = Guest::new(Box::new(backend), pool);
        let running = Rc::clone(&guest).run(reactor.clone(), move |shown| clock.reaches(shown));
        let running = RefCell::new(Some(reactor.spawn(running)));
        let (core, paused) = (Rc::clone(core), Cell::new(false));
        Machine { core, process, reactor: own, guest, host, running, paused }
    }

    /// Sets which hosts' bytes do not reach which: from, to. What is sent stays on its way until
    /// that is lifted; connecting takes as long.
    pub fn set_cuts(&self, cuts: impl IntoIterator<Item = (Host, Host)>) {
        net::set_cuts(self.core(), cuts.into_iter().collect());
    }
}

impl Machine {
    /// Its reactor: spawn tasks there. It cannot be blocked on.
    #[must_use]
    pub fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    /// The host that it is.
    #[must_use]
    pub fn host(&self) -> Host {
        self.host
    }

    /// Stops all its tasks for a while, as `SIGSTOP` or a hypervisor would, or lets them go on.
    pub fn pause(&self, paused: bool) {
        self.paused.set(paused);
        self.guest.pause(paused);
    }

    /// Whether it is stopped for a while.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.get()
    }

    /// Ends it. `disks`: those of the host. Killed: the kernel closes its sockets. Without power:
    /// its peers hear nothing until the host is there again.
    pub fn crash(&self, crash: Crash, disks: &[SimDisk]) {
        if self.process.closed.replace(true) {
            return;
        }
        self.core.note(Step::Crash, &[crash as u64, u64::from(self.host)]);
        for flight in self.core.take_flights(&self.process) {
            device::crash(&self.core, flight);
        }
        match crash {
            Crash::Kill => net::host_process_dies(&self.core, self.process.number),
            Crash::PowerLoss => {
                disks.iter().for_each(|disk| disk.lose_power(&self.core));
                net::host_is_dark(&self.core, self.host, self.process.number);
            }
        }
        self.end();
    }

    /// Ends it in order, when its tasks have ended: what is left of them is dropped.
    pub fn stop(&self) {
        if self.process.closed.get() {
            return;
        }
        for flight in self.core.take_flights(&self.process) {
            device::crash(&self.core, flight);
        }
        self.process.closed.set(true);
        net::host_process_dies(&self.core, self.process.number);
        self.end();
    }

    fn end(&self) {
        let running = self.running.take();
        drop(running);
        self.reactor.shutdown();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Machine(host {}, process {})", self.host, self.process.number)
    }
}

impl Core {
    /// Takes a process's device operations out of what is to happen.
    fn take_flights(&self, process: &Rc<Process>) -> Vec<device::Flight> {
        let own = |event: &Event| match event {
            Event::Device(flight) => flight.is_of(process),
            Event::Net(_) => false,
        };
        let taken = self.take_events(own);
        let flights = taken.into_iter().filter_map(|event| match event {
            Event::Device(flight) => Some(*flight),
            Event::Net(_) => None,
        });
        flights.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_reaches_what_it_shows() {
        for fast_ppm in [0, 1, -1, 500, -500, 123_456, -99_999] {
            let clock = Clock { started: Nanos(77), start: Duration::from_secs(3), fast_ppm };
            for passed in [0, 1, 999, 1_000_001, 123_456_789_012] {
                let shown = Nanos(3_000_000_000 + passed);
                let reached = clock.reaches(shown);
                assert!(clock.shows(reached) >= shown, "{fast_ppm} ppm, {passed}");
                assert!(reached.0 == 77 || clock.shows(Nanos(reached.0 - 1)) < shown);
            }
        }
    }
}
