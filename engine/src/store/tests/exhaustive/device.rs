//! The device of the enumeration, sector by sector.
//!
//! Fault model: a sector (512 bytes) is written whole or not at all. What a sync write wrote is
//! certain once that write has ended; what another write wrote, once a sync that began after its
//! end has ended: a sync write makes nothing durable but itself. Everything else that was submitted
//! may survive a crash or not, each sector for itself. No other sector changes.

use crate::buffer::{Buffer, BufferPool};
use crate::reactor::{DeviceCompletion, DeviceOp};
use crate::store::ReadRange;
use crate::units::BLOCK_SIZE_BYTES;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

pub(super) const SECTOR: usize = 512;
const SECTORS_PER_BLOCK: u32 = (BLOCK_SIZE_BYTES / SECTOR) as u32;
/// Zero blocks that a read of recovery keeps behind the last block with anything in it.
const ZEROES_KEPT: usize = 16;

/// Sector contents, with a mark that stands for "this content at this place".
#[derive(Clone)]
pub(super) struct Sector {
    pub(super) bytes: Rc<[u8; SECTOR]>,
    /// 0 if it is what the base holds there.
    pub(super) mark: u128,
}

/// The image that all crash states of a start share.
pub(super) struct Base {
    blocks: Vec<Option<Box<[u8; BLOCK_SIZE_BYTES]>>>,
}

static ZEROES: [u8; SECTOR] = [0; SECTOR];

impl Base {
    pub(super) fn new(bytes: &[u8]) -> Base {
        let block = |block: &[u8]| {
            let block: Box<[u8; BLOCK_SIZE_BYTES]> = Box::new(block.try_into().expect("a block"));
            block.iter().any(|byte| *byte != 0).then_some(block)
        };
        Base { blocks: bytes.chunks_exact(BLOCK_SIZE_BYTES).map(block).collect() }
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.blocks.len() * BLOCK_SIZE_BYTES) as u64
    }

    fn sector(&self, number: u32) -> &[u8] {
        let at = (number % SECTORS_PER_BLOCK) as usize * SECTOR;
        match &self.blocks[(number / SECTORS_PER_BLOCK) as usize] {
            Some(block) => &block[at..at + SECTOR],
            None => &ZEROES,
        }
    }

    fn make_sector(&self, number: u32, bytes: &[u8]) -> Sector {
        let mark = if self.sector(number) == bytes { 0 } else { mark(number, bytes) };
        Sector { bytes: Rc::new(bytes.try_into().expect("a sector")), mark }
    }
}

fn mark(number: u32, bytes: &[u8]) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        (salt, number, bytes).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

/// A base with some sectors changed.
#[derive(Clone)]
pub(super) struct Image {
    pub(super) base: Rc<Base>,
    sectors: BTreeMap<u32, Sector>,
    /// Sum of the marks: equal for equal contents.
    pub(super) sum: u128,
}

impl Image {
    pub(super) fn new(base: Rc<Base>) -> Image {
        Image { base, sectors: BTreeMap::new(), sum: 0 }
    }

    fn mark(&self, number: u32) -> u128 {
        self.sectors.get(&number).map_or(0, |sector| sector.mark)
    }

    fn sector(&self, number: u32) -> &[u8] {
        self.sectors.get(&number).map_or_else(|| self.base.sector(number), |s| &s.bytes[..])
    }

    pub(super) fn set(&mut self, number: u32, sector: Sector) {
        self.sum = self.sum.wrapping_sub(self.mark(number)).wrapping_add(sector.mark);
        self.sectors.insert(number, sector);
    }

    fn read(&self, offset_bytes: u64, into: &mut [u8]) {
        let first = offset_bytes as usize / BLOCK_SIZE_BYTES;
        for (i, bytes) in into.chunks_exact_mut(BLOCK_SIZE_BYTES).enumerate() {
            match &self.base.blocks[first + i] {
                Some(block) => bytes.copy_from_slice(&block[..]),
                None => bytes.fill(0),
            }
        }
        let from = (offset_bytes / SECTOR as u64) as u32;
        let sectors = self.sectors.range(from..from + (into.len() / SECTOR) as u32);
        for (number, sector) in sectors {
            let at = (number - from) as usize * SECTOR;
            into[at..at + SECTOR].copy_from_slice(&sector.bytes[..]);
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.base.bytes() as usize];
        self.read(0, &mut bytes);
        bytes
    }

