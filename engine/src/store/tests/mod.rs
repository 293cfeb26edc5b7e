//! Goal: the store keeps its promises on a device that may stop at any moment.
//! Method: a disk in memory that finishes operations in any order and, at a crash, keeps any subset
//! of what was not yet durable, torn at 512 bytes; a naive model of every block; random requests.

mod crash;
mod damage;
mod disk;
mod exhaustive;
mod groups;
mod image;
mod order;
mod parts;
mod refused;
mod space;
mod unreadable;

use super::{Geometry, Outcome, Recovery, Reply, Request, Store, format_store};
use crate::buffer::{Buffer, BufferPool, PoolOptions};
use crate::error::Result;
use crate::format::DeviceId;
use crate::limits::STORE_MIN_BYTES;
use crate::units::{BLOCK_SIZE_BYTES, BlockIndex, Nanos, VolumeId};
use disk::Disk;

/// A store on a disk in memory, driven step by step.
pub(super) struct Bench {
    pub(super) store: Store,
    pub(super) disk: Disk,
    pub(super) pool: BufferPool,
    pub(super) now: Nanos,
    pub(super) replies: Vec<Reply>,
    next_token: u64,
}

fn pool() -> BufferPool {
    BufferPool::new(PoolOptions { arena_bytes: 0, ..PoolOptions::default() })
}

impl Bench {
    pub(super) fn format(bytes: u64, seed: u64) -> Bench {
        let pool = pool();
        let mut disk = Disk::new(bytes, seed);
        let geometry = Geometry::for_size(bytes).expect("geometry");
        for op in format_store(&pool, DeviceId([seed as u8; 16]), geometry) {
            disk.submit(0, op);
        }
        while disk.step().is_some() {}
        Bench::open(disk).expect("a fresh store opens")
    }

    pub(super) fn small(seed: u64) -> Bench {
        Bench::format(STORE_MIN_BYTES, seed)
    }

    pub(super) fn open(disk: Disk) -> Result<Bench> {
        Bench::open_counted(disk).map(|(bench, _)| bench)
    }

    /// Also how many bytes were read.
    pub(super) fn open_counted(mut disk: Disk) -> Result<(Bench, usize)> {
        let pool = pool();
        let mut recovery = Recovery::new(pool.clone(), disk.bytes(), false);
        let mut bytes = 0;
        loop {
            let wave = recovery.poll_wave();
            if wave.is_empty() {
                break;
            }
            bytes += wave.iter().map(|read| read.bytes).sum::<usize>();
            let results = wave.iter().map(|read| disk.read_now(&pool, *read)).collect();
            recovery.handle_wave(results)?;
        }
        let store = recovery.finish(Nanos(0))?;
        let replies = Vec::new();
        Ok((Bench { store, disk, pool, now: Nanos(0), replies, next_token: 0 }, bytes))
    }

    /// Loses what is not durable and opens what is left.
    pub(super) fn crash(mut self) -> Result<Bench> {
        self.disk.crash();
        drop(self.store);
        Bench::open(self.disk)
    }

    pub(super) fn request(&mut self, request: Request) -> u64 {
        self.next_token += 1;
        self.store.handle_request(self.now, self.next_token, request);
        self.pump();
        self.next_token
    }

    /// Hands all operations to the disk and collects all answers.
    pub(super) fn pump(&mut self) {
        while let Some((token, op)) = self.store.poll_io(self.now) {
            self.disk.submit(token, op);
        }
        while let Some(reply) = self.store.poll_reply() {
            self.replies.push(reply);
        }
    }

    /// One disk operation ends; if there is none, time passes. False if nothing is left to do.
    pub(super) fn step(&mut self) -> bool {
        if let Some(completion) = self.disk.step() {
            self.now = Nanos(self.now.0 + 10_000);
            self.store.handle_completion(self.now, completion);
        } else if let Some(at) = self.store.poll_timeout() {
            self.now = self.now.max(at);
        } else {
            return false;
        }
        self.pump();
        true
    }

    pub(super) fn run(&mut self) {
        while self.step() {}
    }

