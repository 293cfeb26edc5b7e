//! A world: seed, clock, what will happen, disks, sockets, trace and the count of faults.
//!
//! Invariants: time never goes back; nothing happens but by an event that is due, or because a
//! process asked; a dead process is told of nothing.
//! Must never know: tasks.

use super::backend::SimBackend;
use super::device::{self, Flight};
use super::disk::{DiskCore, SimDisk};
use super::events::Events;
use super::faults::{FaultCounts, FaultId, FaultKind, Injected, NetFaults};
use super::machine::Host;
use super::net::{Net, NetEvent};
use super::trace::{Step, Trace};
use crate::buffer::{BufferPool, PoolOptions};
use crate::reactor::{RandomStream, Reactor};
use crate::units::Nanos;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// How a [`World`] is set up.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// The buffer pool of every process. Without an arena by default: a map costs more than the
    /// heap for a short life.
    pub pool: PoolOptions,
    /// Whether the next task is drawn among those that are ready. In order otherwise.
    pub shuffle_tasks: bool,
    /// Faults of all sockets.
    pub net: NetFaults,
    /// Faults that are not to be injected, although they were drawn: to find those that matter.
    pub skip: BTreeSet<FaultId>,
    /// Virtual time that a world may last: past it, it panics.
    pub time_max: Duration,
    /// Turns of all its reactors together: past them, it panics.
    pub turns_max: u64,
}

impl Default for WorldOptions {
    fn default() -> WorldOptions {
        WorldOptions {
            pool: PoolOptions { arena_bytes: 0, ..PoolOptions::default() },
            shuffle_tasks: true,
            net: NetFaults::default(),
            skip: BTreeSet::new(),
            time_max: Duration::from_secs(24 * 3600),
            turns_max: 100_000_000,
        }
    }
}

/// How processes end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// They are killed; the machine goes on.
    Kill,
    /// The power goes.
    PowerLoss,
}

/// Where [`World::run`] stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nowhere before the end.
    Never,
    /// At this time.
    At(Nanos),
    /// When so many more device operations have ended. What they woke still runs until it waits.
    AfterDeviceOps(u64),
}

/// What happens at a point in time.
pub(super) enum Event {
    Device(Box<Flight>),
    Net(NetEvent),
}

/// Where the run stops, and who must be told.
#[derive(Default)]
struct Stopping {
    at: Option<Nanos>,
    device_ops_left: Option<u64>,
    stopped: bool,
    waker: Option<Waker>,
}

/// What the parts of a world share.
pub(super) struct Core {
    pub(super) seed: u64,
    pub(super) options: WorldOptions,
    now: Cell<Nanos>,
    turns: Cell<u64>,
    events: RefCell<Events<Event>>,
    trace: RefCell<Trace>,
    injected: RefCell<Injected>,
    schedule: RefCell<RandomStream>,
    pub(super) disks: RefCell<BTreeMap<PathBuf, Rc<DiskCore>>>,
    pub(super) net: RefCell<Net>,
    stopping: RefCell<Stopping>,
    /// Processes of an older life are dead.
    life: Cell<u64>,
    processes: Cell<u64>,
}

/// One reactor's place in the world.
pub(super) struct Process {
    pub(super) number: u64,
    /// The host it is on, for cuts of the network.
    pub(super) host: Option<Host>,
    pub(super) life: u64,
    pub(super) closed: Cell<bool>,
    /// Device operations.
    pub(super) in_flight: Cell<u64>,
    pub(super) ops_submitted: Cell<u64>,
}

impl Core {
    pub(super) fn now(&self) -> Nanos {
        self.now.get()
    }

    pub(super) fn schedule(&self, delay: Duration, event: Event) {
        self.schedule_at(self.now() + delay, event);
    }

    pub(super) fn schedule_at(&self, at: Nanos, event: Event) {
        self.events.borrow_mut().push(at.max(self.now()), event);
    }

    pub(super) fn note(&self, step: Step, words: &[u64]) {
        let mut trace = self.trace.borrow_mut();
        trace.add(step, &[self.now.get().0]);
        trace.add(step, words);
    }

    /// Counts a fault that was drawn. False if it must not happen.
    pub(super) fn inject(&self, kind: FaultKind) -> bool {
        self.injected.borrow_mut().take(kind)
    }

    pub(super) fn is_alive(&self, process: &Process) -> bool {
        process.life == self.life.get() && !process.closed.get()
    }

    pub(super) fn choose(&self, ready: usize) -> usize {
        if !self.options.shuffle_tasks || ready < 2 {
            return 0;
        }
        let chosen = self.schedule.borrow_mut().below(ready as u64);
        self.note(Step::Task, &[ready as u64, chosen]);
        chosen as usize
    }

