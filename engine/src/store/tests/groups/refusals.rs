//! Goal: what a group cannot do is refused with a reason, and nothing is left of it; a log that
//! contradicts itself is not taken for a group's.
//! Method: every refusal once, by hand; records that no owner could have asked for, made durable
//! behind the store's back.

use super::*;
use crate::format::{Record, RecordKind};
use crate::limits::{ENTRY_CHANGES_MAX, GROUP_VOLUMES_MAX, group_entries_max};
use crate::store::Faulty;
use crate::store::log::{GroupRecords, Heat};
use crate::units::Location;

fn entry(index: u64, changes: Vec<Change>) -> GroupEntry {
    GroupEntry { id: id(index), head: Vec::new(), changes }
}

#[track_caller]
fn kind_of<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("refused").kind()
}

#[test]
fn a_group_that_was_never_used_has_nothing() {
    let mut bench = Bench::small(301);
    assert_eq!(kind_of(bench.entry(G, 1)), ErrorKind::NotFound);
    assert_eq!(kind_of(bench.store.apply_entries(G, 1, Vec::new())), ErrorKind::Invalid);
    assert_eq!(bench.store.group_id_at(G, 1), None);
    assert_eq!(bench.store.purge_wanted(G), None);
    assert_eq!(bench.store.group_state(G), Default::default());
}

#[test]
fn indexes_before_the_first_entry_are_not_there() {
    let mut bench = Bench::small(302);
    let changes = vec![create(V)];
    bench.append_one(G, id(1), b"", changes);
    assert_eq!(bench.store.purge_wanted(G), None, "nothing is applied");
    bench.store.apply_entries(G, 1, Vec::new()).expect("applies");
    bench.append_one(G, id(2), b"", Vec::new());
    bench.ask(G, GroupRequest::Purge(id(1))).expect("gives up");
    assert_eq!(kind_of(bench.entry(G, 1)), ErrorKind::NotFound);
    assert_eq!(kind_of(bench.entry(G, 0)), ErrorKind::NotFound);
    assert_eq!(kind_of(bench.entry(G, 9)), ErrorKind::NotFound);
}

#[test]
fn a_failed_store_refuses_entries_and_votes() {
    let mut bench = Bench::small(303);
    let changes = vec![create(V)];
    bench.append_one(G, id(1), b"", changes);
    bench.disk.fail_after = Some(bench.disk.writes);
    let changes = vec![bench.put(V, 0, 1, 1)];
    let token = bench.append(G, vec![entry(2, changes)]).expect("appends");
    assert_eq!(kind_of(bench.wait(token)), ErrorKind::Failed);
    assert_eq!(kind_of(bench.append(G, vec![entry(3, Vec::new())])), ErrorKind::Failed);
    assert_eq!(kind_of(bench.ask(G, GroupRequest::Vote(vec![1]))), ErrorKind::Failed);
    assert_eq!(kind_of(bench.ask(G, GroupRequest::Truncate(2))), ErrorKind::Failed);
}

#[test]
fn entries_that_cannot_be_are_refused() {
    let mut bench = Bench::small(304);
    let mut refused = |changes| kind_of(bench.append(G, vec![entry(1, changes)]));
    let pool = crate::buffer::BufferPool::new(Default::default());
    let part = Change::Write { volume: V, first: BlockIndex(0), data: pool.allocate(100) };
    assert_eq!(refused(vec![part]), ErrorKind::Invalid);
    let nothing = Change::Write { volume: V, first: BlockIndex(0), data: pool.allocate(0) };
    assert_eq!(refused(vec![nothing]), ErrorKind::Invalid);
    let reserve = |count| Change::Zero { volume: V, first: BlockIndex(0), count, reserve: true };
    assert_eq!(refused(vec![create(V), reserve(1 << 20)]), ErrorKind::NoSpace);
    // Little enough, were there space.
    let volume = bench.create("full", 1 << 20);
    let capacity = bench.store.capacity_blocks();
    bench.zero_reserved(volume, capacity - 100);
    let refused = bench.append(G, vec![entry(1, vec![create(V), reserve(101)])]);
    assert_eq!(kind_of(refused), ErrorKind::NoSpace);
    assert_eq!(bench.store.groups(), []);
}

