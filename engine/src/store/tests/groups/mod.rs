//! Goal: a group's log keeps what it was told, and its volumes show exactly what was applied.
//! Method: short histories by hand; a naive model under random ones, with crashes, in `model`.

mod damage;
mod model;
mod refusals;
mod space;

use super::*;
use crate::error::ErrorKind;
use crate::store::{Change, GroupEntry, GroupRequest};
use crate::units::{GroupId, LogId};
use std::rc::Rc;

const G: GroupId = GroupId(7);
const V: VolumeId = VolumeId(VolumeId::GROUPS.0 + 3);
const VOLUME_BLOCKS: u64 = 600;

fn id(index: u64) -> LogId {
    LogId { term: 2, leader: 9, index }
}

fn create(volume: VolumeId) -> Change {
    Change::CreateVolume { volume, size_bytes: VOLUME_BLOCKS * BLOCK_SIZE_BYTES as u64 }
}

impl Bench {
    fn put(&self, volume: VolumeId, first: u64, blocks: usize, fill: u64) -> Change {
        Change::Write { volume, first: BlockIndex(first), data: self.block(blocks, fill) }
    }

    /// Appends entries; the token of the answer.
    fn append(&mut self, group: GroupId, entries: Vec<GroupEntry>) -> Result<u64> {
        self.next_token += 1;
        self.store.append_entries(self.now, self.next_token, group, entries)?;
        self.pump();
        Ok(self.next_token)
    }

    /// Appends one entry and waits until it is durable.
    fn append_one(&mut self, group: GroupId, id: LogId, head: &[u8], changes: Vec<Change>) {
        let entry = GroupEntry { id, head: head.to_vec(), changes };
        let token = self.append(group, vec![entry]).expect("appends");
        self.wait(token).expect("durable");
    }

    fn ask(&mut self, group: GroupId, request: GroupRequest) -> Result<Outcome> {
        self.call(Request::Group { group, request })
    }

    fn entry(&mut self, group: GroupId, index: u64) -> Result<Rc<GroupEntry>> {
        match self.ask(group, GroupRequest::Read(index))? {
            Outcome::Entry(entry) => Ok(entry),
            other => panic!("an entry: {other:?}"),
        }
    }
}

fn written(change: &Change) -> &[u8] {
    match change {
        Change::Write { data, .. } => data,
        other => panic!("a write: {other:?}"),
    }
}

#[test]
fn an_entry_counts_once_it_is_applied() {
    let mut bench = Bench::small(201);
    let changes = vec![create(V), bench.put(V, 5, 3, 11)];
    bench.append_one(G, id(1), b"first", changes);
    let head = vec![7; 5000];
    let changes = vec![bench.put(V, 6, 1, 12), bench.put(V, 100, 40, 13)];
    bench.append_one(G, id(2), &head, changes);
    assert_eq!(bench.store.group_volumes(G), []);
    assert!(bench.read(V, 5, 1).is_err());
    let state = bench.store.group_state(G);
    assert_eq!((state.first, state.last, state.durable), (Some(1), Some(id(2)), Some(id(2))));
    assert_eq!(state.applied, None);
    bench.store.apply_entries(G, 2, b"after two".to_vec()).expect("applies");
    assert_eq!(bench.store.group_volumes(G), [(V, VOLUME_BLOCKS * 4096)]);
    let expected = [bench.block(3, 11)[..4096].to_vec(), bench.block(1, 12).to_vec()].concat();
    assert_eq!(bench.read(V, 5, 2).expect("reads"), expected);
    let expected = bench.block(40, 13).to_vec();
    assert_eq!(bench.read(V, 100, 40).expect("reads"), expected);
    let state = bench.store.group_state(G);
    assert_eq!((state.applied, &state.applied_head[..]), (Some(id(2)), &b"after two"[..]));
    let entry = bench.entry(G, 2).expect("reads");
    assert_eq!((entry.id, &entry.head), (id(2), &head));
    assert_eq!(written(&entry.changes[1]), expected);
    bench.run();
    bench.audit();
    assert_eq!(bench.store.pending_blocks, 0);
}

#[test]
fn a_vote_is_the_newest_that_is_durable() {
    let mut bench = Bench::small(202);
    assert_eq!(bench.store.groups(), []);
    bench.ask(G, GroupRequest::Vote(b"one".to_vec())).expect("a vote");
    bench.ask(G, GroupRequest::Vote(vec![9; 64])).expect("a vote");
    let error = bench.ask(G, GroupRequest::Vote(vec![9; 65])).expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(bench.store.group_state(G).vote, vec![9; 64]);
    assert_eq!(bench.store.groups(), [G]);
}

