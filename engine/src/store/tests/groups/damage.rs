//! Goal: an entry that does not prove itself is named and never served, and its neighbours are.
//! Method: bytes of entries changed on the medium: in the tail, before the checkpoint, in payload,
//! in headers and in their copies.

use super::*;
use crate::store::group::Place;
use crate::store::{Faulty, GroupState};
use crate::units::Location;

/// Entries 1 to `count` with two blocks each and a head of `head` bytes, each in its own batch.
fn filled(seed: u64, count: u64, head: usize) -> Bench {
    let mut bench = Bench::small(seed);
    for index in 1..=count {
        let mut changes = vec![bench.put(V, index * 4, 2, index)];
        if index == 1 {
            changes.insert(0, create(V));
        }
        bench.append_one(G, id(index), &vec![index as u8; head], changes);
    }
    bench.run();
    bench
}

fn header_of(bench: &Bench, index: u64) -> Location {
    let group = bench.store.groups.by_id.get(&G).expect("the group");
    match group.entries.get(index).expect("an entry").place {
        Place::At { header, .. } => header,
        other => panic!("a place: {other:?}"),
    }
}

/// Damages a block behind an entry's header, and everything in memory is lost.
fn damaged(mut bench: Bench, index: u64, block: u32) -> Bench {
    let place = header_of(&bench, index).offset(block);
    bench.disk.damage(place.offset_bytes() + 100, 8);
    bench.crash().expect("recovers")
}

fn known(index: u64) -> Faulty {
    Faulty { index, known: Some(id(index)) }
}

#[track_caller]
fn kind_of<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("refused").kind()
}

/// What is left: the damaged one is neither read nor applied, all others are.
fn check_one_damaged(bench: &mut Bench, bad: u64, count: u64) {
    let GroupState { faulty, last, .. } = bench.store.group_state(G);
    assert_eq!((faulty, last), (vec![known(bad)], Some(id(count))));
    for index in 1..=count {
        match bench.entry(G, index) {
            Ok(entry) => assert_eq!((entry.id, index == bad), (id(index), false)),
            Err(error) => assert_eq!((error.kind(), index), (ErrorKind::Corrupt, bad)),
        }
    }
    bench.store.apply_entries(G, bad - 1, Vec::new()).expect("those before it");
    assert_eq!(kind_of(bench.store.apply_entries(G, count, Vec::new())), ErrorKind::Corrupt);
    assert_eq!(bench.store.group_state(G).applied, Some(id(bad - 1)));
    bench.run();
    bench.audit();
}

#[test]
fn a_damaged_entry_of_the_tail_is_named() {
    for block in [1, 2] {
        let mut bench = damaged(filled(211, 5, 20), 3, block);
        check_one_damaged(&mut bench, 3, 5);
        // A checkpoint keeps what is known of it.
        bench.call(Request::Checkpoint).expect("a checkpoint");
        let mut bench = bench.crash().expect("recovers");
        assert_eq!(bench.store.group_state(G).faulty, [known(3)]);
        assert_eq!(kind_of(bench.entry(G, 3)), ErrorKind::Corrupt);
    }
    // The head, where that is payload.
    let mut bench = damaged(filled(212, 4, 5000), 2, 2);
    check_one_damaged(&mut bench, 2, 4);
}

#[test]
fn a_damaged_entry_before_the_checkpoint_is_named() {
    let mut bench = filled(213, 5, 20);
    bench.store.apply_entries(G, 2, Vec::new()).expect("applies");
    bench.call(Request::Checkpoint).expect("a checkpoint");
    bench.run();
    let mut bench = damaged(bench, 4, 1);
    check_one_damaged(&mut bench, 4, 5);
    // One that is applied is found when it is read.
    let mut bench = damaged(bench, 1, 2);
    assert_eq!(bench.store.group_state(G).faulty, [known(4)]);
    assert_eq!(kind_of(bench.entry(G, 1)), ErrorKind::Corrupt);
    assert_eq!(bench.store.group_state(G).faulty, [known(1), known(4)]);
    assert_eq!(kind_of(bench.read(V, 4, 2)), ErrorKind::Corrupt);
    assert!(bench.read(V, 8, 2).is_ok());
}

/// What entry `index` of [`filled`] holds.
fn copy_of(bench: &Bench, index: u64, head: usize) -> GroupEntry {
    let mut changes = vec![bench.put(V, index * 4, 2, index)];
    if index == 1 {
        changes.insert(0, create(V));
    }
    GroupEntry { id: id(index), head: vec![index as u8; head], changes }
}

