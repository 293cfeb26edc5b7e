//! Goal: a node starts however much room its store has, and lacks.
//! Method: stores that were killed with every number of entries in them, in simulated worlds.

use super::super::Node;
use super::members::options;
use crate::control::PgId;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::sim::{Crash, World, WorldOptions};
use ashlar_engine::reactor::{BlockDevice, DeviceOptions, Reactor};
use ashlar_engine::store::{Change, GroupEntry};
use ashlar_engine::units::{BlockIndex, GroupId, LogId, VolumeId};
use std::rc::Rc;
use std::time::Duration;

const STORE_BYTES: u64 = 64 << 20;
const ENTRY_BYTES: usize = 1 << 20;
/// A member of this group is in the store, and no node of its own runs it.
const GROUP: GroupId = GroupId(7);
const VOLUME: VolumeId = VolumeId(VolumeId::GROUPS.0 + 7);
/// A store that is full of entries takes none: nobody gives any up.
const APPEND_MAX: Duration = Duration::from_secs(5);
const START_MAX: Duration = Duration::from_secs(60);

fn device(reactor: &Reactor) -> Rc<dyn BlockDevice> {
    reactor.open_device("disk", &DeviceOptions::default()).expect("opens")
}

/// Overwrites a volume with so many entries. False: there is no room for all.
async fn overwrite(store: &LocalStore, entries: u64) -> bool {
    let group = store.group(GROUP);
    for index in 0..entries {
        let mut data = store.reactor().pool().allocate(ENTRY_BYTES);
        data.fill(index as u8);
        let created = Change::CreateVolume { volume: VOLUME, size_bytes: 8 << 20 };
        let written = Change::Write { volume: VOLUME, first: BlockIndex(index % 8 * 256), data };
        let changes = if index == 0 { vec![created] } else { vec![written] };
        let entry = GroupEntry { id: LogId { term: 1, leader: 0, index }, head: vec![1], changes };
        let appended = group.append(vec![entry]).expect("is taken");
        match store.reactor().within(APPEND_MAX, appended).await {
            Some(durable) => durable.expect("is durable"),
            None => return false,
        }
        group.apply(index, vec![1]).expect("is applied");
    }
    true
}

#[test]
fn a_node_starts_with_any_number_of_entries() {
    for entries in 1.. {
        let world = World::new(entries, WorldOptions::default());
        world.create_disk("disk", STORE_BYTES);
        let reactor = world.reactor();
        let all = reactor.block_on(async {
            let store = LocalStore::create(&reactor, device(&reactor), STORE_BYTES).await;
            let node = Node::start(&reactor, store.expect("is made"), options()).await;
            let node = node.expect("starts");
            node.init("replicas=3".parse().expect("a policy")).await.expect("makes a cluster");
            node.shutdown().await;
            overwrite(node.store(), entries).await
        });
        world.crash(Crash::PowerLoss);
        reactor.shutdown();

        let reactor = world.reactor();
        reactor.block_on(async {
            let store = LocalStore::open(&reactor, device(&reactor), false).await.expect("opens");
            let starting = Node::start(&reactor, store, options());
            let started = reactor.within(START_MAX, starting).await;
            let node = started.unwrap_or_else(|| panic!("{entries} entries: it does not start"));
            let node = node.expect("starts");
            assert!(node.inner.replica(PgId::CONTROL).is_some(), "{:?}", node.troubles());
        });
        reactor.shutdown();
        if !all {
            assert!(entries > 20, "the store is full of {entries} entries");
            return;
        }
    }
}