    /// Lets time pass until something is due, at most to `deadline`.
    pub(super) fn advance(&self, deadline: Option<Nanos>) {
        let stop_at = match &*self.stopping.borrow() {
            Stopping { stopped: true, .. } => return,
            stopping => stopping.at,
        };
        self.turns.set(self.turns.get() + 1);
        let next = self.events.borrow().next_time();
        let Some(at) = [next, deadline, stop_at].into_iter().flatten().min() else {
            panic!("deadlock: no task is ready, no timer is set, nothing can happen: {self:?}");
        };
        self.now.set(self.now().max(at));
        let late = self.now() > Nanos(0) + self.options.time_max;
        let busy = self.turns.get() > self.options.turns_max;
        assert!(!late && !busy, "livelock: the world is past its bound: {self:?}");
        if stop_at.is_some_and(|at| at <= self.now()) {
            self.stop();
        }
    }

    fn stop(&self) {
        let mut stopping = self.stopping.borrow_mut();
        stopping.stopped = true;
        let waker = stopping.waker.take();
        drop(stopping);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Does what is due.
    pub(super) fn perform(self: &Rc<Core>) {
        while !self.stopping.borrow().stopped {
            let Some(event) = self.events.borrow_mut().pop_due(self.now()) else { return };
            match event {
                Event::Device(flight) => {
                    if device::perform(self, flight) {
                        self.device_op_ended();
                    }
                }
                Event::Net(event) => super::net::perform(self, event),
            }
        }
    }

    fn device_op_ended(&self) {
        let mut stopping = self.stopping.borrow_mut();
        let Some(left) = &mut stopping.device_ops_left else { return };
        *left = left.saturating_sub(1);
        if *left == 0 {
            drop(stopping);
            self.stop();
        }
    }

    /// Takes out of what is to happen.
    pub(super) fn take_events(&self, mut picks: impl FnMut(&Event) -> bool) -> Vec<Event> {
        self.events.borrow_mut().take_if(|_, event| picks(event))
    }

    /// Goes on until the device operations of `process` have ended.
    pub(super) fn drain(self: &Rc<Core>, process: &Process) {
        while process.in_flight.get() > 0 {
            let next = self.events.borrow().next_time();
            self.now.set(self.now().max(next.expect("invariant: operations in flight will end")));
            let due = self.events.borrow_mut().pop_due(self.now());
            match due {
                Some(Event::Device(flight)) => drop(device::perform(self, flight)),
                Some(Event::Net(event)) => super::net::perform(self, event),
                None => {}
            }
        }
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (now, turns) = (self.now.get().0, self.turns.get());
        let hash = self.trace.borrow().hash();
        write!(f, "World(seed {}, {now} ns, turn {turns}, trace {hash:016x})", self.seed)
    }
}

/// A simulated machine: one seed, one clock, disks that outlive its processes. Cheap to clone.
#[derive(Clone)]
pub struct World {
    core: Rc<Core>,
    _owner: Rc<Owner>,
}

/// Dropped with the last handle and the last reactor: what is still to happen holds the world.
struct Owner(Rc<Core>);

impl Drop for Owner {
    fn drop(&mut self) {
        let events = self.0.events.borrow_mut().take_if(|_, _| true);
        drop(events);
        super::net::crash(&self.0);
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}

impl World {
    /// A world at time 0, without disks.
    #[must_use]
    pub fn new(seed: u64, options: WorldOptions) -> World {
        let injected = Injected::new(options.skip.clone());
        let net = Net::new(seed, options.net.clone());
        let core = Core {
            seed,
            options,
            now: Cell::default(),
            turns: Cell::new(0),
            events: RefCell::new(Events::new()),
            trace: RefCell::new(Trace::new(seed)),
            injected: RefCell::new(injected),
            schedule: RefCell::new(RandomStream::named(seed, "schedule")),
            disks: RefCell::default(),
            net: RefCell::new(net),
            stopping: RefCell::default(),
            life: Cell::new(0),
            processes: Cell::new(0),
        };
        let core = Rc::new(core);
        World { _owner: Rc::new(Owner(Rc::clone(&core))), core }
    }

    /// Starts a process: a reactor in this world. End it with [`Reactor::shutdown`].
    #[must_use]
    pub fn reactor(&self) -> Reactor {
        let process = self.process(None);
        let backend = SimBackend::new(self.clone(), Rc::clone(&self.core), Rc::new(process));
        let pool = BufferPool::new(self.core.options.pool);
        Reactor::with_backend(Box::new(backend), pool)
    }

