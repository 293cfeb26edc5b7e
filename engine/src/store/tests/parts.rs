//! Goal: what the parts of a store do at their bounds, and what requests are refused.
//! Method: each part alone where the store never leads it there, the store where it does.

use super::*;
use crate::error::ErrorKind;
use crate::limits::{
    REQUEST_BLOCKS_MAX, STORE_MAX_BYTES, VOLUME_MAX_BYTES, VOLUME_NAME_MAX_BYTES, VOLUMES_MAX,
};
use crate::store::cache::{ChecksumCache, Sums};
use crate::store::index::Index;
use crate::store::leaf::{Leaf, Run};
use crate::store::segments::{Segments, State};
use crate::store::volumes::Volumes;
use crate::store::{Mapping, Waiting};
use crate::units::{Location, SegmentId, SegmentSequence};

fn sums(at: u32) -> Sums {
    let checksums = vec![at; 100].into();
    Sums { sequence: SegmentSequence(1), payload: Location(at + 1), checksums }
}

#[test]
fn the_cache_keeps_to_its_bound_and_what_is_used() {
    let one = 100 * 4 + 80;
    let mut cache = ChecksumCache::new(4 * one);
    for at in 0..4 {
        cache.insert(Location(at * 1000), sums(at * 1000));
    }
    assert_eq!(cache.memory_bytes(), 4 * one);
    assert!(cache.get(Location(0), SegmentSequence(1)).is_some());
    assert!(cache.get(Location(0), SegmentSequence(2)).is_none(), "of another life");
    for at in 4..7 {
        cache.insert(Location(at * 1000), sums(at * 1000));
        cache.insert(Location(at * 1000), sums(at * 1000));
        assert_eq!(cache.memory_bytes(), 4 * one);
    }
    let kept: Vec<u32> =
        (0..7).filter(|at| cache.get(Location(at * 1000), SegmentSequence(1)).is_some()).collect();
    assert_eq!(kept, [0, 4, 5, 6], "the one that was used had a second chance");
    let table = sums(5000);
    assert_eq!(table.of(Location(5000)), None, "in front of the payload");
    assert_eq!((table.of(Location(5001)), table.of(Location(5100))), (Some(5000), Some(5000)));
    assert_eq!(table.of(Location(5101)), None, "behind the payload");
    let huge = Sums { checksums: vec![0; 1000].into(), ..sums(9000) };
    cache.insert(Location(9000), huge);
    assert!(cache.get(Location(9000), SegmentSequence(1)).is_none(), "it does not fit");
    assert_eq!(cache.memory_bytes(), 4 * one, "and displaces nothing that was used");
}

#[test]
fn an_unknown_volume_has_nothing() {
    let (unknown, block) = (VolumeId(9), BlockIndex(5));
    let mut index = Index::default();
    let freed = &mut |_, _| panic!("nothing was there");
    index.unmap(unknown, block, 100, freed);
    index.delete(unknown, freed, &mut |_| panic!("no chunk"));
    assert_eq!(index.load(unknown, 0, Leaf::default(), 1), None);
    assert!(!index.set_chunk(unknown, 0, 1));
    index.touch(1, &[(unknown, 0)]);
    assert_eq!((index.mapped_blocks(unknown), index.dirty_leaves()), (0, 0));
    assert!(index.lookup(unknown, block).place.is_none() && index.freeze().is_empty());
    // A known one has nothing behind what was mapped.
    index.create(unknown);
    let run = Run { location: Location(600), header: Location(599), checksums: &[7] };
    index.map(unknown, block, run, freed);
    assert!(index.lookup(unknown, block).place.is_some());
    assert!(index.lookup(unknown, BlockIndex(1 << 30)).place.is_none());
}

#[test]
fn segments_in_use_are_not_opened() {
    let mut segments = Segments::new(15, 1024);
    segments.set_prepared(2);
    segments.get_mut(SegmentId(0)).pins = 1;
    assert_eq!(segments.open(), Some(SegmentId(1)));
    assert_eq!((segments.open(), segments.free()), (None, 1));
    segments.get_mut(SegmentId(0)).pins = 0;
    assert_eq!(segments.open(), Some(SegmentId(0)));
    // Places outside of all segments (superblocks, reserved zeroes) are nobody's.
    for place in [Location(1), Location(511), Location(512 + 15 * 1024)] {
        assert_eq!(segments.of(place), None);
        segments.add_live(place, 3);
        segments.free_blocks(place, 4);
    }
    assert!(segments.iter().all(|(_, segment)| segment.live == 0));
}

