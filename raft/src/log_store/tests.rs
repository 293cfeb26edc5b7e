//! Goal: what was appended counts as durable when it is, whatever came before and in which order.
//! Method: a store in a simulated world; the moment at which waiting ends, against the moment at
//! which the store says so.

use super::*;
use crate::limits::PROPOSAL_BLOCKS_MAX;
use crate::runtime::{Oneshot, ReactorRuntime};
use crate::types::{Change, Proposal, Write, log_id};
use ashlar_engine::limits::STORE_MIN_BYTES;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::sim::{Chance, Crash, Damage, DiskFaults, World, WorldOptions};
use ashlar_engine::reactor::{BlockDevice, DeviceOptions, Reactor};
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex, GroupId, VolumeId};
use openraft::EntryPayload;
use openraft_rt::Oneshot as _;

fn device(reactor: &Reactor) -> Rc<dyn BlockDevice> {
    reactor.open_device("disk", &DeviceOptions::default()).expect("opens")
}

/// A new store, and a log in it.
async fn new_log(reactor: &Reactor) -> (LocalStore, LogStore) {
    let store = LocalStore::create(reactor, device(reactor), STORE_MIN_BYTES).await;
    let store = store.expect("is made");
    let log = LogStore::open(store.group(GroupId(1))).expect("is not damaged");
    (store, log)
}

/// Runs a program with a log.
fn with_log<F: Future<Output = ()>>(seed: u64, run: impl FnOnce(Reactor, LogStore) -> F) {
    let world = World::new(seed, WorldOptions::default());
    world.create_disk("disk", STORE_MIN_BYTES);
    let reactor = world.reactor();
    let runtime = ReactorRuntime::on(&reactor, "node");
    reactor.block_on(runtime.enter(async {
        let (store, log) = new_log(&reactor).await;
        run(reactor.clone(), log).await;
        store.close().await.expect("closes");
    }));
    reactor.shutdown();
}

fn entries(term: u64, indexes: impl IntoIterator<Item = u64>) -> Vec<Entry> {
    indexes.into_iter().map(|index| Entry::new_blank(log_id(term, index))).collect()
}

/// An entry that has to be read from the device.
fn with_block(reactor: &Reactor, index: u64) -> Entry {
    let mut data = reactor.pool().allocate(BLOCK_SIZE_BYTES);
    data.fill(index as u8);
    let volume = VolumeId(VolumeId::GROUPS.0 + 1);
    let changes = vec![Change::Write { volume, first: BlockIndex(index), data }].into();
    let write = Write { proposer: 1, serial: index, epoch: 0, changes };
    Entry::new(log_id(1, index), EntryPayload::Normal(Proposal::Write(write)))
}

/// openraft 2026-07: what was on its way to the device when a part of the log was taken back says
/// nothing about the entries that have their places since.
#[test]
fn acks_from_before_a_log_reversion_do_not_count() {
    for seed in 0..20 {
        with_log(seed, |_, mut log| async move {
            log.append(entries(1, 1..=3), IOFlushed::noop()).await.expect("is taken");
            log.truncate_after(Some(log_id(1, 1))).await.expect("is taken back");
            let (sender, mut flushed) = Oneshot::channel();
            log.append(entries(2, 2..=3), IOFlushed::signal(sender)).await.expect("is taken");
            log.wait_durable(1).await.expect("was durable");
            log.wait_durable(3).await.expect("becomes durable");
            let told = flushed.try_recv().expect("not before the store says so");
            told.expect("is durable");
            assert_eq!(log.id_at(3), Some(log_id(2, 3)));
        });
    }
}

/// openraft #1960: flushes that are told in another order than that of the log lose nothing, and a
/// log that failed once makes no further progress.
#[test]
fn completions_out_of_order_lose_no_progress() {
    with_log(1, |reactor, log| async move {
        let soon = |index| {
            let (reactor, log) = (reactor.clone(), log.clone());
            async move { reactor.within(ROOM_PAUSE, log.wait_durable(index)).await }
        };
        log.inner.appended(5, 0, &Ok(()));
        log.inner.appended(3, 0, &Ok(()));
        assert!(matches!(soon(5).await, Some(Ok(()))));
        assert!(soon(6).await.is_none());
        log.inner.appended(6, 0, &Err(io::Error::other("is broken")));
        assert!(matches!(soon(5).await, Some(Ok(()))));
        assert!(matches!(soon(6).await, Some(Err(_))));
    });
}

/// What a volume is overwritten with as the largest proposals that there are.
fn with_blocks(reactor: &Reactor, index: u64) -> Entry {
    let mut data = reactor.pool().allocate(PROPOSAL_BLOCKS_MAX * BLOCK_SIZE_BYTES);
    data.fill(index as u8);
    let volume = VolumeId(VolumeId::GROUPS.0 + 1);
    let changes = vec![Change::Write { volume, first: BlockIndex(0), data }].into();
    let write = Write { proposer: 1, serial: index, epoch: 0, changes };
    Entry::new(log_id(1, index), EntryPayload::Normal(Proposal::Write(write)))
}

