//! The real world: one `io_uring` for disk, sockets and the doorbell.
//!
//! Invariants: memory of an operation belongs to the ring from `start` until its completion has
//! been reaped, whatever becomes of the future that waits; an operation started is never lost;
//! the kernel is entered once a turn, and not at all if there is nothing to say to it; unless the
//! ring polls, which it does only where it would sleep.
//! Must never know: tasks, what the bytes mean.
#![allow(unsafe_code)] // Entries name memory by address, and the enter call is raw.

mod alarm;
mod busy_poll;
mod connect;
mod device;
mod doorbell;
mod listener;
mod setup;
mod socket;
#[cfg(all(test, not(miri)))]
mod tests;

use super::backend::{Backend, Wait};
use super::open::open;
use super::remote::Doorbell;
use super::slab::Slab;
use super::{Address, BlockDevice, DeviceOptions, Listener, LocalBox, Stats, Stream};
use crate::buffer::BufferPool;
use crate::error::Result;
use crate::units::Nanos;
use alarm::Alarms;
use busy_poll::BusyPoll;
use device::{FileDevice, Transfer};
use doorbell::EventFd;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use setup::Support;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// `user_data` of the poll on the doorbell. Keys of operations are never 0.
const DOORBELL: u64 = 0;
/// `user_data` of cancellations, whose own results say nothing.
const CANCEL: u64 = u64::MAX;
/// `user_data` of the first alarm; the others' are counted up. No operation's key is as large.
const ALARM: u64 = u64::MAX << 8;
/// Completions of devices delivered in a turn. A disk that was busy hands over many at once: the
/// first answers leave, and the first new requests reach the disk, while the rest are worked on.
const DELIVERED_MAX: usize = 16;
/// Submits what is queued, and reaps even if nothing is waited for.
const ENTER_FLAGS: u32 = (1 << 0) | (1 << 3); // IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG

/// An operation in flight, with everything that keeps its memory alive.
enum Op {
    Device(Rc<device::DeviceCore>, Box<Transfer>),
    Receive(Rc<socket::Socket>),
    Send(Rc<socket::Socket>),
    Accept(Rc<listener::Acceptor>),
    Connect(Rc<connect::Connecting>),
}

/// The ring and what is in flight on it.
struct Ring {
    io: RefCell<IoUring>,
    support: Support,
    ops: RefCell<Slab<Op>>,
    /// Entries that found the submission queue full.
    backlog: RefCell<VecDeque<squeue::Entry>>,
    /// Completions of devices that wait for their turn, with their results.
    reaped: RefCell<VecDeque<(u64, i32)>>,
    doorbell: Arc<EventFd>,
    doorbell_armed: Cell<bool>,
    alarms: Alarms,
    busy_poll: BusyPoll,
    closed: Cell<bool>,
    enters: Cell<u64>,
    ops_submitted: Cell<u64>,
}

impl Drop for Ring {
    fn drop(&mut self) {
        assert!(
            self.ops.get_mut().len() == 0 || std::thread::panicking(),
            "operations in flight hold the ring"
        );
    }
}

impl Ring {
    /// Queues `entry` for `op` and keeps `op` until it completes. Returns its key.
    ///
    /// # Safety
    /// All memory that `entry` names must stay valid and in place as long as `op` lives.
    unsafe fn start(&self, op: Op, entry: squeue::Entry) -> u64 {
        let key = self.ops.borrow_mut().insert(op);
        self.ops_submitted.set(self.ops_submitted.get() + 1);
        // SAFETY: the caller's promise; `op` is in `ops` until its completion is reaped.
        unsafe { self.push(entry.user_data(key)) };
        key
    }

    /// Asks the kernel to end the operation early. Its completion comes all the same.
    fn cancel(&self, key: u64) {
        let entry = opcode::AsyncCancel::new(key).build().user_data(CANCEL);
        // SAFETY: the entry names no memory.
        unsafe { self.push(entry) };
    }

    /// # Safety
    /// As [`Ring::start`], until the entry's completion.
    unsafe fn push(&self, entry: squeue::Entry) {
        if !self.backlog.borrow().is_empty() {
            self.backlog.borrow_mut().push_back(entry);
            return;
        }
        // SAFETY: the caller's promise.
        if unsafe { self.io.borrow_mut().submission().push(&entry) }.is_err() {
            self.enter(0, None);
            // SAFETY: the caller's promise.
            if unsafe { self.io.borrow_mut().submission().push(&entry) }.is_err() {
                self.backlog.borrow_mut().push_back(entry);
            }
        }
    }