    /// A new process.
    pub(super) fn process(&self, host: Option<Host>) -> Process {
        let number = self.core.processes.get();
        self.core.processes.set(number + 1);
        self.core.note(Step::Process, &[number]);
        Process {
            number,
            host,
            life: self.core.life.get(),
            closed: Cell::new(false),
            in_flight: Cell::new(0),
            ops_submitted: Cell::new(0),
        }
    }

    pub(super) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    /// Runs `future` and all tasks of `reactor` until `future` is done, or until `stop`: then
    /// `None`, and the world stands still until it crashes or runs again.
    pub fn run<F: Future>(&self, reactor: &Reactor, stop: Stop, future: F) -> Option<F::Output> {
        let stopping = Stopping {
            at: if let Stop::At(at) = stop { Some(at) } else { None },
            device_ops_left: if let Stop::AfterDeviceOps(ops) = stop { Some(ops) } else { None },
            stopped: stop == Stop::AfterDeviceOps(0),
            waker: None,
        };
        self.core.stopping.replace(stopping);
        let mut future = pin!(future);
        let output = reactor.block_on(poll_fn(|context| {
            let mut stopping = self.core.stopping.borrow_mut();
            if stopping.stopped {
                return Poll::Ready(None);
            }
            stopping.waker = Some(context.waker().clone());
            drop(stopping);
            future.as_mut().poll(context).map(Some)
        }));
        self.core.stopping.replace(Stopping::default());
        output
    }

    /// Ends all processes at once. Shut their reactors down and drop what they held; disks stay.
    pub fn crash(&self, crash: Crash) {
        let core = &self.core;
        core.note(Step::Crash, &[crash as u64]);
        core.life.set(core.life.get() + 1);
        let events = core.events.borrow_mut().take_if(|_, _| true);
        for event in events {
            if let Event::Device(flight) = event {
                device::crash(core, *flight);
            }
        }
        if crash == Crash::PowerLoss {
            for disk in core.disks.borrow().values() {
                disk.power_loss(core);
            }
        }
        super::net::crash(core);
    }

    /// Makes a disk of zeroes that [`Reactor::open_device`] finds at `path`.
    ///
    /// # Panics
    /// If there is one, or the size is no multiple of the block size.
    pub fn create_disk(&self, path: impl AsRef<Path>, size_bytes: u64) -> SimDisk {
        SimDisk::create(&self.core, path.as_ref(), size_bytes)
    }

    /// The disk at `path`, if there is one.
    #[must_use]
    pub fn disk(&self, path: impl AsRef<Path>) -> Option<SimDisk> {
        SimDisk::find(&self.core, path.as_ref())
    }

    /// Changes the faults of all sockets from now on.
    pub fn set_net_faults(&self, faults: NetFaults) {
        self.core.net.borrow_mut().set_faults(faults);
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.core.now()
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.core.seed
    }

    /// A hash of everything that happened: times, tasks chosen, operations and their results.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.core.trace.borrow().hash()
    }

    /// Faults injected so far.
    #[must_use]
    pub fn faults(&self) -> FaultCounts {
        self.core.injected.borrow().counts()
    }

    /// The random stream of `name`, from its start: it depends on the seed and the name alone.
    #[must_use]
    pub fn random(&self, name: &str) -> RandomStream {
        RandomStream::named(self.core.seed, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::{Address, DeviceOp, DeviceOptions, Message, Part};

    #[test]
    fn nothing_of_a_world_outlives_it() {
        let world = World::new(1, WorldOptions::default());
        world.create_disk("disk", 1 << 20);
        let reactor = world.reactor();
        let own = reactor.clone();
        reactor.block_on(async move {
            let device = own.open_device("disk", &DeviceOptions::default()).expect("opens");
            device.submit(0, DeviceOp::Sync);
            let listener = own.listen(&Address::Unix("socket".into())).expect("can listen");
            let client = own.connect(&listener.address()).await.expect("connects");
            let message = Message { head: vec![1; 9], parts: vec![Part::Head(9)] };
            client.send(message).await.0.expect("sent");
            let server = own.clone();
            own.spawn(async move {
                let _waiting = (listener.accept().await, server.clone());
                std::future::pending::<()>().await;
            })
            .detach();
            own.yield_now().await;
        });
        world.crash(Crash::PowerLoss);
        reactor.shutdown();
        let core = Rc::downgrade(&world.core);
        drop((reactor, world));
        assert_eq!(core.strong_count(), 0);
    }
}
