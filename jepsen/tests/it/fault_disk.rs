//! The fault disk itself: what the kernel hands to it, and that it keeps its fault model.

use std::fs::File;
use std::io::IoSlice;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

use ashlar_jepsen::faultfs::{Disk, Fault, Mount, Operation};
use ashlar_jepsen::temporary::TemporaryDirectory;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use crate::tools::may_use_fuse;

const BLOCK_SIZE_BYTES: usize = 4096;
const CLOSED_MAX: Duration = Duration::from_secs(10);

/// In the order in which they must be kept: the last goes first.
fn mounted(name: &str) -> (TemporaryDirectory, Disk, Mount) {
    let directory = TemporaryDirectory::new(name).unwrap();
    let disk = Disk::new(3);
    let mount = Mount::new(&disk, &directory.join("mnt")).unwrap_or_else(|e| panic!("{e}"));
    (directory, disk, mount)
}

fn open(mount: &Mount) -> File {
    let mut options = File::options();
    options.read(true).write(true).create(true).custom_flags(OFlags::DIRECT.bits() as i32);
    options.open(mount.file()).unwrap()
}

fn write_durable(file: &File, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
    pwritev2(file, &[IoSlice::new(bytes)], offset, ReadWriteFlags::DSYNC)
}

fn is_mounted(point: &std::path::Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.split_whitespace().any(|word| std::path::Path::new(word) == point)
}

/// Goal: the kernel says which writes must be durable, and asks for nothing else on the way.
#[test]
fn durable_writes_arrive_as_such() {
    if !may_use_fuse("durable_writes_arrive_as_such") {
        return;
    }
    let (_directory, disk, mount) = mounted("dsync");
    let file = open(&mount);
    file.set_len(1 << 20).unwrap();
    file.sync_data().unwrap();
    let before = disk.counts();
    assert_eq!(before.syncs, 1);
    file.write_all_at(&[1; BLOCK_SIZE_BYTES], 0).unwrap();
    write_durable(&file, 8192, &[2; BLOCK_SIZE_BYTES]).unwrap();
    let counts = disk.counts();
    assert_eq!((counts.writes, counts.durable_writes, counts.syncs), (2, 1, 1));
    disk.cut();
    assert!(file.read_at(&mut [0; 512], 0).is_err());
    drop(file);
    disk.await_closed(CLOSED_MAX).unwrap();
    disk.restore();
    let file = open(&mount);
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    let mut found = [0u8; BLOCK_SIZE_BYTES];
    file.read_exact_at(&mut found, 8192).unwrap();
    assert!(found == [2; BLOCK_SIZE_BYTES], "a durable write is gone");
}

/// Goal: files, locks and errors are as on any other file system.
#[test]
fn it_is_a_file() {
    if !may_use_fuse("it_is_a_file") {
        return;
    }
    let (_directory, disk, mount) = mounted("file");
    let (file, other) = (open(&mount), open(&mount));
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(flock(&other, FlockOperation::NonBlockingLockExclusive), Err(Errno::AGAIN));
    drop(file);
    flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    // Longer than the kernel hands over at once.
    let long: Vec<_> = (0..5 << 20).map(|i| (i / 512) as u8).collect();
    other.write_all_at(&long, 4096).unwrap();
    let mut found = vec![0u8; long.len()];
    other.read_exact_at(&mut found, 4096).unwrap();
    assert!(found == long);
    disk.inject(Fault::failing(Operation::Read).times(1));
    let failed = other.read_at(&mut found, 0).unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(Errno::IO.raw_os_error()));
    disk.inject(Fault::failing(Operation::Sync).times(1));
    assert!(other.sync_all().is_err());
    other.sync_all().unwrap();
    disk.set_room(Some(disk.allocated_bytes()));
    assert_eq!(write_durable(&other, 64 << 20, &[1; BLOCK_SIZE_BYTES]), Err(Errno::NOSPC));
}

/// Goal: the mount goes with its guard, also when somebody waits for a stalled disk.
#[test]
fn mounts_do_not_stay() {
    if !may_use_fuse("mounts_do_not_stay") {
        return;
    }
    let (directory, disk, mount) = mounted("gone");
    let point = directory.join("mnt");
    assert!(is_mounted(&point));
    let file = open(&mount);
    disk.stall(true);
    let reader = std::thread::spawn(move || file.read_at(&mut [0; 512], 0).is_err());
    disk.await_stalled(CLOSED_MAX).unwrap();
    drop(mount);
    assert!(reader.join().unwrap(), "a read of a disk without power");
    assert!(!is_mounted(&point));
}
