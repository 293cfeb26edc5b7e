//! A device in memory that keeps only blocks that are not zero, and the store driven over it one
//! operation at a time: the same requests give the same bytes.

use ashlar_engine::Result;
use ashlar_engine::buffer::{Buffer, BufferPool, PoolOptions};
use ashlar_engine::format::DeviceId;
use ashlar_engine::limits::STORE_MIN_BYTES;
use ashlar_engine::reactor::{DeviceCompletion, DeviceOp};
use ashlar_engine::store::{
    Geometry, GroupEntry, Outcome, Recovery, Reply, Request, Store, format_store,
};
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex, GroupId, Nanos, VolumeId};
use std::collections::BTreeMap;

/// Blocks by number; all others are zeroes.
#[derive(Clone, Default)]
pub(crate) struct Device {
    pub(crate) blocks: BTreeMap<u32, Vec<u8>>,
}

impl Device {
    fn read(&self, offset_bytes: u64, into: &mut [u8]) {
        let first = (offset_bytes / BLOCK_SIZE_BYTES as u64) as u32;
        for (i, block) in into.chunks_exact_mut(BLOCK_SIZE_BYTES).enumerate() {
            match self.blocks.get(&(first + i as u32)) {
                Some(bytes) => block.copy_from_slice(bytes),
                None => block.fill(0),
            }
        }
    }

    /// Writes the first `blocks_max` blocks of an operation.
    fn write(&mut self, offset_bytes: u64, buffers: &[Buffer], blocks_max: usize) {
        let first = (offset_bytes / BLOCK_SIZE_BYTES as u64) as u32;
        let blocks = buffers.iter().flat_map(|buffer| buffer.chunks_exact(BLOCK_SIZE_BYTES));
        for (i, block) in blocks.take(blocks_max).enumerate() {
            let number = first + i as u32;
            if block.iter().all(|byte| *byte == 0) {
                self.blocks.remove(&number);
            } else {
                self.blocks.insert(number, block.to_vec());
            }
        }
    }

    /// Per block: number, bytes up to the last one that is not zero, and those.
    pub(crate) fn pack(&self) -> Vec<u8> {
        let mut packed = Vec::new();
        for (number, bytes) in &self.blocks {
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            packed.extend_from_slice(&number.to_le_bytes());
            packed.extend_from_slice(&(used as u16).to_le_bytes());
            packed.extend_from_slice(&bytes[..used]);
        }
        packed
    }

    pub(crate) fn unpack(mut packed: &[u8]) -> Device {
        let mut device = Device::default();
        while let Some((head, rest)) = packed.split_first_chunk::<6>() {
            let number = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
            let used = usize::from(u16::from_le_bytes([head[4], head[5]]));
            let mut block = vec![0; BLOCK_SIZE_BYTES];
            block[..used].copy_from_slice(&rest[..used]);
            device.blocks.insert(number, block);
            packed = &rest[used..];
        }
        assert!(packed.is_empty(), "an image ends with a whole block");
        device
    }
}

/// A store on such a device.
pub(crate) struct Driven {
    pub(crate) store: Store,
    pub(crate) device: Device,
    pool: BufferPool,
    now: Nanos,
}

/// Formats a device of the smallest size.
pub(crate) fn format(id: [u8; 16]) -> Device {
    let pool = pool();
    let mut device = Device::default();
    let geometry = Geometry::for_size(STORE_MIN_BYTES).expect("the smallest store");
    for op in format_store(&pool, DeviceId(id), geometry) {
        carry_out(&mut device, op).expect("memory works");
    }
    device
}

fn pool() -> BufferPool {
    BufferPool::new(PoolOptions { arena_bytes: 0, ..PoolOptions::default() })
}

fn carry_out(device: &mut Device, op: DeviceOp) -> std::io::Result<Vec<Buffer>> {
    Ok(match op {
        DeviceOp::Read { offset_bytes, mut buffer } => {
            device.read(offset_bytes, &mut buffer);
            vec![buffer]
        }
        DeviceOp::Write { offset_bytes, buffers, .. } => {
            device.write(offset_bytes, &buffers, usize::MAX);
            buffers
        }
        DeviceOp::Sync => Vec::new(),
    })
}

