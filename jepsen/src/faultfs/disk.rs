//! The disk: operations that take their time, the faults they meet, the switch for its power.
//!
//! Invariants: an operation that had not ended when the power went fails, and so does every later
//! one of a file that was opened before; nothing is answered as durable before it is (unless the
//! disk lies); a stalled operation ends when the stall does or the power goes.
//! Must never know: the kernel's protocol, who opens the file.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::fault::{Effect, Fault, Faults, Operation};
use super::image::{Image, Survival, WriteId};
use crate::Result;
use crate::random::Random;
use crate::workload::lock;

/// What was written and not synced is written back, oldest first, beyond this: drives do the same.
const CACHE_MAX_BYTES: u64 = 8 << 20;
/// Every operation that is not fast takes a random part of this.
const LATENCY_MAX: Duration = Duration::from_micros(200);

/// Why an operation was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// EIO.
    InputOutput,
    /// ENOSPC.
    NoSpace,
}

/// What happened on a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads answered.
    pub reads: u64,
    /// Writes answered.
    pub writes: u64,
    /// Those of them that had to be durable.
    pub durable_writes: u64,
    /// Syncs answered.
    pub syncs: u64,
    /// Operations that met a fault.
    pub faults: u64,
    /// Writes refused for lack of room.
    pub no_space: u64,
    /// Losses of power.
    pub cuts: u64,
    /// What they did to writes that were not durable.
    pub survival: Survival,
}

#[derive(Debug)]
struct State {
    image: Image,
    faults: Faults,
    random: Random,
    counts: Counts,
    /// Number of the power cycle.
    cycle: u64,
    powered: bool,
    stalled: bool,
    lying: bool,
    latency_max: Duration,
    room_bytes: Option<u64>,
    open_files: u64,
    waiting: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// What operations wait for.
    changed: Condvar,
    /// What those who look on wait for. Stalled operations that told each other of their waiting
    /// would never sleep.
    watched: Condvar,
}

/// A handle; all clones are one disk.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Shared>);

impl Disk {
    /// An empty disk, powered and honest.
    pub fn new(seed: u64) -> Disk {
        let state = State {
            image: Image::default(),
            faults: Faults::default(),
            random: Random::new(seed),
            counts: Counts::default(),
            cycle: 0,
            powered: true,
            stalled: false,
            lying: false,
            latency_max: LATENCY_MAX,
            room_bytes: None,
            open_files: 0,
            waiting: 0,
        };
        let (changed, watched) = (Condvar::new(), Condvar::new());
        Disk(Arc::new(Shared { state: Mutex::new(state), changed, watched }))
    }

