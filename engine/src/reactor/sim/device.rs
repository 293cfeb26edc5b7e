//! A process's opening of a disk: operations in flight and how they end.
//!
//! Invariants: an operation takes effect when it ends, not before, unless a fault says so; every
//! one ends once, in its process's life or with it.
//! Must never know: what is stored.

use super::disk::DiskCore;
use super::faults::{DiskFaults, FaultKind};
use super::inject::{DiskState, FirstStep, blocks};
use super::trace::Step;
use super::world::{Core, Event, Process};
use crate::buffer::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::reactor::transfer::check;
use crate::reactor::{BlockDevice, DeviceCompletion, DeviceOp, DeviceOptions};
use crate::units::BLOCK_SIZE_BYTES;
use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// An operation in flight.
pub(super) struct Flight {
    device: Rc<DeviceCore>,
    token: u64,
    op: DeviceOp,
    /// For a sync: the newest write it is for.
    newest: u64,
    /// Blocks that take effect before the rest; 0 if all at once, or when they have.
    first_blocks: u64,
    /// Those that have.
    first_step: Option<FirstStep>,
}

impl Flight {
    /// Whether a process has it under way.
    pub(super) fn is_of(&self, process: &Rc<Process>) -> bool {
        Rc::ptr_eq(&self.device.process, process)
    }
}

/// What the handle and its operations share.
struct DeviceCore {
    core: Rc<Core>,
    process: Rc<Process>,
    disk: Rc<DiskCore>,
    read_only: bool,
    size_bytes: u64,
    locked: bool,
    finished: RefCell<Vec<DeviceCompletion>>,
    waker: Cell<Option<Waker>>,
}

impl Drop for DeviceCore {
    fn drop(&mut self) {
        if self.locked {
            self.disk.unlock(self.process.life, !self.read_only);
        }
    }
}

/// The handle: one consumer.
struct SimDevice {
    device: Rc<DeviceCore>,
}

/// Opens the disk at `path`.
pub(super) fn open(
    core: &Rc<Core>,
    process: &Rc<Process>,
    path: &Path,
    options: &DeviceOptions,
) -> Result<Rc<dyn BlockDevice>> {
    let refused = |kind, message: &str| Err(Error::new(kind, message).context(path.display()));
    let found = core.disks.borrow().get(path).map(Rc::clone);
    let disk = match (found, options.create_size_bytes) {
        (Some(disk), _) => disk,
        (None, None) => return refused(ErrorKind::Device, "does not exist"),
        (None, Some(_)) if options.read_only => {
            return refused(ErrorKind::Invalid, "cannot be created read-only");
        }
        (None, Some(size)) if !size.is_multiple_of(BLOCK_SIZE_BYTES as u64) => {
            return refused(ErrorKind::Invalid, "the size must be a multiple of 4096");
        }
        (None, Some(size)) => Rc::clone(super::SimDisk::create(core, path, size).disk()),
    };
    if disk.size_bytes() < options.create_size_bytes.unwrap_or(BLOCK_SIZE_BYTES as u64) {
        return refused(ErrorKind::Device, "is too small");
    }
    if options.lock && !disk.lock(process.life, !options.read_only) {
        return refused(ErrorKind::Busy, "is in use");
    }
    let device = DeviceCore {
        core: Rc::clone(core),
        process: Rc::clone(process),
        read_only: options.read_only,
        size_bytes: disk.size_bytes(),
        disk,
        locked: options.lock,
        finished: RefCell::default(),
        waker: Cell::default(),
    };
    Ok(Rc::new(SimDevice { device: Rc::new(device) }))
}

impl BlockDevice for SimDevice {
    fn size_bytes(&self) -> u64 {
        self.device.size_bytes
    }

    fn is_preallocated(&self) -> bool {
        self.device.disk.preallocated.get()
    }

    fn submit(&self, token: u64, op: DeviceOp) {
        let device = &self.device;
        if !device.core.is_alive(&device.process) {
            let dead = Err(io::Error::other("the reactor is shut down"));
            return device.finish(token, dead, buffers(op));
        }
        if let Err(error) = check(&op, device.size_bytes, device.read_only) {
            return device.finish(token, Err(error), buffers(op));
        }
        device.start(token, op);
    }

    fn poll_completions(
        &self,
        context: &mut Context<'_>,
        into: &mut Vec<DeviceCompletion>,
    ) -> Poll<()> {
        let mut finished = self.device.finished.borrow_mut();
        if finished.is_empty() {
            let known = self.device.waker.take().filter(|known| known.will_wake(context.waker()));
            self.device.waker.set(Some(known.unwrap_or_else(|| context.waker().clone())));
            return Poll::Pending;
        }
        into.append(&mut finished);
        Poll::Ready(())
    }
}

fn buffers(op: DeviceOp) -> Vec<Buffer> {
    match op {
        DeviceOp::Read { buffer, .. } => vec![buffer],
        DeviceOp::Write { buffers, .. } => buffers,
        DeviceOp::Sync => Vec::new(),
    }
}

