//! Goal: space is exact, comes back, and a full store still reads, trims, deletes and overwrites.

use super::*;
use crate::error::ErrorKind;
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

/// Damage that keeps every segment from being cleaned takes the space that overwriting needs: that
/// is said, and what frees space goes on.
#[test]
fn a_store_that_cannot_be_cleaned_says_that_it_is_full() {
    let mut bench = Bench::small(11);
    let blocks = bench.store.status().capacity_bytes / 4096 / 40 * 32;
    let volume = bench.create("vm0", blocks);
    let other = bench.create("vm1", 100);
    assert_eq!(fill(&mut bench, volume, blocks), blocks);
    // No read of the cleaner ends well.
    bench.disk.unreadable = (512..bench.disk.bytes() as usize / 4096).step_by(64).collect();
    let mut refused = 0;
    for round in 0..4 * blocks {
        let data = bench.block(1, round);
        if let Err(error) = bench.write(volume, (round * 7919) % blocks, data) {
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            refused += 1;
            if refused > 100 {
                break;
            }
        }
    }
    assert!(refused > 100, "overwrites went on without any space");
    let data = bench.block(1, 1);
    assert!(bench.write(other, 0, data).is_err(), "nor is there room for anything else");
    bench.zero(volume, 0, blocks / 2).expect("trim");
    bench.call(Request::DeleteVolume { volume }).expect("delete");
    bench.run();
    bench.audit();
    assert_eq!(fill(&mut bench, other, 96), 96);
    let bench = bench.crash().expect("recovers");
    bench.audit();
    assert_eq!(bench.store.status().data_bytes, 96 * 4096);
}

/// Where nothing can be cleaned, every restart opens a segment of the reserve. Once that is used up
/// not even a trim can be written down: nobody waits for ever, and what was acknowledged is there.
#[test]
fn a_reserve_that_is_used_up_fences_the_store() {
    let mut bench = Bench::small(16);
    let blocks = bench.store.status().capacity_bytes / 4096 / 40 * 32;
    let volume = bench.create("vm0", blocks);
    assert_eq!(fill(&mut bench, volume, blocks), blocks);
    bench.disk.unreadable = (512..bench.disk.bytes() as usize / 4096).collect();
    let filled = (0..blocks).step_by(32).flat_map(|first| bench.block(32, first).to_vec());
    let mut expected: Vec<u8> = filled.collect();
    let mut lives = 0;
    let (block, error) = 'lives: loop {
        for round in 0..4 * blocks {
            let block = (lives + round * 7919) % blocks;
            let data = bench.block(1, lives << 32 | round);
            let written = data.to_vec();
            match bench.write(volume, block, data) {
                Ok(_) => place(&mut expected, block).copy_from_slice(&written),
                Err(error) if error.kind() == ErrorKind::NoSpace => break,
                Err(error) => break 'lives (block, error),
            }
        }
        lives += 1;
        assert!(lives < 20, "there is room again and again");
        let unreadable = std::mem::take(&mut bench.disk.unreadable);
        bench = bench.crash().expect("recovers");
        bench.disk.unreadable = unreadable;
    };
    assert!(lives > 2 && error.kind() == ErrorKind::Failed, "{lives}: {error}");
    assert!(error.to_string().contains("the reserve is used up"), "{error}");
    assert!(bench.store.status().segments.free == 0 && bench.store.is_idle());
    bench.disk.unreadable.clear();
    let mut bench = bench.crash().expect("recovers");
    for other in (0..blocks).filter(|other| *other != block) {
        let found = bench.read(volume, other, 1).expect("reads");
        assert!(found == place(&mut expected, other), "block {other}");
    }
}

fn place(volume: &mut [u8], block: u64) -> &mut [u8] {
    &mut volume[block as usize * BLOCK_SIZE_BYTES..][..BLOCK_SIZE_BYTES]
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
fn room_that_does_not_come_back_is_awaited_for_a_minute() {
    let mut bench = Bench::small(12);
    bench.disk.full_from = Some(0);
    let started = bench.now;
    let create = Request::CreateVolume { name: "vm0".into(), size_bytes: 1 << 20 };
    let error = bench.call(create).expect_err("there is no room");
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert!(error.to_string().contains("the file system under the store is full"), "{error}");
    assert_eq!(bench.now.since(started).as_secs(), 60);
    assert!(bench.store.is_idle() && bench.store.poll_timeout().is_none());
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