    /// Power is gone: what survives is decided, and every operation fails from now on.
    pub fn cut(&self) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.powered {
            let survival = state.image.cut(&mut state.random);
            state.counts.cuts += 1;
            state.counts.survival.whole += survival.whole;
            state.counts.survival.torn += survival.torn;
            state.counts.survival.gone += survival.gone;
        }
        state.powered = false;
        self.0.changed.notify_all();
    }

    /// Power is back. Files that are still open stay dead.
    pub fn restore(&self) {
        let mut state = self.lock();
        state.powered = true;
        state.stalled = false;
        state.cycle += 1;
        self.0.changed.notify_all();
    }

    /// Waits until no file is open: whoever had it is gone for good.
    pub fn await_closed(&self, limit: Duration) -> Result<()> {
        self.await_state(limit, "the disk is still in use", |state| state.open_files == 0)
    }

    /// Waits until an operation is held up by a stall.
    pub fn await_stalled(&self, limit: Duration) -> Result<()> {
        self.await_state(limit, "nothing was asked of the disk", |state| state.waiting > 0)
    }

    /// Adds a fault; the oldest that concerns an operation decides.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.add(fault);
    }

    /// No fault is left.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// From now on, nothing ends; or all goes on.
    pub fn stall(&self, stalled: bool) {
        self.lock().stalled = stalled;
        self.0.changed.notify_all();
    }

    /// Whether syncs and durable writes are answered without being done.
    pub fn lie(&self, lying: bool) {
        self.lock().lying = lying;
    }

    /// Longest time of an operation.
    pub fn set_latency(&self, latency_max: Duration) {
        self.lock().latency_max = latency_max;
    }

    /// Bytes that may ever be written to different places.
    pub fn set_room(&self, room_bytes: Option<u64>) {
        self.lock().room_bytes = room_bytes;
    }

    /// Bytes written to different places.
    pub fn allocated_bytes(&self) -> u64 {
        self.lock().image.allocated_bytes()
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.lock().image.size()
    }

    /// Where these bytes stand, at multiples of 4096.
    pub fn find(&self, wanted: &[u8]) -> Vec<u64> {
        self.lock().image.find(wanted)
    }

    /// Flips one bit.
    pub fn flip_bit(&self, offset: u64, bit: u32) {
        self.lock().image.damage(offset, |byte| *byte ^= 1 << (bit % 8));
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Opens the file; gives the power cycle it belongs to.
    pub(super) fn open(&self) -> std::result::Result<u64, Refusal> {
        let mut state = self.lock();
        if !state.powered {
            return Err(Refusal::InputOutput);
        }
        state.open_files += 1;
        Ok(state.cycle)
    }

    pub(super) fn close(&self) {
        self.lock().open_files -= 1;
        self.0.watched.notify_all();
    }

    /// Makes the file longer.
    pub(super) fn extend(&self, size: u64) -> std::result::Result<(), Refusal> {
        let mut state = self.lock();
        let powered = state.powered;
        state.image.extend(size);
        if powered { Ok(()) } else { Err(Refusal::InputOutput) }
    }

    pub(super) fn read(
        &self,
        cycle: u64,
        offset: u64,
        length: u64,
    ) -> std::result::Result<Vec<u8>, Refusal> {
        let guard = self.take_time(self.lock(), cycle)?;
        let mut guard = guard;
        let state = &mut *guard;
        state.counts.reads += 1;
        let end = (offset + length).min(state.image.size());
        let range = offset.min(end)..end;
        let mut bytes = vec![0u8; (range.end - range.start) as usize];
        let effect = state.take_fault(Operation::Read, &range);
        match effect {
            Some(Effect::InputOutputError) => return Err(Refusal::InputOutput),
            Some(Effect::Misdirect(by)) => {
                state.image.read(range.start.wrapping_add(by), &mut bytes)
            }
            Some(Effect::FlipBit) | None => state.image.read(range.start, &mut bytes),
        }
        if effect == Some(Effect::FlipBit) {
            state.flip_any(&mut bytes);
        }
        Ok(bytes)
    }

    pub(super) fn write(
        &self,
        cycle: u64,
        offset: u64,
        bytes: &[u8],
        durable: bool,
    ) -> std::result::Result<(), Refusal> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if !state.is_alive(cycle) {
            return Err(Refusal::InputOutput);
        }
        let range = offset..offset + bytes.len() as u64;
        state.check_room(&range)?;
        let effect = state.take_fault(Operation::Write, &range);
        let id = state.begin_write(offset, bytes, effect);
        let mut guard = self.take_time(guard, cycle)?;
        let state = &mut *guard;
        state.counts.writes += 1;
        state.counts.durable_writes += u64::from(durable);
        if effect == Some(Effect::InputOutputError) {
            state.image.spoil(id, &mut state.random);
            return Err(Refusal::InputOutput);
        }
        if durable && !state.lying {
            state.image.settle(id);
        } else {
            state.image.complete(id);
            state.write_back();
        }
        Ok(())
    }

    pub(super) fn sync(&self, cycle: u64) -> std::result::Result<(), Refusal> {
        let guard = self.lock();
        let covered = guard.image.completed();
        let mut guard = self.take_time(guard, cycle)?;
        let state = &mut *guard;
        state.counts.syncs += 1;
        if state.take_fault(Operation::Sync, &(0..0)).is_some() {
            for id in covered {
                state.image.spoil(id, &mut state.random);
            }
            return Err(Refusal::InputOutput);
        }
        if !state.lying {
            for id in covered {
                state.image.settle(id);
            }
        }
        state.image.settle_size();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// Lets an operation take its time; fails if its power cycle ends meanwhile.
    fn take_time<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        cycle: u64,
    ) -> std::result::Result<MutexGuard<'a, State>, Refusal> {
        let micros = state.latency_max.as_micros() as u64;
        let deadline = Instant::now() + Duration::from_micros(state.random.below(micros + 1));
        while state.is_alive(cycle) {
            let rest = deadline.saturating_duration_since(Instant::now());
            if state.stalled {
                state.waiting += 1;
                self.0.watched.notify_all();
                state = wait(&self.0.changed, state, Duration::MAX);
                state.waiting -= 1;
            } else if rest.is_zero() {
                return Ok(state);
            } else {
                state = wait(&self.0.changed, state, rest);
            }
        }
        Err(Refusal::InputOutput)
    }

    fn await_state(
        &self,
        limit: Duration,
        otherwise: &str,
        is_met: impl Fn(&State) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        while !is_met(&state) {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Err(format!("{otherwise} after {limit:?}"));
            }
            state = wait(&self.0.watched, state, rest);
        }
        Ok(())
    }
}

impl State {
    fn is_alive(&self, cycle: u64) -> bool {
        self.powered && self.cycle == cycle
    }

    fn take_fault(&mut self, operation: Operation, range: &Range<u64>) -> Option<Effect> {
        let effect = self.faults.take(operation, range)?;
        self.counts.faults += 1;
        Some(effect)
    }

