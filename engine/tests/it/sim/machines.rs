//! Goal: machines end, stop and are cut off each for itself, and nothing happens to others.

use crate::reactor::{bytes, receive_into};
use ashlar_engine::reactor::sim::{
    Chance, Crash, FaultKind, Machine, MachineOptions, NetFaults, World, WorldOptions,
};
use ashlar_engine::reactor::{Address, DeviceOp, DeviceOptions, Reactor, Stream};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

fn start(world: &World, reactor: &Reactor, host: u32) -> Machine {
    let options =
        MachineOptions { host, clock_start: Duration::from_secs(host.into()), clock_fast_ppm: 0 };
    world.machine(reactor, options)
}

fn place(host: u32) -> Address {
    Address::Tcp(([10, 0, 0, host as u8], 7400).into())
}

/// What a stream said: bytes, and how it ended.
type Heard = Rc<RefCell<(Vec<u8>, Option<String>)>>;

/// Hears all that is said on one connection to this machine.
fn hear(machine: &Machine) -> Heard {
    let heard = Heard::default();
    let (own, into) = (machine.reactor().clone(), Rc::clone(&heard));
    let listener = own.listen(&place(machine.host())).expect("listens");
    let hearing = async move {
        let stream = listener.accept().await.expect("accepts");
        loop {
            let (first, mut all) = (own.pool().allocate(4096), Vec::new());
            let received = receive_into(&*stream, first, &mut all).await;
            let end = received.err().map(|error| error.kind().to_string());
            let ended = all.is_empty();
            into.borrow_mut().0.extend(all);
            if ended {
                into.borrow_mut().1 = Some(end.unwrap_or_default());
                return;
            }
        }
    };
    machine.reactor().spawn(hearing).detach();
    heard
}

/// Says something to another machine every millisecond, until it cannot.
fn say(machine: &Machine, to: u32) -> Rc<Cell<u64>> {
    let said = Rc::new(Cell::new(0));
    let (own, count) = (machine.reactor().clone(), Rc::clone(&said));
    let saying = async move {
        let stream = own.connect(&place(to)).await.expect("connects");
        while say_once(&*stream, count.get() as u8).await {
            count.set(count.get() + 1);
            own.sleep(MS).await;
        }
    };
    machine.reactor().spawn(saying).detach();
    said
}

async fn say_once(stream: &dyn Stream, byte: u8) -> bool {
    stream.send(bytes(&[byte])).await.0.is_ok()
}

fn in_world(seed: u64, net: NetFaults, run: impl AsyncFnOnce(&World, &Reactor)) -> u64 {
    let world = World::new(seed, WorldOptions { net, ..WorldOptions::default() });
    let reactor = world.reactor();
    reactor.block_on(run(&world, &reactor));
    reactor.shutdown();
    world.trace_hash()
}

#[test]
fn one_is_killed_and_its_peer_is_told() {
    in_world(1, NetFaults::default(), async |world, reactor| {
        let [left, right] = [1, 2].map(|host| start(world, reactor, host));
        let heard = hear(&right);
        let said = say(&left, 2);
        reactor.sleep(20 * MS).await;
        left.crash(Crash::Kill, &[]);
        let at_the_end = said.get();
        assert!(at_the_end > 15, "{at_the_end}");
        reactor.sleep(20 * MS).await;
        assert_eq!(said.get(), at_the_end, "a dead machine goes on");
        let heard = heard.borrow();
        assert!(heard.0.len() as u64 <= at_the_end + 1 && heard.1.is_some(), "{heard:?}");
        assert_eq!(right.reactor().now().0, 2_040_000_000, "the other one's clock goes on");
    });
}

#[test]
fn one_without_power_is_silent_until_it_is_there_again() {
    in_world(2, NetFaults::default(), async |world, reactor| {
        let [left, right] = [1, 2].map(|host| start(world, reactor, host));
        let heard = hear(&right);
        say(&left, 2);
        reactor.sleep(20 * MS).await;
        left.crash(Crash::PowerLoss, &[]);
        reactor.sleep(1000 * MS).await;
        assert_eq!(heard.borrow().1, None, "nobody can have told");
        let again = start(world, reactor, 1);
        reactor.sleep(MS).await;
        assert_eq!(heard.borrow().1.as_deref(), Some("connection reset"));
        right.crash(Crash::Kill, &[]);
        let right = start(world, reactor, 2);
        let heard = hear(&right);
        say(&again, 2);
        reactor.sleep(20 * MS).await;
        assert!(heard.borrow().0.len() > 10);
    });
}

