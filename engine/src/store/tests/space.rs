//! Goal: space is exact, comes back, and a full store still reads, trims, deletes and overwrites.

use super::*;
use crate::error::ErrorKind;
use crate::limits::SEGMENT_BLOCKS_MIN;
use crate::store::log::{Heat, reserved_segments};

fn fill(bench: &mut Bench, volume: VolumeId, blocks: u64) -> u64 {
    for first in (0..blocks).step_by(32) {
        let data = bench.block(32, first);
        if let Err(error) = bench.write(volume, first, data) {
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            return first;
        }
    }
    blocks
}

#[test]
fn a_full_store_refuses_new_data_only() {
    let mut bench = Bench::small(9);
    let volume = bench.create("vm0", 1 << 20);
    let full = fill(&mut bench, volume, 1 << 20);
    let capacity = bench.store.status().capacity_bytes / 4096;
    assert!(full <= capacity && full + 64 > capacity, "{full} of {capacity}");
    for round in 0..2000u64 {
        let first = (round * 7919) % full;
        let data = bench.block(1, round);
        let expected = data.to_vec();
        bench.write(volume, first, data).expect("overwriting needs no new space");
        assert_eq!(bench.read(volume, first, 1).expect("read"), expected);
    }
    bench.zero(volume, 0, 64).expect("trim on a full store");
    let data = bench.block(32, 1);
    bench.write(volume, 1 << 19, data).expect("freed space is there again");
    let other = bench.create("vm1", 100);
    bench.call(Request::DeleteVolume { volume }).expect("delete on a full store");
    bench.run();
    bench.audit();
    assert_eq!(bench.store.status().data_bytes, 0);
    assert!(fill(&mut bench, other, 96) == 96);
    let mut bench = bench.crash().expect("recovers");
    bench.audit();
    assert_eq!(bench.store.status().data_bytes, 96 * 4096);
    assert!(bench.read(volume, 0, 1).is_err());
}

#[test]
fn overwriting_for_long_cleans_and_keeps_everything() {
    let mut bench = Bench::small(10);
    let blocks = bench.store.status().capacity_bytes / 4096 * 8 / 10;
    let volume = bench.create("vm0", blocks);
    let mut versions = vec![0u64; blocks as usize];
    for first in 0..blocks {
        let data = bench.block(1, first);
        versions[first as usize] = first;
        bench.request(Request::Write { volume, first: BlockIndex(first), data });
    }
    bench.run();
    for round in 0..4 * blocks {
        let first = (round * 7919 + round / 3) % blocks;
        let data = bench.block(1, blocks + round);
        versions[first as usize] = blocks + round;
        bench.request(Request::Write { volume, first: BlockIndex(first), data });
        if round % 16 == 0 {
            bench.step();
        }
    }
    bench.run();
    assert!(bench.replies.drain(..).all(|reply| reply.result.is_ok()));
    bench.audit();
    assert!(bench.store.status().counters.cleaned_segments > 20);
    let mut bench = bench.crash().expect("recovers");
    bench.audit();
    for (block, version) in versions.iter().enumerate() {
        let expected = bench.block(1, *version).to_vec();
        assert_eq!(bench.read(volume, block as u64, 1).expect("read"), expected);
    }
}

/// What is promised to a request on its way is given back when it is done.
#[test]
fn reserved_zeroes_that_come_and_go_take_no_space() {
    let mut bench = Bench::small(12);
    let volume = bench.create("vm0", 10_000);
    let capacity = bench.store.status().capacity_bytes / BLOCK_SIZE_BYTES as u64;
    for _ in 0..2 * capacity / 500 {
        let zero = Request::Zero { volume, first: BlockIndex(7), count: 500, reserve: true };
        bench.call(zero).expect("there is room");
        bench.zero(volume, 7, 500).expect("trim");
    }
    assert_eq!(fill(&mut bench, volume, 3200), 3200);
    bench.run();
    bench.audit();
}

#[test]
fn a_full_file_system_is_no_space_and_nothing_is_lost() {
    let mut bench = Bench::format(2 * STORE_MIN_BYTES, 11);
    bench.disk.full_from = Some(STORE_MIN_BYTES * 3 / 4);
    let volume = bench.create("vm0", 1 << 20);
    let mut tokens = Vec::new();
    // Many at once: some have been let in when the file system turns out to be full.
    for i in 0..400u64 {
        let data = bench.block(64, i);
        let first = BlockIndex(i * 64);
        tokens.push(bench.request(Request::Write { volume, first, data }));
    }
    let results: Vec<_> = tokens.into_iter().map(|token| bench.wait(token)).collect();
    let refused = results.iter().filter(|result| result.is_err()).count();
    assert!(refused > 50 && refused < 300, "{refused} refused");
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.kind(), ErrorKind::NoSpace);
    }
    bench.run();
    assert!(bench.store.failed().is_none() && bench.store.status().device_full);
    let mut bench = bench.crash().expect("recovers");
    for (i, result) in results.iter().enumerate() {
        let expected = bench.block(64, i as u64).to_vec();
        let found = bench.read(volume, i as u64 * 64, 64).expect("reads");
        assert!(if result.is_ok() { found == expected } else { found.iter().all(|b| *b == 0) });
    }
    bench.zero(volume, 0, 4000).expect("trims");
    let data = bench.block(64, 1);
    bench.write(volume, 0, data).expect("there is room again");
    bench.run();
    bench.audit();
}

