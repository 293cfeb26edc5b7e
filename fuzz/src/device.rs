//! A device in memory that keeps only blocks that are not zero, and a store driven over it.

use ashlar_engine::Result;
use ashlar_engine::buffer::{Buffer, BufferPool, PoolOptions};
use ashlar_engine::reactor::{DeviceCompletion, DeviceOp};
use ashlar_engine::store::{Outcome, Recovery, Request, Store};
use ashlar_engine::units::{BLOCK_SIZE_BYTES, Nanos};
use std::collections::BTreeMap;

/// Blocks by number; all others are zeroes.
pub(crate) type Blocks = BTreeMap<u32, Vec<u8>>;

fn first_block(offset_bytes: u64) -> u32 {
    (offset_bytes / BLOCK_SIZE_BYTES as u64) as u32
}

fn read(blocks: &Blocks, offset_bytes: u64, into: &mut [u8]) {
    for (i, block) in into.chunks_exact_mut(BLOCK_SIZE_BYTES).enumerate() {
        match blocks.get(&(first_block(offset_bytes) + i as u32)) {
            Some(bytes) => block.copy_from_slice(bytes),
            None => block.fill(0),
        }
    }
}

/// Carries out one operation.
pub(crate) fn carry_out(device: &mut Blocks, op: DeviceOp) -> Vec<Buffer> {
    match op {
        DeviceOp::Read { offset_bytes, mut buffer } => {
            read(device, offset_bytes, &mut buffer);
            vec![buffer]
        }
        DeviceOp::Write { offset_bytes, buffers, .. } => {
            let blocks = buffers.iter().flat_map(|buffer| buffer.chunks_exact(BLOCK_SIZE_BYTES));
            for (i, block) in blocks.enumerate() {
                let number = first_block(offset_bytes) + i as u32;
                if block.iter().all(|byte| *byte == 0) {
                    device.remove(&number);
                } else {
                    device.insert(number, block.to_vec());
                }
            }
            buffers
        }
        DeviceOp::Sync => Vec::new(),
    }
}

/// A store on such a device.
pub(crate) struct Driven {
    pub(crate) store: Store,
    pub(crate) device: Blocks,
    now: Nanos,
}

pub(crate) fn pool() -> BufferPool {
    BufferPool::new(PoolOptions { arena_bytes: 0, ..PoolOptions::default() })
}

impl Driven {
    pub(crate) fn open(device: Blocks, size_bytes: u64, read_only: bool) -> Result<Driven> {
        let pool = pool();
        let mut recovery = Recovery::new(pool.clone(), size_bytes, read_only);
        loop {
            let wave = recovery.poll_wave();
            if wave.is_empty() {
                break;
            }
            let results = wave.iter().map(|range| {
                let mut buffer = pool.allocate(range.bytes);
                read(&device, range.offset_bytes, &mut buffer);
                Ok(buffer)
            });
            recovery.handle_wave(results.collect())?;
        }
        let store = recovery.finish(Nanos(0))?;
        Ok(Driven { store, device, now: Nanos(0) })
    }

    /// Carries out operations, in order, until the request is answered.
    pub(crate) fn call(&mut self, request: Request) -> Result<Outcome> {
        self.store.handle_request(self.now, 1, request);
        loop {
            while let Some(reply) = self.store.poll_reply() {
                if reply.token == 1 {
                    return reply.result;
                }
            }
            assert!(self.step(), "a request is never answered");
        }
    }

    /// Until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        while self.step() {}
    }

    fn step(&mut self) -> bool {
        if let Some((token, op)) = self.store.poll_io(self.now) {
            let buffers = carry_out(&mut self.device, op);
            self.now = Nanos(self.now.0 + 1000);
            let completion = DeviceCompletion { token, result: Ok(()), buffers };
            self.store.handle_completion(self.now, completion);
            return true;
        }
        let later = self.store.poll_timeout().filter(|at| *at > self.now);
        self.now = later.unwrap_or(self.now);
        later.is_some()
    }
}
