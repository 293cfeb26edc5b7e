//! Goal: each judge sees what it is for, and nothing else. Method: histories made by hand.

use super::{atomic, linearizable, survives};
use crate::history::{Effect, Fate, History, OpId};
use crate::sector::{SECTOR_BYTES, encode_all};

const SECTORS: u64 = 4;

fn write(history: &mut History, fate: Fate) -> OpId {
    let id = history.begin(Effect::Write, 0..SECTORS, true);
    if fate != Fate::Pending {
        history.end(id, fate);
    }
    id
}

fn bytes(history: &History, values: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * SECTOR_BYTES];
    for (i, value) in values.iter().enumerate().filter(|(_, value)| **value != 0) {
        let sector = &mut bytes[i * SECTOR_BYTES..(i + 1) * SECTOR_BYTES];
        encode_all(history.volume, i as u64, 0, *value, sector);
    }
    bytes
}

/// Reads everything after the store is gone; says which invariants are broken.
fn read_all(history: &mut History, values: &[u64; 4]) -> Vec<&'static str> {
    history.stop();
    let begin = history.tick();
    let bytes = bytes(history, values);
    if let Err(violation) = history.seen(0, &bytes, begin) {
        return vec![violation.invariant];
    }
    let contents = values.map(Some);
    let mut found = linearizable::judge(history).0;
    found.extend(survives::judge(history, &contents));
    found.extend(atomic::judge(history, &contents));
    history.settle(&contents);
    let mut names: Vec<_> = found.iter().map(|violation| violation.invariant).collect();
    names.dedup();
    names
}

#[test]
fn acknowledged_writes_stay() {
    let mut history = History::new(1, SECTORS);
    write(&mut history, Fate::Done);
    write(&mut history, Fate::Done);
    assert_eq!(read_all(&mut history, &[2; 4]), [""; 0]);
    assert_eq!(read_all(&mut history, &[2; 4]), [""; 0]);
    let mut history = History::new(1, SECTORS);
    write(&mut history, Fate::Done);
    write(&mut history, Fate::Done);
    let lost = ["linearizable", "survives", "atomic"];
    assert_eq!(read_all(&mut history, &[2, 2, 1, 2]), lost);
    let mut history = History::new(1, SECTORS);
    write(&mut history, Fate::Done);
    assert_eq!(read_all(&mut history, &[0, 1, 1, 1]), lost);
}

#[test]
fn lost_answers_are_whole_or_absent() {
    for (values, broken) in [([1; 4], &[][..]), ([0; 4], &[]), ([1, 1, 0, 1], &["atomic"])] {
        let mut history = History::new(1, SECTORS);
        write(&mut history, Fate::Pending);
        assert_eq!(read_all(&mut history, &values), broken);
    }
}

#[test]
fn two_at_once_cannot_each_come_last() {
    for (values, broken) in [([1; 4], &[][..]), ([2; 4], &[]), ([1, 2, 1, 2], &["atomic"])] {
        let mut history = History::new(1, SECTORS);
        let one = write(&mut history, Fate::Pending);
        let two = write(&mut history, Fate::Pending);
        history.end(two, Fate::Done);
        history.end(one, Fate::Done);
        assert_eq!(read_all(&mut history, &values), broken);
    }
}

#[test]
fn zeroes_and_parts_of_requests_are_judged_too() {
    let mut history = History::new(1, SECTORS);
    write(&mut history, Fate::Done);
    let trim = history.begin(Effect::Zero, 1..3, true);
    history.end(trim, Fate::Done);
    assert_eq!(read_all(&mut history, &[1, 0, 0, 1]), [""; 0]);
    let trim = history.begin(Effect::Zero, 0..4, true);
    history.end(trim, Fate::Lost);
    assert_eq!(read_all(&mut history, &[0, 0, 0, 1]), ["atomic"]);
}

#[test]
fn foreign_bytes_are_found() {
    let mut history = History::new(1, SECTORS);
    write(&mut history, Fate::Refused);
    write(&mut history, Fate::Done);
    // Refused, never sent.
    assert_eq!(read_all(&mut history, &[2, 2, 2, 1]), ["foreign"]);
    assert_eq!(read_all(&mut history, &[2, 2, 2, 3]), ["foreign"]);
    let begin = history.tick();
    let moved = bytes(&history, &[2; 4]);
    assert!(history.seen(1, &moved[..SECTOR_BYTES], begin).is_err(), "another address");
    history.volume = 2;
    assert!(history.seen(0, &moved, begin).is_err(), "another volume");
    assert!(history.seen(0, &[9; SECTOR_BYTES], begin).is_err(), "no stamp");
}
