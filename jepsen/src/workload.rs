//! One connection's load: random writes, zeroes, trims, flushes and reads, many in flight.
//!
//! Reads are judged when they arrive. The load ends when it is told to or when the connection
//! breaks, which is what a killed server looks like; nothing is retried.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::Result;
use crate::history::{Effect, History, Moment, RequestId, Sectors, Violation};
use crate::nbd::{Command, Connection, FLAG_FUA, FLAG_NO_HOLE, Receiver, Request, Sender};
use crate::random::Random;
use crate::sector::{self, Place, SECTOR_SIZE_BYTES, Stamp};

/// Requests in flight per connection.
const IN_FLIGHT_MAX: usize = 16;
/// Sectors of the largest request: 1 MiB, the largest one that is promised to be atomic.
const REQUEST_MAX_SECTORS: u64 = 2048;
/// Sectors of a block; trims of whole blocks must read as zeroes.
const BLOCK_SECTORS: u64 = 8;

/// One volume as all its connections see it.
#[derive(Debug)]
pub struct SharedVolume {
    /// Number in the run, part of every sector.
    pub number: u64,
    /// Export name.
    pub name: String,
    /// What was asked.
    pub history: Mutex<History>,
}

/// What all connections of a round share.
#[derive(Debug, Default)]
pub struct Round {
    /// Set when the load should end by itself.
    pub stop: AtomicBool,
    /// Set when errors are the right answer: its disk has gone from under the server.
    pub errors_are_due: AtomicBool,
    /// Replies with an NBD error, and
    pub refused: AtomicU64,
    /// connections that broke, while neither was the right answer.
    pub broken: AtomicU64,
    /// Replies with an NBD error while errors were the right answer.
    pub excused: AtomicU64,
    /// Reads judged.
    pub reads: AtomicU64,
    /// Broken promises seen while the server was up.
    pub violations: Mutex<Vec<Violation>>,
}

enum Pending {
    Change(RequestId),
    Read { sectors: Sectors, asked: Moment },
    Flush,
}

#[derive(Default)]
struct InFlight {
    pending: BTreeMap<u64, Pending>,
    closed: bool,
}

struct Link<'a> {
    volume: &'a SharedVolume,
    round: &'a Round,
    mix: Mix,
    in_flight: Mutex<InFlight>,
    changed: Condvar,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mix {
    /// All there is, mostly writes.
    All,
    /// Reads.
    Reads,
}

/// Runs the load until the connection breaks or the round stops it.
pub fn run(connection: Connection, volume: &SharedVolume, round: &Round, writer: u32, seed: u64) {
    run_mix(connection, volume, round, Mix::All, (writer, seed));
}

/// As [`run`], but only reads: for clients of nodes that must not take the volume over.
pub fn run_reads(connection: Connection, volume: &SharedVolume, round: &Round, seed: u64) {
    run_mix(connection, volume, round, Mix::Reads, (0, seed));
}

fn run_mix(
    connection: Connection,
    volume: &SharedVolume,
    round: &Round,
    mix: Mix,
    (writer, seed): (u32, u64),
) {
    let Connection { sender, receiver, .. } = connection;
    let link = Link { volume, round, mix, in_flight: Mutex::default(), changed: Condvar::new() };
    let broke = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| link.receive_all(receiver));
        let sent = link.send_all(sender, writer, Random::new(seed));
        // A panic is reported by the scope.
        sent.is_err() || receiving.join().is_ok_and(|received| received.is_err())
    });
    if broke && !round.errors_are_due.load(Ordering::SeqCst) {
        round.broken.fetch_add(1, Ordering::Relaxed);
    }
}