    /// A read of recovery. Of the zeroes at the end of a long one only some are kept: a scan finds
    /// nothing in zeroes, and no payload of these tests is zeroes.
    pub(super) fn recovery_read(&self, pool: &BufferPool, read: ReadRange) -> Buffer {
        let first = read.offset_bytes as usize / BLOCK_SIZE_BYTES;
        let blocks = read.bytes / BLOCK_SIZE_BYTES;
        let used = self.base.blocks[first..first + blocks].iter().rposition(Option::is_some);
        let from = first as u32 * SECTORS_PER_BLOCK;
        let changed = self.sectors.range(from..from + blocks as u32 * SECTORS_PER_BLOCK);
        let changed = changed.last().map_or(0, |(number, _)| (number - from) / SECTORS_PER_BLOCK);
        let kept = used.unwrap_or(0).max(changed as usize) + 1 + ZEROES_KEPT;
        let mut buffer = pool.allocate(kept.min(blocks) * BLOCK_SIZE_BYTES);
        self.read(read.offset_bytes, &mut buffer);
        buffer
    }
}

struct Submitted {
    token: u64,
    op: DeviceOp,
    /// What a write changes.
    changes: Vec<(u32, Sector)>,
    /// Writes ended when it was submitted.
    ended: usize,
}

/// A device with operations in flight.
pub(super) struct Device {
    /// What a crash leaves for certain.
    pub(super) durable: Image,
    /// Ended but not durable, in order, with the number of the write.
    cached: Vec<(usize, u32, Sector)>,
    queue: Vec<Submitted>,
    ended: usize,
    /// The setup of a start writes what its base holds already.
    pub(super) is_setup: bool,
}

impl Device {
    pub(super) fn new(durable: Image) -> Device {
        Device { durable, cached: Vec::new(), queue: Vec::new(), ended: 0, is_setup: false }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.queue.len()
    }

    fn visible(&self, number: u32) -> &[u8] {
        let cached = self.cached.iter().rev().find(|(_, cached, _)| *cached == number);
        cached.map_or_else(|| self.durable.sector(number), |(_, _, sector)| &sector.bytes[..])
    }

    pub(super) fn submit(&mut self, token: u64, op: DeviceOp) {
        let mut changes = Vec::new();
        if let DeviceOp::Write { offset_bytes, buffers, .. } = &op
            && !self.is_setup
        {
            let first = (offset_bytes / SECTOR as u64) as u32;
            let sectors = buffers.iter().flat_map(|buffer| buffer.chunks_exact(SECTOR));
            for (number, bytes) in (first..).zip(sectors) {
                let cached = self.cached.iter().any(|(_, cached, _)| *cached == number);
                if cached || self.visible(number) != bytes {
                    changes.push((number, self.durable.base.make_sector(number, bytes)));
                }
            }
        }
        let taken = |number| self.queue.iter().any(|s| s.changes.iter().any(|c| c.0 == number));
        assert!(!changes.iter().any(|c| taken(c.0)), "two writes in flight to one place");
        self.queue.push(Submitted { token, op, changes, ended: self.ended });
    }

    /// Ends one of the operations in flight.
    pub(super) fn complete(&mut self, at: usize) -> DeviceCompletion {
        let Submitted { token, op, changes, ended } = self.queue.remove(at);
        let buffers = match op {
            DeviceOp::Read { offset_bytes, mut buffer } => {
                self.durable.read(offset_bytes, &mut buffer);
                let from = (offset_bytes / SECTOR as u64) as u32;
                for (_, number, sector) in &self.cached {
                    let at = number.wrapping_sub(from) as usize * SECTOR;
                    if *number >= from && at < buffer.len() {
                        buffer[at..at + SECTOR].copy_from_slice(&sector.bytes[..]);
                    }
                }
                vec![buffer]
            }
            DeviceOp::Write { buffers, sync, .. } => {
                for (number, sector) in changes {
                    if sync {
                        self.cached.retain(|(_, cached, _)| *cached != number);
                        self.durable.set(number, sector);
                    } else {
                        self.cached.push((self.ended, number, sector));
                    }
                }
                self.ended += 1;
                buffers
            }
            DeviceOp::Sync => {
                let (synced, left) = self.cached.drain(..).partition(|(by, ..)| *by < ended);
                self.cached = left;
                let synced: Vec<_> = synced;
                synced.into_iter().for_each(|(_, number, sector)| self.durable.set(number, sector));
                Vec::new()
            }
        };
        DeviceCompletion { token, result: Ok(()), buffers }
    }