#[test]
fn a_group_has_only_so_many_entries_and_volumes() {
    let mut bench = Bench::small(305);
    let most = group_entries_max(bench.store.segments.segment_blocks());
    let mut index = 0;
    while index < most as u64 {
        let some = (index + 1..=(index + 512).min(most as u64)).map(|i| entry(i, Vec::new()));
        let some: Vec<_> = some.collect();
        index += some.len() as u64;
        let token = bench.append(G, some).expect("appends");
        bench.wait(token).expect("durable");
    }
    assert_eq!(kind_of(bench.append(G, vec![entry(index + 1, Vec::new())])), ErrorKind::NoSpace);
    bench.store.apply_entries(G, index, Vec::new()).expect("applies");
    let wanted = bench.store.purge_wanted(G).expect("entries should be given up");
    bench.ask(G, GroupRequest::Purge(wanted)).expect("gives up");
    bench.append_one(G, id(index + 1), b"", Vec::new());
    bench.audit();

    let mut bench = Bench::small(306);
    let volume = |number: usize| Change::CreateVolume {
        volume: VolumeId(VolumeId::GROUPS.0 + number as u32),
        size_bytes: 512,
    };
    let mut index = 0;
    for first in (0..GROUP_VOLUMES_MAX).step_by(ENTRY_CHANGES_MAX) {
        index += 1;
        let end = (first + ENTRY_CHANGES_MAX).min(GROUP_VOLUMES_MAX);
        bench.append_one(G, id(index), b"", (first..end).map(volume).collect());
        bench.store.apply_entries(G, index, Vec::new()).expect("applies");
    }
    let one_more = vec![entry(index + 1, vec![volume(GROUP_VOLUMES_MAX)])];
    assert_eq!(kind_of(bench.append(G, one_more)), ErrorKind::NoSpace);
}

impl Bench {
    fn zero_reserved(&mut self, volume: VolumeId, count: u64) {
        let request = Request::Zero { volume, first: BlockIndex(0), count, reserve: true };
        self.call(request).expect("is reserved");
    }
}

/// Writes records of groups behind the store's back, and loses what it knows.
fn smuggled(mut bench: Bench, record: Record) -> Result<Bench> {
    let records = GroupRecords { records: vec![record], ..GroupRecords::default() };
    bench.store.log.push_group(Heat::Hot, records, None);
    bench.pump();
    while bench.disk.step().is_some() {}
    bench.crash()
}

fn record(kind: RecordKind, index: u64) -> Record {
    let plain = Record::plain(kind, VolumeId(0), BlockIndex(9), 0, Location(0));
    Record { group: G, term: 2, index, ..plain }
}

/// Three entries, of which one is applied in the checkpoint.
fn history(seed: u64) -> Bench {
    let mut bench = Bench::small(seed);
    let changes = vec![create(V)];
    bench.append_one(G, id(1), b"", changes);
    bench.append_one(G, id(2), b"", Vec::new());
    bench.store.apply_entries(G, 1, Vec::new()).expect("applies");
    bench.call(Request::Checkpoint).expect("a checkpoint");
    bench.append_one(G, id(3), b"", Vec::new());
    bench.run();
    bench
}

#[test]
fn a_log_that_contradicts_itself_is_refused() {
    for (name, record) in [
        ("it truncates what it had applied", record(RecordKind::Truncate, 1)),
        ("it has an index twice", record(RecordKind::Entry, 2)),
        ("it skips millions of entries", record(RecordKind::Entry, 1 << 40)),
    ] {
        let Err(error) = smuggled(history(307), record) else { panic!("{name}: opens") };
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
    }
    let bench = smuggled(history(308), record(RecordKind::Entry, 4)).expect("a sound one opens");
    assert_eq!(bench.store.group_state(G).last.map(|last| last.index), Some(4));
}

/// Entries that the log skips are known by their index, and never served.
#[test]
fn entries_that_are_missing_are_named() {
    let mut bench = smuggled(history(309), record(RecordKind::Entry, 6)).expect("opens");
    for _ in 0..2 {
        let lost = [4, 5].map(|index| Faulty { index, known: None });
        assert_eq!(bench.store.group_state(G).faulty, lost);
        assert_eq!(kind_of(bench.entry(G, 4)), ErrorKind::Corrupt);
        assert!(bench.entry(G, 6).is_ok());
        assert_eq!(kind_of(bench.store.apply_entries(G, 4, Vec::new())), ErrorKind::Corrupt);
        // A checkpoint keeps what is known of them.
        bench.call(Request::Checkpoint).expect("a checkpoint");
        bench = bench.crash().expect("recovers");
    }
}
