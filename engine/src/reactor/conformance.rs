//! What every [`BlockDevice`] must do: one suite for all of them, also outside this crate.
//!
//! Panics at the first broken promise. Writes all over the device. Uses wakers only, no reactor,
//! so it runs under whatever runtime the device belongs to.
//! Must never know: how a device does it.

use super::{BlockDevice, DeviceCompletion, DeviceOp, RandomStream};
use crate::buffer::{Buffer, BufferPool};
use crate::units::BLOCK_SIZE_BYTES;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::task::Poll;

/// Smallest device that the suite runs on.
pub const SIZE_MIN_BYTES: u64 = 16 << 20;

const BLOCK: usize = BLOCK_SIZE_BYTES;
/// More pieces than the kernel takes in one operation.
const MANY_PIECES: usize = 1100;
/// Operations of the random check.
const RANDOM_OPS: usize = 3000;
/// Operations it keeps in flight at most.
const RANDOM_DEPTH: u64 = 64;
/// Blocks that it works on.
const RANDOM_BLOCKS: u64 = 1024;

/// Runs every check, one after another. `device` must not be in use.
///
/// # Panics
/// If the device breaks a promise.
pub async fn check_all(device: &dyn BlockDevice, pool: &BufferPool, seed: u64) {
    assert!(device.size_bytes() >= SIZE_MIN_BYTES, "the device is too small for the suite");
    assert!(device.size_bytes().is_multiple_of(BLOCK as u64));
    let mut consumer = Consumer { device, pool, landed: BTreeMap::new() };
    consumer.reads_back_what_was_written().await;
    consumer.takes_many_at_once().await;
    consumer.writes_pieces_in_order().await;
    consumer.refuses_what_it_cannot_do().await;
    consumer.works_without_being_watched().await;
    consumer.agrees_with_a_model(seed).await;
    assert!(consumer.landed.is_empty(), "a completion nobody asked for");
}

/// The one task that polls, with completions that came for others than it waited for.
struct Consumer<'a> {
    device: &'a dyn BlockDevice,
    pool: &'a BufferPool,
    landed: BTreeMap<u64, DeviceCompletion>,
}

fn write(offset_bytes: u64, buffers: Vec<Buffer>, sync: bool) -> DeviceOp {
    DeviceOp::Write { offset_bytes, buffers, sync }
}

