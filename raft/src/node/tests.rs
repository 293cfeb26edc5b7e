//! Goal: what nodes say to each other is understood as it was meant, and nothing else is.
//! Method: round trips, cut and changed bytes.

mod full;
mod members;
mod room;

use super::answer::{self, Fault, decode_extents, encode_extents};
use super::message::{EntryName, Message, Range};
use super::report::{Led, Report, Reports};
use crate::control::limits::CAUGHT_UP_ENTRIES;
use crate::control::{ClusterVolumeId, PgId, Step};
use crate::placement::{NodeId, StoreId};
use crate::types::{Change, Member, Membership, Proposal, StoredMembership, Write};
use ashlar_engine::buffer::{BufferPool, PoolOptions};
use ashlar_engine::local::Extent;
use ashlar_engine::store::Mapping;
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex, Nanos, VolumeId};
use ashlar_engine::{Error, ErrorKind};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const V: VolumeId = VolumeId(VolumeId::GROUPS.0 + 9);

fn write(pool: &BufferPool, blocks: &[usize]) -> Proposal {
    let mut changes = vec![Change::CreateVolume { volume: V, size_bytes: 1 << 20 }];
    for (i, count) in blocks.iter().enumerate() {
        let mut data = pool.allocate(count * BLOCK_SIZE_BYTES);
        data.fill(i as u8 + 1);
        changes.push(Change::Write { volume: V, first: BlockIndex(i as u64), data });
    }
    let zero = Change::Zero { volume: V, first: BlockIndex(7), count: 3, reserve: true };
    changes.push(zero);
    Proposal::Write(Write { proposer: 5, serial: 6, epoch: 7, changes: changes.into() })
}

fn messages(pool: &BufferPool) -> Vec<Message> {
    let member = Member::new(3, "10.0.0.1:7", "rack=a").expect("is short");
    let members = BTreeMap::from([(9, member)]);
    let membership = Membership::new(vec![BTreeSet::from([9])], members).expect("is possible");
    let step = Step::Promote { store: StoreId(4), instead_of: Some(StoreId(5)) };
    let range = Range { volume: V, first: BlockIndex(3), count: 200 };
    vec![
        Message::Propose(write(pool, &[1, 3, 2])),
        Message::Propose(write(pool, &[])),
        Message::Propose(Proposal::Fence { volume: V, epoch: 4 }),
        Message::Propose(Proposal::Control(vec![1, 2, 3])),
        Message::Read(range),
        Message::Extents(Range { count: u64::MAX, ..range }, 12),
        Message::Map { known: 99 },
        Message::Start(StoredMembership::new(None, membership)),
        Message::Perform { epoch: 3, step },
        Message::Settle { epoch: 4, step: Step::Remove { store: StoreId(8) } },
        Message::Lead { to: StoreId(2) },
        Message::Pull { to: StoreId(2), behind: 7 },
        Message::Heard,
        Message::Copy { range, applied: 12 },
        Message::Entry(EntryName { term: 3, index: 9 }),
        Message::Left(EntryName { term: 4, index: 8 }),
        Message::VolumeEpoch(ClusterVolumeId(12)),
    ]
}

#[test]
fn messages_are_understood_as_they_were_meant() {
    let pool = BufferPool::new(PoolOptions::default());
    for (message, same) in messages(&pool).into_iter().zip(messages(&pool)) {
        let (head, payload) = message.encode(&pool).expect("keeps its bounds");
        let decoded = Message::decode(&head, payload).expect("is a message");
        assert!(decoded == same, "{decoded:?} instead of {same:?}");
    }
}

#[test]
fn messages_cut_short_or_with_other_blocks_are_refused() {
    let pool = BufferPool::new(PoolOptions::default());
    for message in messages(&pool) {
        let (head, payload) = message.encode(&pool).expect("keeps its bounds");
        let copy = || {
            let part = payload.first().map(|part| {
                let mut copied = pool.allocate(part.len());
                copied.copy_from_slice(part);
                copied
            });
            part.into_iter().collect::<Vec<_>>()
        };
        for end in 0..head.len() {
            // A command is as long as its length says, and may end anywhere it says so.
            assert!(Message::decode(&head[..end], copy()).is_err(), "{head:?} cut at {end}");
        }
        let mut more = copy();
        more.push(pool.allocate(BLOCK_SIZE_BYTES));
        assert!(Message::decode(&head, more).is_err(), "{head:?} with more blocks");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        Message::decode(&bytes, Vec::new()).ok();
        Report::decode(&bytes).ok();
        answer::decode(&bytes).ok();
        if bytes.len() > 2 {
            bytes[0] = 1;
            for kind in 30..45 {
                bytes[1] = kind;
                Message::decode(&bytes, Vec::new()).ok();
                Report::decode(&bytes).ok();
            }
        }
    }
}