/// Truncated and appended anew while the old entries are still on their way.
#[test]
fn truncation_takes_effect_at_once() {
    let mut bench = Bench::small(203);
    let changes = vec![create(V), bench.put(V, 0, 1, 1)];
    bench.append_one(G, id(1), b"", changes);
    let entry = |index, term, changes| GroupEntry {
        id: LogId { term, ..id(index) },
        head: vec![term as u8; 9],
        changes,
    };
    let old =
        vec![entry(2, 2, vec![bench.put(V, 1, 2, 20)]), entry(3, 2, vec![bench.put(V, 2, 2, 30)])];
    bench.append(G, old).expect("appends");
    let cut = bench.request(Request::Group { group: G, request: GroupRequest::Truncate(2) });
    assert_eq!(bench.store.group_state(G).last, Some(id(1)));
    let new = vec![entry(2, 3, vec![bench.put(V, 1, 1, 21)])];
    let token = bench.append(G, new).expect("appends");
    bench.wait(cut).expect("cut");
    bench.wait(token).expect("durable");
    assert_eq!(bench.store.group_id_at(G, 2), Some(LogId { term: 3, ..id(2) }));
    assert_eq!(bench.store.group_id_at(G, 3), None);
    assert!(bench.store.apply_entries(G, 3, Vec::new()).is_err());
    bench.store.apply_entries(G, 2, Vec::new()).expect("applies");
    let expected = [bench.block(1, 1).to_vec(), bench.block(1, 21).to_vec(), vec![0; 4096]];
    assert_eq!(bench.read(V, 0, 3).expect("reads"), expected.concat());
    let refused = bench.ask(G, GroupRequest::Truncate(2)).expect_err("applied");
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    bench.run();
    bench.audit();
    assert_eq!(bench.store.pending_blocks, 0);
}

/// A restart begins with the checkpoint's applied index and its volumes, and has every entry.
#[test]
fn a_restart_begins_with_the_checkpoint() {
    let mut bench = Bench::small(204);
    let changes = vec![create(V), bench.put(V, 0, 2, 1)];
    bench.append_one(G, id(1), b"", changes);
    let changes = vec![bench.put(V, 1, 20, 2)];
    bench.append_one(G, id(2), b"second", changes);
    bench.ask(G, GroupRequest::Vote(b"me".to_vec())).expect("a vote");
    bench.store.apply_entries(G, 1, b"one".to_vec()).expect("applies");
    bench.call(Request::Checkpoint).expect("a checkpoint");
    let changes = vec![bench.put(V, 2, 1, 3)];
    bench.append_one(G, id(3), &[3; 3000], changes);
    bench.store.apply_entries(G, 3, b"three".to_vec()).expect("applies");
    let before = bench.store.group_state(G);
    for _ in 0..2 {
        bench = bench.crash().expect("recovers");
        let state = bench.store.group_state(G);
        assert_eq!((state.applied, &state.applied_head[..]), (Some(id(1)), &b"one"[..]));
        assert_eq!((state.vote, state.last), (before.vote.clone(), before.last));
        assert_eq!((state.first, state.durable), (before.first, before.durable));
        let expected = bench.block(2, 1).to_vec();
        assert_eq!(bench.read(V, 0, 2).expect("reads"), expected);
        for index in 1..=3 {
            let entry = bench.entry(G, index).expect("reads");
            assert_eq!(entry.id, id(index));
        }
        bench.audit();
    }
    bench.store.apply_entries(G, 3, b"three".to_vec()).expect("applies again");
    let head = bench.block(1, 1).to_vec();
    let run = bench.block(20, 2).to_vec();
    let expected = [&head, &run[..4096], &bench.block(1, 3), &run[8192..]].concat();
    assert_eq!(bench.read(V, 0, 21).expect("reads"), expected);
    bench.ask(G, GroupRequest::Purge(id(2))).expect("gives up");
    let mut bench = bench.crash().expect("recovers");
    let state = bench.store.group_state(G);
    assert_eq!((state.purged, state.applied), (Some(id(2)), Some(id(3))));
    assert_eq!((state.first, state.last), (Some(3), Some(id(3))));
    assert_eq!(bench.entry(G, 2).expect_err("given up").kind(), ErrorKind::NotFound);
    assert_eq!(bench.read(V, 0, 21).expect("reads"), expected);
    bench.run();
    bench.audit();
}