/// Locks, also behind a panicked holder: its panic is reported by the scope that joins it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Link<'_> {
    fn send_all(&self, mut sender: Sender, writer: u32, mut random: Random) -> Result<()> {
        let mut payload = vec![0u8; REQUEST_MAX_SECTORS as usize * SECTOR_SIZE_BYTES];
        let (mut cookie, mut sent) = (0, Ok(()));
        while !self.round.stop.load(Ordering::Relaxed) && sent.is_ok() && self.await_room() {
            cookie += 1;
            sent = self.send_one(&mut sender, writer, &mut random, cookie, &mut payload);
        }
        self.close();
        let goodbye =
            Request { command: Command::Disconnect, flags: 0, cookie: 0, offset: 0, length: 0 };
        // The server may be dead already.
        let _ = sender.send(goodbye, &[]);
        sent
    }

    /// Waits for a free place; false once the connection is closed.
    fn await_room(&self) -> bool {
        let mut state = lock(&self.in_flight);
        while state.pending.len() >= IN_FLIGHT_MAX && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        !state.closed
    }

    fn close(&self) {
        lock(&self.in_flight).closed = true;
        self.changed.notify_all();
    }

    fn send_one(
        &self,
        sender: &mut Sender,
        writer: u32,
        random: &mut Random,
        cookie: u64,
        payload: &mut [u8],
    ) -> Result<()> {
        let mut history = lock(&self.volume.history);
        let plan = Plan::choose(random, history.sectors(), self.mix);
        let mut bytes = 0;
        let pending = match (plan.command, plan.effect) {
            (Command::Flush, _) => Pending::Flush,
            (_, None) => Pending::Read { sectors: plan.sectors, asked: history.now() },
            (_, Some(effect)) => {
                let (id, sequence) = history.issue(effect, plan.sectors);
                if effect == Effect::Write {
                    bytes = plan.sectors.count as usize * SECTOR_SIZE_BYTES;
                    let stamp = Stamp { writer, sequence };
                    self.stamp(&mut payload[..bytes], plan.sectors.first, stamp);
                }
                Pending::Change(id)
            }
        };
        drop(history);
        lock(&self.in_flight).pending.insert(cookie, pending);
        self.changed.notify_all();
        sender.send(plan.request(cookie), &payload[..bytes])
    }

    fn stamp(&self, payload: &mut [u8], first: u64, stamp: Stamp) {
        for (index, bytes) in payload.chunks_exact_mut(SECTOR_SIZE_BYTES).enumerate() {
            let place = Place { volume: self.volume.number, sector: first + index as u64 };
            sector::encode(bytes, place, stamp);
        }
    }

    fn receive_all(&self, mut receiver: Receiver) -> Result<()> {
        let mut payload = vec![0u8; REQUEST_MAX_SECTORS as usize * SECTOR_SIZE_BYTES];
        let mut received = Ok(());
        while received.is_ok() && self.await_something() {
            received = self.receive_one(&mut receiver, &mut payload);
        }
        self.close();
        received
    }

    /// Waits for a request in flight; false once there is none and the sender has ended.
    fn await_something(&self) -> bool {
        let mut state = lock(&self.in_flight);
        while state.pending.is_empty() && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        !state.pending.is_empty()
    }

    fn receive_one(&self, receiver: &mut Receiver, payload: &mut [u8]) -> Result<()> {
        let reply = receiver.reply()?;
        let pending = lock(&self.in_flight).pending.remove(&reply.cookie);
        self.changed.notify_all();
        let Some(pending) = pending else {
            let what = format!("a reply to cookie {} that is not in flight", reply.cookie);
            lock(&self.round.violations).push(Violation::Foreign(what.clone()));
            return Err(what);
        };
        if reply.error != 0 {
            let due = self.round.errors_are_due.load(Ordering::SeqCst);
            let count = if due { &self.round.excused } else { &self.round.refused };
            count.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        match pending {
            Pending::Flush => {}
            Pending::Change(id) => lock(&self.volume.history).acknowledge(id),
            Pending::Read { sectors, asked } => {
                let bytes = &mut payload[..sectors.count as usize * SECTOR_SIZE_BYTES];
                receiver.payload(bytes)?;
                self.judge_read(bytes, sectors, asked);
            }
        }
        Ok(())
    }

    fn judge_read(&self, bytes: &[u8], sectors: Sectors, asked: Moment) {
        self.round.reads.fetch_add(1, Ordering::Relaxed);
        let history = lock(&self.volume.history);
        for (index, bytes) in bytes.chunks_exact(SECTOR_SIZE_BYTES).enumerate() {
            let sector = sectors.first + index as u64;
            let place = Place { volume: self.volume.number, sector };
            let content = sector::decode(bytes, place);
            if let Some(violation) = history.judge(sector, &content, asked) {
                lock(&self.round.violations).push(violation);
            }
        }
    }
}

/// A request to be made.
struct Plan {
    command: Command,
    effect: Option<Effect>,
    flags: u16,
    sectors: Sectors,
}

impl Plan {
    fn choose(random: &mut Random, volume_sectors: u64, mix: Mix) -> Plan {
        let sectors = choose_sectors(random, volume_sectors);
        let fua = if random.below(8) == 0 { FLAG_FUA } else { 0 };
        let no_hole = if random.below(2) == 0 { FLAG_NO_HOLE } else { 0 };
        let whole_blocks =
            [sectors.first, sectors.count].iter().all(|n| n.is_multiple_of(BLOCK_SECTORS));
        let (zeroed, trimmed) = if whole_blocks {
            (Effect::Zero, Effect::Zero)
        } else {
            (Effect::ZeroInParts, Effect::MayZero)
        };
        let (command, effect, flags) = match random.below(100) {
            _ if mix == Mix::Reads => (Command::Read, None, 0),
            0..75 => (Command::Write, Some(Effect::Write), fua),
            75..80 => (Command::WriteZeroes, Some(zeroed), fua | no_hole),
            80..86 => (Command::Trim, Some(trimmed), fua),
            86..88 => (Command::Flush, None, 0),
            _ => (Command::Read, None, 0),
        };
        Plan { command, effect, flags, sectors }
    }

    fn request(&self, cookie: u64) -> Request {
        let (offset, length) = match self.command {
            Command::Flush => (0, 0),
            _ => (
                self.sectors.first * SECTOR_SIZE_BYTES as u64,
                self.sectors.count as u32 * SECTOR_SIZE_BYTES as u32,
            ),
        };
        Request { command: self.command, flags: self.flags, cookie, offset, length }
    }
}

/// Mostly small and aligned, some odd, some as large as can be; half of them in a hot sixteenth.
fn choose_sectors(random: &mut Random, volume_sectors: u64) -> Sectors {
    let (unit, units) = match random.below(20) {
        0..12 => (BLOCK_SECTORS, 1 + random.below(4)),
        12..15 => (BLOCK_SECTORS, 1 + random.below(32)),
        15..18 => (1, 1 + random.below(40)),
        18 => (BLOCK_SECTORS, 1 + random.below(REQUEST_MAX_SECTORS / BLOCK_SECTORS)),
        _ => (1, REQUEST_MAX_SECTORS),
    };
    let count = (unit * units).min(volume_sectors);
    let span = if random.below(2) == 0 { volume_sectors / 16 } else { volume_sectors };
    let last = span.max(count) - count;
    let first = random.below(last + 1) / unit * unit;
    Sectors { first, count }
}
