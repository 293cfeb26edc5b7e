//! What nodes say to each other: Raft's messages, snapshots', and their own. Any bytes are refused
//! or understood, and what is understood encodes to something that is understood in the same way.

use crate::input::Input;
use ashlar_engine::buffer::{Buffer, BufferPool, PoolOptions};
use ashlar_engine::units::BLOCK_SIZE_BYTES;
use ashlar_raft::node::understand;

/// Bytes of payload, so that an input stays small.
const PAYLOAD_BLOCKS_MAX: usize = 4;

/// The first two bytes say how long the head is, the next how the rest is cut into parts of blocks.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let (length, shape) = (usize::from(input.u16()), input.byte());
    let (head, rest) = input.0.split_at(length.min(input.0.len()));
    let pool = BufferPool::new(PoolOptions { arena_bytes: 0, ..PoolOptions::default() });
    let payload = parts(&pool, rest, shape);
    if let Ok((head, payload)) = understand(head, payload, &pool) {
        let copied = payload.iter().map(|part| copy(&pool, part)).collect();
        let again = understand(&head, copied, &pool);
        let (same, parts) = again.expect("what was encoded is understood");
        assert_eq!((same, bytes(&parts)), (head, bytes(&payload)));
    }
}

fn parts(pool: &BufferPool, rest: &[u8], shape: u8) -> Vec<Buffer> {
    let blocks = usize::from(shape & 7).min(PAYLOAD_BLOCKS_MAX);
    let first = usize::from(shape >> 3 & 3).min(blocks);
    let lengths = [first, blocks - first].into_iter().filter(|blocks| *blocks > 0);
    let filled = lengths.map(|blocks| {
        let mut part = pool.allocate(blocks * BLOCK_SIZE_BYTES);
        part.fill(rest.first().copied().unwrap_or(7));
        let known = rest.len().min(part.len());
        part[..known].copy_from_slice(&rest[..known]);
        part
    });
    filled.collect()
}

fn copy(pool: &BufferPool, part: &[u8]) -> Buffer {
    let mut copied = pool.allocate(part.len());
    copied.copy_from_slice(part);
    copied
}

fn bytes(parts: &[Buffer]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.iter().copied()).collect()
}