/// One group, whichever it is, may keep more than others do.
#[test]
fn one_group_keeps_much_with_its_applied_index() {
    let (mut bench, other) = (Bench::small(206), GroupId(8));
    let head = |fill: u8, bytes: usize| vec![fill; bytes];
    let (much, too_much) = (1 << 20, (64 << 10) + 1);
    for group in [G, other] {
        bench.append_one(group, id(1), b"", Vec::new());
        bench.store.apply_entries(group, 1, head(0, 9)).expect("applies");
    }
    for fill in 1..20 {
        bench.store.apply_entries(G, 1, head(fill, much)).expect("keeps it");
        let error = bench.store.apply_entries(other, 1, head(fill, too_much));
        assert_eq!(error.expect_err("one keeps much").kind(), ErrorKind::Invalid);
        bench.store.apply_entries(other, 1, head(fill, too_much - 1)).expect("keeps it");
        bench.call(Request::Checkpoint).expect("a checkpoint");
        bench = bench.crash().expect("recovers");
        assert_eq!(bench.store.group_state(G).applied_head, head(fill, much));
        assert_eq!(bench.store.group_state(other).applied_head, head(fill, too_much - 1));
        bench.audit();
    }
    bench.store.apply_entries(G, 1, head(1, too_much - 1)).expect("keeps less");
    bench.store.apply_entries(other, 1, head(1, much)).expect("keeps much now");
}

/// An owner may count from 0: such a log is found again, by the log alone and by a checkpoint.
#[test]
fn a_log_may_begin_with_index_0() {
    let mut bench = Bench::small(205);
    let changes = vec![create(V), bench.put(V, 0, 2, 1)];
    bench.append_one(G, id(0), b"zero", changes);
    let mut bench = bench.crash().expect("recovers");
    let state = bench.store.group_state(G);
    assert_eq!((state.first, state.last, state.applied), (Some(0), Some(id(0)), None));
    assert_eq!(bench.entry(G, 0).expect("reads").head, b"zero");
    bench.ask(G, GroupRequest::Truncate(0)).expect("cut");
    let changes = vec![create(V), bench.put(V, 0, 2, 2)];
    bench.append_one(G, LogId { term: 3, ..id(0) }, b"again", changes);
    bench.store.apply_entries(G, 0, b"head".to_vec()).expect("applies");
    bench.call(Request::Checkpoint).expect("a checkpoint");
    let mut bench = bench.crash().expect("recovers");
    let first = LogId { term: 3, ..id(0) };
    let state = bench.store.group_state(G);
    assert_eq!((state.applied, state.saved, state.last), (Some(first), Some(first), Some(first)));
    let expected = bench.block(2, 2).to_vec();
    assert_eq!(bench.read(V, 0, 2).expect("reads"), expected);
    bench.ask(G, GroupRequest::Purge(first)).expect("gives up");
    bench.append_one(G, LogId { term: 3, ..id(1) }, b"", Vec::new());
    let bench = bench.crash().expect("recovers");
    let state = bench.store.group_state(G);
    assert_eq!((state.purged, state.first), (Some(first), Some(1)));
    bench.audit();
}

/// What an entry wrote that must not count is space again, and others are not touched.
#[test]
fn an_entry_that_is_skipped_changes_nothing() {
    let mut bench = Bench::small(205);
    let changes = vec![create(V), bench.put(V, 0, 2, 1)];
    bench.append_one(G, id(1), b"", changes);
    let changes = vec![
        bench.put(V, 1, 1, 2),
        Change::Zero { volume: V, first: BlockIndex(0), count: 1, reserve: true },
        Change::DeleteVolume { volume: V },
    ];
    bench.append_one(G, id(2), b"", changes);
    let changes = vec![bench.put(V, 2, 1, 3)];
    bench.append_one(G, id(3), b"", changes);
    bench.store.apply_entries_except(G, 3, &[2], Vec::new()).expect("applies");
    let expected = [bench.block(2, 1).to_vec(), bench.block(1, 3).to_vec()].concat();
    assert_eq!(bench.read(V, 0, 3).expect("reads"), expected);
    assert_eq!(bench.store.group_state(G).applied, Some(id(3)));
    bench.run();
    bench.audit();
    assert_eq!(bench.store.pending_blocks, 0);
    let entry = bench.entry(G, 2).expect("is retained");
    assert_eq!(written(&entry.changes[0]), &*bench.block(1, 2));
}
