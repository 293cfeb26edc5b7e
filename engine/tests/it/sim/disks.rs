//! Goal: each fault class of a disk happens, is counted, and does what the model says and no more.
//! Method: one class at a time; a small disk, and what it holds before and after.

use super::{carry_out, open, sim, world};
use ashlar_engine::ErrorKind;
use ashlar_engine::buffer::Buffer;
use ashlar_engine::reactor::sim::{
    Chance, Corruption, Crash, Damage, DiskFaults, FaultId, FaultKind, SimDisk, World, WorldOptions,
};
use ashlar_engine::reactor::{BlockDevice, DeviceOp, DeviceOptions, RandomStream, Reactor};
use std::io;
use std::rc::Rc;

const BLOCK: usize = 4096;
const BLOCKS: usize = 64;
/// Input/output error.
const EIO: i32 = 5;

/// A disk of a few blocks and a process that has it open.
struct Bench {
    world: World,
    disk: SimDisk,
    reactor: Reactor,
    device: Rc<dyn BlockDevice>,
}

impl Bench {
    fn new(seed: u64, faults: DiskFaults) -> Bench {
        Bench::with(world(seed, WorldOptions::default()), faults)
    }

    fn with(world: World, faults: DiskFaults) -> Bench {
        let disk = world.create_disk("disk", (BLOCKS * BLOCK) as u64);
        disk.set_faults(faults);
        let reactor = world.reactor();
        let device = open(&reactor);
        Bench { world, disk, reactor, device }
    }

    fn run(&self, op: DeviceOp) -> io::Result<Vec<Buffer>> {
        let done = self.reactor.block_on(carry_out(&*self.device, op));
        done.result.map(|()| done.buffers)
    }

    fn buffer(&self, blocks: usize, fill: u8) -> Buffer {
        let mut buffer = self.reactor.pool().allocate(blocks * BLOCK);
        buffer.fill(fill);
        buffer
    }

    fn write(&self, first: usize, blocks: usize, fill: u8, sync: bool) -> io::Result<()> {
        let buffers = vec![self.buffer(blocks, fill)];
        let offset_bytes = (first * BLOCK) as u64;
        self.run(DeviceOp::Write { offset_bytes, buffers, sync }).map(drop)
    }

    fn read(&self, first: usize, blocks: usize) -> io::Result<Vec<u8>> {
        let (offset_bytes, buffer) = ((first * BLOCK) as u64, self.buffer(blocks, 0xee));
        let buffers = self.run(DeviceOp::Read { offset_bytes, buffer })?;
        Ok(buffers[0].to_vec())
    }

    fn sync(&self) -> io::Result<()> {
        self.run(DeviceOp::Sync).map(drop)
    }

    fn held(&self) -> Vec<u8> {
        let mut bytes = vec![0; BLOCKS * BLOCK];
        self.disk.read(0, &mut bytes);
        bytes
    }

    fn pristine(&self) -> Vec<u8> {
        let mut bytes = vec![0; BLOCKS * BLOCK];
        self.disk.read_pristine(0, &mut bytes);
        bytes
    }

    fn count(&self, kind: FaultKind) -> u64 {
        self.world.faults().of(kind)
    }

    fn crash(&mut self, crash: Crash) {
        self.world.crash(crash);
        self.reactor.shutdown();
        self.reactor = self.world.reactor();
        self.device = open(&self.reactor);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.reactor.shutdown();
    }
}

fn always(set: impl FnOnce(&mut DiskFaults)) -> DiskFaults {
    let mut faults = DiskFaults::default();
    set(&mut faults);
    faults
}

/// Sectors that differ.
fn differing(a: &[u8], b: &[u8]) -> Vec<usize> {
    let sectors = a.chunks(512).zip(b.chunks(512)).enumerate();
    sectors.filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect()
}