    fn push_backlog(&self) {
        let mut backlog = self.backlog.borrow_mut();
        while let Some(entry) = backlog.front() {
            // SAFETY: promised when the entry was first pushed.
            if unsafe { self.io.borrow_mut().submission().push(entry) }.is_err() {
                self.enter(0, None);
                // SAFETY: as above.
                if unsafe { self.io.borrow_mut().submission().push(entry) }.is_err() {
                    return;
                }
            }
            backlog.pop_front();
        }
    }

    /// Submits everything queued and waits for `want` completions, at most for `timeout`.
    fn enter(&self, want: u32, timeout: Option<Duration>) {
        let mut io = self.io.borrow_mut();
        let queued = io.submission().len() as u32;
        self.enters.set(self.enters.get() + 1);
        let timespec = timeout.map(types::Timespec::from);
        let mut args = types::SubmitArgs::new();
        if let Some(timespec) = &timespec {
            args = args.timespec(timespec);
        }
        // SAFETY: the flags match the argument's type, which outlives the call; entries in the
        // queue name memory that `ops` keeps.
        let result = unsafe { io.submitter().enter(queued, want, ENTER_FLAGS, Some(&args)) };
        if let Err(error) = result {
            match error.raw_os_error() {
                // Time is up, a signal came, or completions must be reaped first: what was not
                // submitted is still queued and goes with the next turn.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => panic!("the ring is unusable: {error}"),
            }
        }
    }

    /// Waits for a completion, or until `deadline`.
    fn wait(&self, deadline: Option<Nanos>) {
        let uncovered = deadline.filter(|deadline| !self.alarm(*deadline));
        let sleep = |deadline: Option<Nanos>| {
            self.enter(1, deadline.map(|deadline| deadline.since(setup::boot_time())));
        };
        if !self.busy_poll.is_on() {
            return sleep(uncovered);
        }
        let start = setup::boot_time();
        if !self.poll(start, uncovered) {
            sleep(uncovered);
        }
        self.busy_poll.end(setup::boot_time().since(start));
    }

    /// Looks for completions for a while, if that is worth it; whether there are some.
    fn poll(&self, start: Nanos, deadline: Option<Nanos>) -> bool {
        let Some(mut look) = self.busy_poll.begin(start, deadline) else { return false };
        loop {
            if self.must_enter() {
                self.enter(0, None);
            }
            if self.has_completions() {
                return true;
            }
            std::thread::yield_now();
            if !self.busy_poll.goes_on(&mut look, setup::boot_time()) {
                return false;
            }
        }
    }

    /// Whether the kernel must be entered although there is nothing to wait for.
    fn must_enter(&self) -> bool {
        let mut io = self.io.borrow_mut();
        let submission = io.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    fn has_completions(&self) -> bool {
        !self.reaped.borrow().is_empty() || !self.io.borrow_mut().completion().is_empty()
    }

    /// Delivers completions that have arrived. Those of sockets overtake those of devices: what a
    /// client asks next shall reach the disk while older answers are still worked on.
    fn reap(&self) {
        loop {
            let Some(entry) = self.io.borrow_mut().completion().next() else { break };
            match entry.user_data() {
                DOORBELL => self.doorbell_rang(entry.flags()),
                CANCEL => {}
                alarm @ ALARM.. => self.alarms.done(alarm - ALARM, entry.result()),
                key if matches!(self.ops.borrow_mut().get_mut(key), Some(Op::Device(..))) => {
                    self.reaped.borrow_mut().push_back((key, entry.result()));
                }
                key => self.complete(key, entry.result()),
            }
        }
        for _ in 0..DELIVERED_MAX {
            let Some((key, result)) = self.reaped.borrow_mut().pop_front() else { break };
            self.complete(key, result);
        }
    }

    fn complete(&self, key: u64, result: i32) {
        let op = self.ops.borrow_mut().remove(key);
        self.busy_poll.moved(u64::try_from(result).unwrap_or(0));
        match op.expect("invariant: an operation completes once") {
            Op::Device(device, transfer) => device::complete(&device, transfer, result),
            Op::Receive(socket) => socket::complete_receive(&socket, result),
            Op::Send(socket) => socket::complete_send(&socket, result),
            Op::Accept(acceptor) => listener::complete(&acceptor, result),
            Op::Connect(connecting) => connect::complete(&connecting, result),
        }
    }

    /// A multishot poll stays armed while the kernel says so, and costs nothing to re-arm.
    fn doorbell_rang(&self, flags: u32) {
        if !cqueue::more(flags) {
            self.doorbell.clear();
            self.doorbell_armed.set(false);
        }
    }

    /// Whether an alarm ends the next wait at `deadline`, or before. If not, the wait itself must.
    fn alarm(&self, deadline: Nanos) -> bool {
        if self.alarms.cover(deadline) {
            return true;
        }
        let mut io = self.io.borrow_mut();
        let mut submission = io.submission();
        // An alarm behind a full queue would be set too late.
        if submission.is_full() || !self.backlog.borrow().is_empty() {
            return false;
        }
        let Some((number, entry)) = self.alarms.set(deadline) else { return false };
        // SAFETY: the time it names is in place until the alarm's completion was reaped.
        let pushed = unsafe { submission.push(&entry.user_data(ALARM + number)) };
        pushed.expect("invariant: the queue is not full");
        true
    }

    fn arm_doorbell(&self) {
        if !self.doorbell_armed.replace(true) {
            let entry = opcode::PollAdd::new(self.doorbell.fd(), libc::POLLIN as u32)
                .multi(self.support.multishot_poll)
                .build()
                .user_data(DOORBELL);
            // SAFETY: the entry names no memory.
            unsafe { self.push(entry) };
        }
    }
}

/// The [`Backend`] on a ring.
pub(super) struct RingBackend {
    ring: Rc<Ring>,
    seed: u64,
}

impl RingBackend {
    /// Sets a ring up, with the best features that the kernel has.
    pub(super) fn new(pool: &BufferPool, busy_poll_max: Duration) -> Result<RingBackend> {
        RingBackend::with_steps(pool, busy_poll_max, &setup::STEPS)
    }

