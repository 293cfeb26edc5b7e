//! Goal: every error of the device is handed on or fences the store, and loses nothing else.
//! Method: operations of one kind fail at will, all others go to the disk in memory.

use super::*;
use crate::error::ErrorKind;
use crate::format::SUPERBLOCK_LOCATIONS;
use crate::limits::{BATCH_BLOCKS_MAX, QUEUED_MAX_BYTES};
use crate::reactor::{DeviceCompletion, DeviceOp};
use std::io;

/// Runs until nothing is left to do; operations that `fails` picks end with an error.
fn run_failing(bench: &mut Bench, mut fails: impl FnMut(&DeviceOp) -> bool) {
    loop {
        let mut refused = Vec::new();
        while let Some((token, op)) = bench.store.poll_io(bench.now) {
            match op {
                op if !fails(&op) => bench.disk.submit(token, op),
                DeviceOp::Read { buffer, .. } => refused.push((token, vec![buffer])),
                DeviceOp::Write { buffers, .. } => refused.push((token, buffers)),
                DeviceOp::Sync => refused.push((token, Vec::new())),
            }
        }
        let goes_on = !refused.is_empty();
        for (token, buffers) in refused {
            let completion = DeviceCompletion { token, result: Err(broken()), buffers };
            bench.store.handle_completion(bench.now, completion);
        }
        bench.replies.extend(std::iter::from_fn(|| bench.store.poll_reply()));
        if goes_on {
            continue;
        }
        if let Some(completion) = bench.disk.step() {
            bench.now = Nanos(bench.now.0 + 10_000);
            bench.store.handle_completion(bench.now, completion);
        } else if let Some(at) = bench.store.poll_timeout() {
            bench.now = bench.now.max(at);
        } else {
            return;
        }
    }
}

fn broken() -> io::Error {
    io::Error::other("injected")
}

/// Takes a request without handing anything to the disk.
fn take(bench: &mut Bench, request: Request) -> u64 {
    bench.next_token += 1;
    bench.store.handle_request(bench.now, bench.next_token, request);
    bench.next_token
}

fn answer(bench: &mut Bench, token: u64) -> Result<Outcome> {
    let at = bench.replies.iter().position(|reply| reply.token == token).expect("an answer");
    bench.replies.swap_remove(at).result
}

#[track_caller]
fn refused(result: Result<Outcome>) -> ErrorKind {
    result.expect_err("refused").kind()
}

fn read_request(volume: VolumeId, first: u64, count: u32) -> Request {
    Request::Read { volume, first: BlockIndex(first), count }
}

fn write_request(bench: &Bench, volume: VolumeId, first: u64, blocks: usize) -> Request {
    Request::Write { volume, first: BlockIndex(first), data: bench.block(blocks, first) }
}

fn is_log_write(op: &DeviceOp) -> bool {
    let places = SUPERBLOCK_LOCATIONS.map(|place| place.offset_bytes());
    matches!(op, DeviceOp::Write { offset_bytes, sync: true, .. } if !places.contains(offset_bytes))
}

/// A store with lone blocks and a run whose checksums are in a batch header, reopened: no table
/// is in the cache.
fn reopened(seed: u64) -> (Bench, VolumeId) {
    let mut bench = Bench::small(seed);
    let volume = bench.create("vm0", 3000);
    for (first, blocks) in [(0, 1), (100, 64), (200, 3)] {
        let data = bench.block(blocks, first);
        bench.write(volume, first, data).expect("write");
    }
    bench.run();
    bench.call(Request::Checkpoint).expect("checkpoint");
    bench.run();
    (bench.crash().expect("recovers"), volume)
}