#[test]
fn what_was_synced_survives_and_the_rest_survives_in_sectors() {
    let (mut old, mut new, mut torn) = (0, 0, 0);
    for seed in 0..300 {
        let mut bench = Bench::new(seed, DiskFaults::default());
        bench.write(0, 8, 1, false).expect("written");
        bench.sync().expect("synced");
        bench.write(8, 8, 2, true).expect("written");
        bench.write(4, 8, 3, false).expect("written");
        bench.write(40, 4, 4, false).expect("written");
        let before = bench.held();
        bench.crash(Crash::Kill);
        assert!(bench.held() == before, "a kill loses nothing that ended");
        bench.crash(Crash::PowerLoss);
        let after = bench.held();
        for (at, sector) in after.chunks(512).enumerate() {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "sectors are whole");
            let allowed: &[u8] = match at / 8 {
                0..4 => &[1],
                4..8 => &[1, 3],
                8..12 => &[2, 3],
                12..16 => &[2],
                40..44 => &[0, 4],
                _ => &[0],
            };
            assert!(allowed.contains(&sector[0]), "sector {at} is {}", sector[0]);
        }
        for block in after[4 * BLOCK..12 * BLOCK].chunks(BLOCK) {
            let threes = block.iter().filter(|byte| **byte == 3).count();
            old += u64::from(threes == 0);
            new += u64::from(threes == BLOCK);
            torn += u64::from(threes != 0 && threes != BLOCK);
        }
        let before = bench.held();
        bench.crash(Crash::PowerLoss);
        assert!(bench.held() == before, "what survived is durable");
    }
    assert!(old > 300 && new > 300 && torn > 300, "{old} {new} {torn}");
}

#[test]
fn a_write_in_flight_may_have_happened_and_nothing_else() {
    for (crash, mut seen) in [(Crash::Kill, [0; 3]), (Crash::PowerLoss, [0; 3])] {
        for seed in 0..200 {
            let mut bench = Bench::new(seed, DiskFaults::default());
            let op = DeviceOp::Write {
                offset_bytes: 8192,
                buffers: vec![bench.buffer(4, 7), bench.buffer(4, 8)],
                sync: true,
            };
            bench.device.submit(0, op);
            bench.crash(crash);
            let after = bench.held();
            let mut wanted = vec![0; BLOCKS * BLOCK];
            wanted[2 * BLOCK..6 * BLOCK].fill(7);
            wanted[6 * BLOCK..10 * BLOCK].fill(8);
            let changed = differing(&after, &vec![0; BLOCKS * BLOCK]);
            assert!(changed.iter().all(|at| wanted[at * 512..][..512] == after[at * 512..][..512]));
            let kind = [changed.is_empty(), changed.len() == 64].iter().position(|is| *is);
            seen[kind.unwrap_or(2)] += 1;
            if crash == Crash::Kill {
                assert!(changed.iter().copied().eq(16..16 + changed.len()), "in order");
                assert!(changed.len().is_multiple_of(8), "in blocks");
            }
        }
        assert!(seen.iter().all(|count| *count > 15), "none, all, part: {seen:?}");
    }
}

#[test]
fn a_sync_is_for_what_ended_before_it_began() {
    let mut lost = 0;
    for seed in 0..200 {
        let mut bench = Bench::new(seed, DiskFaults::default());
        bench.write(0, 1, 1, false).expect("written");
        let buffers = vec![bench.buffer(1, 2)];
        bench.device.submit(0, DeviceOp::Write { offset_bytes: 4096, buffers, sync: false });
        bench.device.submit(1, DeviceOp::Sync);
        let mut done = Vec::new();
        while done.len() < 2 {
            let poll = std::future::poll_fn(|cx| bench.device.poll_completions(cx, &mut done));
            bench.reactor.block_on(poll);
        }
        bench.crash(Crash::PowerLoss);
        let after = bench.held();
        assert!(after[..BLOCK].iter().all(|byte| *byte == 1));
        lost += u64::from(after[BLOCK..2 * BLOCK].iter().any(|byte| *byte != 2));
    }
    assert!(lost > 20, "a write that was in flight with a sync is not always durable: {lost}");
}

