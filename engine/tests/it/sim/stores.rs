//! Goal: a whole store lives in a world: what it acknowledged is there after a loss of power.
//! Method: a few tasks write blocks that say who wrote them; the power goes at some point; the
//! store is opened again and every block is at its acknowledged version or one that was open.

use super::{open, world};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::limits::STORE_MIN_BYTES;
use ashlar_engine::local::{LocalStore, LocalVolume};
use ashlar_engine::reactor::Reactor;
use ashlar_engine::reactor::sim::{Crash, Stop, World, WorldOptions};
use std::cell::RefCell;
use std::rc::Rc;

const BLOCK: usize = 4096;
const BLOCKS: u64 = 240;
const TASKS: u64 = 4;
const SEEDS: u64 = 300;

/// Per block: the version acknowledged last, and the newest that was begun.
type Model = Rc<RefCell<Vec<(u64, u64)>>>;

async fn open_store(reactor: &Reactor) -> LocalStore {
    LocalStore::open(reactor, open(reactor), false).await.expect("opens")
}

fn stamped(reactor: &Reactor, block: u64, count: u64, version: u64) -> Buffer {
    let mut buffer = reactor.pool().allocate(count as usize * BLOCK);
    for (at, bytes) in (block..).zip(buffer.chunks_exact_mut(BLOCK)) {
        bytes.fill(version as u8);
        bytes[..8].copy_from_slice(&version.to_le_bytes());
        bytes[8..16].copy_from_slice(&at.to_le_bytes());
    }
    buffer
}

/// One writer; its blocks are its own.
async fn work(volume: LocalVolume, world: World, model: Model, task: u64) {
    let reactor = volume.store().reactor().clone();
    let mut random = world.random(&format!("work {task} at {}", world.now().0));
    let own = BLOCKS / TASKS;
    loop {
        let count = 1 + random.below(20);
        let first = task * own + random.below(own - count);
        let blocks = first as usize..(first + count) as usize;
        let version = {
            let mut model = model.borrow_mut();
            let version = 1 + model[blocks.clone()].iter().map(|block| block.1).max().unwrap_or(0);
            model[blocks.clone()].iter_mut().for_each(|block| block.1 = version);
            version
        };
        let data = stamped(&reactor, first, count, version);
        volume.write(first * BLOCK as u64, data).await.expect("written");
        model.borrow_mut()[blocks].iter_mut().for_each(|block| block.0 = version);
    }
}

async fn verify(volume: &LocalVolume, model: &Model) {
    let parts = volume.read(0, BLOCKS as usize * BLOCK).await.expect("read");
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
    for (at, (block, known)) in bytes.chunks(BLOCK).zip(model.borrow_mut().iter_mut()).enumerate() {
        let word = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("8 bytes"));
        let version = word(0);
        assert!((known.0..=known.1).contains(&version), "block {at} is {version}, not {known:?}");
        assert!(version == 0 || word(8) == at as u64, "block {at} is that of {}", word(8));
        assert!(block[16..].iter().all(|byte| *byte == version as u8), "block {at} is mixed");
        *known = (version, known.1.max(version));
    }
}

/// A store's life over some crashes. How many writes were acknowledged.
fn live(seed: u64) -> (u64, u64) {
    let world = world(seed, WorldOptions::default());
    world.create_disk("disk", STORE_MIN_BYTES);
    let reactor = world.reactor();
    reactor.block_on(async {
        let device = open(&reactor);
        LocalStore::format(&reactor, &*device, STORE_MIN_BYTES).await.expect("formats");
        drop(device);
        let store = open_store(&reactor).await;
        store.create_volume("vm0", BLOCKS * BLOCK as u64).await.expect("creates");
    });
    world.crash(Crash::PowerLoss);
    reactor.shutdown();
    let model = Model::new(RefCell::new(vec![(0, 0); BLOCKS as usize]));
    let mut random = world.random("crashes");
    for _ in 0..4 {
        let reactor = world.reactor();
        let stop = Stop::AfterDeviceOps(random.below(300));
        world.run(&reactor, stop, async {
            let store = open_store(&reactor).await;
            let volume = store.volume("vm0").expect("is there");
            verify(&volume, &model).await;
            let tasks: Vec<_> = (0..TASKS)
                .map(|task| work(volume.clone(), world.clone(), Rc::clone(&model), task))
                .map(|work| reactor.spawn(work))
                .collect();
            for task in tasks {
                task.await;
            }
        });
        let crash = if random.below(2) == 0 { Crash::Kill } else { Crash::PowerLoss };
        world.crash(crash);
        let pool = reactor.pool().clone();
        reactor.shutdown();
        assert_eq!(pool.in_use_bytes(), 0, "buffers leaked");
    }
    let reactor = world.reactor();
    reactor.block_on(async {
        let store = open_store(&reactor).await;
        verify(&store.volume("vm0").expect("is there"), &model).await;
        assert_eq!(store.audit(), Vec::<String>::new());
        store.close().await.expect("closes");
    });
    reactor.shutdown();
    let acknowledged = model.borrow().iter().map(|block| block.0).sum();
    (world.trace_hash(), acknowledged)
}

#[test]
fn acknowledged_writes_survive() {
    let lives: Vec<_> = (0..SEEDS).map(live).collect();
    let acknowledged: u64 = lives.iter().map(|life| life.1).sum();
    assert!(acknowledged > SEEDS * BLOCKS, "too little was written: {acknowledged}");
    for seed in [3, 77] {
        assert_eq!(live(seed), lives[seed as usize], "seed {seed} repeats");
    }
}
