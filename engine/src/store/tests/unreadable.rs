//! Goal: a block that the device cannot read costs at most what is in it; where it may hide
//! something acknowledged, the store is refused and says why, and is all there once it can be read.
//! Method: every block around what a store uses fails, one at a time, after a clean stop and after
//! crashes at many moments.

use super::*;
use crate::error::ErrorKind;
use crate::limits::SEGMENTS_START_BLOCK;

/// Blocks of the volume that are looked at.
const BLOCKS: u64 = 200;
const SEGMENT_BLOCKS: usize = 1024;

/// Only so many are tried with a block that can be read again later: it takes long.
const HEALED_EVERY: usize = 16;

/// What a block must hold: one of these, as whole blocks.
type Expected = Vec<Vec<Vec<u8>>>;

/// Blocks that are not zeroes, the one behind each of them, and the first two of every segment.
fn around_used(image: &[u8]) -> Vec<usize> {
    let count = image.len() / BLOCK_SIZE_BYTES;
    let is_used = |at: &usize| {
        let bytes = &image[at * BLOCK_SIZE_BYTES..(at + 1) * BLOCK_SIZE_BYTES];
        bytes.iter().any(|byte| *byte != 0)
    };
    let used = (0..count).filter(is_used).flat_map(|at| at..=at + 1);
    let segments = (SEGMENTS_START_BLOCK as usize..count).step_by(SEGMENT_BLOCKS);
    let all: std::collections::BTreeSet<_> =
        used.chain(segments.flat_map(|at| at..at + 2)).filter(|at| *at < count).collect();
    all.into_iter().collect()
}

/// Reads every block: what is expected, or an error for at most `lost_max` of them.
#[track_caller]
fn assert_holds(bench: &mut Bench, volume: VolumeId, expected: &Expected, lost_max: usize) {
    let mut lost = Vec::new();
    for (block, versions) in expected.iter().enumerate() {
        match bench.read(volume, block as u64, 1) {
            Ok(bytes) => assert!(versions.contains(&bytes), "block {block} is wrong"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                lost.push(block);
            }
        }
    }
    assert!(lost.len() <= lost_max, "lost {lost:?}");
}

/// Makes one block after another unreadable; returns those where the store was refused.
fn fail_each(bench: Bench, volume: VolumeId, expected: &Expected) -> Vec<usize> {
    let mut disk = bench.disk;
    disk.crash();
    let image = disk.contents().to_vec();
    let mut refused = Vec::new();
    for at in around_used(&image) {
        disk.unreadable = [at].into();
        let (mut opened, is_refused) = match Bench::open(disk) {
            Ok(bench) => (bench, false),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                let named = format!("block {at} cannot be read");
                assert!(error.to_string().contains(&named), "block {at}: {error}");
                refused.push(at);
                let mut healed = Disk::new(image.len() as u64, at as u64);
                healed.restore(&image);
                (Bench::open(healed).expect("it can be read again"), true)
            }
        };
        assert_holds(&mut opened, volume, expected, usize::from(!is_refused));
        opened.audit();
        if !is_refused && at % HEALED_EVERY == 0 {
            opened.run();
            // What it wrote since vouches for all it found: the same is there once it is well.
            opened.disk.unreadable.clear();
            let mut healed = opened.crash().expect("recovers");
            assert_holds(&mut healed, volume, expected, 0);
            opened = healed;
        }
        disk = opened.disk;
        disk.crash();
        disk.restore(&image);
    }
    refused
}

fn fill(bench: &mut Bench, volume: VolumeId, version: u64) {
    for i in 0..20 {
        let data = bench.block(1, version + i);
        bench.write(volume, i * 3, data).expect("write");
    }
    for i in 0..4 {
        let data = bench.block(20, version + 100 + i);
        bench.write(volume, 100 + i * 20, data).expect("write");
    }
    bench.zero(volume, 3, 1).expect("zero");
}

fn as_it_is(bench: &mut Bench, volume: VolumeId) -> Expected {
    (0..BLOCKS).map(|block| vec![bench.read(volume, block, 1).expect("good")]).collect()
}

/// Where the store may refuse: per append point the last header, and where the next would be.
const REFUSED_MAX: usize = 4;

#[test]
fn after_a_clean_stop() {
    for checkpoints in 0..4 {
        let mut bench = Bench::small(11 + checkpoints);
        let volume = bench.create("vm0", 1000);
        fill(&mut bench, volume, 0);
        if checkpoints & 1 != 0 {
            bench.run();
            bench.call(Request::Checkpoint).expect("checkpoint");
        }
        if checkpoints & 2 != 0 {
            bench.run();
            bench = bench.crash().expect("recovers");
            fill(&mut bench, volume, 1000);
        }
        bench.run();
        let expected = as_it_is(&mut bench, volume);
        let refused = fail_each(bench, volume, &expected);
        println!("checkpoints {checkpoints}: refused at {refused:?}");
        assert!(!refused.is_empty() && refused.len() <= REFUSED_MAX, "refused at {refused:?}");
    }
}

#[test]
fn the_last_batch_without_a_voucher() {
    let mut bench = Bench::small(21);
    let volume = bench.create("vm0", 1000);
    fill(&mut bench, volume, 0);
    // Looked at before: looking takes time, and an idle log is closed.
    let mut expected = as_it_is(&mut bench, volume);
    let data = bench.block(5, 77);
    for (i, block) in data.chunks_exact(BLOCK_SIZE_BYTES).enumerate() {
        expected[190 + i] = vec![block.to_vec()];
    }
    bench.write(volume, 190, data).expect("write");
    let refused = fail_each(bench, volume, &expected);
    // Its header, its blocks, and where the next header would be.
    assert_eq!(refused.len(), 1 + 5 + 1, "refused at {refused:?}");
}

/// Writes of one version per block, several at once, up to a crash at some moment; what each block
/// may hold then.
fn crashed(seed: u64) -> (Bench, VolumeId, Expected) {
    let mut bench = Bench::small(seed);
    let volume = bench.create("vm0", 1000);
    let mut expected: Expected = vec![vec![vec![0; BLOCK_SIZE_BYTES]]; BLOCKS as usize];
    let mut open = Vec::new();
    let mut first = 0;
    for i in 0..14 {
        let count = 1 + bench.disk.random(12);
        let data = bench.block(count, 500 + i);
        let bytes = data.to_vec();
        let request = Request::Write { volume, first: BlockIndex(first), data };
        let token = bench.request(request);
        open.push((token, first as usize, bytes));
        first += count as u64;
        if i == 5 && seed.is_multiple_of(3) {
            bench.request(Request::Checkpoint);
        }
        for _ in 0..bench.disk.random(4) {
            bench.step();
        }
    }
    for (token, first, bytes) in open {
        let acknowledged = bench.replies.iter().any(|reply| reply.token == token);
        for (i, block) in bytes.chunks_exact(BLOCK_SIZE_BYTES).enumerate() {
            if acknowledged {
                expected[first + i].clear();
            }
            expected[first + i].push(block.to_vec());
        }
    }
    (bench, volume, expected)
}

#[test]
fn after_a_crash() {
    let mut refused = 0;
    for seed in 30..35 {
        let (bench, volume, expected) = crashed(seed);
        refused += fail_each(bench, volume, &expected).len();
    }
    assert!(refused > 0);
}