#[test]
fn read_errors_pass_and_bad_blocks_stay_until_written() {
    let bench = Bench::new(1, always(|faults| faults.read_error = Chance(500_000)));
    bench.write(0, 4, 5, true).expect("written");
    let failed = (0..100).filter(|_| bench.read(0, 4).is_err()).count() as u64;
    assert!(failed > 20 && failed < 80 && bench.count(FaultKind::ReadError) == failed);

    let bench = Bench::new(1, always(|faults| faults.bad_block = Chance::ALWAYS));
    bench.write(0, 4, 5, true).expect("written");
    assert_eq!(bench.read(2, 1).expect_err("bad").raw_os_error(), Some(EIO));
    bench.disk.set_faults(DiskFaults::default());
    assert!(bench.read(2, 1).is_err() && bench.read(0, 4).is_err(), "stays bad");
    assert!(bench.read(0, 2).is_ok(), "its neighbours are good");
    bench.write(2, 1, 6, false).expect("writing it makes it good");
    assert_eq!(bench.read(2, 1).expect("good")[0], 6);
    assert_eq!(bench.count(FaultKind::BadBlock), 1);
}

#[test]
fn failed_writes_touch_only_their_own_sectors() {
    let (mut none, mut some) = (0, 0);
    for (seed, kind) in (0..100)
        .flat_map(|seed| [FaultKind::WriteError, FaultKind::ShortError].map(|kind| (seed, kind)))
    {
        let mut bench = Bench::new(seed, DiskFaults::default());
        bench.write(0, 20, 1, true).expect("written");
        let before = bench.held();
        bench.disk.set_faults(always(|faults| match kind {
            FaultKind::WriteError => faults.write_error = Chance::ALWAYS,
            _ => faults.short_error = Chance::ALWAYS,
        }));
        bench.write(5, 6, 2, true).expect_err("fails");
        assert_eq!(bench.count(kind), 1);
        let after = bench.held();
        for at in differing(&before, &after) {
            assert!((40..88).contains(&at) && after[at * 512..][..512] == [2; 512]);
        }
        none += u64::from(before == after);
        some += u64::from(before != after);
        bench.crash(Crash::PowerLoss);
        for at in differing(&before, &bench.held()) {
            assert!((40..88).contains(&at) && after[at * 512..][..512] == [2; 512]);
        }
    }
    assert!(none > 5 && some > 50, "{none} {some}");
}

#[test]
fn failed_syncs_lose_or_revert_and_never_touch_what_was_durable() {
    let mut reverted = [0, 0];
    for seed in 0..60 {
        let mut bench = Bench::new(seed, always(|faults| faults.sync_lost = Chance::ALWAYS));
        bench.write(0, 8, 1, true).expect("written");
        bench.write(4, 8, 2, false).expect("written");
        let written = bench.held();
        bench.sync().expect_err("fails");
        assert_eq!(bench.count(FaultKind::SyncLost), 1);
        assert!(bench.held() == written, "reads as if nothing was");
        bench.disk.set_faults(DiskFaults::default());
        bench.sync().expect("says it is durable");
        bench.crash(Crash::PowerLoss);
        let after = bench.held();
        assert!(after[..8 * BLOCK].iter().all(|byte| *byte == 1) && after[8 * BLOCK..][0] == 0);

        let bench = Bench::new(seed, always(|faults| faults.sync_reverted = Chance::ALWAYS));
        bench.write(0, 8, 1, true).expect("written");
        bench.write(4, 8, 2, false).expect("written");
        bench.sync().expect_err("fails");
        assert_eq!(bench.count(FaultKind::SyncReverted), 1);
        for (at, block) in bench.held().chunks(BLOCK).enumerate().take(12) {
            let old = u8::from(at < 8);
            assert!(block[0] == old || (at >= 4 && block[0] == 2));
            reverted[usize::from(block[0] == 2)] += usize::from(at >= 4);
        }
    }
    assert!(reverted.iter().all(|count| *count > 100), "{reverted:?}");
}

#[test]
fn what_a_failed_sync_forgot_is_gone_when_it_is_written_again() {
    for in_two_steps in [false, true] {
        for seed in 0..30 {
            let mut bench = Bench::new(seed, always(|faults| faults.sync_lost = Chance::ALWAYS));
            bench.write(0, 8, 1, false).expect("written");
            bench.sync().expect_err("fails");
            let short = if in_two_steps { Chance::ALWAYS } else { Chance::NEVER };
            bench.disk.set_faults(always(|faults| faults.short = short));
            bench.write(0, 8, 2, in_two_steps).expect("written");
            assert_eq!(bench.count(FaultKind::Short), u64::from(in_two_steps));
            bench.sync().expect("makes what is volatile durable");
            let written = bench.held();
            assert!(written[..8 * BLOCK].iter().all(|byte| *byte == 2), "seed {seed}");
            bench.crash(Crash::PowerLoss);
            assert!(bench.held() == written, "seed {seed}");
        }
    }
}