    fn with_steps(
        pool: &BufferPool,
        busy_poll_max: Duration,
        steps: &[setup::Step],
    ) -> Result<RingBackend> {
        let (io, support) = setup::build(pool, steps)?;
        let doorbell = Arc::new(EventFd::new()?);
        let ring = Ring {
            io: RefCell::new(io),
            alarms: Alarms::new(support.alarms),
            busy_poll: BusyPoll::new(busy_poll_max),
            support,
            ops: RefCell::new(Slab::new()),
            backlog: RefCell::default(),
            reaped: RefCell::default(),
            doorbell,
            doorbell_armed: Cell::new(false),
            closed: Cell::new(false),
            enters: Cell::new(0),
            ops_submitted: Cell::new(0),
        };
        Ok(RingBackend { ring: Rc::new(ring), seed: setup::system_seed()? })
    }
}

impl Backend for RingBackend {
    fn now(&self) -> Nanos {
        setup::boot_time()
    }

    fn park(&self, wait: Wait) {
        let ring = &*self.ring;
        ring.arm_doorbell();
        ring.push_backlog();
        match wait {
            Wait::Until(deadline) if !ring.has_completions() => ring.wait(deadline),
            _ if ring.must_enter() => ring.enter(0, None),
            _ => {}
        }
    }

    fn deliver(&self) {
        self.ring.reap();
    }

    fn doorbell(&self) -> Arc<dyn Doorbell> {
        Arc::clone(&self.ring.doorbell) as Arc<dyn Doorbell>
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn listen(&self, address: &Address) -> io::Result<Rc<dyn Listener>> {
        listener::listen(&self.ring, address)
    }

    fn connect(&self, address: &Address) -> LocalBox<io::Result<Rc<dyn Stream>>> {
        connect::connect(&self.ring, address)
    }

    fn open_device(&self, path: &Path, options: &DeviceOptions) -> Result<Rc<dyn BlockDevice>> {
        Ok(Rc::new(FileDevice::new(&self.ring, open(path, options)?)))
    }

    fn shutdown(&self) {
        let ring = &*self.ring;
        ring.closed.set(true);
        let cancellable: Vec<u64> = ring
            .ops
            .borrow()
            .iter()
            .filter(|(_, op)| !matches!(op, Op::Device(..)))
            .map(|(key, _)| key)
            .collect();
        cancellable.into_iter().for_each(|key| ring.cancel(key));
        while ring.ops.borrow().len() > 0 {
            ring.push_backlog();
            ring.enter(u32::from(!ring.has_completions()), None);
            ring.reap();
        }
    }

    fn add_stats(&self, stats: &mut Stats) {
        stats.enters += self.ring.enters.get();
        stats.ops_submitted += self.ring.ops_submitted.get();
    }
}
