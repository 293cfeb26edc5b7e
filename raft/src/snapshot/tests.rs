//! Goal: whatever point a crash hits, a member that takes in a snapshot is afterwards whole or
//! knows that it is not; what comes is checked.
//! Method: a group with a log and a volume of its own takes in another group's pieces, and the
//! power goes after each of its device operations.

use super::install::{Installer, settle};
use super::message::{Answer, Message, MessageError};
use super::pieces::Pieces;
use super::source::Source;
use crate::limits::SNAPSHOT_BUSY_PAUSE;
use crate::log_store::{Install, LogStore, Saved};
use crate::types::{Change, LogId, Vote, log_id};
use ashlar_engine::buffer::{BufferPool, PoolOptions};
use ashlar_engine::local::{LocalGroup, LocalStore};
use ashlar_engine::reactor::sim::{Crash, Stop, World, WorldOptions};
use ashlar_engine::reactor::{DeviceOptions, Reactor};
use ashlar_engine::store::GroupEntry;
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex, GroupId, LogId as EngineId, VolumeId};
use openraft::storage::RaftLogStorage;
use std::rc::Rc;
use std::time::Duration;

const STORE_BYTES: u64 = 64 << 20;
const GROUP: GroupId = GroupId(7);
const OLD: VolumeId = VolumeId(VolumeId::GROUPS.0 + 1);
const NEW: VolumeId = VolumeId(VolumeId::GROUPS.0 + 2);
const EMPTY: VolumeId = VolumeId(VolumeId::GROUPS.0 + 3);
const SIZE: u64 = 4 << 20;

fn last() -> LogId {
    log_id(5, 1000)
}

fn vote() -> Vote {
    Vote::new_committed(6, 2)
}

async fn open(reactor: &Reactor, disk: &str, make: bool) -> LocalGroup {
    let device = reactor.open_device(disk, &DeviceOptions::default()).expect("opens");
    let store = match make {
        true => LocalStore::create(reactor, device, STORE_BYTES).await,
        false => LocalStore::open(reactor, device, false).await,
    };
    store.expect("a store").group(GROUP)
}

fn write(group: &LocalGroup, volume: VolumeId, first: u64, blocks: usize, fill: u8) -> Change {
    let mut data = group.store().reactor().pool().allocate(blocks * BLOCK_SIZE_BYTES);
    data.fill(fill);
    Change::Write { volume, first: BlockIndex(first), data }
}

async fn append(group: &LocalGroup, changes: Vec<Change>) {
    let index = group.state().last.map_or(0, |last| last.index + 1);
    let id = EngineId { term: 1, leader: 0, index };
    let entry = GroupEntry { id, head: vec![1], changes };
    group.append(vec![entry]).expect("is taken").await.expect("is durable");
    group.apply(index, vec![1]).expect("is applied");
}

/// The group that is copied: data, reserved blocks and holes.
async fn fill_source(group: &LocalGroup) {
    append(group, vec![Change::CreateVolume { volume: NEW, size_bytes: SIZE }]).await;
    append(group, vec![Change::CreateVolume { volume: EMPTY, size_bytes: 4096 }]).await;
    for part in 0..3 {
        append(group, vec![write(group, NEW, part * 300, 250, part as u8 + 1)]).await;
    }
    append(group, vec![write(group, NEW, 931, 3, 9)]).await;
    let (volume, first) = (NEW, BlockIndex(100));
    append(group, vec![Change::Zero { volume, first, count: 30, reserve: true }]).await;
    append(group, vec![Change::Zero { volume, first, count: 10, reserve: false }]).await;
}

/// The group that is brought up, as it is before.
async fn fill_target(group: &LocalGroup) {
    let saved = Saved { vote: Some(Vote::new_committed(1, 1)), install: Install::Never };
    saved.save(group).await.expect("is saved");
    append(group, vec![Change::CreateVolume { volume: OLD, size_bytes: SIZE }]).await;
    append(group, vec![write(group, OLD, 0, 100, 77)]).await;
    let entry = GroupEntry {
        id: EngineId { term: 3, leader: 0, index: 2 },
        head: vec![9],
        changes: vec![write(group, OLD, 5, 1, 78)],
    };
    group.append(vec![entry]).expect("is taken").await.expect("is durable");
}