/// While a read is under way in every free segment, the log waits; then it goes on.
#[test]
fn the_log_waits_for_reads_in_free_segments() {
    let mut bench = Bench::small(61);
    let volume = bench.create("vm0", 5000);
    bench.run();
    let pin = |bench: &mut Bench, pins| {
        for id in (0..bench.store.segments.count()).map(SegmentId) {
            if bench.store.segments.get(id).state == State::Free {
                bench.store.segments.get_mut(id).pins = pins;
            }
        }
    };
    let tokens: Vec<u64> = (0..20)
        .map(|i| {
            pin(&mut bench, 1);
            let (data, first) = (bench.block(200, i), BlockIndex(i * 200));
            bench.request(Request::Write { volume, first, data })
        })
        .collect();
    for _ in 0..200 {
        pin(&mut bench, 1);
        bench.step();
    }
    assert!(bench.replies.len() < tokens.len(), "the open segment is full");
    pin(&mut bench, 0);
    for (i, token) in tokens.into_iter().enumerate() {
        bench.wait(token).expect("a write");
        let expected = bench.block(200, i as u64).to_vec();
        assert_eq!(bench.read(volume, i as u64 * 200, 200).expect("reads"), expected);
    }
    bench.run();
    bench.audit();
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("refused").kind()
}

#[test]
fn volumes_are_bounded() {
    let mut volumes = Volumes::new(VolumeId(0));
    assert_eq!(refused(volumes.start_create("big", VOLUME_MAX_BYTES + 512)), ErrorKind::Invalid);
    let long = "n".repeat(VOLUME_NAME_MAX_BYTES + 1);
    assert_eq!(refused(volumes.start_create(&long, 512)), ErrorKind::Invalid);
    for i in 0..VOLUMES_MAX {
        let id = volumes.start_create(&format!("vm{i}"), VOLUME_MAX_BYTES).expect("room");
        assert_eq!(id, VolumeId(i as u32 + 1));
    }
    assert_eq!(refused(volumes.start_create("vm0", 512)), ErrorKind::Exists);
    assert_eq!(refused(volumes.start_create("more", 512)), ErrorKind::NoSpace);
    assert_eq!(refused(volumes.start_delete(VolumeId(1))), ErrorKind::NotFound);
}

#[test]
fn stores_are_bounded() {
    for bytes in [0, STORE_MIN_BYTES - 1, STORE_MAX_BYTES + 1, u64::MAX] {
        assert_eq!(refused(Geometry::for_size(bytes)), ErrorKind::Invalid);
    }
    for bytes in [STORE_MIN_BYTES, STORE_MIN_BYTES + 4095, 1 << 40, STORE_MAX_BYTES] {
        let geometry = Geometry::for_size(bytes).expect("a size");
        let blocks = u64::from(geometry.segments) * u64::from(geometry.segment_blocks);
        assert!((blocks + 512) * BLOCK_SIZE_BYTES as u64 <= bytes);
    }
}

#[test]
fn requests_of_a_wrong_size_are_refused() {
    let mut bench = Bench::small(62);
    let volume = bench.create("vm0", 5000);
    let most = REQUEST_BLOCKS_MAX as usize;
    for bytes in [0, 100, BLOCK_SIZE_BYTES + 512, (most + 1) * BLOCK_SIZE_BYTES] {
        let data = bench.pool.allocate(bytes);
        assert_eq!(refused(bench.write(volume, 0, data)), ErrorKind::Invalid, "{bytes} bytes");
    }
    assert_eq!(refused(bench.read(volume, 0, most as u32 + 1)), ErrorKind::Invalid);
    let data = bench.block(most, 3);
    bench.write(volume, 0, data).expect("the largest write");
    let expected = bench.block(most, 3).to_vec();
    assert_eq!(bench.read(volume, 0, most as u32).expect("the largest read"), expected);
    bench.zero(volume, 5, 0).expect("nothing to do");
    assert_eq!(bench.read(volume, 0, most as u32).expect("reads"), expected);
    bench.call(Request::DeleteVolume { volume }).expect("delete");
    assert_eq!(refused(bench.call(Request::DeleteVolume { volume })), ErrorKind::NotFound);
}

/// From its deletion's request on a volume takes nothing, though it is there until that is durable.
#[test]
fn a_volume_being_deleted_takes_nothing() {
    let mut bench = Bench::small(63);
    let volume = bench.create("vm0", 100);
    bench.run();
    let token = bench.request(Request::DeleteVolume { volume });
    let again = bench.request(Request::DeleteVolume { volume });
    let data = bench.block(1, 1);
    let write = bench.request(Request::Write { volume, first: BlockIndex(0), data });
    for late in [again, write] {
        assert_eq!(refused(bench.wait(late)), ErrorKind::NotFound);
    }
    assert!(bench.store.volume_by_name("vm0").is_none() && bench.store.volumes().is_empty());
    bench.wait(token).expect("delete");
}

