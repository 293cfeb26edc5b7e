//! Goal: crash anywhere, recover, and every acknowledged request is there, every other one is there
//! whole or not at all. Method: random requests against a model of block versions.

use super::*;
use crate::reactor::DeviceOp;
use proptest::prelude::*;
use std::collections::BTreeMap;

const BLOCKS: u64 = 2600;

/// What a block may hold: the last acknowledged version, or one of a request still open.
#[derive(Clone, Debug, Default)]
struct Block {
    acknowledged: u64,
    open: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Open {
    first: u64,
    count: u64,
    /// 0 for zeroes.
    version: u64,
}

struct Model {
    blocks: Vec<Block>,
    open: BTreeMap<u64, Open>,
}

impl Model {
    fn new() -> Model {
        Model { blocks: vec![Block::default(); BLOCKS as usize], open: BTreeMap::new() }
    }

    fn start(&mut self, token: u64, open: Open) {
        for block in &mut self.blocks[open.first as usize..(open.first + open.count) as usize] {
            block.open.push(open.version);
        }
        self.open.insert(token, open);
    }

    /// An acknowledged version stands; older open ones were overtaken only if they were started
    /// before it, which an in-order log guarantees.
    fn acknowledge(&mut self, token: u64) {
        let Some(open) = self.open.remove(&token) else { return };
        for block in &mut self.blocks[open.first as usize..(open.first + open.count) as usize] {
            let at = block.open.iter().position(|version| *version == open.version);
            if let Some(at) = at {
                block.open.drain(..=at);
            }
            block.acknowledged = open.version;
        }
    }
}

/// Version of each block as the store tells it.
fn versions(bench: &mut Bench, volume: VolumeId) -> Vec<u64> {
    let mut versions = Vec::new();
    let mut at = 0;
    while at < BLOCKS {
        let count = (BLOCKS - at).min(200);
        let bytes = bench.read(volume, at, count as u32).expect("every block reads");
        for (i, block) in bytes.chunks_exact(BLOCK_SIZE_BYTES).enumerate() {
            let word =
                |j: usize| u64::from_le_bytes(block[j * 8..j * 8 + 8].try_into().expect("8"));
            let version = word(0);
            let whole = (0..512).all(|j| version == 0 || j != 1 || word(1) == at + i as u64);
            let filled = block[16..].iter().all(|byte| *byte == version as u8);
            assert!(whole && filled, "block {} is mixed", at + i as u64);
            versions.push(version);
        }
        at += count;
    }
    versions
}

fn stamped(bench: &Bench, first: u64, count: u64, version: u64) -> Buffer {
    let mut buffer = bench.pool.allocate(count as usize * BLOCK_SIZE_BYTES);
    for (i, block) in buffer.chunks_exact_mut(BLOCK_SIZE_BYTES).enumerate() {
        block.fill(version as u8);
        block[..8].copy_from_slice(&version.to_le_bytes());
        block[8..16].copy_from_slice(&(first + i as u64).to_le_bytes());
    }
    buffer
}

#[derive(Clone, Debug)]
enum Op {
    Write { first: u64, count: u64 },
    Zero { first: u64, count: u64 },
    Steps(usize),
    Checkpoint,
    Crash,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let range = (0..BLOCKS, prop_oneof![6 => 1u64..4, 2 => 4u64..40, 1 => 40u64..258])
        .prop_map(|(first, count)| (first, count.min(BLOCKS - first)));
    let op = prop_oneof![
        16 => range.clone().prop_map(|(first, count)| Op::Write { first, count }),
        2 => range.prop_map(|(first, count)| Op::Zero { first, count }),
        12 => (0usize..12).prop_map(Op::Steps),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Crash),
    ];
    prop::collection::vec(op, 1..400)
}

fn settle(bench: &mut Bench, model: &mut Model) {
    for reply in bench.replies.drain(..) {
        reply.result.expect("no request of the workload fails");
        model.acknowledge(reply.token);
    }
}