#[test]
fn answers_say_what_to_do() {
    assert_eq!(answer::decode(&answer::encode(Ok(vec![4, 5]))).expect("is done"), [4, 5]);
    for leader in [None, Some(StoreId(7))] {
        let bytes = answer::encode(Err(Fault::NotLeader(leader)));
        match answer::decode(&bytes) {
            Err(Fault::NotLeader(found)) => assert_eq!(found, leader),
            other => panic!("{other:?}"),
        }
    }
    let error = || Error::new(ErrorKind::NoSpace, "\u{e9}".repeat(600));
    match answer::decode(&answer::encode(Err(Fault::Refused(error())))) {
        Err(Fault::Refused(found)) => {
            assert_eq!(found.kind(), ErrorKind::NoSpace);
            assert!(error().to_string().starts_with(&found.to_string()));
        }
        other => panic!("{other:?}"),
    }
    let unknown = answer::encode(Err(Fault::Unknown(error())));
    assert!(matches!(answer::decode(&unknown), Err(Fault::Unknown(_))));
    assert!(matches!(answer::decode(&[]), Err(Fault::Unknown(_))));
}

#[test]
fn extents_are_told() {
    let extents = [Mapping::Hole, Mapping::Reserved, Mapping::Data]
        .map(|mapping| Extent { length_bytes: 4096, mapping });
    let bytes = encode_extents(&extents);
    assert_eq!(decode_extents(&bytes).expect("extents"), extents);
    assert!(decode_extents(&[]).is_err() && decode_extents(&bytes[..20]).is_err());
}

#[test]
fn the_newest_leader_counts_and_silence_is_seen() {
    let report = |node: u64, term: u64| Report {
        node: NodeId(node),
        map_epoch: 1,
        led: vec![Led {
            group: PgId(3),
            store: StoreId(node),
            term,
            applied: 9,
            lags: [(StoreId(1), Some(0)), (StoreId(2), None)].into(),
        }],
        gated: vec![(PgId(3), StoreId(1))],
    };
    let bytes = report(1, 5).encode();
    assert_eq!(Report::decode(&bytes).expect("a report"), report(1, 5));
    let mut reports = Reports::default();
    assert!(reports.take(Nanos(10), report(1, 5)));
    assert!(reports.take(Nanos(20), report(2, 4)));
    let with_lag = |lag| {
        let mut report = report(2, 4);
        report.led[0].lags.insert(StoreId(2), lag);
        report
    };
    // Only what a plan looks at is news.
    assert!(!reports.take(Nanos(20), with_lag(Some(CAUGHT_UP_ENTRIES + 1))));
    assert!(reports.take(Nanos(20), with_lag(Some(CAUGHT_UP_ENTRIES))));
    assert!(!reports.take(Nanos(20), with_lag(Some(0))));
    assert!(reports.take(Nanos(20), report(2, 4)));
    // One that is no node of the map does not count.
    reports.take(Nanos(20), report(9, 9));
    let nodes = || [1, 2, 3].map(NodeId).into_iter();
    // Another node hears of it later, and does not go back behind what it knows itself.
    let told = reports.tell(Nanos(40), 1 << 10);
    let mut others = Reports::default();
    others.take(Nanos(95), report(1, 6));
    others.hear(Nanos(100), &told).expect("reports");
    let health = others.health(Nanos(100), nodes());
    assert_eq!((health.nodes[&NodeId(1)], health.nodes[&NodeId(2)]), (Nanos(95), Nanos(80)));
    assert!(others.led().any(|led| led.term == 6));
    assert!((0..told.len()).all(|end| others.hear(Nanos(100), &told[..end]).is_err()));
    assert_eq!(Reports::default().tell(Nanos(1), 10), [1, 0, 0]);
    let health = reports.health(Nanos(30), nodes());
    assert_eq!(health.nodes[&NodeId(1)], Nanos(10));
    assert_eq!(health.nodes[&NodeId(3)], Nanos(30), "from when it was listened to");
    assert_eq!(reports.health(Nanos(40), nodes()).nodes[&NodeId(3)], Nanos(30));
    let group = &health.groups[&PgId(3)];
    assert_eq!(group.leader, Some(StoreId(1)));
    assert!(group.members[&StoreId(1)].gated && !group.members[&StoreId(2)].intact());
}