async fn copy(from: &LocalGroup, to: &LocalGroup) -> ashlar_engine::Result<()> {
    let installer = Installer::begin(to.clone(), vote(), last()).await?;
    let mut pieces = Pieces::new(from.clone(), Rc::default(), &from.volumes());
    let mut number = 0;
    while let Some(changes) = pieces.next().await.expect("can be read") {
        installer.take(number, changes).await?;
        number += 1;
    }
    assert!(installer.take(number + 1, Vec::new()).await.is_err(), "a piece is missing");
    assert!(installer.finish(number + 1, last(), vec![42]).await.is_err());
    installer.finish(number, last(), vec![42]).await
}

async fn contents(group: &LocalGroup, volume: VolumeId) -> Vec<(Vec<u8>, String)> {
    let read = group.volume(volume).expect("is there");
    let mut all = Vec::new();
    for part in 0..SIZE >> 20 {
        let parts = read.read(part << 20, 1 << 20).await.expect("reads");
        let bytes = parts.iter().flat_map(|part| part.iter().copied()).collect();
        all.push((bytes, format!("{:?}", read.block_status(part << 20, 1 << 20, 999))));
    }
    all
}

/// Checks a member that says that it is whole.
async fn check_whole(from: &LocalGroup, to: &LocalGroup) {
    settle(to).await.expect("settles");
    assert_eq!(to.state().applied_head, vec![42]);
    assert_eq!(to.volumes(), from.volumes());
    assert!(contents(to, NEW).await == contents(from, NEW).await, "other blocks");
    let mut log = LogStore::open(to.clone()).expect("a log");
    let state = log.get_log_state().await.expect("a state");
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(last()), Some(last())));
    assert_eq!((log.applied(), log.vote()), (Some(last()), Some(vote())));
    assert!(log.contains(last()) && log.contains(log_id(2, 3)) && !log.contains(log_id(5, 1001)));
}

#[test]
fn a_crash_leaves_a_whole_member_or_one_that_knows_it_is_none() {
    let (mut under, mut done) = (0, 0);
    let mut ops = 0;
    loop {
        let world = World::new(ops, WorldOptions::default());
        for disk in ["from", "to"] {
            world.create_disk(disk, STORE_BYTES);
        }
        let reactor = world.reactor();
        let (from, to) = reactor.block_on(async {
            let (from, to) = (open(&reactor, "from", true).await, open(&reactor, "to", true).await);
            fill_source(&from).await;
            fill_target(&to).await;
            (from, to)
        });
        let copied = world.run(&reactor, Stop::AfterDeviceOps(ops), copy(&from, &to));
        world.crash(Crash::PowerLoss);
        drop((from, to));
        reactor.shutdown();

        let reactor = world.reactor();
        reactor.block_on(async {
            let from = open(&reactor, "from", false).await;
            let index = from.state().last.expect("has entries").index;
            from.apply(index, vec![1]).expect("is applied again");
            let to = open(&reactor, "to", false).await;
            match Saved::load(&to).expect("is understood").install {
                Install::Never => {
                    assert!(copied.is_none());
                    assert_eq!(to.state().last.map(|id| id.index), Some(2));
                }
                Install::Under { upto } => {
                    assert_eq!(upto, last());
                    under += 1;
                    assert!(copied.is_none());
                    assert!(LogStore::open(to.clone()).is_err(), "there is no member");
                }
                Install::Done { .. } => {
                    done += 1;
                    check_whole(&from, &to).await;
                }
            }
            copy(&from, &to).await.expect("can be brought up again");
            check_whole(&from, &to).await;
        });
        reactor.shutdown();
        match copied {
            None => ops += 1 + ops / 8,
            Some(copied) => break copied.expect("nothing fails"),
        }
    }
    assert!(under > 5 && done > 0, "{under} {done}");
}