/// Kind, first block and count of blocks of an operation.
fn place(op: &DeviceOp) -> (u64, Range<u64>) {
    let block = BLOCK_SIZE_BYTES as u64;
    let range = |offset: u64, len: usize| offset / block..(offset + len as u64) / block;
    match op {
        DeviceOp::Read { offset_bytes, buffer } => (0, range(*offset_bytes, buffer.len())),
        DeviceOp::Write { offset_bytes, buffers, sync } => {
            let len = buffers.iter().map(|buffer| buffer.len()).sum();
            (1 + u64::from(*sync), range(*offset_bytes, len))
        }
        DeviceOp::Sync => (3, 0..0),
    }
}

/// A word that changes with an operation's bytes, for the trace.
fn sample(op: &DeviceOp) -> u64 {
    let word = |block: &[u8]| {
        let (head, _) = block.split_first_chunk().expect("invariant: a block is longer");
        u64::from_le_bytes(*head)
    };
    let buffers = match op {
        DeviceOp::Read { buffer, .. } => std::slice::from_ref(buffer),
        DeviceOp::Write { buffers, .. } => &buffers[..],
        DeviceOp::Sync => &[],
    };
    blocks(buffers).fold(0, |sum, block| sum.rotate_left(7) ^ word(block))
}

impl DeviceCore {
    fn start(self: &Rc<DeviceCore>, token: u64, op: DeviceOp) {
        let process = &self.process;
        process.in_flight.set(process.in_flight.get() + 1);
        process.ops_submitted.set(process.ops_submitted.get() + 1);
        let (kind, range) = place(&op);
        self.core.note(Step::DiskSubmit, &[kind, range.start, range.end]);
        let state = &mut *self.disk.state.borrow_mut();
        let mut delay = delay(&self.core, state);
        let mut first_blocks = 0;
        let count = range.end - range.start;
        if count > 1
            && state.drawn(FaultKind::Short, state.faults.short)
            && self.core.inject(FaultKind::Short)
        {
            first_blocks = 1 + state.dice.of(FaultKind::Short).below(count - 1);
            delay /= 2;
        }
        let newest = state.medium.newest();
        let device = Rc::clone(self);
        let flight = Flight { device, token, op, newest, first_blocks, first_step: None };
        self.core.schedule(delay, Event::Device(Box::new(flight)));
    }

    fn finish(&self, token: u64, result: io::Result<()>, buffers: Vec<Buffer>) {
        self.finished.borrow_mut().push(DeviceCompletion { token, result, buffers });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// How long an operation takes.
fn delay(core: &Core, state: &mut DiskState) -> Duration {
    let DiskFaults { latency, .. } = state.faults;
    let delay = latency.draw(&mut state.random);
    if !state.drawn(FaultKind::Stall, latency.stall) {
        return delay;
    }
    let longest = u64::try_from(latency.stall_max.as_nanos()).unwrap_or(u64::MAX).max(1);
    let stalled = Duration::from_nanos(state.dice.of(FaultKind::Stall).below(longest));
    if core.inject(FaultKind::Stall) { delay + stalled } else { delay }
}

/// An operation's time has come. True if it ended.
pub(super) fn perform(core: &Rc<Core>, mut flight: Box<Flight>) -> bool {
    let device = Rc::clone(&flight.device);
    let state = &mut *device.disk.state.borrow_mut();
    if flight.first_blocks > 0 {
        take_first_step(state, &mut flight);
        let delay = delay(core, state);
        core.schedule(delay, Event::Device(flight));
        return false;
    }
    let (kind, range) = place(&flight.op);
    let first = range.start;
    let result = match &mut flight.op {
        DeviceOp::Read { buffer, .. } => {
            let done = flight.first_step.map_or(0, |step| step.blocks);
            state.read(core, first, buffer, done)
        }
        DeviceOp::Write { buffers, sync, .. } => {
            state.write(core, first, buffers, *sync, flight.first_step)
        }
        DeviceOp::Sync => state.sync(core, flight.newest),
    };
    state.decay(core, range);
    let failed = result.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(-1) as u64);
    core.note(Step::DiskEnd, &[kind, first, failed, sample(&flight.op)]);
    device.process.in_flight.set(device.process.in_flight.get() - 1);
    device.finish(flight.token, result, buffers(flight.op));
    true
}

/// The first part of a short operation takes effect.
fn take_first_step(state: &mut DiskState, flight: &mut Flight) {
    let count = std::mem::take(&mut flight.first_blocks);
    let (_, range) = place(&flight.op);
    let number = match &mut flight.op {
        DeviceOp::Read { buffer, .. } => {
            state.copy(range.start, &mut buffer[..count as usize * BLOCK_SIZE_BYTES]);
            0
        }
        DeviceOp::Write { buffers, .. } => {
            state.put_volatile(range.start, blocks(buffers).take(count as usize))
        }
        DeviceOp::Sync => 0,
    };
    flight.first_step = Some(FirstStep { blocks: count, number });
}

/// The process of an operation died. Of a write, some blocks from its start are in the cache.
pub(super) fn crash(core: &Core, flight: Flight) {
    let DeviceOp::Write { buffers, .. } = &flight.op else { return };
    let (_, range) = place(&flight.op);
    let state = &mut *flight.device.disk.state.borrow_mut();
    let landed = match state.random.below(4) {
        0 => 0,
        1 => state.random.below(range.end - range.start + 1),
        _ => range.end - range.start,
    };
    core.note(Step::Crash, &[range.start, landed]);
    state.put_volatile(range.start, blocks(buffers).take(landed as usize));
}
