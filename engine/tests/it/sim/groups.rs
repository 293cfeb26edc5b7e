//! Goal: a group over the local interface: what a call promises when it returns, and what a
//! refused or dropped one leaves.
//! Method: one life by hand, its end without a checkpoint, and the next life.

use super::{open, sim};
use ashlar_engine::ErrorKind;
use ashlar_engine::limits::STORE_MIN_BYTES;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::Reactor;
use ashlar_engine::reactor::sim::Crash;
use ashlar_engine::store::{Change, GroupEntry};
use ashlar_engine::units::{BlockIndex, GroupId, LogId, VolumeId};

const BLOCK: usize = 4096;
const GROUP: GroupId = GroupId(3);
const VOLUME: VolumeId = VolumeId(VolumeId::GROUPS.0 + 1);

fn id(index: u64) -> LogId {
    LogId { term: 1, leader: 2, index }
}

fn entry(reactor: &Reactor, index: u64) -> GroupEntry {
    let mut data = reactor.pool().allocate(2 * BLOCK);
    data.fill(index as u8);
    let mut changes = vec![Change::Write { volume: VOLUME, first: BlockIndex(index), data }];
    if index == 0 {
        let size_bytes = 64 * BLOCK as u64;
        changes.insert(0, Change::CreateVolume { volume: VOLUME, size_bytes });
    }
    GroupEntry { id: id(index), head: vec![index as u8; 20], changes }
}

async fn first_life(reactor: &Reactor) {
    let store = LocalStore::create(reactor, open(reactor), STORE_MIN_BYTES).await.expect("opens");
    let group = store.group(GROUP);
    assert!(store.groups().is_empty() && group.id() == GROUP);
    group.room().await.expect("room");
    let both = group.append(vec![entry(reactor, 0), entry(reactor, 1)]).expect("appends");
    let refused = group.append(vec![entry(reactor, 7)]).map(drop).expect_err("a gap");
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert_eq!(group.read(1).await.expect("before it is durable").head, [1; 20]);
    both.await.expect("durable");
    drop(group.append(vec![entry(reactor, 2)]).expect("appends"));
    group.save_vote(b"vote").await.expect("a vote");
    assert_eq!(group.state().durable, Some(id(2)), "a dropped call is carried out");
    group.truncate_after(Some(1)).await.expect("cut");
    assert_eq!((group.id_at(2), group.id_at(1)), (None, Some(id(1))));
    assert_eq!(group.volume(VOLUME).map(drop).expect_err("not yet").kind(), ErrorKind::NotFound);
    group.apply(1, b"head".to_vec()).expect("applies");
    let volume = group.volume(VOLUME).expect("it was created");
    let parts = volume.read(0, 3 * BLOCK).await.expect("reads");
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
    assert_eq!(bytes, [vec![0; BLOCK], vec![1; 2 * BLOCK]].concat());
    let refused = volume.write(0, reactor.pool().allocate(BLOCK)).await.expect_err("by entries");
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    group.purge(id(0)).await.expect("a checkpoint has it applied");
    assert!(group.state().saved >= Some(id(0)) && group.purge_wanted().is_none());
    assert_eq!(group.read(0).await.map(drop).expect_err("given up").kind(), ErrorKind::NotFound);
}

#[test]
fn a_group_lives_on_this_thread() {
    let (world, reactor) = sim(91);
    world.create_disk("disk", STORE_MIN_BYTES);
    reactor.block_on(first_life(&reactor));
    world.crash(Crash::PowerLoss);
    let pool = reactor.pool().clone();
    reactor.shutdown();
    assert_eq!(pool.in_use_bytes(), 0, "buffers leaked");
    let reactor = world.reactor();
    reactor.block_on(async {
        let store = LocalStore::open(&reactor, open(&reactor), false).await.expect("opens");
        let group = store.group(GROUP);
        let state = group.state();
        assert_eq!(store.groups(), [GROUP]);
        assert_eq!((state.vote, state.applied_head), (b"vote".to_vec(), b"head".to_vec()));
        assert_eq!((state.purged, state.applied), (Some(id(0)), Some(id(1))));
        assert_eq!((state.last, group.volumes()), (Some(id(1)), vec![(VOLUME, 64 * 4096)]));
        store.close().await.expect("closes");
        let refused = group.append(vec![entry(&reactor, 2)]).map(drop).expect_err("closed");
        assert_eq!(refused.kind(), ErrorKind::Closed);
    });
}