    /// Every sector that may or may not have changed, with what it may hold instead.
    pub(super) fn uncertain(&self) -> Vec<(u32, Vec<Sector>)> {
        let cached = self.cached.iter().map(|(_, number, sector)| (*number, sector.clone()));
        let queued = self.queue.iter().flat_map(|submitted| submitted.changes.iter().cloned());
        let mut all: BTreeMap<u32, Vec<Sector>> = BTreeMap::new();
        for (number, sector) in cached.chain(queued) {
            let versions = all.entry(number).or_default();
            let known = |other: &Sector| other.mark == sector.mark;
            if sector.mark != self.durable.mark(number) && !versions.iter().any(known) {
                versions.push(sector);
            }
        }
        all.into_iter().filter(|(_, versions)| !versions.is_empty()).collect()
    }

    /// Tells apart devices that differ in contents or in what is under way.
    pub(super) fn fingerprint(&self, hasher: &mut DefaultHasher) {
        self.durable.sum.hash(hasher);
        for (by, number, sector) in &self.cached {
            (self.ended - by, number, sector.mark).hash(hasher);
        }
        for Submitted { op, changes, ended, .. } in &self.queue {
            (self.ended - ended).hash(hasher);
            changes.iter().for_each(|(number, sector)| (number, sector.mark).hash(hasher));
            match op {
                DeviceOp::Read { offset_bytes, buffer } => (offset_bytes, buffer.len()),
                DeviceOp::Write { offset_bytes, .. } => (offset_bytes, 0),
                DeviceOp::Sync => (&0, 1),
            }
            .hash(hasher);
        }
    }
}

/// All images that a crash may leave: every choice for every uncertain sector.
pub(super) struct CrashStates<'a> {
    durable: &'a Image,
    uncertain: Vec<(u32, Vec<Sector>)>,
    next: Option<Vec<usize>>,
}

impl<'a> CrashStates<'a> {
    pub(super) fn new(device: &'a Device) -> CrashStates<'a> {
        let uncertain = device.uncertain();
        let next = Some(vec![0; uncertain.len()]);
        CrashStates { durable: &device.durable, uncertain, next }
    }

    pub(super) fn sectors(&self) -> usize {
        self.uncertain.len()
    }

    /// The choice's image sum, without building the image.
    pub(super) fn sum(&self, choice: &[usize]) -> u128 {
        let mut sum = self.durable.sum;
        for ((number, versions), pick) in self.uncertain.iter().zip(choice) {
            if *pick > 0 {
                sum = sum.wrapping_sub(self.durable.mark(*number));
                sum = sum.wrapping_add(versions[pick - 1].mark);
            }
        }
        sum
    }

    pub(super) fn image(&self, choice: &[usize]) -> Image {
        let mut image = self.durable.clone();
        for ((number, versions), pick) in self.uncertain.iter().zip(choice) {
            if *pick > 0 {
                image.set(*number, versions[pick - 1].clone());
            }
        }
        image
    }

    /// The next choice: 0 keeps a sector as it is durable, `i` takes its version `i - 1`.
    pub(super) fn next(&mut self) -> Option<Vec<usize>> {
        let current = self.next.take()?;
        let mut following = current.clone();
        for (pick, (_, versions)) in following.iter_mut().zip(&self.uncertain) {
            if *pick < versions.len() {
                *pick += 1;
                self.next = Some(following);
                break;
            }
            *pick = 0;
        }
        Some(current)
    }
}