/// A damaged entry becomes what it was, of whichever block of it, and no other entry can be put in
/// its place.
#[test]
fn a_damaged_entry_is_written_anew_where_it_is() {
    for (block, head, applied) in
        [(1, 20, 0), (2, 20, 0), (1, 5000, 0), (2, 5000, 2), (4, 5000, 0), (1, 20, 5), (3, 5000, 5)]
    {
        let mut bench = filled(215, 5, head);
        bench.store.apply_entries(G, applied, Vec::new()).expect("applies");
        if applied > 0 {
            bench.call(Request::Checkpoint).expect("a checkpoint");
            bench.run();
        }
        let mut bench = damaged(bench, 3, block);
        // One that is applied is found when it is read.
        assert_eq!(kind_of(bench.entry(G, 3)), ErrorKind::Corrupt);
        assert_eq!(bench.store.group_state(G).faulty, [known(3)]);
        let mut other = copy_of(&bench, 3, head);
        other.changes = vec![bench.put(V, 12, 2, 77)];
        let refused = bench.ask(G, GroupRequest::Restore(other));
        assert_eq!(kind_of(refused), ErrorKind::Invalid, "other bytes");
        let other = GroupEntry { id: id(3), ..copy_of(&bench, 4, head) };
        assert_eq!(kind_of(bench.ask(G, GroupRequest::Restore(other))), ErrorKind::Invalid);
        let other = GroupEntry { id: LogId { term: 99, ..id(3) }, ..copy_of(&bench, 3, head) };
        assert_eq!(kind_of(bench.ask(G, GroupRequest::Restore(other))), ErrorKind::NotFound);
        for _ in 0..2 {
            let copy = copy_of(&bench, 3, head);
            bench.ask(G, GroupRequest::Restore(copy)).expect("is written anew");
        }
        assert_eq!(bench.store.group_state(G).faulty, []);
        let mut bench = bench.crash().expect("recovers");
        assert_eq!(bench.store.group_state(G).faulty, []);
        assert_eq!(bench.entry(G, 3).expect("sound").id, id(3));
        bench.store.apply_entries(G, 5, Vec::new()).expect("applies");
        let expected = bench.block(2, 3).to_vec();
        assert_eq!(bench.read(V, 12, 2).expect("reads"), expected);
        bench.audit();
    }
}

/// What is left of an entry: the blocks that prove themselves, those of its head first, whatever is
/// wrong with the others; with the rest from elsewhere it is whole again.
#[test]
fn what_is_left_of_a_damaged_entry_is_told_block_by_block() {
    for (head, bad, unreadable) in
        [(20, 0, false), (20, 1, true), (5000, 0, true), (5000, 1, false), (5000, 3, true)]
    {
        let mut bench = filled(217, 5, head);
        let salvage = |bench: &mut Bench| match bench.ask(G, GroupRequest::Salvage(3)) {
            Ok(Outcome::Salvaged(entry, sound)) => (entry, sound),
            other => panic!("{other:?}"),
        };
        let blocks = if head > 1000 { 4 } else { 2 };
        assert_eq!(salvage(&mut bench).1, vec![true; blocks], "from memory");
        let place = header_of(&bench, 3).offset(1 + bad);
        let mut bench = bench.crash().expect("recovers");
        assert_eq!(salvage(&mut bench).1, vec![true; blocks]);
        match unreadable {
            true => drop(bench.disk.unreadable.insert(place.0 as usize)),
            false => bench.disk.damage(place.offset_bytes() + 100, 8),
        }
        let (entry, sound) = salvage(&mut bench);
        let expected: Vec<bool> = (0..blocks).map(|block| block != bad as usize).collect();
        assert_eq!(sound, expected, "head {head}, block {bad}");
        let mut whole = copy_of(&bench, 3, head);
        let Change::Write { data, .. } = &entry.changes[0] else { panic!("{entry:?}") };
        let Change::Write { data: own, .. } = &mut whole.changes[0] else { panic!("{whole:?}") };
        for (i, sound) in sound[blocks - 2..].iter().enumerate() {
            let range = i * 4096..(i + 1) * 4096;
            let zeroes = vec![0; 4096];
            assert_eq!(data[range.clone()], if *sound { &own[range] } else { &zeroes }[..]);
        }
        bench.disk.unreadable.clear();
        assert!(bench.entry(G, 3).is_err() || unreadable);
        bench.ask(G, GroupRequest::Restore(whole)).expect("is whole again");
        assert_eq!(bench.entry(G, 3).expect("sound").head, vec![3; head]);
    }
    let mut bench = filled(218, 2, 20);
    assert_eq!(kind_of(bench.ask(G, GroupRequest::Salvage(9))), ErrorKind::NotFound);
}