impl Consumer<'_> {
    fn filled(&self, blocks: usize, seed: u64) -> Buffer {
        let mut buffer = self.pool.allocate(blocks * BLOCK);
        RandomStream::from_seed(seed).fill_bytes(&mut buffer);
        buffer
    }

    fn read_at(&self, offset_bytes: u64, blocks: usize) -> DeviceOp {
        let mut buffer = self.pool.allocate(blocks * BLOCK);
        buffer.fill(0xee);
        DeviceOp::Read { offset_bytes, buffer }
    }

    /// Waits until something completes.
    async fn land(&mut self) {
        let mut into = Vec::new();
        poll_fn(|context| self.device.poll_completions(context, &mut into)).await;
        assert!(!into.is_empty(), "ready without a completion");
        for completion in into {
            let doubled = self.landed.insert(completion.token, completion);
            assert!(doubled.is_none(), "completed twice: {doubled:?}");
        }
    }

    async fn wait_for(&mut self, token: u64) -> DeviceCompletion {
        loop {
            if let Some(completion) = self.landed.remove(&token) {
                return completion;
            }
            self.land().await;
        }
    }

    /// Submits and waits; the buffers of a success.
    async fn run(&mut self, op: DeviceOp) -> io::Result<Vec<Buffer>> {
        let token = u64::MAX;
        self.device.submit(token, op);
        let completion = self.wait_for(token).await;
        completion.result.map(|()| completion.buffers)
    }

    async fn reads_back_what_was_written(&mut self) {
        for (blocks, sync) in [(1, false), (1, true), (7, true), (257, false), (512, true)] {
            let buffer = self.filled(blocks, blocks as u64);
            let address = buffer.as_ptr();
            let mut written =
                self.run(write(8 * BLOCK as u64, vec![buffer], sync)).await.expect("written");
            let written = written.pop().expect("the buffer comes back");
            assert_eq!(written.as_ptr(), address, "another buffer came back");
            let read = self.run(self.read_at(8 * BLOCK as u64, blocks)).await.expect("read");
            assert!(read[0][..] == written[..], "{blocks} blocks differ");
        }
        self.run(DeviceOp::Sync).await.expect("synced");
        let last = self.device.size_bytes() - BLOCK as u64;
        let written = self.run(write(last, vec![self.filled(1, 1)], true)).await.expect("written");
        let read = self.run(self.read_at(last, 1)).await.expect("the last block can be read");
        assert!(read[0][..] == written[0][..]);
    }

    async fn takes_many_at_once(&mut self) {
        let count = 2000_u64;
        for token in 0..count {
            let buffer = self.filled(1, token);
            self.device.submit(token, write(token * BLOCK as u64, vec![buffer], token % 100 == 0));
        }
        for token in (0..count).rev() {
            self.wait_for(token).await.result.expect("written");
        }
        for token in 0..count {
            self.device.submit(token, self.read_at(token * BLOCK as u64, 1));
        }
        for token in (0..count).rev() {
            let completion = self.wait_for(token).await;
            completion.result.expect("read");
            assert!(completion.buffers[0][..] == self.filled(1, token)[..], "block {token}");
        }
    }

    async fn writes_pieces_in_order(&mut self) {
        for (pieces, sync) in [(2, true), (3, false), (MANY_PIECES, false), (MANY_PIECES, true)] {
            let whole = self.filled(pieces, pieces as u64);
            let mut buffers = Vec::new();
            for piece in whole.chunks(BLOCK) {
                // Twice as long and cut, so that pieces do not lie side by side.
                let mut buffer = self.pool.allocate(2 * BLOCK);
                buffer[..BLOCK].copy_from_slice(piece);
                buffer.truncate(BLOCK);
                buffers.push(buffer);
            }
            let back = self.run(write(0, buffers, sync)).await.expect("written");
            assert_eq!(back.len(), pieces);
            assert!(back.iter().zip(whole.chunks(BLOCK)).all(|(one, piece)| one[..] == *piece));
            let read = self.run(self.read_at(0, pieces)).await.expect("read");
            assert!(read[0][..] == whole[..], "{pieces} pieces differ");
        }
        let (head, tail) = self.filled(5, 5).split_at(2 * BLOCK);
        self.run(write(0, vec![head, tail], true)).await.expect("written");
        let read = self.run(self.read_at(0, 5)).await.expect("read");
        assert!(read[0][..] == self.filled(5, 5)[..], "side by side pieces differ");
    }

    async fn refuses_what_it_cannot_do(&mut self) {
        let size = self.device.size_bytes();
        let before = self.run(self.read_at(size - BLOCK as u64, 1)).await.expect("read");
        let odd = self.filled(1, 1).split_at(512).0;
        let refused = [
            self.read_at(size, 1),
            self.read_at(size - BLOCK as u64, 2),
            self.read_at(u64::MAX - (BLOCK as u64 - 1), 1),
            self.read_at(512, 1),
            write(size - BLOCK as u64, vec![self.filled(1, 2), self.filled(1, 3)], true),
            write(size, vec![self.filled(1, 2)], false),
            write(0, vec![odd], false),
            write(0, Vec::new(), true),
        ];
        for (token, op) in refused.into_iter().enumerate() {
            let described = format!("{op:?}");
            let buffers = match &op {
                DeviceOp::Read { .. } => 1,
                DeviceOp::Write { buffers, .. } => buffers.len(),
                DeviceOp::Sync => 0,
            };
            self.device.submit(token as u64, op);
            let completion = self.wait_for(token as u64).await;
            let kind = completion.result.map_err(|error| error.kind());
            assert_eq!(kind, Err(io::ErrorKind::InvalidInput), "{described}");
            assert_eq!(completion.buffers.len(), buffers, "buffers lost: {described}");
        }
        let after = self.run(self.read_at(size - BLOCK as u64, 1)).await.expect("read");
        assert!(after[0][..] == before[0][..], "a refused write wrote");
    }

    async fn works_without_being_watched(&mut self) {
        // One look, so that a waker is stored, then nobody waits any more.
        let mut into = Vec::new();
        let mut first = true;
        self.device.submit(0, write(0, vec![self.filled(3, 30)], true));
        poll_fn(|context| {
            if std::mem::take(&mut first) {
                let _ = self.device.poll_completions(context, &mut into);
            }
            Poll::Ready(())
        })
        .await;
        for completion in into {
            self.landed.insert(completion.token, completion);
        }
        self.device.submit(1, DeviceOp::Sync);
        self.wait_for(1).await.result.expect("synced");
        self.wait_for(0).await.result.expect("written while nobody looked");
        let read = self.run(self.read_at(0, 3)).await.expect("read");
        assert!(read[0][..] == self.filled(3, 30)[..]);
    }

    /// Random operations, many in flight where they do not touch, against a plain array.
    async fn agrees_with_a_model(&mut self, seed: u64) {
        let mut random = RandomStream::named(seed, "conformance");
        let mut model = vec![0_u8; RANDOM_BLOCKS as usize * BLOCK];
        for at in (0..RANDOM_BLOCKS).step_by(256) {
            let mut zeros = self.pool.allocate(256 * BLOCK);
            zeros.fill(0);
            self.run(write(at * BLOCK as u64, vec![zeros], false)).await.expect("written");
        }
        let mut flying: BTreeMap<u64, (Range<usize>, bool)> = BTreeMap::new();
        for token in 0..RANDOM_OPS as u64 {
            let blocks = 1 + random.below(24);
            let start = random.below(RANDOM_BLOCKS - blocks) as usize * BLOCK;
            let range = start..start + blocks as usize * BLOCK;
            let is_write = random.below(2) == 0;
            while flying.len() as u64 > random.below(RANDOM_DEPTH)
                || flying.values().any(|(other, other_writes)| {
                    (is_write || *other_writes)
                        && other.start < range.end
                        && range.start < other.end
                })
            {
                self.settle(&mut flying, &model).await;
            }
            if is_write {
                let buffers = self.random_pieces(&mut random, blocks as usize);
                let bytes: Vec<u8> = buffers.iter().flat_map(|one| one.iter().copied()).collect();
                model[range.clone()].copy_from_slice(&bytes);
                self.device.submit(token, write(start as u64, buffers, random.below(8) == 0));
            } else {
                self.device.submit(token, self.read_at(start as u64, blocks as usize));
            }
            flying.insert(token, (range, is_write));
        }
        while !flying.is_empty() {
            self.settle(&mut flying, &model).await;
        }
    }

    fn random_pieces(&self, random: &mut RandomStream, blocks: usize) -> Vec<Buffer> {
        let mut rest = self.filled(blocks, random.next_u64());
        let mut buffers = Vec::new();
        while rest.len() > BLOCK && random.below(3) > 0 {
            let cut = 1 + random.below((rest.len() / BLOCK - 1) as u64) as usize;
            let (head, tail) = rest.split_at(cut * BLOCK);
            buffers.push(head);
            rest = tail;
        }
        buffers.push(rest);
        buffers
    }

    /// Takes one completion and compares a read with the model.
    async fn settle(&mut self, flying: &mut BTreeMap<u64, (Range<usize>, bool)>, model: &[u8]) {
        if self.landed.is_empty() {
            self.land().await;
        }
        let (token, completion) = self.landed.pop_first().expect("something landed");
        let (range, is_write) = flying.remove(&token).expect("was submitted");
        completion.result.expect("succeeds");
        if !is_write {
            assert!(completion.buffers[0][..] == model[range], "read {token} differs");
        }
    }
}
