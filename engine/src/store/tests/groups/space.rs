//! Goal: entries keep their segments and give them back, and a store that they fill goes on once
//! they are given up.
//! Method: much more written than the store holds, with and without purges; what is refused.

use super::*;
use crate::store::log::Heat;

const STRETCH: u64 = 120;

/// Appends an entry that overwrites one of few stretches.
fn overwrite(bench: &mut Bench, index: u64) -> Result<u64> {
    let mut changes = vec![bench.put(V, (index % 4) * STRETCH, STRETCH as usize, index)];
    if index == 1 {
        changes.insert(0, create(V));
    }
    bench.append(G, vec![GroupEntry { id: id(index), head: Vec::new(), changes }])
}

fn check(bench: &mut Bench, last: u64) {
    for index in last - 3..=last {
        let expected = bench.block(STRETCH as usize, index).to_vec();
        let found = bench.read(V, (index % 4) * STRETCH, STRETCH as u32).expect("reads");
        assert!(found == expected, "stretch of entry {index}");
    }
}

#[test]
fn purges_that_are_wanted_keep_the_log_going() {
    let mut bench = Bench::small(221);
    let mut wanted = 0;
    for index in 1..=600 {
        let token = overwrite(&mut bench, index).expect("appends");
        bench.wait(token).expect("durable");
        bench.store.apply_entries(G, index, Vec::new()).expect("applies");
        if let Some(upto) = bench.store.purge_wanted(G) {
            wanted += 1;
            bench.ask(G, GroupRequest::Purge(upto)).expect("gives up");
        }
    }
    assert!(wanted > 0, "600 entries of half a megabyte fit into 64 MiB");
    bench.run();
    bench.audit();
    check(&mut bench, 600);
    let mut bench = bench.crash().expect("recovers");
    bench.store.apply_entries(G, 600, Vec::new()).expect("applies");
    check(&mut bench, 600);
    bench.audit();
}

/// Nobody purges: the log waits, votes with it, and nothing is lost; a purge ends that.
#[test]
fn a_log_full_of_entries_waits_for_a_purge() {
    let mut bench = Bench::small(222);
    let plain = bench.create("vm0", 100);
    let (mut applied, mut tokens) = (0, Vec::new());
    for index in 1..=160 {
        tokens.push(overwrite(&mut bench, index).expect("appends"));
        bench.run();
        let durable = bench.store.group_state(G).durable.map_or(0, |id| id.index);
        if durable > applied {
            bench.store.apply_entries(G, durable, Vec::new()).expect("applies");
            applied = durable;
        }
        if applied < index {
            break;
        }
    }
    let last = tokens.len() as u64;
    assert!(applied < last, "the log never waited");
    let data = bench.block(1, 77);
    let write = bench.request(Request::Write { volume: plain, first: BlockIndex(3), data });
    bench.run();
    assert!(bench.store.log.is_starved(&bench.store.segments));
    let upto = bench.store.purge_wanted(G).expect("a purge is wanted");
    bench.ask(G, GroupRequest::Purge(upto)).expect("a purge needs no room");
    bench.run();
    bench.wait(write).expect("the plain volume goes on");
    bench.wait(tokens[tokens.len() - 1]).expect("durable");
    bench.store.apply_entries(G, last, Vec::new()).expect("applies");
    check(&mut bench, last);
    bench.run();
    bench.audit();
    let bench = bench.crash().expect("recovers");
    assert_eq!(bench.store.group_state(G).purged, Some(upto));
    bench.audit();
}

