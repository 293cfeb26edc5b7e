//! Goal: retries are told from new writes, fenced writers change nothing, and what a group
//! remembers keeps its bounds and comes back from its bytes.
//! Method: short histories by hand; random ones against a naive model.

use ashlar_engine::units::VolumeId;
use ashlar_raft::limits::{
    APPLIED_MAX_BYTES, CONTROL_STATE_MAX_BYTES, EPOCHS_MAX, HEAD_MAX_BYTES, PROPOSALS_OPEN_MAX,
    PROPOSER_IDLE_ENTRIES, PROPOSERS_MAX,
};
use ashlar_raft::state_machine::AppliedHead;
use ashlar_raft::types::{Change, Outcome, Write};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn volume(number: u32) -> VolumeId {
    VolumeId(VolumeId::GROUPS.0 + number)
}

fn write(proposer: u64, serial: u64, epoch: u64, to: u32) -> Write {
    let change = Change::Zero {
        volume: volume(to),
        first: ashlar_engine::units::BlockIndex(0),
        count: 1,
        reserve: false,
    };
    Write { proposer, serial, epoch, changes: vec![change].into() }
}

const APPLIED: (Outcome, bool) = (Outcome::Done, true);
const RETRY: (Outcome, bool) = (Outcome::Done, false);

#[test]
fn a_write_is_applied_once_in_whatever_order_it_comes() {
    let mut head = AppliedHead::default();
    for serial in [5, 3, 4, 9] {
        assert_eq!(head.write(1, &write(1, serial, 0, 0)), APPLIED);
    }
    for serial in [5, 3, 4, 9] {
        assert_eq!(head.write(2, &write(1, serial, 0, 0)), RETRY);
    }
    assert_eq!(head.write(3, &write(1, 8, 0, 0)), APPLIED);
    assert_eq!(head.write(4, &write(2, 8, 0, 0)), APPLIED, "another proposer's numbers");
    // As far back as anything may be open, and not farther.
    let far = 9 + PROPOSALS_OPEN_MAX - 1;
    assert_eq!(head.write(5, &write(1, far, 0, 0)), APPLIED);
    assert_eq!(head.write(6, &write(1, 9, 0, 0)), RETRY);
    assert_eq!(head.write(7, &write(1, 10, 0, 0)), APPLIED);
    assert_eq!(head.write(8, &write(1, far + 1000, 0, 0)), APPLIED);
    assert_eq!(head.write(9, &write(1, far, 0, 0)), RETRY);
}

#[test]
fn an_older_writer_changes_nothing() {
    let mut head = AppliedHead::default();
    assert_eq!(head.write(1, &write(1, 1, 4, 0)), APPLIED);
    assert_eq!(head.epoch(volume(0)), 4);
    assert_eq!(head.fence(volume(0), 6), Outcome::Done);
    assert_eq!(head.fence(volume(0), 5), Outcome::Fenced { epoch: 6 });
    let before = head.clone();
    assert_eq!(head.write(2, &write(1, 2, 5, 0)), (Outcome::Fenced { epoch: 6 }, false));
    assert_eq!(head, before);
    assert_eq!(head.write(3, &write(1, 3, 5, 1)), APPLIED, "of another volume");
    // What was refused is not taken for a retry when its writer has the volume again.
    assert_eq!(head.write(4, &write(1, 2, 7, 0)), APPLIED);
    assert_eq!(head.epoch(volume(0)), 7);
    // A retry of what was done before the fence was done.
    assert_eq!(head.write(5, &write(1, 1, 4, 0)), RETRY);
    let delete = vec![Change::DeleteVolume { volume: volume(0) }].into();
    let delete = Write { proposer: 1, serial: 9, epoch: 7, changes: delete };
    assert_eq!(head.write(6, &delete), APPLIED);
    assert_eq!(head.epoch(volume(0)), 0, "a volume that is gone has no writer");
}