/// What could not be read for a while is no damage for ever: who has no other copy has it again.
#[test]
fn an_entry_that_can_be_read_again_is_sound() {
    let mut bench = filled(216, 5, 20);
    let place = header_of(&bench, 3).offset(1).offset_bytes() as usize / 4096;
    bench.store.apply_entries(G, 5, Vec::new()).expect("applies");
    bench.call(Request::Checkpoint).expect("a checkpoint");
    let mut bench = bench.crash().expect("recovers");
    bench.disk.unreadable.insert(place);
    assert_eq!(kind_of(bench.entry(G, 3)), ErrorKind::Corrupt);
    bench.call(Request::Checkpoint).expect("a checkpoint");
    assert_eq!(bench.store.group_state(G).faulty, [known(3)]);
    bench.disk.unreadable.clear();
    let mut bench = bench.crash().expect("recovers");
    assert_eq!(bench.store.group_state(G).faulty, [known(3)]);
    assert_eq!(bench.entry(G, 3).expect("sound").id, id(3));
    assert_eq!(bench.store.group_state(G).faulty, []);
    let expected = bench.block(2, 3).to_vec();
    assert_eq!(bench.read(V, 12, 2).expect("reads"), expected);
    bench.audit();
}

/// A header has a copy in the batch behind it; without that too, the entry is known from the
/// checkpoint.
#[test]
fn an_entry_is_found_by_the_copy_of_its_table() {
    let mut bench = filled(214, 5, 20);
    bench.call(Request::Checkpoint).expect("a checkpoint");
    bench.run();
    let mut bench = damaged(bench, 3, 0);
    assert_eq!(bench.store.group_state(G).faulty, []);
    bench.store.apply_entries(G, 3, Vec::new()).expect("applies");
    assert!(bench.entry(G, 3).is_ok(), "by its table in memory");
    bench.call(Request::Checkpoint).expect("a checkpoint");
    let mut bench = bench.crash().expect("recovers");
    assert_eq!(bench.entry(G, 3).expect("by the copy").id, id(3));
    // The copy is in the header of entry 4, whose own copy is in that of entry 5.
    let mut bench = damaged(bench, 4, 0);
    assert_eq!(kind_of(bench.entry(G, 3)), ErrorKind::Corrupt);
    assert_eq!(bench.store.group_state(G).faulty, [known(3)]);
    assert!(bench.entry(G, 4).is_ok());
    let mut bench = damaged(bench, 5, 0);
    assert_eq!(bench.store.group_state(G).faulty, [known(4)]);
    assert_eq!(kind_of(bench.store.apply_entries(G, 4, Vec::new())), ErrorKind::Corrupt);
}

/// An entry whose batch was torn, and which was not acknowledged, was never there.
#[test]
fn a_torn_entry_is_simply_not_there() {
    let mut bench = filled(215, 3, 20);
    let entry = GroupEntry { id: id(4), head: vec![4; 20], changes: vec![bench.put(V, 0, 30, 4)] };
    bench.append(G, vec![entry]).expect("appends");
    assert_eq!(bench.store.group_state(G).last, Some(id(4)));
    assert_eq!(bench.entry(G, 4).expect("from memory").head, [4; 20]);
    let location = bench.disk.in_flight().find_map(|op| match op {
        crate::reactor::DeviceOp::Write { offset_bytes, sync: true, .. } => Some(*offset_bytes),
        _ => None,
    });
    bench.disk.crash();
    bench.disk.damage(location.expect("a batch in flight") + 8192, 4096);
    let mut bench = bench.crash().expect("recovers");
    let state = bench.store.group_state(G);
    assert_eq!((state.last, &state.faulty[..]), (Some(id(3)), &[][..]));
    bench.append_one(G, id(4), b"again", Vec::new());
    assert_eq!(bench.entry(G, 4).expect("reads").head, b"again");
}

/// A block behind a short header that cannot be read costs its own entry only.
#[test]
fn entries_before_an_unreadable_block_are_read() {
    let mut bench = Bench::small(217);
    let changes = vec![create(V)];
    bench.append_one(G, id(1), b"", changes);
    bench.append_one(G, id(2), b"blank", Vec::new());
    // One batch with a header of several blocks.
    let many = |index: u64| {
        let zero = |first| Change::Zero { volume: V, first, count: 1, reserve: false };
        let changes = (0..60).map(|i| zero(BlockIndex(2 * i))).collect();
        GroupEntry { id: id(index), head: vec![index as u8; 100], changes }
    };
    let token = bench.append(G, (3..=4).map(many).collect()).expect("appends");
    bench.wait(token).expect("durable");
    bench.append_one(G, id(5), &[8; 5000], Vec::new());
    bench.store.apply_entries(G, 5, Vec::new()).expect("applies");
    bench.call(Request::Checkpoint).expect("a checkpoint");
    bench.run();
    let last = header_of(&bench, 5);
    let mut bench = bench.crash().expect("recovers");
    assert_eq!(header_of(&bench, 4), header_of(&bench, 3), "one batch");
    // The header of entry 5's batch, and the payload behind it.
    bench.disk.unreadable = [0, 1].map(|i| last.offset(i).0 as usize).into();
    for index in [2, 3, 4] {
        assert!(bench.entry(G, index).is_ok(), "entry {index}");
    }
    assert_eq!(kind_of(bench.entry(G, 5)), ErrorKind::Corrupt);
    bench.disk.unreadable.clear();
    assert_eq!(bench.entry(G, 5).expect("reads again").head, [8; 5000]);
}