/// A full store refuses entries that need new space; one that frees some goes on.
#[test]
fn a_full_store_takes_entries_that_free_space() {
    let mut bench = Bench::small(223);
    let capacity = bench.store.status().capacity_bytes / 4096;
    let size_bytes = 2 * capacity * BLOCK_SIZE_BYTES as u64;
    let created = Change::CreateVolume { volume: V, size_bytes };
    bench.append_one(G, id(1), b"", vec![created]);
    let (mut index, mut first) = (1, 0);
    let refused = loop {
        let changes = vec![bench.put(V, first, 200, index)];
        let entry = GroupEntry { id: id(index + 1), head: Vec::new(), changes };
        match bench.append(G, vec![entry]) {
            Ok(token) => drop(bench.wait(token).expect("durable")),
            Err(error) => break error,
        }
        (index, first) = (index + 1, first + 200);
        bench.store.apply_entries(G, index, Vec::new()).expect("applies");
        if let Some(upto) = bench.store.purge_wanted(G) {
            bench.ask(G, GroupRequest::Purge(upto)).expect("gives up");
        }
    };
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert!(first + 400 > capacity, "{first} of {capacity}");
    let zero = Change::Zero { volume: V, first: BlockIndex(0), count: 400, reserve: false };
    bench.append_one(G, id(index + 1), b"", vec![zero]);
    bench.store.apply_entries(G, index + 1, Vec::new()).expect("applies");
    let changes = vec![bench.put(V, first, 200, 5)];
    bench.append_one(G, id(index + 2), b"", changes);
    bench.store.apply_entries(G, index + 2, Vec::new()).expect("applies");
    let expected = bench.block(200, 5).to_vec();
    assert!(bench.read(V, first, 200).expect("reads") == expected);
    bench.append_one(G, id(index + 3), b"", vec![Change::DeleteVolume { volume: V }]);
    bench.store.apply_entries(G, index + 3, Vec::new()).expect("applies");
    bench.ask(G, GroupRequest::Purge(id(index + 3))).expect("gives up");
    bench.run();
    bench.audit();
    assert_eq!(bench.store.status().data_bytes, 0);
}

/// A volume of an id that was used before is empty, whatever older checkpoints hold of it.
#[test]
fn a_volume_created_anew_is_empty() {
    let mut bench = Bench::small(224);
    let changes = vec![create(V), bench.put(V, 0, 30, 1), bench.put(V, 520, 30, 2)];
    bench.append_one(G, id(1), b"", changes);
    let other = VolumeId(V.0 + 1);
    let changes = vec![create(other), bench.put(other, 0, 30, 3)];
    bench.append_one(G, id(2), b"", changes);
    bench.store.apply_entries(G, 2, Vec::new()).expect("applies");
    bench.call(Request::Checkpoint).expect("a checkpoint");
    let changes = vec![Change::DeleteVolume { volume: V }, create(V), bench.put(V, 3, 1, 9)];
    bench.append_one(G, id(3), b"", changes);
    bench.store.apply_entries(G, 3, Vec::new()).expect("applies");
    let expected = [vec![0; 3 * 4096], bench.block(1, 9).to_vec(), vec![0; 96 * 4096]].concat();
    for _ in 0..2 {
        bench.call(Request::Checkpoint).expect("a checkpoint");
        bench = bench.crash().expect("recovers");
        assert!(bench.read(V, 0, 100).expect("reads") == expected);
        assert!(bench.read(V, 500, 100).expect("reads").iter().all(|byte| *byte == 0));
        assert!(bench.read(other, 0, 30).expect("reads") == bench.block(30, 3).to_vec());
        bench.audit();
    }
}

/// A checkpoint is of the moment it began: of a volume that an entry deletes meanwhile it has all,
/// images it writes and images of checkpoints before, since that entry is applied again.
#[test]
fn a_checkpoint_has_volumes_that_are_deleted_meanwhile() {
    for is_saved in [false, true] {
        let mut bench = Bench::small(227);
        bench.append_one(G, id(1), b"", vec![create(V), bench.put(V, 0, 30, 1)]);
        bench.store.apply_entries(G, 1, Vec::new()).expect("applies");
        if is_saved {
            bench.call(Request::Checkpoint).expect("a checkpoint");
        }
        bench.append_one(G, id(2), b"", vec![Change::DeleteVolume { volume: V }]);
        let token = bench.request(Request::Checkpoint);
        bench.store.apply_entries(G, 2, Vec::new()).expect("applies");
        bench.wait(token).expect("a checkpoint");
        let mut bench = bench.crash().expect("recovers");
        assert_eq!(bench.store.group_state(G).applied, Some(id(1)));
        assert!(bench.read(V, 0, 30).expect("reads") == bench.block(30, 1).to_vec());
        bench.store.apply_entries(G, 2, Vec::new()).expect("applies again");
        bench.call(Request::Checkpoint).expect("a checkpoint");
        bench.run();
        bench.audit();
        assert_eq!(bench.store.status().data_bytes, 0);
    }
}

