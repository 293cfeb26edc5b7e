//! Goal: what must come after something else comes after it.
//! Method: a look at what is in flight, and at who is answered first, whatever ends first.

use super::*;
use crate::format::SUPERBLOCK_LOCATIONS;
use crate::reactor::DeviceOp;
use crate::store::segments::Segments;
use crate::units::{Location, Lsn};

fn is_superblock(op: &&DeviceOp) -> bool {
    let DeviceOp::Write { offset_bytes, .. } = op else { return false };
    SUPERBLOCK_LOCATIONS.iter().any(|place| place.offset_bytes() == *offset_bytes)
}

#[test]
fn superblock_copies_are_written_one_after_the_other() {
    let mut bench = Bench::small(21);
    let volume = bench.create("vm0", 100);
    let data = bench.block(3, 1);
    bench.write(volume, 5, data).expect("write");
    let token = bench.request(Request::Checkpoint);
    let mut seen = 0;
    while !bench.replies.iter().any(|reply| reply.token == token) {
        let copies: Vec<_> = bench.disk.in_flight().filter(is_superblock).collect();
        assert!(copies.len() <= 1, "a crash may tear both");
        assert!(copies.iter().all(|op| matches!(op, DeviceOp::Write { sync: true, .. })));
        seen += copies.len();
        assert!(bench.step());
    }
    assert!(seen >= 2);
}

#[test]
fn a_barrier_covers_every_batch_in_flight() {
    let mut overlapped = 0;
    for seed in 1..60 {
        let mut bench = Bench::small(seed);
        let volume = bench.create("vm0", 1000);
        bench.run();
        let mut writes = Vec::new();
        for i in 0..3u64 {
            let data = bench.block(20, i);
            writes.push(bench.request(Request::Write { volume, first: BlockIndex(i * 20), data }));
        }
        let is_write = |op: &&DeviceOp| matches!(op, DeviceOp::Write { sync: true, .. });
        overlapped += usize::from(bench.disk.in_flight().filter(is_write).count() > 1);
        let barrier = bench.request(Request::Barrier);
        bench.wait(barrier).expect("a barrier");
        for token in writes {
            let done = bench.replies.iter().any(|reply| reply.token == token);
            assert!(done, "seed {seed}: the barrier overtook request {token}");
        }
    }
    assert!(overlapped > 0);
}

/// A batch that was whole behind one that was not is void for good, also where the log goes on.
/// With a checkpoint before it nothing is replayed, so that the new epoch writes no checkpoint of
/// its own: the void batch's number stays unused.
#[test]
fn what_was_cut_off_stays_cut_off() {
    for checkpoint in [false, true] {
        let cut: u32 = (1..60).map(|seed| u32::from(cut_off(seed, checkpoint))).sum();
        assert!(cut > 5, "{cut} cut");
    }
}

/// Whether something was cut off.
fn cut_off(seed: u64, checkpoint: bool) -> bool {
    let mut bench = Bench::small(seed);
    let volume = bench.create("vm0", 1000);
    if checkpoint {
        bench.call(Request::Checkpoint).expect("checkpoint");
    }
    bench.run();
    bench.replies.clear();
    for first in [0, 100] {
        let data = bench.block(20, first);
        bench.request(Request::Write { volume, first: BlockIndex(first), data });
    }
    bench.step();
    if bench.disk.in_flight().count() == 0 || !bench.replies.is_empty() {
        return false;
    }
    bench = bench.crash().expect("recovers");
    let before = bench.read(volume, 100, 20).expect("reads");
    let is_cut = before.iter().all(|byte| *byte == 0);
    let data = bench.block(1, 7);
    let written = data.to_vec();
    bench.write(volume, 300, data).expect("write");
    bench = bench.crash().expect("recovers again");
    assert!(bench.read(volume, 100, 20).expect("reads") == before, "seed {seed}: it came back");
    assert!(bench.read(volume, 300, 1).expect("reads") == written, "seed {seed}: it is gone");
    is_cut
}

/// Also of lives that began after the checkpoint.
#[test]
fn lives_are_never_numbered_twice() {
    let lives = |bench: &Bench| -> Vec<_> {
        bench.store.segments.iter().map(|(_, segment)| segment.sequence).collect()
    };
    let mut bench = Bench::small(24);
    let volume = bench.create("vm0", 4000);
    bench.call(Request::Checkpoint).expect("checkpoint");
    let known = lives(&bench).into_iter().max();
    for first in (0..2000).step_by(250) {
        let data = bench.block(250, first);
        bench.write(volume, first, data).expect("write");
    }
    let mut bench = bench.crash().expect("recovers");
    let before = lives(&bench);
    let newest = before.iter().copied().max();
    assert!(newest > known, "none began after the checkpoint");
    let data = bench.block(250, 1);
    bench.write(volume, 3000, data).expect("write");
    let after = lives(&bench);
    let mut new = after.iter().zip(&before).filter(|(after, before)| after != before).peekable();
    assert!(new.peek().is_some(), "no segment was opened");
    assert!(new.all(|(after, _)| Some(*after) > newest), "{before:?}, then {after:?}");
}

