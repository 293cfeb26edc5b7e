//! A disk in memory. Operations end in random order; a crash keeps any subset of the sectors that
//! were not durable. A sync (or a sync write) makes durable every write that ended before it began.

use crate::buffer::BufferPool;
use crate::reactor::{DeviceCompletion, DeviceOp};
use crate::store::ReadRange;
use crate::units::BLOCK_SIZE_BYTES;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

const SECTOR: usize = 512;

struct Submitted {
    token: u64,
    op: DeviceOp,
}

pub(in crate::store) struct Disk {
    /// What survives a crash for certain.
    durable: Vec<u8>,
    /// Sectors written since, by offset: every version that may survive.
    volatile: BTreeMap<usize, Vec<[u8; SECTOR]>>,
    queue: Vec<Submitted>,
    random: u64,
    /// After this many more writes and syncs every one fails.
    pub(super) fail_after: Option<u64>,
    /// Syncs alone fail.
    pub(super) syncs_fail: bool,
    pub(super) writes: u64,
    /// Writes from here on fail: the file system has no more room for the file.
    pub(super) full_from: Option<u64>,
    /// Blocks whose every read fails.
    pub(super) unreadable: BTreeSet<usize>,
    /// Reads from here do not end for now.
    pub(super) stalled_at: Option<u64>,
}

impl Disk {
    pub(super) fn new(bytes: u64, seed: u64) -> Disk {
        Disk {
            durable: vec![0; bytes as usize],
            volatile: BTreeMap::new(),
            queue: Vec::new(),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            fail_after: None,
            syncs_fail: false,
            writes: 0,
            full_from: None,
            unreadable: BTreeSet::new(),
            stalled_at: None,
        }
    }

    pub(in crate::store) fn bytes(&self) -> u64 {
        self.durable.len() as u64
    }

    pub(super) fn random(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % below
    }

    pub(super) fn submit(&mut self, token: u64, op: DeviceOp) {
        self.queue.push(Submitted { token, op });
    }

    pub(super) fn in_flight(&self) -> impl Iterator<Item = &DeviceOp> {
        self.queue.iter().map(|submitted| &submitted.op)
    }

    fn check_readable(&self, offset_bytes: u64, bytes: usize) -> io::Result<()> {
        let first = offset_bytes as usize / BLOCK_SIZE_BYTES;
        let blocks = first..first + bytes.div_ceil(BLOCK_SIZE_BYTES);
        match self.unreadable.range(blocks).next() {
            Some(block) => Err(io::Error::other(format!("block {block} is bad"))),
            None => Ok(()),
        }
    }

    fn current(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.durable[offset..offset + into.len()]);
        for (at, versions) in self.volatile.range(offset..offset + into.len()) {
            let newest = versions.last().expect("a sector has a version");
            into[at - offset..at - offset + SECTOR].copy_from_slice(newest);
        }
    }

    pub(in crate::store) fn read_now(
        &mut self,
        pool: &BufferPool,
        read: ReadRange,
    ) -> io::Result<crate::buffer::Buffer> {
        self.check_readable(read.offset_bytes, read.bytes)?;
        let mut buffer = pool.allocate(read.bytes);
        self.current(read.offset_bytes as usize, &mut buffer);
        Ok(buffer)
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        for (i, sector) in bytes.chunks_exact(SECTOR).enumerate() {
            let sector: [u8; SECTOR] = sector.try_into().expect("sector");
            self.volatile.entry(offset + i * SECTOR).or_default().push(sector);
        }
    }

    fn sync(&mut self) {
        for (at, versions) in std::mem::take(&mut self.volatile) {
            let newest = versions.last().expect("a sector has a version");
            self.durable[at..at + SECTOR].copy_from_slice(newest);
        }
    }

    /// Ends one operation, any of those submitted.
    pub(super) fn step(&mut self) -> Option<DeviceCompletion> {
        let stalled_at = self.stalled_at;
        let stalls = |op: &DeviceOp| match op {
            DeviceOp::Read { offset_bytes, .. } => stalled_at == Some(*offset_bytes),
            _ => false,
        };
        if self.in_flight().all(stalls) {
            return None;
        }
        let mut at = self.random(self.queue.len());
        while stalls(&self.queue[at].op) {
            at = (at + 1) % self.queue.len();
        }
        let Submitted { token, op } = self.queue.swap_remove(at);
        let changes = !matches!(op, DeviceOp::Read { .. });
        if changes {
            self.writes += 1;
            match &mut self.fail_after {
                Some(0) => {
                    let result = Err(io::Error::other("injected"));
                    return Some(DeviceCompletion { token, result, buffers: Vec::new() });
                }
                Some(left) => *left -= 1,
                None => {}
            }
        }
        let buffers = match op {
            DeviceOp::Read { offset_bytes, mut buffer } => {
                if let Err(error) = self.check_readable(offset_bytes, buffer.len()) {
                    let buffers = vec![buffer];
                    return Some(DeviceCompletion { token, result: Err(error), buffers });
                }
                self.current(offset_bytes as usize, &mut buffer);
                vec![buffer]
            }
            DeviceOp::Write { offset_bytes, buffers, .. }
                if self.full_from.is_some_and(|from| offset_bytes >= from) =>
            {
                let result = Err(io::ErrorKind::StorageFull.into());
                return Some(DeviceCompletion { token, result, buffers });
            }
            DeviceOp::Write { offset_bytes, buffers, sync } => {
                let mut offset = offset_bytes as usize;
                for buffer in &buffers {
                    self.put(offset, buffer);
                    offset += buffer.len();
                }
                if sync {
                    self.sync();
                }
                buffers
            }
            DeviceOp::Sync if self.syncs_fail => {
                let result = Err(io::Error::other("injected"));
                return Some(DeviceCompletion { token, result, buffers: Vec::new() });
            }
            DeviceOp::Sync => {
                self.sync();
                Vec::new()
            }
        };
        Some(DeviceCompletion { token, result: Ok(()), buffers })
    }

    /// The power goes. Writes not ended may have reached the disk in part.
    pub(super) fn crash(&mut self) {
        for Submitted { op, .. } in std::mem::take(&mut self.queue) {
            if let DeviceOp::Write { offset_bytes, buffers, .. } = op {
                let mut offset = offset_bytes as usize;
                for buffer in &buffers {
                    self.put(offset, buffer);
                    offset += buffer.len();
                }
            }
        }
        // Some crashes lose nearly all, some nearly nothing, most lose a random part.
        let kept_of_8 = [0, 1, 4, 7, 8][self.random(5)];
        for (at, versions) in std::mem::take(&mut self.volatile) {
            if self.random(8) < kept_of_8 {
                let version = versions[self.random(versions.len())];
                self.durable[at..at + SECTOR].copy_from_slice(&version);
            }
        }
        self.fail_after = None;
    }

    /// Changes bytes on the medium.
    pub(super) fn damage(&mut self, offset: u64, len: usize) {
        for byte in &mut self.durable[offset as usize..offset as usize + len] {
            *byte ^= 0x5a;
        }
    }

    /// Puts the medium into this state.
    pub(super) fn restore(&mut self, image: &[u8]) {
        self.durable.copy_from_slice(image);
        self.volatile.clear();
    }

    pub(super) fn contents(&self) -> &[u8] {
        &self.durable
    }
}