#[test]
fn room_that_comes_back_is_found_by_who_waits() {
    let mut bench = Bench::small(12);
    bench.disk.full_from = Some(0);
    let size_bytes = 1 << 20;
    let token = bench.request(Request::CreateVolume { name: "vm0".into(), size_bytes });
    for _ in 0..20 {
        assert!(bench.step(), "nobody would ever try again");
    }
    assert!(bench.store.status().device_full && bench.replies.is_empty());
    bench.disk.full_from = None;
    bench.wait(token).expect("there is room again");
    assert!(!bench.store.status().device_full);
}

#[test]
fn a_new_segment_that_cannot_be_written_fences_the_store() {
    let mut bench = Bench::small(13);
    bench.disk.fail_after = Some(0);
    let size_bytes = 1 << 20;
    let created = bench.call(Request::CreateVolume { name: "vm0".into(), size_bytes });
    assert_eq!(created.expect_err("no ENOSPC, no waiting").kind(), ErrorKind::Failed);
    assert!(bench.store.failed().is_some() && !bench.store.status().device_full);
}

/// A new store creates volumes with its first segment; data waits for the reserve.
#[test]
fn a_new_store_creates_volumes_before_it_has_a_reserve() {
    let mut bench = Bench::small(14);
    let volume = bench.create("vm0", 1 << 10);
    let segments = bench.store.status().segments;
    assert_eq!((segments.open, segments.free), (1, 0));
    let data = bench.block(1, 7);
    let token = bench.request(Request::Write { volume, first: BlockIndex(0), data });
    assert_eq!(bench.store.log.gathered_blocks(Heat::Hot), 0, "data before the reserve");
    bench.wait(token).expect("data");
    let free = bench.store.status().segments.free;
    assert!(free >= reserved_segments(&bench.store.segments) as u64, "{free} free");
    bench.run();
    bench.audit();
}

/// The file system is full before a new store has its reserve: data is refused, nothing hangs, and
/// what the store took is there after a crash.
#[test]
fn a_new_store_without_a_reserve_refuses_data() {
    let mut bench = Bench::format(2 * STORE_MIN_BYTES, 15);
    bench.disk.full_from = Some(2 * (STORE_MIN_BYTES / 16));
    let volume = bench.create("vm0", 1 << 20);
    let data = bench.block(4, 1);
    let error = bench.write(volume, 0, data).expect_err("there is no reserve");
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    bench.zero(volume, 0, 100).expect("trims");
    bench.run();
    assert!(bench.store.status().device_full && bench.store.failed().is_none());
    bench.disk.full_from = None;
    bench.now = Nanos(bench.now.0 + 2_000_000_000);
    let mut bench = bench.crash().expect("recovers");
    assert_eq!(bench.store.volumes().len(), 1);
    let data = bench.block(4, 1);
    bench.write(volume, 0, data).expect("there is room again");
    bench.run();
    bench.audit();
}

/// Of victims that are mostly dead the cleaner reads what lives, and hardly more.
#[test]
fn the_cleaner_reads_little_of_what_is_dead() {
    const EXTENT: u64 = 64;
    const EXTENTS: usize = 40;
    let mut bench = Bench::small(16);
    let volume = bench.create("vm0", 1 << 20);
    let mut versions = [0u64; EXTENTS];
    for round in 0..3000u64 {
        let at = bench.disk.random(EXTENTS);
        versions[at] = round + 1;
        let data = bench.block(EXTENT as usize, versions[at]);
        bench.write(volume, at as u64 * EXTENT, data).expect("write");
    }
    bench.run();
    let counters = bench.store.status().counters;
    let walked = counters.cleaned_segments * u64::from(SEGMENT_BLOCKS_MIN);
    let (read, moved) = (bench.disk.read_blocks, counters.relocated_blocks);
    assert!(counters.cleaned_segments > 20 && moved > 0, "{counters:?}");
    assert!(read < walked / 2, "{read} read of {walked} to move {moved}");
    let mut bench = bench.crash().expect("recovers");
    for (at, version) in versions.iter().enumerate().filter(|(_, version)| **version > 0) {
        let expected = bench.block(EXTENT as usize, *version).to_vec();
        let found = bench.read(volume, at as u64 * EXTENT, EXTENT as u32).expect("read");
        assert_eq!(found, expected);
    }
    bench.audit();
}