    fn check_room(&mut self, range: &Range<u64>) -> std::result::Result<(), Refusal> {
        let wanted = self.image.wanted_bytes(range);
        let taken = self.image.allocated_bytes();
        if wanted == 0 || self.room_bytes.is_none_or(|room| taken + wanted <= room) {
            return Ok(());
        }
        self.counts.no_space += 1;
        Err(Refusal::NoSpace)
    }

    fn begin_write(&mut self, offset: u64, bytes: &[u8], effect: Option<Effect>) -> WriteId {
        match effect {
            Some(Effect::Misdirect(by)) => self.image.begin(offset.wrapping_add(by), bytes),
            Some(Effect::FlipBit) => {
                let mut bytes = bytes.to_vec();
                self.flip_any(&mut bytes);
                self.image.begin(offset, &bytes)
            }
            Some(Effect::InputOutputError) | None => self.image.begin(offset, bytes),
        }
    }

    fn flip_any(&mut self, bytes: &mut [u8]) {
        let bit = self.random.below(bytes.len() as u64 * 8);
        if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
            *byte ^= 1 << (bit % 8);
        }
    }

    fn write_back(&mut self) {
        while self.image.unsynced_bytes() > CACHE_MAX_BYTES
            && let Some(oldest) = self.image.oldest()
        {
            self.image.settle(oldest);
        }
    }
}

/// Waits for a change; behind a panicked holder too, whose panic is reported elsewhere.
fn wait<'a>(
    changed: &Condvar,
    state: MutexGuard<'a, State>,
    limit: Duration,
) -> MutexGuard<'a, State> {
    if limit == Duration::MAX {
        return changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
    }
    changed.wait_timeout(state, limit).unwrap_or_else(|poisoned| poisoned.into_inner()).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (Disk, u64) {
        let disk = Disk::new(7);
        disk.set_latency(Duration::ZERO);
        let cycle = disk.open().unwrap();
        (disk, cycle)
    }

    #[test]
    fn durable_writes_survive_unless_the_disk_lies() {
        let mut kept = 0;
        for lying in [false, true] {
            let (disk, cycle) = disk();
            disk.extend(1 << 20).unwrap();
            disk.sync(cycle).unwrap();
            disk.lie(lying);
            for block in 0..32u64 {
                disk.write(cycle, block * 4096, &[9; 4096], true).unwrap();
            }
            disk.cut();
            assert_eq!(disk.read(cycle, 0, 4096), Err(Refusal::InputOutput));
            disk.restore();
            assert_eq!(disk.write(cycle, 0, &[1; 512], true), Err(Refusal::InputOutput));
            let cycle = disk.open().unwrap();
            let found = disk.read(cycle, 0, 32 * 4096).unwrap();
            kept = found.iter().filter(|b| **b == 9).count();
            assert_eq!(kept == found.len(), !lying, "{kept} bytes of {}", found.len());
        }
        assert!(kept > 0, "also a liar keeps something");
    }

    #[test]
    fn a_stall_ends_with_the_power() {
        let (disk, cycle) = disk();
        disk.stall(true);
        let twin = disk.clone();
        let writer = std::thread::spawn(move || twin.write(cycle, 0, &[1; 512], true));
        disk.await_stalled(Duration::from_secs(10)).unwrap();
        disk.cut();
        assert_eq!(writer.join().unwrap(), Err(Refusal::InputOutput));
    }

    #[test]
    fn faults_do_what_they_say() {
        let (disk, cycle) = disk();
        disk.write(cycle, 0, &[1; 8192], true).unwrap();
        disk.inject(Fault::failing(Operation::Read).within(0..512));
        assert_eq!(disk.read(cycle, 0, 4096), Err(Refusal::InputOutput));
        assert_eq!(disk.read(cycle, 4096, 4096), Ok(vec![1; 4096]));
        disk.heal();
        let flip = Fault::failing(Operation::Read).times(1).with(Effect::FlipBit);
        disk.inject(flip);
        assert_ne!(disk.read(cycle, 0, 4096), Ok(vec![1; 4096]));
        assert_eq!(disk.read(cycle, 0, 4096), Ok(vec![1; 4096]));
        let astray = Fault::failing(Operation::Write).times(1).with(Effect::Misdirect(4096));
        disk.inject(astray);
        disk.write(cycle, 0, &[2; 512], true).unwrap();
        assert_eq!(disk.read(cycle, 0, 512), Ok(vec![1; 512]));
        assert_eq!(disk.read(cycle, 4096, 512), Ok(vec![2; 512]));
        disk.set_room(Some(disk.allocated_bytes()));
        assert_eq!(disk.write(cycle, 8192, &[3; 512], false), Err(Refusal::NoSpace));
        disk.write(cycle, 0, &[3; 512], false).unwrap();
        disk.inject(Fault::failing(Operation::Sync).times(1));
        assert_eq!(disk.sync(cycle), Err(Refusal::InputOutput));
        disk.sync(cycle).unwrap();
        assert_eq!(disk.counts().faults, 4);
    }
}