#[test]
fn a_lying_sync_loses_only_with_the_power_and_a_later_one_makes_up_for_it() {
    let mut lost = 0;
    for seed in 0..100 {
        let lies = always(|faults| faults.sync_lied = Chance::ALWAYS);
        let mut bench = Bench::new(seed, lies.clone());
        bench.write(0, 8, 1, true).expect("says so");
        bench.write(8, 8, 2, false).expect("written");
        bench.sync().expect("says so");
        assert_eq!(bench.count(FaultKind::SyncLied), 2);
        let before = bench.held();
        bench.crash(Crash::Kill);
        assert!(bench.held() == before);
        bench.crash(Crash::PowerLoss);
        lost += u64::from(bench.held() != before);

        let mut bench = Bench::new(seed, lies);
        bench.write(0, 8, 1, true).expect("says so");
        bench.disk.set_faults(DiskFaults::default());
        bench.sync().expect("does so");
        bench.crash(Crash::PowerLoss);
        assert!(bench.held()[..8 * BLOCK].iter().all(|byte| *byte == 1));
    }
    assert!(lost > 50, "{lost}");
}

#[test]
fn misdirected_operations_have_two_places_and_can_be_lifted() {
    for seed in 0..100 {
        let bench = Bench::new(seed, DiskFaults::default());
        for block in 0..BLOCKS {
            bench.write(block, 1, 1 + block as u8, true).expect("written");
        }
        let before = bench.held();
        bench.disk.set_faults(always(|faults| {
            faults.misdirected_write = Chance::ALWAYS;
            faults.spared.push(0..8 * 4096);
        }));
        bench.write(20, 3, 200, true).expect("says so");
        bench.write(2, 1, 3, true).expect("spared");
        assert_eq!(bench.count(FaultKind::MisdirectedWrite), 1);
        let after = bench.held();
        let changed = differing(&before, &after);
        assert_eq!(changed.len(), 3 * 8, "only one other place changed");
        assert!(changed.iter().all(|at| *at >= 64 && after[at * 512] == 200));
        assert!(!changed.contains(&160), "not its own place");
        let mut wanted = before.clone();
        wanted[20 * BLOCK..23 * BLOCK].fill(200);
        assert!(bench.pristine() == wanted);
        assert_eq!(bench.disk.corruptions().len(), 6);
        bench.disk.set_faults(DiskFaults::default());
        bench.write(20, 3, 201, true).expect("written");
        let gone = |entry: &&Corruption| entry.gone.is_some();
        assert_eq!(bench.disk.corruptions().iter().filter(gone).count(), 3);
        bench.disk.heal();
        assert!(bench.held() == bench.pristine());
        assert_eq!(bench.disk.corruptions().iter().filter(gone).count(), 6);

        bench.disk.set_faults(always(|faults| faults.misdirected_read = Chance::ALWAYS));
        let before = bench.held();
        let read = bench.read(30, 2).expect("says so");
        assert!(read != before[30 * BLOCK..32 * BLOCK] && bench.held() == before);
        assert!(before.windows(2 * BLOCK).step_by(BLOCK).any(|place| place == read));
    }
}

/// Writes with one kind of decay, and what it did.
fn decayed(seed: u64, set: impl Fn(&mut DiskFaults)) -> Bench {
    let bench = Bench::new(seed, always(set));
    let mut random = RandomStream::from_seed(seed);
    for _ in 0..60 {
        let mut buffer = bench.buffer(1, 0);
        random.fill_bytes(&mut buffer);
        let offset_bytes = random.below(BLOCKS as u64) * BLOCK as u64;
        let op = DeviceOp::Write { offset_bytes, buffers: vec![buffer], sync: true };
        bench.run(op).expect("written");
    }
    bench
}

