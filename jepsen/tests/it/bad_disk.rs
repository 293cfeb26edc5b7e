//! A disk that fails under a running server: what clients are told, and what is there afterwards.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use ashlar_jepsen::faultfs::{Disk, Effect, Fault, Mount, Operation};
use ashlar_jepsen::nbd::{Command, Connection, FLAG_FUA, Request};
use ashlar_jepsen::sector::{self, Place as SectorPlace, SECTOR_SIZE_BYTES, Stamp};
use ashlar_jepsen::server::Server;
use serde_json::Value;

use crate::bad_input::{ashlar, assert_one_sentence};
use crate::disk::settles;
use crate::tools::{Place, is_ashlar, may_use_fuse};

const VOLUME_BYTES: u64 = 24 << 20;
const STORE_BYTES: u64 = 128 << 20;
const BLOCK_SIZE_BYTES: u64 = 4096;
const BLOCKS: u64 = VOLUME_BYTES / BLOCK_SIZE_BYTES;
const EIO: &str = "NBD error 5 ";
const ENOSPC: &str = "NBD error 28 ";
const LIMIT: Duration = Duration::from_secs(20);

/// A store on a fault disk. Fields go in this order, once the power is gone.
struct Bad {
    server: Option<Server>,
    mount: Mount,
    disk: Disk,
    place: Place,
}

impl Bad {
    /// A running server with two volumes; nothing if this machine cannot have it.
    fn new(test: &str, name: &str) -> Option<Bad> {
        if !is_ashlar(test) || !may_use_fuse(test) {
            return None;
        }
        let mut place = Place::new(name, VOLUME_BYTES);
        let disk = Disk::new(5);
        let mount = Mount::new(&disk, &place.directory.join("mnt")).unwrap();
        place.setup.device = Some(mount.file());
        place.setup.store_bytes = Some(STORE_BYTES);
        place.setup.volumes.push(("vm1".to_owned(), VOLUME_BYTES));
        let server = Some(place.serve());
        Some(Bad { server, mount, disk, place })
    }

    fn connect(&self, volume: &str) -> Connection {
        Connection::open(&self.place.setup.socket(), volume).unwrap()
    }

    fn restart(&mut self) -> Connection {
        self.stop();
        self.server = Some(self.place.serve());
        self.connect("vm0")
    }

    fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill().unwrap();
        }
        self.disk.await_closed(LIMIT).unwrap();
    }

    fn status(&self) -> Value {
        let admin = self.place.setup.admin();
        let output = ashlar(&["status", "--json", "--admin", admin.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The only place of a block on the disk.
    fn place_of(&self, bytes: &[u8]) -> std::ops::Range<u64> {
        let places = self.disk.find(bytes);
        assert_eq!(places.len(), 1, "one copy of each block: {places:?}");
        places[0]..places[0] + bytes.len() as u64
    }
}

impl Drop for Bad {
    /// A process that waits for a stalled disk cannot be killed: a test that fails must not hang.
    fn drop(&mut self) {
        self.disk.cut();
    }
}

/// The bytes of a block in its `version`; no two are the same.
fn block(number: u64, version: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; BLOCK_SIZE_BYTES as usize];
    for (index, bytes) in (0u64..).zip(bytes.chunks_exact_mut(SECTOR_SIZE_BYTES)) {
        let stamp = Stamp { writer: 1, sequence: version };
        sector::encode(bytes, SectorPlace { volume: 0, sector: number * 8 + index }, stamp);
    }
    bytes
}

fn write(connection: &mut Connection, number: u64, version: u64) -> Result<(), String> {
    connection.write(number * BLOCK_SIZE_BYTES, &block(number, version))
}

fn read(connection: &mut Connection, number: u64) -> Result<Vec<u8>, String> {
    let mut found = vec![0u8; BLOCK_SIZE_BYTES as usize];
    connection.read(number * BLOCK_SIZE_BYTES, &mut found)?;
    Ok(found)
}

/// Blocks from 0 that hold `version`.
#[track_caller]
fn assert_holds(connection: &mut Connection, numbers: std::ops::Range<u64>, version: u64) {
    for number in numbers {
        assert!(read(connection, number).unwrap() == block(number, version), "block {number}");
    }
}

#[track_caller]
fn assert_fails(result: Result<(), String>, with: &str) {
    let error = result.expect_err("a failure was acknowledged");
    assert!(error.contains(with), "not {with}: {error}");
}

/// Every way to change something, and what claims that all is durable.
#[track_caller]
fn assert_takes_no_changes(connection: &mut Connection) {
    assert_fails(write(connection, 1, 99), EIO);
    for (command, flags) in [(Command::Trim, 0), (Command::WriteZeroes, FLAG_FUA)] {
        let request = Request { command, flags, cookie: 3, offset: 0, length: 4096 };
        assert_fails(connection.ask(request, &[]), EIO);
    }
}

/// Goal: after a write that failed nothing is acknowledged any more, though the disk is well again;
/// reads go on; a restart has all that was acknowledged, and the failed write whole or not at all.
#[test]
fn a_failed_write_fences_the_store() {
    let Some(mut bad) = Bad::new("a_failed_write_fences_the_store", "werr") else { return };
    let mut connection = bad.connect("vm0");
    for number in 0..40 {
        write(&mut connection, number, 1).unwrap();
    }
    bad.disk.inject(Fault::failing(Operation::Write).times(1));
    let both: Vec<_> = (40..42).flat_map(|number| block(number, 1)).collect();
    assert_fails(connection.write(40 * BLOCK_SIZE_BYTES, &both), EIO);
    assert_eq!(bad.disk.counts().faults, 1);
    assert_takes_no_changes(&mut connection);
    assert_takes_no_changes(&mut bad.connect("vm1"));
    assert_holds(&mut connection, 0..40, 1);
    assert!(!bad.status()["errors"]["failed"].is_null(), "{}", bad.status());
    for _ in 0..2 {
        let mut connection = bad.restart();
        assert_holds(&mut connection, 0..40, 1);
        let last = [40, 41].map(|number| read(&mut connection, number).unwrap());
        let written = [40, 41].map(|number| block(number, 1));
        let untouched = [(); 2].map(|()| vec![0u8; BLOCK_SIZE_BYTES as usize]);
        assert!(last == written || last == untouched, "a failed write is there in part");
        write(&mut connection, 50, 1).unwrap();
    }
}

/// Goal: the same for a sync, which the store asks for when it has prepared a segment.
#[test]
fn a_failed_sync_fences_the_store() {
    let Some(mut bad) = Bad::new("a_failed_sync_fences_the_store", "serr") else { return };
    let mut connection = bad.connect("vm0");
    bad.disk.inject(Fault::failing(Operation::Sync).times(1));
    let mut held = vec![0; BLOCKS as usize];
    let mut failed = None;
    for turn in 0..4 * BLOCKS {
        let (number, version) = (turn % BLOCKS, turn + 1);
        match write(&mut connection, number, version) {
            Ok(()) => held[number as usize] = version,
            Err(error) => {
                failed = Some((number, version, error));
                break;
            }
        }
    }
    let (number, version, error) = failed.expect("no sync in twice the first segments");
    assert!(error.contains(EIO), "{error}");
    assert_takes_no_changes(&mut connection);
    let mut connection = bad.restart();
    for (index, held) in (0..).zip(held) {
        let found = read(&mut connection, index).unwrap();
        let is_held = match held {
            0 => found.iter().all(|b| *b == 0),
            _ => found == block(index, held),
        };
        // The write that was refused may have landed.
        let is_late = index == number && found == block(index, version);
        assert!(is_held || is_late, "block {index} is not as of {held}");
    }
    write(&mut connection, 0, 1).unwrap();
}

/// Goal: a store whose first sync fails is not served, and one bad superblock does no harm.
#[test]
fn a_disk_that_fails_at_the_start_is_refused() {
    let test = "a_disk_that_fails_at_the_start_is_refused";
    let Some(mut bad) = Bad::new(test, "open") else { return };
    write(&mut bad.connect("vm0"), 0, 1).unwrap();
    bad.stop();
    let store = bad.mount.file();
    let socket = format!("unix:{}", bad.place.file("other.sock"));
    let arguments = ["serve", "--store", store.to_str().unwrap(), "--listen", &socket];
    for operation in [Operation::Sync, Operation::Read] {
        bad.disk.inject(Fault::failing(operation));
        let admin = ["--admin", &bad.place.file("other.admin")];
        assert_one_sentence(&ashlar(&[&arguments[..], &admin].concat()), &[1]);
        bad.disk.heal();
        bad.disk.await_closed(LIMIT).unwrap();
    }
    bad.disk.inject(Fault::failing(Operation::Read).within(0..4096));
    let mut connection = bad.restart();
    assert_holds(&mut connection, 0..1, 1);
}

/// Goal: a sector that cannot be read costs its block, for as long as it cannot.
#[test]
fn a_failed_read_costs_one_block() {
    let Some(mut bad) = Bad::new("a_failed_read_costs_one_block", "rerr") else { return };
    let mut connection = bad.connect("vm0");
    let all: Vec<_> = (0..64).flat_map(|number| block(number, 1)).collect();
    connection.write(0, &all).unwrap();
    // So that a restart does not look there: the test below does that.
    for offset in (1 << 20..12 << 20).step_by(1 << 20) {
        connection.write(offset, &[7; 1 << 20]).unwrap();
    }
    let place = bad.place_of(&block(30, 1));
    bad.disk.inject(Fault::failing(Operation::Read).within(place));
    for _ in 0..2 {
        assert_fails(read(&mut connection, 30).map(drop), EIO);
        assert_holds(&mut connection, 0..30, 1);
        assert_holds(&mut connection, 31..64, 1);
        write(&mut connection, 70, 1).unwrap();
        let server = bad.server.take().unwrap();
        assert!(server.terminate().unwrap().success());
        connection = bad.restart();
    }
    bad.disk.heal();
    assert_holds(&mut connection, 0..64, 1);
}

/// Goal: a bad block in the part that a restart reads costs that block; `check` names it.
#[test]
fn a_bad_block_in_the_log_costs_one_block() {
    let test = "a_bad_block_in_the_log_costs_one_block";
    let Some(mut bad) = Bad::new(test, "lerr") else { return };
    let mut connection = bad.connect("vm0");
    for number in 0..8 {
        write(&mut connection, number, 1).unwrap();
    }
    let place = bad.place_of(&block(7, 1));
    let server = bad.server.take().unwrap();
    assert!(server.terminate().unwrap().success());
    bad.disk.await_closed(LIMIT).unwrap();
    bad.disk.inject(Fault::failing(Operation::Read).within(place));
    let output = ashlar(&["check", bad.mount.file().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("volume vm0: block 7: damaged"), "{said}");
    for _ in 0..2 {
        let mut connection = bad.restart();
        assert_fails(read(&mut connection, 7).map(drop), EIO);
        assert_holds(&mut connection, 0..7, 1);
        write(&mut connection, 8, 1).unwrap();
    }
    bad.disk.heal();
    let mut connection = bad.restart();
    assert_holds(&mut connection, 0..9, 1);
}

/// Goal: where the end of the log cannot be read, a restart says so, and works once it can.
#[test]
fn an_end_of_the_log_that_cannot_be_read_is_refused() {
    let test = "an_end_of_the_log_that_cannot_be_read_is_refused";
    let Some(mut bad) = Bad::new(test, "eerr") else { return };
    let mut connection = bad.connect("vm0");
    for number in 0..8 {
        write(&mut connection, number, 1).unwrap();
    }
    // The last header is behind the last block, or would be.
    let last = bad.place_of(&block(7, 1)).end;
    bad.stop();
    bad.disk.inject(Fault::failing(Operation::Read).within(last..last + BLOCK_SIZE_BYTES));
    let refusal = Server::start(&bad.place.setup).unwrap_err();
    assert!(refusal.contains("exit status: 1)") && refusal.contains("cannot be read"), "{refusal}");
    bad.disk.heal();
    let mut connection = bad.restart();
    assert_holds(&mut connection, 0..8, 1);
}

/// Goal: what the disk gets wrong once is read once more; what it keeps getting wrong is an error.
#[test]
fn flipped_bits_are_never_served() {
    let Some(mut bad) = Bad::new("flipped_bits_are_never_served", "flip") else { return };
    let mut connection = bad.connect("vm0");
    for number in 0..64 {
        write(&mut connection, number, 1).unwrap();
    }
    for _ in 0..8 {
        let flip = Fault::failing(Operation::Read).with(Effect::FlipBit);
        bad.disk.inject(flip.times(1));
        assert_holds(&mut connection, 0..64, 1);
    }
    assert_eq!(bad.disk.counts().faults, 8);
    let place = bad.place_of(&block(17, 1));
    bad.disk.flip_bit(place.start + 1000, 3);
    assert_fails(read(&mut connection, 17).map(drop), EIO);
    bad.stop();
    let output = ashlar(&["check", bad.mount.file().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("volume vm0: block 17: damaged"), "{said}");
    bad.disk.await_closed(LIMIT).unwrap();
    let mut connection = bad.restart();
    assert_fails(read(&mut connection, 17).map(drop), EIO);
    assert_holds(&mut connection, 0..17, 1);
    assert_holds(&mut connection, 18..64, 1);
}

/// Goal: a write that went astray is never taken for what should be at either place.
#[test]
fn misdirected_writes_are_noticed() {
    let Some(mut bad) = Bad::new("misdirected_writes_are_noticed", "astray") else { return };
    let mut connection = bad.connect("vm0");
    for number in 0..64 {
        write(&mut connection, number, 1).unwrap();
    }
    let place = bad.place_of(&block(20, 1));
    // The first of these goes behind the log, the second over what was written before.
    let back = place.start.wrapping_sub(bad.place_of(&block(63, 1)).start);
    for (number, by) in [(5, 1 << 20), (6, back)] {
        let astray = Fault::failing(Operation::Write).times(1).with(Effect::Misdirect(by));
        bad.disk.inject(astray);
        write(&mut connection, number, 2).unwrap();
    }
    for number in 0..64 {
        let version = if [5, 6].contains(&number) { 2 } else { 1 };
        match read(&mut connection, number) {
            Ok(found) => assert!(found == block(number, version), "block {number}"),
            Err(error) => assert!(error.contains(EIO), "{error}"),
        }
    }
    // Later batches vouch for those that are missing.
    bad.stop();
    let output = ashlar(&["check", bad.mount.file().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Goal: a file system that is full refuses new blocks and nothing else, and all goes on by itself
/// once it has room.
#[test]
fn a_full_file_system_is_no_damage() {
    let Some(mut bad) = Bad::new("a_full_file_system_is_no_damage", "full") else { return };
    bad.disk.set_room(Some(bad.disk.allocated_bytes()));
    let mut connection = bad.connect("vm0");
    let mut wrote = 0;
    let refusal = loop {
        assert!(wrote < BLOCKS, "the disk has no end");
        match write(&mut connection, wrote, 1) {
            Ok(()) => wrote += 1,
            Err(error) => break error,
        }
    };
    assert!(refusal.contains(ENOSPC), "{refusal}");
    assert!(bad.disk.counts().no_space > 0);
    assert_eq!(bad.status()["space"]["device_full"], true, "{}", bad.status());
    assert!(bad.status()["errors"]["failed"].is_null(), "a full disk is not a broken one");
    assert_holds(&mut connection, 0..wrote, 1);
    let trim = Request { command: Command::Trim, flags: 0, cookie: 1, offset: 0, length: 4096 };
    connection.ask(trim, &[]).unwrap();
    connection = bad.restart();
    assert_holds(&mut connection, 1..wrote, 1);
    bad.disk.set_room(None);
    assert!(settles(|| write(&mut connection, wrote, 1).is_ok()), "room was made in vain");
    let mut rest: Vec<_> = (wrote..BLOCKS).collect();
    rest.push(0);
    for number in rest {
        write(&mut connection, number, 1).unwrap();
    }
    assert_holds(&mut connection, 0..BLOCKS, 1);
}

/// Goal: a disk that stands still holds up what needs it and nobody else, and loses nothing.
#[test]
fn a_stalled_disk_loses_nothing() {
    let Some(mut bad) = Bad::new("a_stalled_disk_loses_nothing", "stall") else { return };
    let mut connection = bad.connect("vm0");
    write(&mut connection, 0, 1).unwrap();
    bad.disk.stall(true);
    let held_up = std::thread::spawn(move || {
        let written = write(&mut connection, 1, 1);
        (connection, written)
    });
    bad.disk.await_stalled(LIMIT).unwrap();
    // What does not need the disk is answered: connecting, status, and blocks nobody wrote.
    let mut other = bad.connect("vm1");
    assert!(read(&mut other, 7).unwrap().iter().all(|b| *b == 0));
    assert!(bad.status()["errors"]["failed"].is_null());
    assert!(!held_up.is_finished(), "acknowledged by a disk that stands still");
    bad.disk.stall(false);
    let (mut connection, written) = held_up.join().unwrap();
    written.unwrap();
    write(&mut other, 7, 1).unwrap();
    assert_holds(&mut connection, 0..2, 1);
    let mut connection = bad.restart();
    assert_holds(&mut connection, 0..2, 1);
}

/// Goal: a segment whose first blocks cannot be read is not taken for an empty one.
#[test]
fn an_unreadable_segment_header_forgets_nothing() {
    let test = "an_unreadable_segment_header_forgets_nothing";
    let Some(mut bad) = Bad::new(test, "head") else { return };
    let mut connection = bad.connect("vm0");
    for number in 0..8 {
        write(&mut connection, number, 1).unwrap();
    }
    let place = bad.place_of(&block(7, 1));
    bad.stop();
    let file = std::fs::File::open(bad.mount.file()).unwrap();
    let mut magic = [0u8; 8];
    let mut header = place.start;
    while &magic != b"ashSEGMT" {
        header -= BLOCK_SIZE_BYTES;
        file.read_exact_at(&mut magic, header).unwrap();
    }
    drop(file);
    bad.disk.await_closed(LIMIT).unwrap();
    bad.disk.inject(Fault::failing(Operation::Read).within(header..header + 4096));
    // The blocks behind it tell what it would have told.
    let mut connection = bad.restart();
    assert_holds(&mut connection, 0..8, 1);
}