#[test]
fn one_fenced_volume_refuses_the_whole_write() {
    let mut head = AppliedHead::default();
    head.fence(volume(1), 9);
    let both = vec![
        Change::DeleteVolume { volume: volume(0) },
        Change::DeleteVolume { volume: volume(1) },
    ];
    let both = Write { proposer: 1, serial: 1, epoch: 8, changes: both.into() };
    assert_eq!(head.write(1, &both), (Outcome::Fenced { epoch: 9 }, false));
    assert_eq!(head.epoch(volume(0)), 0);
}

#[test]
fn a_full_memory_refuses_and_forgets_nobody_who_may_retry() {
    let mut head = AppliedHead::default();
    for proposer in 0..PROPOSERS_MAX as u64 {
        assert_eq!(head.write(10 + proposer, &write(proposer, 1, 0, 0)), APPLIED);
    }
    let new = PROPOSERS_MAX as u64;
    let idle = 10 + PROPOSER_IDLE_ENTRIES;
    let full = head.clone();
    assert_eq!(head.write(idle - 1, &write(new, 1, 0, 0)), (Outcome::Busy, false));
    assert_eq!(head, full);
    assert_eq!(head.write(idle, &write(new, 1, 0, 0)), APPLIED);
    assert_eq!(head.write(idle, &write(1, 1, 0, 0)), RETRY, "the second oldest is known yet");
    assert_eq!(head.write(idle, &write(new, 1, 0, 0)), RETRY);

    for number in 0..EPOCHS_MAX as u32 {
        assert_eq!(head.fence(volume(number), 3), Outcome::Done);
    }
    let more = EPOCHS_MAX as u32;
    assert_eq!(head.fence(volume(more), 3), Outcome::Busy);
    assert_eq!(head.write(idle, &write(new, 2, 3, more)), (Outcome::Busy, false));
    assert_eq!(head.write(idle, &write(new, 2, 3, 0)), APPLIED);

    assert!(head.encode().expect("keeps its bounds").len() <= HEAD_MAX_BYTES);
    head.control = vec![1; CONTROL_STATE_MAX_BYTES];
    let bytes = head.encode().expect("keeps its bounds");
    assert!(bytes.len() <= APPLIED_MAX_BYTES);
    assert_eq!(AppliedHead::decode(&bytes), Ok(head.clone()));
    head.control.push(1);
    head.encode().expect_err("is too large");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// No proposer opens a number before the one so far behind it is answered.
    #[test]
    fn no_write_is_applied_twice_and_none_is_lost(
        steps in vec((0_u64..3, 0..PROPOSALS_OPEN_MAX, any::<bool>()), 1..200),
    ) {
        let mut head = AppliedHead::default();
        let mut applied: [BTreeSet<u64>; 3] = Default::default();
        for (index, (proposer, ahead, saved)) in (0..).zip(steps) {
            let done = &mut applied[proposer as usize];
            // The oldest open number, and any number that may be open beside it.
            let oldest = (1..).find(|serial| !done.contains(serial)).expect("is one");
            let serial = oldest + ahead;
            let expected = if done.insert(serial) { APPLIED } else { RETRY };
            prop_assert_eq!(head.write(index, &write(proposer, serial, 0, 0)), expected);
            if saved {
                let bytes = head.encode().expect("keeps its bounds");
                let again = AppliedHead::decode(&bytes);
                prop_assert_eq!(again.as_ref(), Ok(&head));
                for len in (0..bytes.len()).step_by(1 + bytes.len() / 50) {
                    prop_assert!(AppliedHead::decode(&bytes[..len]).is_err());
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_head_or_one(rest in vec(0_u8..3, 0..120)) {
        let bytes = [&[1], rest.as_slice()].concat();
        if let Ok(head) = AppliedHead::decode(&bytes) {
            prop_assert_eq!(head.encode(), Ok(bytes));
        }
    }
}
