//! Goal: one unreadable block anywhere on a device costs at most one block of a volume; only where
//! it may hide the end of the log is the store refused, and says so.
//! Method: a small store in a world; each block it uses becomes unreadable in turn.

use ashlar_engine::ErrorKind;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::sim::{Crash, Damage, Stop, World, WorldOptions};
use ashlar_engine::reactor::{DeviceOptions, Reactor};
use std::time::Duration;

const BLOCK: u64 = 4096;
const SIZE: u64 = 64 << 20;
/// Blocks of the volume.
const BLOCKS: u64 = 300;
/// Where the store may be refused: the last header of each append point.
const REFUSED_MAX: usize = 2;

async fn open(reactor: &Reactor) -> ashlar_engine::Result<LocalStore> {
    let device = reactor.open_device("disk", &DeviceOptions::default())?;
    LocalStore::open(reactor, device, false).await
}

/// Lone blocks, runs, a checkpoint between them if asked for, and a closed log.
async fn fill(reactor: &Reactor, checkpoint: bool) -> ashlar_engine::Result<()> {
    let device = reactor.open_device("disk", &DeviceOptions::default())?;
    LocalStore::format(reactor, &*device, SIZE).await?;
    let store = LocalStore::open(reactor, device, false).await?;
    let volume = store.create_volume("a", BLOCKS * BLOCK).await?;
    for i in 0..8 {
        let mut run = reactor.pool().allocate(20 * BLOCK as usize);
        run.fill(1 + i as u8);
        volume.write(i * 30 * BLOCK, run).await?;
        let mut one = reactor.pool().allocate(BLOCK as usize);
        one.fill(100 + i as u8);
        volume.write((i * 30 + 25) * BLOCK, one).await?;
        if checkpoint && i == 4 {
            store.checkpoint().await?;
        }
    }
    reactor.sleep(Duration::from_secs(1)).await;
    Ok(())
}

/// The first byte of each block, `None` where it cannot be read.
async fn contents(reactor: &Reactor) -> ashlar_engine::Result<Vec<Option<u8>>> {
    let store = open(reactor).await?;
    assert_eq!(store.audit(), [""; 0]);
    let volume = store.volume("a")?;
    let mut found = Vec::new();
    for block in 0..BLOCKS {
        let bytes = volume.read(block * BLOCK, BLOCK as usize).await;
        found.push(bytes.ok().map(|buffers| buffers[0][0]));
    }
    Ok(found)
}

#[test]
fn one_unreadable_block_anywhere() {
    for checkpoint in [false, true] {
        let world = World::new(1, WorldOptions::default());
        let disk = world.create_disk("disk", SIZE);
        let reactor = world.reactor();
        let filled = world.run(&reactor, Stop::Never, fill(&reactor, checkpoint));
        filled.expect("runs").expect("fills");
        let look = |old: &Reactor, what: &str| {
            world.crash(Crash::Kill);
            old.shutdown();
            let reactor = world.reactor();
            let found = world.run(&reactor, Stop::Never, contents(&reactor));
            (reactor, found.unwrap_or_else(|| panic!("{what}: stopped")))
        };
        let image = disk.image();
        let (mut reactor, expected) = look(&reactor, "undamaged");
        let expected = expected.expect("opens");
        assert!(expected.iter().all(Option::is_some));
        let mut bytes = vec![0; BLOCK as usize];
        let (mut tried, mut refused) = (0, 0);
        for block in 0..SIZE / BLOCK {
            disk.restore(&image);
            disk.read(block * BLOCK, &mut bytes);
            if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            tried += 1;
            disk.damage(block * BLOCK..block * BLOCK + 512, &Damage::Bad);
            let what = format!("block {block}, checkpoint {checkpoint}");
            let (next, found) = look(&reactor, &what);
            reactor = next;
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt);
                    let named =
                        error.to_string().contains(&format!("block {block} cannot be read"));
                    assert!(named, "{what}: {error}");
                    refused += 1;
                    continue;
                }
            };
            let lost = found.iter().filter(|byte| byte.is_none()).count();
            assert!(lost <= 1, "{what}: {lost} blocks lost");
            let wrong = expected.iter().zip(&found).filter(|(a, b)| b.is_some() && a != b);
            assert_eq!(wrong.count(), 0, "{what}: other bytes");
        }
        assert!(tried > 180, "{tried} blocks in use");
        assert!(refused <= REFUSED_MAX, "refused {refused} times");
        reactor.shutdown();
    }
}