/// Whoever waits is told, in whatever way he waits, and told once; what was durable stays.
#[test]
fn a_failed_write_is_told_to_everybody_who_waits() {
    let mut bench = Bench::small(31);
    let volume = bench.create("vm0", 5000);
    let kept = bench.block(1, 0).to_vec();
    let first = write_request(&bench, volume, 0, 1);
    bench.call(first).expect("write");
    bench.run();
    let mut tokens = Vec::new();
    // Three full batches: one leaves, one gathers, the rest waits for room.
    for i in 1..=3 * u64::from(BATCH_BLOCKS_MAX) / 252 + 1 {
        let request = write_request(&bench, volume, i * 252, 252);
        tokens.push(take(&mut bench, request));
    }
    let zero = Request::Zero { volume, first: BlockIndex(0), count: 1, reserve: false };
    let others = [
        zero,
        Request::CreateVolume { name: "vm1".into(), size_bytes: 512 },
        Request::Barrier,
        Request::Checkpoint,
    ];
    tokens.extend(others.map(|request| take(&mut bench, request)));
    assert!(!bench.store.is_idle());
    run_failing(&mut bench, is_log_write);
    for token in tokens {
        assert_eq!(refused(answer(&mut bench, token)), ErrorKind::Failed, "request {token}");
    }
    assert!(bench.replies.is_empty() && bench.store.is_idle());
    assert!(bench.store.failed().is_some_and(|why| why.to_string().contains("injected")));
    assert!(bench.store.status().failed.is_some());
    assert_eq!(bench.store.poll_timeout(), None);
    for request in [Request::Barrier, Request::Checkpoint, Request::DeleteVolume { volume }] {
        assert_eq!(refused(bench.call(request)), ErrorKind::Failed);
    }
    assert_eq!(bench.read(volume, 0, 1).expect("reads go on"), kept);
    let mut bench = bench.crash().expect("recovers");
    assert_eq!(bench.read(volume, 0, 1).expect("it was durable"), kept);
    assert!(bench.store.volume_by_name("vm1").is_none());
    bench.audit();
}

/// Batches that end well behind one that failed are not installed and not acknowledged.
#[test]
fn writes_that_end_after_a_failure_do_not_count() {
    let mut bench = Bench::small(32);
    let volume = bench.create("vm0", 3000);
    bench.run();
    let mut writes = Vec::new();
    let mut tokens = Vec::new();
    for i in 0..2 {
        let request = write_request(&bench, volume, i * 300, 200);
        tokens.push(take(&mut bench, request));
        writes.extend(std::iter::from_fn(|| bench.store.poll_io(bench.now)));
    }
    writes.retain(|(_, op)| is_log_write(op));
    assert_eq!(writes.len(), 2, "two batches in flight");
    for ((token, _), result) in writes.into_iter().zip([Err(broken()), Ok(())]) {
        let completion = DeviceCompletion { token, result, buffers: Vec::new() };
        bench.store.handle_completion(bench.now, completion);
    }
    bench.replies.extend(std::iter::from_fn(|| bench.store.poll_reply()));
    for token in tokens {
        assert_eq!(refused(answer(&mut bench, token)), ErrorKind::Failed);
    }
    assert!(bench.read(volume, 300, 200).expect("reads").iter().all(|byte| *byte == 0));
}

#[test]
fn a_failed_superblock_fails_the_checkpoint() {
    for copy in [0, 1] {
        let mut bench = Bench::small(33 + copy as u64);
        let volume = bench.create("vm0", 3000);
        let data = bench.block(40, 7);
        let expected = data.to_vec();
        bench.write(volume, 7, data).expect("write");
        bench.run();
        let token = take(&mut bench, Request::Checkpoint);
        let place = SUPERBLOCK_LOCATIONS[copy].offset_bytes();
        run_failing(
            &mut bench,
            |op| matches!(op, DeviceOp::Write { offset_bytes, .. } if *offset_bytes == place),
        );
        assert_eq!(refused(answer(&mut bench, token)), ErrorKind::Failed, "copy {copy}");
        assert_eq!(bench.store.status().counters.checkpoints, 0);
        let mut bench = bench.crash().expect("recovers");
        assert_eq!(bench.read(volume, 7, 40).expect("reads"), expected);
        bench.audit();
    }
}

/// The log fails while the superblock is on its way: the checkpoint does not count.
#[test]
fn a_superblock_that_ends_after_a_failure_does_not_count() {
    let mut bench = Bench::small(35);
    let volume = bench.create("vm0", 3000);
    bench.run();
    let checkpoint = take(&mut bench, Request::Checkpoint);
    let superblock = loop {
        let Some((token, op)) = bench.store.poll_io(bench.now) else {
            let completion = bench.disk.step().expect("the checkpoint goes on");
            bench.store.handle_completion(bench.now, completion);
            continue;
        };
        match &op {
            DeviceOp::Write { offset_bytes: 0, .. } => break token,
            _ => bench.disk.submit(token, op),
        }
    };
    let request = write_request(&bench, volume, 0, 1);
    let write = take(&mut bench, request);
    run_failing(&mut bench, is_log_write);
    let completion = DeviceCompletion { token: superblock, result: Ok(()), buffers: Vec::new() };
    bench.store.handle_completion(bench.now, completion);
    bench.pump();
    for token in [checkpoint, write] {
        assert_eq!(refused(answer(&mut bench, token)), ErrorKind::Failed);
    }
    assert_eq!(bench.store.status().counters.checkpoints, 0);
    assert!(bench.store.is_idle());
}