#[test]
fn what_a_snapshot_came_in_is_given_up() {
    let world = World::new(1, WorldOptions::default());
    for disk in ["from", "to"] {
        world.create_disk(disk, STORE_BYTES);
    }
    let reactor = world.reactor();
    reactor.block_on(async {
        let (from, to) = (open(&reactor, "from", true).await, open(&reactor, "to", true).await);
        fill_source(&from).await;
        fill_target(&to).await;
        copy(&from, &to).await.expect("is copied");
        check_whole(&from, &to).await;
        reactor.sleep(Duration::from_secs(1)).await;
        let state = to.state();
        assert_eq!(state.first, None, "nothing is retained: {state:?}");
        assert_eq!(state.purged, state.applied);
        check_whole(&from, &to).await;
    });
    reactor.shutdown();
}

#[test]
fn a_snapshot_waits_for_clients_until_the_entries_it_was_begun_with_are_given_up() {
    let world = World::new(1, WorldOptions::default());
    world.create_disk("from", STORE_BYTES);
    let reactor = world.reactor();
    reactor.block_on(async {
        let from = open(&reactor, "from", true).await;
        append(&from, vec![Change::CreateVolume { volume: NEW, size_bytes: SIZE }]).await;
        for at in 1..64 {
            append(&from, vec![write(&from, NEW, at, 1, 1)]).await;
        }
        let source = Source::new(from.clone(), Rc::default(), true);
        let sending = source.begin(2);
        assert!(source.is_sending() && source.sends_to(2) && !source.sends_to(3));
        let pieces = async || {
            source.touch();
            let start = reactor.now();
            for _ in 0..4 {
                sending.pace().await;
            }
            reactor.now().since(start)
        };
        assert_eq!(pieces().await, 4 * SNAPSHOT_BUSY_PAUSE);
        from.purge(from.id_at(7).expect("is there")).await.expect("is given up");
        append(&from, vec![write(&from, NEW, 0, 1, 2)]).await;
        assert_eq!(pieces().await, 4 * SNAPSHOT_BUSY_PAUSE, "most is still there");
        from.purge(from.id_at(8).expect("is there")).await.expect("is given up");
        assert_eq!(pieces().await, Duration::ZERO);
        drop(sending);
        assert!(!source.is_sending());
    });
    reactor.shutdown();
}

#[test]
fn messages_are_understood_as_they_were_meant() {
    let pool = BufferPool::new(PoolOptions::default());
    let mut data = pool.allocate(BLOCK_SIZE_BYTES);
    data.fill(3);
    let changes = vec![
        Change::CreateVolume { volume: NEW, size_bytes: SIZE },
        Change::Write { volume: NEW, first: BlockIndex(4), data },
        Change::Zero { volume: NEW, first: BlockIndex(9), count: 2, reserve: true },
    ];
    let messages = [
        Message::Begin { vote: vote(), last: last(), head: vec![4; 99] },
        Message::Piece { number: 8, changes: changes.into() },
        Message::End { pieces: 9 },
    ];
    for message in messages {
        let (head, payload) = message.encode(12, 34, &pool).expect("is small");
        for end in 0..head.len() {
            let cut = Message::decode(&head[..end], Vec::new());
            // What is kept with the applied index is any bytes.
            assert!(cut.is_err() || end >= 53, "{end}");
        }
        let (to, sending, again) = Message::decode(&head, payload).expect("is one");
        assert_eq!((to, sending), (12, 34));
        assert_eq!(format!("{again:?}"), format!("{message:?}"));
    }
    let deletion = vec![Change::DeleteVolume { volume: NEW }];
    let deletion = Message::Piece { number: 0, changes: deletion.into() };
    let (head, payload) = deletion.encode(1, 2, &pool).expect("is small");
    assert!(matches!(Message::decode(&head, payload), Err(MessageError::Change)));
    for answer in [Answer::Taken, Answer::Has, Answer::HigherVote(vote())] {
        assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
    }
    assert!(Answer::decode(&[1, 9]).is_err());
}