#[test]
fn a_reservation_larger_than_the_store_is_refused() {
    let mut bench = Bench::small(64);
    let volume = bench.create("vm0", 1 << 20);
    let capacity = bench.store.status().capacity_bytes / 4096;
    let reserve =
        |first, count| Request::Zero { volume, first: BlockIndex(first), count, reserve: true };
    assert_eq!(refused(bench.call(reserve(0, capacity + 1))), ErrorKind::NoSpace);
    bench.call(reserve(0, capacity)).expect("all of it");
    assert_eq!(bench.store.status().reserved_bytes, capacity * 4096);
    assert_eq!(refused(bench.call(reserve(capacity, 1))), ErrorKind::NoSpace);
    let data = bench.block(1, 1);
    assert_eq!(refused(bench.write(volume, capacity, data)), ErrorKind::NoSpace);
    let data = bench.block(1, 1);
    bench.write(volume, 7, data).expect("it was reserved");
    let map =
        |bench: &Bench, first, count| bench.store.block_status(volume, BlockIndex(first), count);
    assert_eq!(map(&bench, 0, 100), (7, Mapping::Reserved));
    assert_eq!(map(&bench, 7, 100), (1, Mapping::Data));
    assert_eq!(map(&bench, 8, 100), (100, Mapping::Reserved));
    assert_eq!(map(&bench, capacity, 5000), (5000, Mapping::Hole));
    assert_eq!(map(&bench, 0, 0), (0, Mapping::Hole));
    bench.run();
    bench.audit();
}

#[test]
fn an_audit_names_what_does_not_add_up() {
    let mut bench = Bench::small(65);
    let volume = bench.create("vm0", 100);
    let data = bench.block(5, 1);
    bench.write(volume, 0, data).expect("write");
    bench.run();
    bench.audit();
    let (location, _) = bench.store.index.lookup(volume, BlockIndex(0)).place.expect("mapped");
    let id = bench.store.segments.of(location).expect("a segment");
    let segment = *bench.store.segments.get(id);
    bench.store.segments.add_live(location, 1);
    assert_eq!(bench.store.audit().len(), 1);
    assert!(bench.store.audit()[0].contains("6 live blocks counted, 5 found"));
    bench.store.segments.free_blocks(location, 1);
    assert_eq!(bench.store.segments.get(id).live, segment.live);
    bench.store.data_blocks += 1;
    assert!(bench.store.audit()[0].contains("6 blocks counted, 5 mapped"));
    bench.store.data_blocks -= 1;
    bench.store.segments.get_mut(id).state = State::Free;
    assert!(bench.store.audit()[0].contains("is free but 5 blocks are in it"));
    assert!(bench.store.low_water_segments() > 0);
}

#[test]
fn a_barrier_with_nothing_under_way_is_answered_at_once() {
    let mut bench = Bench::small(66);
    let volume = bench.create("vm0", 1000);
    bench.run();
    let token = bench.request(Request::Barrier);
    assert!(bench.replies.iter().any(|reply| reply.token == token && reply.result.is_ok()));
    let data = bench.block(1, 1);
    let write = bench.request(Request::Write { volume, first: BlockIndex(0), data });
    let barrier = bench.request(Request::Barrier);
    assert!(!bench.replies.iter().any(|reply| reply.token == barrier));
    bench.wait(barrier).expect("a barrier");
    assert!(bench.replies.iter().any(|reply| reply.token == write && reply.result.is_ok()));
}

/// The file system under the store is full while trims and deletions wait behind writes: the
/// writes are refused, the others are carried out.
#[test]
fn a_full_file_system_refuses_writes_only() {
    let mut bench = Bench::format(2 * STORE_MIN_BYTES, 67);
    bench.disk.full_from = Some(STORE_MIN_BYTES * 3 / 4);
    let volume = bench.create("vm0", 1 << 20);
    let mut writes = Vec::new();
    for i in 0..400u64 {
        let (data, first) = (bench.block(64, i), BlockIndex(i * 64));
        bench.next_token += 1;
        bench.store.handle_request(
            bench.now,
            bench.next_token,
            Request::Write { volume, first, data },
        );
        writes.push(bench.next_token);
    }
    let zero = Request::Zero { volume, first: BlockIndex(0), count: 64, reserve: false };
    bench.next_token += 1;
    bench.store.handle_request(bench.now, bench.next_token, zero);
    assert!(bench.store.waiting.iter().any(|waiting| matches!(waiting, Waiting::Record { .. })));
    let zero = bench.next_token;
    bench.pump();
    bench.wait(zero).expect("a trim");
    let results: Vec<_> = writes.into_iter().map(|token| bench.wait(token)).collect();
    let errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    assert!(errors.len() > 50, "{} refused", errors.len());
    assert!(errors.iter().all(|error| error.kind() == ErrorKind::NoSpace));
    bench.run();
    assert!(bench.store.status().device_full && bench.store.failed().is_none());
    // The file system has room again.
    bench.disk.full_from = None;
    bench.now = Nanos(bench.now.0 + 2_000_000_000);
    for i in 0..100 {
        let data = bench.block(64, i);
        bench.write(volume, (300 + i) * 64, data).ok();
        bench.run();
    }
    assert!(!bench.store.status().device_full);
    bench.audit();
}