#[test]
fn what_a_group_refuses() {
    let mut bench = Bench::small(225);
    let plain = bench.create("vm0", 100);
    let changes = vec![create(V), bench.put(V, 0, 1, 1)];
    bench.append_one(G, id(1), b"", changes);
    let mut refused = |group, id, changes| {
        let entry = GroupEntry { id, head: Vec::new(), changes };
        bench.append(group, vec![entry]).expect_err("refused").kind()
    };
    assert_eq!(refused(G, id(1), vec![]), ErrorKind::Invalid, "an index twice");
    assert_eq!(refused(G, id(3), vec![]), ErrorKind::Invalid, "an index left out");
    assert_eq!(refused(GroupId(8), id(2), vec![]), ErrorKind::Invalid, "not the first index");
    assert_eq!(refused(GroupId(0), id(1), vec![]), ErrorKind::Invalid, "no group");
    let leader = LogId { leader: 1 << 63, ..id(2) };
    assert_eq!(refused(G, leader, vec![]), ErrorKind::Invalid, "a leader too high");
    let volume = Change::DeleteVolume { volume: plain };
    assert_eq!(refused(G, id(2), vec![volume]), ErrorKind::Invalid, "a plain volume");
    let sizes = [0, 513, (1 << 48) + 512];
    for size_bytes in sizes {
        let change = Change::CreateVolume { volume: V, size_bytes };
        assert_eq!(refused(G, id(2), vec![change]), ErrorKind::Invalid, "{size_bytes}");
    }
    let zero = |first, count| {
        vec![Change::Zero { volume: V, first: BlockIndex(first), count, reserve: true }]
    };
    assert_eq!(refused(G, id(2), zero(0, 0)), ErrorKind::Invalid);
    assert_eq!(refused(G, id(2), zero(u64::MAX, 2)), ErrorKind::Invalid);
    assert_eq!(refused(G, id(2), zero(0, 1 << 28)), ErrorKind::NoSpace);
    let long = bench.put(V, 0, 258, 1);
    let entry = GroupEntry { id: id(2), head: Vec::new(), changes: vec![long] };
    assert_eq!(bench.append(G, vec![entry]).expect_err("long").kind(), ErrorKind::Invalid);
    let entry = GroupEntry { id: id(2), head: vec![0; (64 << 10) + 1], changes: vec![] };
    assert_eq!(bench.append(G, vec![entry]).expect_err("a head").kind(), ErrorKind::Invalid);
    let invalid = |bench: &mut Bench, request| {
        assert_eq!(bench.ask(G, request).expect_err("refused").kind(), ErrorKind::Invalid);
    };
    invalid(&mut bench, GroupRequest::Purge(id(1)));
    assert!(bench.store.apply_entries(G, 2, Vec::new()).is_err());
    assert!(bench.store.apply_entries(G, 1, vec![0; (1 << 20) + 1]).is_err());
    bench.store.apply_entries(G, 1, Vec::new()).expect("applies");
    invalid(&mut bench, GroupRequest::Truncate(1));
    invalid(&mut bench, GroupRequest::Purge(LogId { term: 9, ..id(1) }));
    // A group's volume is read as any other, and changed by nothing but entries.
    let expected = bench.block(1, 1).to_vec();
    assert_eq!(bench.read(V, 0, 1).expect("reads"), expected);
    let data = bench.block(1, 2);
    assert_eq!(bench.write(V, 0, data).expect_err("refused").kind(), ErrorKind::Invalid);
    assert_eq!(bench.zero(V, 0, 1).expect_err("refused").kind(), ErrorKind::Invalid);
    let delete = bench.call(Request::DeleteVolume { volume: V });
    assert_eq!(delete.expect_err("refused").kind(), ErrorKind::Invalid);
    assert_eq!(bench.store.volumes().len(), 1, "it has no name to be found by");
    assert_eq!(bench.store.groups(), [G], "what is refused makes no group");
    let groups = crate::limits::groups_max(bench.store.segments.segment_blocks()) as u32;
    for group in 100..99 + groups {
        bench.ask(GroupId(group), GroupRequest::Vote(vec![1])).expect("a vote");
    }
    let one_more = bench.ask(GroupId(99), GroupRequest::Vote(vec![1]));
    assert_eq!(one_more.expect_err("refused").kind(), ErrorKind::NoSpace);
    bench.store.superblock.version = 1;
    invalid(&mut bench, GroupRequest::Vote(vec![1]));
}

