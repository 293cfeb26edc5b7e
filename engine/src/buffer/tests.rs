//! Goal: ranges never overlap and every byte comes back. Method: small pools, random scripts.

use super::*;
use crate::units::BLOCK_SIZE_BYTES;

const BLOCK: usize = BLOCK_SIZE_BYTES;

fn pool(blocks: usize, max_blocks: usize) -> BufferPool {
    BufferPool::new(PoolOptions {
        arena_bytes: blocks * BLOCK,
        in_use_max_bytes: max_blocks * BLOCK,
    })
}

fn in_arena(pool: &BufferPool, buffer: &Buffer) -> bool {
    pool.arena_range().is_some_and(|range| range.contains(&buffer.as_ptr().addr()))
}

#[test]
fn pieces_are_disjoint_and_free_the_run_with_the_last_one() {
    let pool = pool(16, 16);
    let (mut head, tail) = pool.allocate(4 * BLOCK).split_at(BLOCK);
    let (mut middle, mut end) = tail.split_at(2 * BLOCK);
    head.fill(1);
    middle.fill(2);
    end.fill(3);
    assert_eq!((head.len(), middle.len(), end.len()), (BLOCK, 2 * BLOCK, BLOCK));
    assert!(head.iter().all(|&byte| byte == 1));
    assert!(middle.iter().all(|&byte| byte == 2));
    drop(middle);
    drop(head);
    assert_eq!(pool.in_use_bytes(), 4 * BLOCK);
    assert!(end.iter().all(|&byte| byte == 3));
    drop(end);
    assert_eq!(pool.in_use_bytes(), 0);
}

#[test]
fn an_empty_arena_falls_back_to_the_heap_within_the_bound() {
    let pool = pool(4, 6);
    let arena = pool.try_allocate(4 * BLOCK).expect("fits");
    let heap = pool.try_allocate(BLOCK + 1).expect("fits on the heap");
    assert!(in_arena(&pool, &arena) && !in_arena(&pool, &heap));
    assert!(heap.as_ptr().addr().is_multiple_of(BLOCK) && heap.len() == BLOCK + 1);
    assert!(pool.try_allocate(1).is_none(), "the bound is reached");
    assert!(pool.try_allocate(usize::MAX).is_none());
    let beyond = pool.allocate(1);
    assert_eq!(pool.in_use_bytes(), 7 * BLOCK);
    drop((arena, heap, beyond));
    assert_eq!(pool.in_use_bytes(), 0);
}

#[test]
fn odd_sizes_leave_the_rest_of_their_power_of_two_to_others() {
    let pool = pool(16, 16);
    let nine = pool.allocate(9 * BLOCK);
    let four = pool.allocate(4 * BLOCK);
    let two = pool.allocate(2 * BLOCK);
    let one = pool.allocate(BLOCK);
    assert!([&nine, &four, &two, &one].iter().all(|buffer| in_arena(&pool, buffer)));
    drop((nine, four, two, one));
    assert!(in_arena(&pool, &pool.allocate(16 * BLOCK)), "all merged again");
}

#[test]
fn a_buffer_outlives_its_pool() {
    let mut buffer = pool(4, 4).allocate(BLOCK);
    buffer.fill(7);
    buffer.truncate(3);
    assert_eq!(&buffer[..], [7, 7, 7]);
    assert_eq!(format!("{buffer:?}"), "Buffer(3 bytes, arena)");
}

#[test]
fn an_empty_buffer_is_fine() {
    let pool = pool(1, 1);
    let (head, tail) = pool.allocate(0).split_at(0);
    assert!(head.is_empty() && tail.is_empty());
}