#[test]
fn a_failed_sync_of_prepared_segments_fences_the_store() {
    let mut bench = Bench::small(36);
    run_failing(&mut bench, |op| matches!(op, DeviceOp::Sync));
    assert!(bench.store.failed().is_some_and(|why| why.to_string().contains("sync")));
    let create = Request::CreateVolume { name: "vm0".into(), size_bytes: 512 };
    assert_eq!(refused(bench.call(create)), ErrorKind::Failed);
}

/// Fails `times` reads that begin at or behind `from`, then none.
fn fail_reads(mut times: usize, from: u64) -> impl FnMut(&DeviceOp) -> bool {
    move |op| {
        let hit = matches!(op, DeviceOp::Read { offset_bytes, .. } if *offset_bytes >= from);
        let fails = hit && times > 0;
        times -= usize::from(fails);
        fails
    }
}

#[test]
fn reads_are_tried_twice() {
    // A lone block, three of them, a run whose checksums are elsewhere.
    for (first, blocks) in [(0u64, 1u32), (200, 3), (100, 64)] {
        let (mut bench, volume) = reopened(37);
        let expected = bench.block(blocks as usize, first).to_vec();
        bench.run();
        let token = take(&mut bench, read_request(volume, first, blocks));
        run_failing(&mut bench, fail_reads(1, 0));
        match answer(&mut bench, token).expect("the second try succeeds") {
            Outcome::Read(parts) => {
                let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
                assert_eq!(bytes, expected, "block {first}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(bench.store.status().counters.corrupt_blocks, 0);
        let token = take(&mut bench, read_request(volume, first, blocks));
        run_failing(&mut bench, fail_reads(usize::MAX, 0));
        let error = answer(&mut bench, token).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("vm0"), "{error}");
        assert!(bench.store.status().counters.read_errors >= 3);
        assert_eq!(bench.read(volume, first, blocks).expect("it works again"), expected);
        assert!(bench.store.failed().is_none());
        bench.audit();
    }
}

/// The header that holds a run's checksums cannot be read, nor the place of its copy: the data is
/// not served unproved.
#[test]
fn a_run_without_its_table_is_refused() {
    let (mut bench, volume) = reopened(38);
    let expected = bench.block(64, 100).to_vec();
    bench.run();
    let token = take(&mut bench, read_request(volume, 100, 64));
    let data_bytes = 64 * BLOCK_SIZE_BYTES;
    run_failing(
        &mut bench,
        |op| matches!(op, DeviceOp::Read { buffer, .. } if buffer.len() != data_bytes),
    );
    assert_eq!(refused(answer(&mut bench, token)), ErrorKind::Corrupt);
    assert_eq!(bench.read(volume, 100, 64).expect("it works again"), expected);
}

/// A store that needs cleaning: every other block of what was written first is dead.
fn full_of_holes(seed: u64) -> (Bench, VolumeId, u64) {
    let mut bench = Bench::small(seed);
    let blocks = bench.store.status().capacity_bytes / 4096 * 7 / 10;
    let volume = bench.create("vm0", blocks);
    for first in 0..blocks {
        let request = write_request(&bench, volume, first, 1);
        bench.request(request);
        bench.step();
    }
    bench.run();
    bench.replies.clear();
    (bench, volume, blocks)
}

/// A segment that the cleaner cannot read stays as it is, and the store goes on.
#[test]
fn the_cleaner_leaves_what_it_cannot_read() {
    let (mut bench, volume, blocks) = full_of_holes(39);
    let mut failures = 0;
    let mut tokens = Vec::new();
    for round in 0..2 * blocks {
        let request = write_request(&bench, volume, (round * 7919) % blocks, 1);
        tokens.push(take(&mut bench, request));
        if round % 8 == 0 {
            run_failing(&mut bench, |op| {
                let fails = matches!(op, DeviceOp::Read { .. }) && failures < 3;
                failures += usize::from(fails);
                fails
            });
        }
    }
    run_failing(&mut bench, |_| false);
    for token in tokens {
        answer(&mut bench, token).expect("a write");
    }
    let counters = bench.store.status().counters;
    assert_eq!((failures, counters.read_errors), (3, 3));
    assert!(counters.cleaned_segments > 0);
    bench.audit();
    let mut bench = bench.crash().expect("recovers");
    for block in 0..blocks {
        let expected = bench.block(1, block).to_vec();
        assert_eq!(bench.read(volume, block, 1).expect("reads"), expected);
    }
}

/// Damage in a segment that is cleaned: batches that prove themselves move, nothing else does, and
/// no damaged block is served from its new place.
#[test]
fn the_cleaner_moves_no_damage() {
    let (mut bench, volume, blocks) = full_of_holes(40);
    let used = |bench: &Bench, block| {
        let (location, _) = bench.store.index.lookup(volume, BlockIndex(block)).place?;
        Some(location.offset_bytes())
    };
    let damaged = [0, blocks / 2];
    for block in damaged {
        let offset = used(&bench, block).expect("mapped");
        bench.disk.damage(offset + 5, 1);
    }
    for round in 0..2 * blocks {
        let block = (round * 7919) % blocks;
        if !damaged.contains(&block) {
            let request = write_request(&bench, volume, block, 1);
            bench.call(request).expect("write");
        }
    }
    bench.run();
    assert!(bench.store.status().counters.corrupt_blocks > 0, "the cleaner met some");
    let mut bench = bench.crash().expect("recovers");
    bench.audit();
    for block in 0..blocks {
        let found = bench.read(volume, block, 1);
        if damaged.contains(&block) {
            assert_eq!(found.expect_err("damaged").kind(), ErrorKind::Corrupt);
        } else {
            assert_eq!(found.expect("reads"), bench.block(1, block).to_vec(), "block {block}");
        }
    }
}

#[test]
fn a_store_open_for_reading_takes_nothing() {
    let (bench, volume) = reopened(41);
    let mut disk = bench.disk;
    let pool = pool();
    let mut recovery = Recovery::new(pool.clone(), disk.bytes(), true);
    loop {
        let wave = recovery.poll_wave();
        if wave.is_empty() {
            break;
        }
        let results = wave.iter().map(|read| disk.read_now(&pool, *read)).collect();
        recovery.handle_wave(results).expect("recovers");
    }
    let store = recovery.finish(Nanos(0)).expect("opens");
    let before = disk.contents().to_vec();
    let (now, replies) = (Nanos(0), Vec::new());
    let mut bench = Bench { store, disk, pool, now, replies, next_token: 0 };
    assert!(bench.store.is_read_only());
    let write = write_request(&bench, volume, 0, 1);
    let create = Request::CreateVolume { name: "vm1".into(), size_bytes: 512 };
    for request in [write, create, Request::Checkpoint, Request::Barrier] {
        assert_eq!(refused(bench.call(request)), ErrorKind::Invalid);
    }
    let group = crate::units::GroupId(1);
    let appended = bench.store.append_entries(Nanos(0), 99, group, Vec::new());
    assert_eq!(appended.expect_err("refused").kind(), ErrorKind::Invalid);
    let expected = bench.block(64, 100).to_vec();
    assert_eq!(bench.read(volume, 100, 64).expect("reads"), expected);
    bench.run();
    assert_eq!(bench.store.poll_timeout(), None);
    assert!(bench.disk.contents() == before);
}

#[test]
fn what_waits_is_bounded_and_answered_in_order() {
    let mut bench = Bench::format(8 * STORE_MIN_BYTES, 42);
    let volume = bench.create("vm0", 1 << 20);
    bench.run();
    let mut writes = Vec::new();
    while !bench.store.is_full_of_requests() {
        let request = write_request(&bench, volume, writes.len() as u64 * 256, 256);
        writes.push(take(&mut bench, request));
    }
    let blocks = (writes.len() * 256) as u64;
    assert!(writes.len() * 256 * BLOCK_SIZE_BYTES >= QUEUED_MAX_BYTES);
    let barrier = take(&mut bench, Request::Barrier);
    let zero = Request::Zero { volume, first: BlockIndex(0), count: blocks, reserve: false };
    let zero = take(&mut bench, zero);
    let create = Request::CreateVolume { name: "vm1".into(), size_bytes: 512 };
    let create = take(&mut bench, create);
    bench.pump();
    bench.run();
    assert!(!bench.store.is_full_of_requests() && bench.store.is_idle());
    let order: Vec<u64> = bench.replies.iter().map(|reply| reply.token).collect();
    let at = |token: u64| order.iter().position(|answered| *answered == token).expect("answered");
    assert!(bench.replies.iter().all(|reply| reply.result.is_ok()));
    assert!(writes.iter().all(|write| at(*write) < at(barrier)));
    assert!(at(barrier) < at(zero) && at(zero) < at(create));
    assert!(bench.read(volume, blocks - 256, 256).expect("reads").iter().all(|byte| *byte == 0));
    bench.audit();
}