/// After a crash: every block is at its acknowledged version or at one that was open, and every
/// open request is there whole or not at all.
fn verify(bench: &mut Bench, volume: VolumeId, model: &mut Model) {
    let found = versions(bench, volume);
    for (at, (version, block)) in found.iter().zip(&model.blocks).enumerate() {
        let allowed = *version == block.acknowledged || block.open.contains(version);
        assert!(allowed, "block {at}: found {version}, allowed {block:?}");
    }
    for open in model.open.values().filter(|open| open.version != 0) {
        let range = open.first as usize..(open.first + open.count) as usize;
        // Blocks that a later open request may have overwritten tell nothing.
        let alone = |block: &Block| block.open.last() == Some(&open.version);
        let mut there = range.clone().filter(|at| alone(&model.blocks[*at]));
        let is_new = |at: usize| found[at] == open.version;
        if let Some(first) = there.next() {
            let first = is_new(first);
            assert!(there.all(|at| is_new(at) == first), "request {open:?} is there in part");
        }
    }
    for (version, block) in found.into_iter().zip(&mut model.blocks) {
        *block = Block { acknowledged: version, open: Vec::new() };
    }
    model.open.clear();
}

fn run(seed: u64, ops: Vec<Op>) {
    let mut bench = Bench::small(seed);
    let volume = bench.create("vm0", BLOCKS);
    let mut model = Model::new();
    let mut version = 0;
    for op in ops {
        match op {
            Op::Write { first, count } => {
                version += 1;
                let data = stamped(&bench, first, count, version);
                let token =
                    bench.request(Request::Write { volume, first: BlockIndex(first), data });
                model.start(token, Open { first, count, version });
            }
            Op::Zero { first, count } => {
                let zero = Request::Zero {
                    volume,
                    first: BlockIndex(first),
                    count,
                    reserve: version % 2 == 0,
                };
                let token = bench.request(zero);
                model.start(token, Open { first, count, version: 0 });
            }
            Op::Steps(count) => (0..count).for_each(|_| {
                bench.step();
            }),
            Op::Checkpoint => {
                bench.request(Request::Checkpoint);
            }
            Op::Crash => {
                settle(&mut bench, &mut model);
                bench = bench.crash().expect("recovers");
                // Recovery changes nothing: twice is once.
                bench = bench.crash().expect("recovers again");
                verify(&mut bench, volume, &mut model);
            }
        }
        settle(&mut bench, &mut model);
    }
    settle(&mut bench, &mut model);
    bench = bench.crash().expect("recovers");
    verify(&mut bench, volume, &mut model);
    bench.run();
    bench.audit();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..Default::default() })]
    #[test]
    fn acknowledged_requests_survive(seed in 1u64..u64::MAX, ops in ops()) {
        run(seed, ops);
    }
}

/// A crash before every single disk operation of a short history.
#[test]
fn crash_before_every_operation() {
    for stop in 0.. {
        let mut bench = Bench::small(stop + 1);
        let volume = bench.create("vm0", BLOCKS);
        let mut model = Model::new();
        let mut finished = false;
        for version in 1..=8u64 {
            let (first, count) = ((version % 3) * 100, 1 + version * 20);
            let data = stamped(&bench, first, count, version);
            let token = bench.request(Request::Write { volume, first: BlockIndex(first), data });
            model.start(token, Open { first, count, version });
            if version == 4 {
                bench.request(Request::Checkpoint);
            }
        }
        for step in 0..=stop {
            finished = !bench.step();
            settle(&mut bench, &mut model);
            if finished && step < stop {
                break;
            }
        }
        bench = bench.crash().expect("recovers");
        verify(&mut bench, volume, &mut model);
        bench.audit();
        if finished {
            break;
        }
    }
}