/// A sync that fails may have lost anything, whatever it was for.
#[test]
fn a_failed_sync_fences_the_store() {
    let mut bench = Bench::small(22);
    bench.disk.syncs_fail = true;
    bench.pump();
    bench.run();
    assert!(bench.store.failed().is_some(), "segments were prepared meanwhile");
    let create = Request::CreateVolume { name: "vm0".into(), size_bytes: 4096 };
    assert!(bench.call(create).is_err());
    let barrier = bench.request(Request::Barrier);
    assert!(bench.wait(barrier).is_err());
}

/// A restart replays what is later than the durable checkpoint, so no segment with such a batch is
/// written again, also if nothing in it lives.
#[test]
fn empty_segments_wait_for_a_checkpoint_that_describes_them() {
    let mut segments = Segments::new(20, 1024);
    segments.set_prepared(1);
    let id = segments.open().expect("it is free");
    segments.get_mut(id).last = Lsn(7);
    segments.seal(id, Lsn(7));
    assert_eq!((segments.free(), segments.empty()), (0, 1));
    segments.release(Lsn(6));
    assert_eq!((segments.free(), segments.empty()), (0, 1));
    segments.release(Lsn(7));
    assert_eq!((segments.free(), segments.empty()), (1, 0));
}

/// Until both superblocks name the new root, a crash may still need the old one.
#[test]
fn the_last_root_lives_until_the_superblocks_name_the_next() {
    let mut bench = Bench::small(25);
    bench.create("vm0", 100);
    bench.call(Request::Checkpoint).expect("checkpoint");
    // No leaf of the index changes: the root is all that the next checkpoint replaces.
    bench.create("vm1", 100);
    bench.run();
    let live = |bench: &Bench| -> u32 { bench.store.segments.iter().map(|(_, s)| s.live).sum() };
    let root_blocks = bench.store.superblock.root_blocks;
    let token = bench.request(Request::Checkpoint);
    let mut meanwhile = Vec::new();
    while !bench.replies.iter().any(|reply| reply.token == token) {
        let is_named = bench.disk.in_flight().any(|op| is_superblock(&op));
        meanwhile.extend(is_named.then(|| live(&bench)));
        assert!(bench.step());
    }
    assert_eq!(meanwhile, [live(&bench) + 2 * root_blocks; 2]);
}

/// A block that was read belongs to the life its segment had then, also if another block of the
/// same read comes so late that the segment is in its next life.
#[test]
fn a_read_outlives_a_segment_that_it_needs_no_more() {
    let mut bench = Bench::small(25);
    let volume = bench.create("vm0", 4000);
    let first = bench.block(1, 1);
    let mut expected = first.to_vec();
    bench.write(volume, 0, first).expect("write");
    for i in 0..40 {
        let data = bench.block(250, i);
        bench.write(volume, 1000 + i % 4 * 250, data).expect("write");
    }
    let second = bench.block(1, 2);
    expected.extend_from_slice(&second);
    bench.write(volume, 1, second).expect("write");
    bench.run();
    bench.replies.clear();
    let token = bench.request(Request::Read { volume, first: BlockIndex(0), count: 2 });
    let places: Vec<u64> = bench.disk.in_flight().filter_map(read_from).collect();
    let [early, late] = places[..] else { panic!("two places, not {places:?}") };
    bench.disk.stalled_at = Some(late);
    bench.run();
    let location = Location((early / BLOCK_SIZE_BYTES as u64) as u32);
    let life = bench.store.sequence_of(location);
    for i in 0..200 {
        let data = bench.block(250, i);
        bench.write(volume, i % 4 * 250, data).expect("write");
        if i % 10 == 0 {
            bench.call(Request::Checkpoint).expect("checkpoint");
        }
    }
    bench.run();
    assert_ne!(bench.store.sequence_of(location), life, "the segment was not used again");
    bench.replies.clear();
    bench.disk.stalled_at = None;
    assert!(bench.step());
    let reply = bench.replies.pop().expect("answered without another look at the device");
    let Ok(Outcome::Read(parts)) = reply.result else { panic!("{reply:?}") };
    assert_eq!(reply.token, token);
    assert!(parts.iter().flat_map(|part| part.to_vec()).collect::<Vec<u8>>() == expected);
}

fn read_from(op: &DeviceOp) -> Option<u64> {
    let DeviceOp::Read { offset_bytes, .. } = op else { return None };
    Some(*offset_bytes)
}