impl Driven {
    pub(crate) fn open(device: Device, read_only: bool) -> Result<Driven> {
        let pool = pool();
        let mut recovery = Recovery::new(pool.clone(), STORE_MIN_BYTES, read_only);
        loop {
            let wave = recovery.poll_wave();
            if wave.is_empty() {
                break;
            }
            let read = |range: &ashlar_engine::store::ReadRange| {
                let mut buffer = pool.allocate(range.bytes);
                device.read(range.offset_bytes, &mut buffer);
                Ok(buffer)
            };
            recovery.handle_wave(wave.iter().map(read).collect())?;
        }
        let store = recovery.finish(Nanos(0))?;
        Ok(Driven { store, device, pool, now: Nanos(0) })
    }

    /// Carries out operations, in order, until the request is answered.
    pub(crate) fn call(&mut self, request: Request) -> Result<Outcome> {
        const TOKEN: u64 = 7;
        self.store.handle_request(self.now, TOKEN, request);
        loop {
            while let Some(Reply { token, result }) = self.store.poll_reply() {
                if token == TOKEN {
                    return result;
                }
            }
            assert!(self.step(), "a request is never answered");
        }
    }

    /// Appends an entry to a group and waits until it is durable.
    pub(crate) fn append(&mut self, group: GroupId, entry: GroupEntry) {
        self.store.append_entries(self.now, 8, group, vec![entry]).expect("appends");
        loop {
            while let Some(Reply { token, result }) = self.store.poll_reply() {
                if token == 8 {
                    return drop(result.expect("durable"));
                }
            }
            assert!(self.step(), "an entry never becomes durable");
        }
    }

    fn step(&mut self) -> bool {
        if let Some((token, op)) = self.store.poll_io(self.now) {
            let buffers = carry_out(&mut self.device, op).expect("memory works");
            let completion = DeviceCompletion { token, result: Ok(()), buffers };
            self.now = Nanos(self.now.0 + 1000);
            self.store.handle_completion(self.now, completion);
            return true;
        }
        let Some(at) = self.store.poll_timeout() else { return false };
        let later = at > self.now;
        self.now = self.now.max(at);
        later
    }

    /// Until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        while self.step() {}
    }

    /// A request whose write reaches the device only with its first blocks: the power goes.
    pub(crate) fn tear(mut self, request: Request, blocks: usize) -> Device {
        self.store.handle_request(self.now, 1, request);
        while let Some((_, op)) = self.store.poll_io(self.now) {
            if let DeviceOp::Write { offset_bytes, buffers, sync: true } = op {
                self.device.write(offset_bytes, &buffers, blocks);
            }
        }
        self.device
    }

    pub(crate) fn create(&mut self, name: &str, blocks: u64) -> VolumeId {
        let size_bytes = blocks * BLOCK_SIZE_BYTES as u64;
        match self.call(Request::CreateVolume { name: name.to_owned(), size_bytes }) {
            Ok(Outcome::Created(id)) => id,
            other => panic!("create: {other:?}"),
        }
    }

    /// Blocks of which only the first `used` bytes are not zero.
    pub(crate) fn data(&self, blocks: u32, used: usize, fill: u64) -> Buffer {
        let mut buffer = self.pool.allocate(blocks as usize * BLOCK_SIZE_BYTES);
        buffer.fill(0);
        for (i, block) in buffer.chunks_exact_mut(BLOCK_SIZE_BYTES).enumerate() {
            for (j, byte) in block[..used].iter_mut().enumerate() {
                *byte = 1 + ((fill * 31 + i as u64 * 7 + j as u64) % 255) as u8;
            }
        }
        buffer
    }

    pub(crate) fn write(&mut self, volume: VolumeId, first: u64, blocks: u32, fill: u64) {
        let data = self.data(blocks, 96, fill);
        let request = Request::Write { volume, first: BlockIndex(first), data };
        self.call(request).expect("a write");
    }

    pub(crate) fn zero(&mut self, volume: VolumeId, first: u64, count: u64, reserve: bool) {
        let first = BlockIndex(first);
        self.call(Request::Zero { volume, first, count, reserve }).expect("zeroes");
    }

    pub(crate) fn read(&mut self, volume: VolumeId, first: u64, count: u32) -> Result<Vec<u8>> {
        let request = Request::Read { volume, first: BlockIndex(first), count };
        match self.call(request)? {
            Outcome::Read(parts) => Ok(parts.iter().flat_map(|part| part.to_vec()).collect()),
            other => panic!("read: {other:?}"),
        }
    }
}