#[test]
fn a_cut_one_way_keeps_bytes_on_their_way() {
    in_world(3, NetFaults::default(), async |world, reactor| {
        let [left, right] = [1, 2].map(|host| start(world, reactor, host));
        let (by_right, by_left) = (hear(&right), hear(&left));
        let (said, back) = (say(&left, 2), say(&right, 1));
        reactor.sleep(20 * MS).await;
        world.set_cuts([(1, 2)]);
        let (before, back_before) = (by_right.borrow().0.len(), back.get());
        reactor.sleep(50 * MS).await;
        assert_eq!(by_right.borrow().0.len(), before);
        assert!(said.get() > 60, "its socket takes what is said");
        assert!(back.get() > back_before + 40 && by_left.borrow().0.len() > 60);
        world.set_cuts([]);
        reactor.sleep(2 * MS).await;
        let heard = by_right.borrow();
        let whole: Vec<u8> = (0..heard.0.len()).map(|i| i as u8).collect();
        assert!(heard.0 == whole && heard.0.len() as u64 + 2 >= said.get(), "all in order");
    });
}

#[test]
fn a_paused_machine_does_nothing_and_goes_on() {
    in_world(4, NetFaults::default(), async |world, reactor| {
        let [left, right] = [1, 2].map(|host| start(world, reactor, host));
        let heard = hear(&right);
        let said = say(&left, 2);
        reactor.sleep(20 * MS).await;
        left.pause(true);
        let before = said.get();
        reactor.sleep(100 * MS).await;
        assert_eq!(said.get(), before);
        assert_eq!(heard.borrow().1, None);
        left.pause(false);
        reactor.sleep(20 * MS).await;
        assert!(said.get() > before + 15 && said.get() < before + 30, "no backlog of timers");
    });
}

#[test]
fn disks_lose_what_was_not_durable_with_their_own_machine_only() {
    let mut lost = 0;
    for seed in 0..20 {
        in_world(seed, NetFaults::default(), async |world, reactor| {
            let disks = ["one", "two"].map(|path| world.create_disk(path, 1 << 20));
            let machines = [1, 2].map(|host| start(world, reactor, host));
            for (machine, disk) in machines.iter().zip(&disks) {
                let own = machine.reactor().clone();
                let device = own.open_device(disk.path(), &DeviceOptions::default());
                let device = device.expect("opens");
                for block in 0..16 {
                    let mut buffer = own.pool().allocate(4096);
                    buffer.fill(7);
                    let buffers = vec![buffer];
                    let write = DeviceOp::Write { offset_bytes: block << 12, buffers, sync: false };
                    device.submit(block, write);
                }
                let keeping = async move {
                    let _kept = device;
                    std::future::pending::<()>().await;
                };
                machine.reactor().spawn(keeping).detach();
            }
            reactor.sleep(10 * MS).await;
            machines[0].crash(Crash::PowerLoss, &disks[..1]);
            machines[1].crash(Crash::Kill, &disks[1..]);
            let mut read = vec![0; 16 << 12];
            disks[1].read(0, &mut read);
            assert!(read.iter().all(|byte| *byte == 7), "a kill takes nothing that had ended");
            disks[0].read(0, &mut read);
            lost += usize::from(read.iter().any(|byte| *byte != 7));
            let again = start(world, reactor, 1);
            let opened = again.reactor().open_device("one", &DeviceOptions::default());
            assert!(opened.is_ok(), "the dead one's lock is gone");
        });
    }
    assert!(lost > 5, "{lost}");
}

#[test]
fn clocks_go_as_told_and_a_seed_decides_it_all() {
    let run = || {
        let net = NetFaults { garble: Chance(200_000), ..NetFaults::default() };
        in_world(6, net, async |world, reactor| {
            let fast = MachineOptions {
                host: 1,
                clock_start: Duration::from_secs(100),
                clock_fast_ppm: 100_000,
            };
            let (fast, right) = (world.machine(reactor, fast), start(world, reactor, 2));
            let heard = hear(&right);
            let said = say(&fast, 2);
            reactor.sleep(1000 * MS).await;
            assert_eq!(fast.reactor().now().0, 101_100_000_000);
            assert!((1050..1101).contains(&said.get()), "{}", said.get());
            let heard = heard.borrow();
            let changed = heard.0.iter().zip(0_u64..).filter(|(byte, i)| **byte != *i as u8);
            let garbled = world.faults().of(FaultKind::NetGarble);
            assert!(garbled > 100 && changed.count() as u64 <= garbled, "{garbled}");
        })
    };
    let runs: BTreeSet<u64> = (0..3).map(|_| run()).collect();
    assert_eq!(runs.len(), 1);
}