#[test]
fn rot_changes_one_sector_and_is_in_the_ledger() {
    type Set = fn(&mut DiskFaults);
    let kinds: [(FaultKind, Set); 4] = [
        (FaultKind::BitRot, |faults| faults.bit_rot = Chance(200_000)),
        (FaultKind::Garbage, |faults| faults.garbage = Chance(200_000)),
        (FaultKind::Zeroed, |faults| faults.zeroed = Chance(200_000)),
        (FaultKind::Stale, |faults| faults.stale = Chance(200_000)),
    ];
    for (kind, set) in kinds {
        let mut damaged = 0;
        for seed in 0..20 {
            let bench = decayed(seed, set);
            let ledger = bench.disk.corruptions();
            assert_eq!(bench.count(kind), ledger.len() as u64);
            assert_eq!(bench.world.faults().total(), ledger.len() as u64);
            let (held, pristine) = (bench.held(), bench.pristine());
            let open: Vec<_> = ledger.iter().filter(|entry| entry.gone.is_none()).collect();
            for at in differing(&held, &pristine) {
                let at = at as u64 * 512;
                assert!(open.iter().any(|entry| entry.offset_bytes == at && entry.kind == kind));
                let bytes = at as usize..at as usize + 512;
                let bits = held[bytes.clone()].iter().zip(&pristine[bytes.clone()]);
                let bits: u32 = bits.map(|(a, b)| (a ^ b).count_ones()).sum();
                assert!(kind != FaultKind::BitRot || bits < 8, "{bits} bits flipped");
                assert!(kind != FaultKind::Zeroed || held[bytes] == [0; 512]);
            }
            assert!(ledger.iter().all(|entry| entry.len_bytes == 512));
            damaged += open.len();
            bench.disk.set_faults(DiskFaults::default());
            bench.read(0, BLOCKS).expect("read");
            for entry in bench.disk.corruptions() {
                assert!((entry.reads == 1) == entry.gone.is_none(), "{entry:?}");
            }
        }
        assert!(damaged > 20, "{kind:?}: {damaged}");
    }
}

#[test]
fn short_operations_go_on_and_overlapping_ones_land_in_some_order() {
    let mut mixed = 0;
    for seed in 0..200 {
        let mut bench = Bench::new(seed, always(|faults| faults.short = Chance::ALWAYS));
        for fill in 1..4 {
            let buffers = vec![bench.buffer(8, fill)];
            let op = DeviceOp::Write { offset_bytes: 4096, buffers, sync: true };
            bench.device.submit(u64::from(fill), op);
        }
        let mut done = Vec::new();
        while done.len() < 3 {
            let poll = std::future::poll_fn(|cx| bench.device.poll_completions(cx, &mut done));
            bench.reactor.block_on(poll);
        }
        assert!(done.iter().all(|done| done.result.is_ok()));
        assert_eq!(bench.count(FaultKind::Short), 3);
        let before = bench.held();
        let own = &before[4096..9 * 4096];
        assert!(own.chunks(BLOCK).all(|block| (1..4).contains(&block[0])));
        mixed += u64::from(own.iter().any(|byte| *byte != own[0]));
        assert!(bench.read(1, 8).expect("read") == own);
        bench.crash(Crash::PowerLoss);
        assert!(bench.held() == before, "durable when they ended");
    }
    assert!(mixed > 10, "{mixed}");
}

#[test]
fn a_full_file_system_refuses_new_blocks_only() {
    for limit in [
        always(|faults| faults.full_from_bytes = Some(10 * 4096)),
        always(|faults| faults.full_after_bytes = Some(10 * 4096)),
    ] {
        let bench = Bench::new(1, limit);
        bench.write(0, 8, 1, true).expect("there is room");
        let full = bench.write(8, 8, 2, true).expect_err("there is not");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert_eq!(bench.count(FaultKind::Full), 1);
        let held = bench.held();
        assert!(held[10 * BLOCK..].iter().all(|byte| *byte == 0), "what has no room is not there");
        bench.write(0, 8, 3, true).expect("no new blocks");
        bench.disk.set_faults(DiskFaults::default());
        bench.write(8, 8, 4, true).expect("there is room again");
    }
}