#[test]
fn random_allocations_never_overlap() {
    let pool = pool(61, 61);
    let mut random = crate::reactor::RandomStream::from_seed(7);
    let mut live: Vec<(u8, Buffer)> = Vec::new();
    for step in 0..if cfg!(miri) { 300 } else { 20_000_u32 } {
        let mark = (step % 251) as u8;
        if random.below(2) == 0 || live.is_empty() {
            let len = 1 + random.below(9 * BLOCK as u64) as usize;
            let mut buffer = pool.allocate(len);
            let at = buffer.len() - 1;
            (buffer[0], buffer[at]) = (mark, mark);
            live.push((mark, buffer));
        } else {
            let (mark, buffer) = live.swap_remove(random.below(live.len() as u64) as usize);
            assert_eq!((buffer[0], buffer[buffer.len() - 1]), (mark, mark));
        }
        let mut ranges: Vec<_> = live
            .iter()
            .map(|(_, buffer)| (buffer.as_ptr().addr(), buffer.len().next_multiple_of(BLOCK)))
            .collect();
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
        let used: usize = ranges.iter().map(|range| range.1).sum();
        assert_eq!(used, pool.in_use_bytes());
    }
    live.clear();
    assert_eq!(pool.in_use_bytes(), 0);
    assert!(in_arena(&pool, &pool.allocate(32 * BLOCK)), "all merged again");
}

#[test]
fn a_clone_keeps_its_bytes_whatever_becomes_of_the_other() {
    for blocks in [16, 0] {
        let pool = pool(blocks, 16);
        let mut one = pool.allocate(2 * BLOCK);
        one.fill(1);
        let mut two = one.clone();
        assert_eq!((one.as_ptr(), pool.in_use_bytes()), (two.as_ptr(), 2 * BLOCK));
        two[3] = 2;
        assert_ne!(one.as_ptr(), two.as_ptr());
        assert_eq!((one[3], two[3], two[4], pool.in_use_bytes()), (1, 2, 1, 4 * BLOCK));
        // A piece of what is shared is shared, whichever is written to first.
        let three = one.clone();
        let (mut head, tail) = one.split_at(BLOCK);
        head.fill(5);
        assert!(three.iter().all(|byte| *byte == 1) && tail.iter().all(|byte| *byte == 1));
        drop((two, three, head, tail));
        assert_eq!(pool.in_use_bytes(), 0);
    }
}

#[test]
fn pieces_that_follow_each_other_are_joined() {
    for blocks in [16, 0] {
        let pool = pool(blocks, 16);
        let mut whole = pool.allocate(3 * BLOCK);
        (0..3).for_each(|i| whole[i * BLOCK..][..BLOCK].fill(i as u8));
        let place = whole.as_ptr();
        let (a, rest) = whole.split_at(BLOCK);
        let (mut b, c) = rest.split_at(BLOCK);
        assert!(Buffer::join([]).is_none());
        assert!(Buffer::join([&a, &c]).is_none() && Buffer::join([&b, &a]).is_none());
        assert!(Buffer::join([&a, &pool.allocate(BLOCK)]).is_none());
        let joined = Buffer::join([&a, &b, &c]).expect("they follow each other");
        assert_eq!((joined.as_ptr(), joined.len()), (place, 3 * BLOCK));
        b.fill(9);
        assert_eq!((joined[BLOCK], b[0]), (1, 9));
        drop((a, b, c, joined));
        assert_eq!(pool.in_use_bytes(), 0);
    }
}

#[test]
fn heap_blocks_are_used_again() {
    let pool = pool(0, 1 << 20);
    let place = pool.allocate(3 * BLOCK).as_ptr();
    assert_eq!(pool.in_use_bytes(), 0);
    let other = pool.allocate(2 * BLOCK);
    let again = pool.allocate(2 * BLOCK + 1);
    assert_eq!((again.as_ptr(), pool.in_use_bytes()), (place, 5 * BLOCK));
    assert_ne!(other.as_ptr(), place);
    // More than is kept: all of it goes, and comes anew.
    let many: Vec<Buffer> = (0..40).map(|_| pool.allocate(256 * BLOCK)).collect();
    assert_eq!(pool.in_use_bytes(), (5 + 40 * 256) * BLOCK);
    drop((many, other, again));
    assert_eq!(pool.in_use_bytes(), 0);
}
