//! Goal: a volume of a store is an export like any other.
//! Method: the conformance suite, on a disk that ends its operations in many orders.

use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::sim::{DiskFaults, Latency, Stop, World, WorldOptions};
use ashlar_engine::reactor::{DeviceOptions, Reactor};
use ashlar_nbd_server::{Export, Exports, VolumeExport, VolumeExports, conformance};
use std::rc::Rc;
use std::time::Duration;

const SIZE: u64 = 64 << 20;
const SEEDS: u64 = 8;
const BLOCK: u64 = 4096;

/// A fresh volume of this size.
async fn volume(reactor: &Reactor, size_bytes: u64) -> ashlar_engine::Result<Rc<VolumeExport>> {
    let device = reactor.open_device("disk", &DeviceOptions::default())?;
    LocalStore::format(reactor, &*device, SIZE).await?;
    let store = LocalStore::open(reactor, device, false).await?;
    store.create_volume("a", size_bytes).await?;
    VolumeExports::new(store, false).open("a")
}

/// Runs this in a world of its own.
fn in_a_world<T>(seed: u64, run: impl AsyncFnOnce(&Reactor) -> T) -> T {
    let options = WorldOptions { shuffle_tasks: true, ..WorldOptions::default() };
    let world = World::new(seed, options);
    let disk = world.create_disk("disk", SIZE);
    let latency = Latency { spread_sixteenths: 40, ..Latency::around(Duration::from_micros(50)) };
    disk.set_faults(DiskFaults { latency, ..DiskFaults::default() });
    let reactor = world.reactor();
    let result = world.run(&reactor, Stop::Never, run(&reactor)).expect("runs to its end");
    reactor.shutdown();
    result
}

#[test]
fn volumes_conform() {
    for seed in 1..=SEEDS {
        in_a_world(seed, async |reactor| {
            let size = conformance::SIZE_MIN_BYTES + 512 * seed;
            let export = volume(reactor, size).await.expect("a volume");
            conformance::run(&*export, reactor.pool()).await;
        });
    }
}

/// Wherever a range begins, its status tells where data begins.
#[test]
fn status_is_exact_from_every_offset() {
    in_a_world(1, async |reactor| {
        let export = volume(reactor, 1 << 20).await.expect("a volume");
        let mut data = reactor.pool().allocate(BLOCK as usize);
        data.fill(1);
        export.write(2 * BLOCK, data).await.expect("write");
        for offset in (0..2 * BLOCK).step_by(511) {
            let found = export.block_status(offset, 5 * BLOCK, 9).await.expect("status");
            let found: Vec<_> = found.iter().map(|e| (e.length_bytes, e.hole)).collect();
            let rest = offset + 2 * BLOCK;
            assert_eq!(found, [(2 * BLOCK - offset, true), (BLOCK, false), (rest, true)]);
        }
    });
}