/// The file system is full before a new store has its reserve: entries that write blocks wait, then
/// are refused, and with them what follows; the table is as if they had never been asked for.
#[test]
fn entries_are_refused_when_no_segment_can_be_had() {
    let mut bench = Bench::format(2 * STORE_MIN_BYTES, 226);
    bench.disk.full_from = Some(2 * (STORE_MIN_BYTES / 16));
    let entry = |index, term, head: &[u8], changes| GroupEntry {
        id: LogId { term, ..id(index) },
        head: head.to_vec(),
        changes,
    };
    let other = GroupId(8);
    let first = bench.append(G, vec![entry(1, 2, b"", vec![create(V)])]).expect("appends");
    // Data, then none; cut while both wait, then data again.
    let old = vec![entry(2, 2, b"", vec![bench.put(V, 1, 2, 20)]), entry(3, 2, b"short", vec![])];
    let old = bench.append(G, old).expect("appends");
    let cut = bench.request(Request::Group { group: G, request: GroupRequest::Truncate(3) });
    let new = bench.append(G, vec![entry(3, 3, b"", vec![])]).expect("appends");
    let long = bench.append(other, vec![entry(1, 2, &[1; 9000], vec![])]).expect("appends");
    let short = bench.append(GroupId(9), vec![entry(1, 2, b"short", vec![])]).expect("appends");
    assert_eq!(bench.store.group_state(G).last, Some(LogId { term: 3, ..id(3) }));
    assert!(bench.store.log.gathered_blocks(Heat::Hot) == 0, "data before the reserve");
    for token in [first, cut, short] {
        bench.wait(token).expect("needs no reserve");
    }
    for token in [old, new, long] {
        assert_eq!(bench.wait(token).expect_err("no segment").kind(), ErrorKind::NoSpace);
    }
    assert!(bench.store.is_idle() || bench.store.log.poll_timeout().is_some());
    assert_eq!((bench.store.pending_blocks, bench.store.waiting_bytes), (0, 0));
    assert_eq!(bench.store.groups(), [G, GroupId(9)]);
    assert_eq!(bench.store.group_state(G).last, Some(id(1)));
    assert_eq!(bench.entry(G, 2).expect_err("refused").kind(), ErrorKind::NotFound);
    bench.store.apply_entries(G, 1, Vec::new()).expect("applies");
    bench.ask(G, GroupRequest::Vote(b"me".to_vec())).expect("a vote");
    let change = bench.put(V, 0, 1, 1);
    let refused = bench.append(G, vec![entry(2, 4, b"", vec![change])]).expect_err("at once");
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    let refused = bench.append(G, vec![entry(2, 4, &[1; 9000], vec![])]).expect_err("at once");
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    let zero = Change::Zero { volume: V, first: BlockIndex(0), count: 40, reserve: false };
    bench.append_one(G, LogId { term: 4, ..id(2) }, b"", vec![zero]);
    bench.run();
    bench.audit();
    bench.disk.full_from = None;
    let mut bench = bench.crash().expect("recovers");
    let state = bench.store.group_state(G);
    assert_eq!((state.last, &state.vote[..]), (Some(LogId { term: 4, ..id(2) }), &b"me"[..]));
    let change = bench.put(V, 0, 1, 1);
    bench.append_one(G, LogId { term: 4, ..id(3) }, b"", vec![change]);
    bench.store.apply_entries(G, 3, Vec::new()).expect("applies");
    let expected = bench.block(1, 1).to_vec();
    assert_eq!(bench.read(V, 0, 1).expect("reads"), expected);
    bench.run();
    bench.audit();
}