/// openraft gives up no entries while it appends, or follows and waits for what it appended: a log
/// without room that waited for that would wait for ever.
#[test]
fn a_log_without_room_gives_up_what_is_applied() {
    with_log(1, |reactor, mut log| async move {
        let entry_bytes = (PROPOSAL_BLOCKS_MAX * BLOCK_SIZE_BYTES) as u64;
        let count = 2 * STORE_MIN_BYTES / entry_bytes;
        let applies = log.clone();
        let applying = reactor.spawn(async move {
            for index in 1..=count {
                applies.wait_durable(index).await.expect("becomes durable");
                applies.apply_except(index, &[], Vec::new()).expect("applies");
            }
        });
        let appending = async {
            for index in 1..=count {
                let entry = with_blocks(&reactor, index);
                log.append([entry], IOFlushed::noop()).await.expect("is taken");
            }
        };
        let appended = reactor.within(Duration::from_secs(60), appending).await;
        appended.expect("does not wait for ever");
        // The last ones are taken and wait for room in turn.
        let applied = async {
            while log.applied().index() < Some(count) {
                log.relieve();
                reactor.sleep(ROOM_PAUSE).await;
            }
        };
        let applied = reactor.within(Duration::from_secs(60), applied).await;
        applied.expect("does not wait for ever");
        applying.await;
        let first = log.first().expect("keeps some");
        assert!(first > 1, "some are given up");
        let hole = log.limited_get_log_entries(1, count + 1).await.expect("is asked");
        assert!(hole.is_empty(), "nothing is sent with a hole before it");
        let kept = log.limited_get_log_entries(first, first + 1).await.expect("is asked");
        assert_eq!(kept.len(), 1);
    });
}

/// openraft #1795: an entry that cannot be read ends what is read with an error. A range that
/// merely ended before it would pass for the whole log, one behind it for a log with a hole.
#[test]
fn a_read_error_is_never_the_end_of_the_log() {
    let world = World::new(1, WorldOptions::default());
    let disk = world.create_disk("disk", STORE_MIN_BYTES);
    let reactor = world.reactor();
    reactor.block_on(async {
        let (store, mut log) = new_log(&reactor).await;
        for index in 1..=9 {
            let (sender, flushed) = Oneshot::channel();
            let entry = with_block(&reactor, index);
            log.append([entry], IOFlushed::signal(sender)).await.expect("is taken");
            flushed.await.expect("is told").expect("is durable");
        }
        drop(log);
        store.close().await.expect("closes");
    });
    reactor.shutdown();
    // Memory has forgotten them.
    let reactor = world.reactor();
    reactor.block_on(async {
        let store = LocalStore::open(&reactor, device(&reactor), false).await;
        let mut log = LogStore::open(store.expect("opens").group(GroupId(1))).expect("is sound");
        disk.set_faults(DiskFaults { read_error: Chance::ALWAYS, ..DiskFaults::default() });
        assert!(log.try_get_log_entries(2..5).await.is_err());
        assert!(log.limited_get_log_entries(2, 5).await.is_err());
        let stream = log.entries_stream(2..5).await;
        let streamed: Vec<_> = futures_util::StreamExt::collect(stream).await;
        assert!(streamed.len() == 1 && streamed[0].is_err(), "{streamed:?}");
        disk.set_faults(DiskFaults::default());
        assert_eq!(log.try_get_log_entries(2..5).await.expect("reads").len(), 3);
    });
    reactor.shutdown();
}

/// A member that votes on a hole has forgotten what it acknowledged: a damaged log is not opened.
#[test]
fn a_damaged_log_is_not_opened() {
    let world = World::new(1, WorldOptions::default());
    let disk = world.create_disk("disk", STORE_MIN_BYTES);
    let reactor = world.reactor();
    reactor.block_on(async {
        let (_store, mut log) = new_log(&reactor).await;
        let blocks = (1..=9).map(|index| with_block(&reactor, index));
        log.append(blocks.collect::<Vec<_>>(), IOFlushed::noop()).await.expect("is taken");
        log.wait_durable(9).await.expect("becomes durable");
        // Until the store has said in another place that all this was durable.
        reactor.sleep(Duration::from_secs(1)).await;
    });
    world.crash(Crash::Kill);
    reactor.shutdown();
    let mut bytes = vec![0; BLOCK_SIZE_BYTES];
    let blocks = (0..STORE_MIN_BYTES).step_by(BLOCK_SIZE_BYTES).filter(|at| {
        disk.read(*at, &mut bytes);
        bytes.iter().all(|byte| *byte == 5)
    });
    let found: Vec<u64> = blocks.collect();
    assert_eq!(found.len(), 1, "it is written once");
    disk.damage(found[0]..found[0] + 512, &Damage::FlipBit);
    let reactor = world.reactor();
    reactor.block_on(async {
        let store = LocalStore::open(&reactor, device(&reactor), false).await;
        let group = store.expect("opens").group(GroupId(1));
        let faulty = group.state().faulty;
        assert!(faulty.len() == 1 && faulty[0].known.is_some(), "{faulty:?}");
        let error = LogStore::open(group).expect_err("it has a hole");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    });
    reactor.shutdown();
}