/// After a failed write nothing is acknowledged, and what was acknowledged before is there.
#[test]
fn a_failed_write_fences_the_store() {
    for fail_after in 0..12 {
        let mut bench = Bench::small(fail_after + 1);
        let volume = bench.create("vm0", BLOCKS);
        bench.run();
        bench.disk.fail_after = Some(fail_after);
        let mut model = Model::new();
        for version in 1..=30u64 {
            let data = stamped(&bench, version * 7, 5, version);
            let first = BlockIndex(version * 7);
            let token = bench.request(Request::Write { volume, first, data });
            model.start(token, Open { first: version * 7, count: 5, version });
            bench.step();
            bench.step();
        }
        bench.run();
        let mut failed = false;
        for reply in std::mem::take(&mut bench.replies) {
            match reply.result {
                Ok(_) => {
                    assert!(!failed, "an acknowledgement after a failure");
                    model.acknowledge(reply.token);
                }
                Err(_) => failed = true,
            }
        }
        assert!(failed && bench.store.failed().is_some());
        let data = stamped(&bench, 0, 1, 99);
        assert!(bench.write(volume, 0, data).is_err());
        bench = bench.crash().expect("recovers");
        verify(&mut bench, volume, &mut model);
    }
}

/// Without its header, recovery would not learn of a segment's life and of the epoch in it, hand
/// both out again, and take what else had reached the segment for the next life's.
#[test]
fn the_second_batch_of_a_segment_waits_for_the_first() {
    let mut bench = Bench::small(21);
    let volume = bench.create("vm0", 1000);
    let mut bench = bench.crash().expect("recovers");
    bench.pump();
    bench.run(); // Until new segments are prepared.
    let in_flight = |bench: &mut Bench, first: u64| {
        let data = bench.block(64, first);
        let request = Request::Write { volume, first: BlockIndex(first), data };
        bench.store.handle_request(bench.now, 1000 + first, request);
        let mut logged = 0;
        while let Some((token, op)) = bench.store.poll_io(bench.now) {
            logged += usize::from(matches!(op, DeviceOp::Write { sync: true, .. }));
            bench.disk.submit(token, op);
        }
        logged
    };
    let before: Vec<_> = (0..3).map(|i| in_flight(&mut bench, i * 64)).collect();
    assert_eq!(before.iter().sum::<usize>(), 1, "one batch begins the segment");
    bench.run();
    let after: Vec<_> = (3..6).map(|i| in_flight(&mut bench, i * 64)).collect();
    assert_eq!(after, [1, 1, 1], "then several are under way");
    bench.run();
    bench.audit();
}

/// Checkpoints fill a segment so slowly that the log is far ahead of the one they lie in.
#[test]
fn a_restart_reads_what_follows_the_checkpoint() {
    let mut bench = Bench::small(45);
    let volume = bench.create("vm0", 8000);
    bench.run();
    let write = |bench: &mut Bench, i: u64| {
        let data = bench.block(200, i);
        bench.write(volume, i % 20 * 200, data).expect("write");
    };
    for i in 0..20 {
        write(&mut bench, i);
        if i % 5 == 4 {
            bench.call(Request::Checkpoint).expect("checkpoint");
        }
    }
    bench.run();
    let lives = bench.store.segments.iter().map(|(_, segment)| segment.sequence);
    let begun = lives.filter(|life| life.0 > 0).count();
    assert!(begun > 4, "{begun} segments were begun");
    for i in 20..22 {
        write(&mut bench, i);
    }
    bench.disk.crash();
    let (mut bench, bytes) = Bench::open_counted(bench.disk).expect("recovers");
    let segment = bench.store.segments.segment_blocks() as usize * BLOCK_SIZE_BYTES;
    let least = bytes / segment;
    assert!(least <= 3, "{least} segments were read: hot, cold, and what followed are 3");
    for i in 2..22u64 {
        let expected = bench.block(200, i).to_vec();
        assert!(bench.read(volume, i % 20 * 200, 200).expect("reads") == expected, "write {i}");
    }
    bench.run();
    bench.audit();
}