#[test]
fn damage_at_will_hits_what_it_should() {
    let bench = Bench::new(1, DiskFaults::default());
    bench.write(0, 8, 1, true).expect("written");
    let image = bench.disk.image();
    bench.write(0, 8, 2, true).expect("written");
    bench.disk.damage(512..1024, &Damage::FlipBit);
    bench.disk.damage(4096..8192, &Damage::Zeroes);
    bench.disk.damage(8192..8704, &Damage::Old(&image));
    bench.disk.damage(12288..12800, &Damage::Garbage);
    bench.disk.damage(16384..16896, &Damage::Elsewhere(-8192 - 4096));
    bench.disk.damage(20480..20992, &Damage::Bad);
    bench.disk.damage(24576..25088, &Damage::Elsewhere(512));
    let held = bench.held();
    assert_eq!(held[512..1024].iter().map(|byte| (byte ^ 2).count_ones()).sum::<u32>(), 1);
    assert!(held[4096..8192] == [0; 4096] && held[8192..8704] == [1; 512]);
    assert!(held[16384..16896] == [0; 512], "a copy of what is at 4096");
    assert!(bench.read(5, 1).is_err() && bench.read(6, 1).is_ok());
    let kinds: Vec<_> = bench.disk.corruptions().iter().map(|entry| entry.kind).collect();
    let zeroes = [FaultKind::Zeroed; 8];
    assert_eq!(kinds[0], FaultKind::BitRot);
    assert_eq!(kinds[1..9], zeroes);
    assert_eq!(kinds[9..], [FaultKind::Stale, FaultKind::Garbage, FaultKind::MisdirectedWrite]);
    bench.disk.restore(&image);
    assert!(bench.held()[..8 * BLOCK].iter().all(|byte| *byte == 1) && bench.read(5, 1).is_ok());
}

#[test]
fn a_skipped_fault_does_not_happen_and_the_others_do() {
    let failures = |skip: &[u64]| {
        let skip =
            skip.iter().map(|number| FaultId { kind: FaultKind::ReadError, number: *number });
        let options = WorldOptions { skip: skip.collect(), ..WorldOptions::default() };
        let faults = always(|faults| faults.read_error = Chance(300_000));
        let bench = Bench::with(world(9, options), faults);
        let failed = (0..100).filter(|_| bench.read(0, 1).is_err()).collect::<Vec<usize>>();
        assert_eq!(bench.count(FaultKind::ReadError), failed.len() as u64);
        failed
    };
    let all = failures(&[]);
    let mut fewer = all.clone();
    fewer.remove(4);
    fewer.remove(0);
    assert_eq!(failures(&[0, 4]), fewer);
}

#[test]
fn openings_lock_like_files() {
    let (world, reactor) = sim(1);
    let missing = reactor.open_device("disk", &DeviceOptions::default()).err();
    assert_eq!(missing.map(|error| error.kind()), Some(ErrorKind::Device));
    let create = DeviceOptions { create_size_bytes: Some(1 << 20), ..DeviceOptions::default() };
    let first = reactor.open_device("disk", &create).expect("is created");
    assert_eq!((first.size_bytes(), first.is_preallocated()), (1 << 20, false));
    let busy = |reactor: &Reactor, options: &DeviceOptions| {
        let error = reactor.open_device("disk", options).err().map(|error| error.kind());
        assert!(error.is_none() || error == Some(ErrorKind::Busy));
        error.is_some()
    };
    let reader = DeviceOptions { read_only: true, ..DeviceOptions::default() };
    let careless = DeviceOptions { lock: false, ..DeviceOptions::default() };
    assert!(busy(&reactor, &create) && busy(&reactor, &reader) && !busy(&reactor, &careless));
    drop(first);
    let readers = [(); 2].map(|()| reactor.open_device("disk", &reader).expect("two may read"));
    assert!(busy(&reactor, &create));
    world.crash(Crash::Kill);
    reactor.shutdown();
    let next = world.reactor();
    let held = next.open_device("disk", &create).expect("the dead hold no locks");
    drop(readers);
    assert!(busy(&next, &create), "and let go of none");
    drop(held);
    let large = DeviceOptions { create_size_bytes: Some(2 << 20), ..DeviceOptions::default() };
    let small = next.open_device("disk", &large).err().map(|error| error.kind());
    assert_eq!(small, Some(ErrorKind::Device));
    next.shutdown();
}