    /// Runs until the request is answered.
    pub(super) fn wait(&mut self, token: u64) -> Result<Outcome> {
        loop {
            if let Some(at) = self.replies.iter().position(|reply| reply.token == token) {
                return self.replies.swap_remove(at).result;
            }
            let goes_on = self.step();
            assert!(goes_on, "request {token} is never answered: {:?}", self.store.status());
        }
    }

    pub(super) fn call(&mut self, request: Request) -> Result<Outcome> {
        let token = self.request(request);
        self.wait(token)
    }

    pub(super) fn create(&mut self, name: &str, blocks: u64) -> VolumeId {
        let size_bytes = blocks * BLOCK_SIZE_BYTES as u64;
        match self.call(Request::CreateVolume { name: name.into(), size_bytes }) {
            Ok(Outcome::Created(id)) => id,
            other => panic!("create: {other:?}"),
        }
    }

    pub(super) fn block(&self, blocks: usize, fill: u64) -> Buffer {
        let mut buffer = self.pool.allocate(blocks * BLOCK_SIZE_BYTES);
        for (i, block) in buffer.chunks_exact_mut(BLOCK_SIZE_BYTES).enumerate() {
            for (j, word) in block.chunks_exact_mut(8).enumerate() {
                let value = fill.wrapping_mul(31).wrapping_add((i * 512 + j) as u64);
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
        buffer
    }

    pub(super) fn write(&mut self, volume: VolumeId, first: u64, data: Buffer) -> Result<Outcome> {
        self.call(Request::Write { volume, first: BlockIndex(first), data })
    }

    pub(super) fn read(&mut self, volume: VolumeId, first: u64, count: u32) -> Result<Vec<u8>> {
        match self.call(Request::Read { volume, first: BlockIndex(first), count })? {
            Outcome::Read(parts) => Ok(parts.iter().flat_map(|part| part.to_vec()).collect()),
            other => panic!("read: {other:?}"),
        }
    }

    pub(super) fn zero(&mut self, volume: VolumeId, first: u64, count: u64) -> Result<Outcome> {
        let first = BlockIndex(first);
        self.call(Request::Zero { volume, first, count, reserve: false })
    }

    #[track_caller]
    pub(super) fn audit(&self) {
        assert_eq!(self.store.audit(), Vec::<String>::new());
    }
}

#[test]
fn write_read_zero_reopen() {
    let mut bench = Bench::small(1);
    let volume = bench.create("vm0", 1000);
    let data = bench.block(3, 7);
    let expected = data.to_vec();
    bench.write(volume, 5, data).expect("write");
    assert_eq!(bench.read(volume, 5, 3).expect("read"), expected);
    assert!(bench.read(volume, 8, 4).expect("read").iter().all(|byte| *byte == 0));
    bench.zero(volume, 6, 1).expect("zero");
    let mut after = expected.clone();
    after[4096..8192].fill(0);
    let mut bench = bench.crash().expect("recovers");
    assert_eq!(bench.read(volume, 5, 3).expect("read"), after);
    bench.call(Request::Checkpoint).expect("checkpoint");
    bench.audit();
    let mut bench = bench.crash().expect("recovers");
    assert_eq!(bench.read(volume, 5, 3).expect("read"), after);
    assert_eq!(bench.store.volumes()[0].mapped_bytes, 2 * 4096);
    bench.audit();
}

#[test]
fn bad_requests_are_refused() {
    let mut bench = Bench::small(2);
    let volume = bench.create("vm0", 10);
    let data = bench.block(2, 1);
    assert!(bench.write(volume, 9, data).is_err());
    assert!(bench.read(volume, u64::MAX, 1).is_err());
    assert!(bench.read(volume, 0, 0).is_err());
    assert!(bench.read(VolumeId(77), 0, 1).is_err());
    assert!(bench.zero(volume, 0, 11).is_err());
    assert!(bench.zero(volume, u64::MAX, 2).is_err());
    for (name, size_bytes) in
        [("", 512), ("a/b", 512), ("..", 512), ("vm1", 0), ("vm1", 513), ("vm0", 512)]
    {
        let request = Request::CreateVolume { name: name.into(), size_bytes };
        assert!(bench.call(request).is_err(), "{name} {size_bytes}");
    }
    bench.call(Request::DeleteVolume { volume }).expect("delete");
    assert!(bench.read(volume, 0, 1).is_err());
    bench.run();
    bench.audit();
}
