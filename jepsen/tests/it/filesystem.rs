//! File systems on a volume: made, filled, checked, and whole after the server was killed.

use std::fs;
use std::path::Path;

use ashlar_jepsen::random::Random;

use crate::disk::{Disk, PROGRAMS, exclusive};
use crate::tools::{Place, has, may_mount, output, run, skip};

const VOLUME_BYTES: u64 = 512 << 20;
const FILES: u64 = 120;
/// Longest file; odd, so that tails are partial blocks.
const FILE_MAX_BYTES: u64 = 700_001;

struct FileSystem {
    make: &'static [&'static str],
    check: &'static [&'static str],
}

const EXT4: FileSystem =
    FileSystem { make: &["mkfs.ext4", "-q", "-F"], check: &["e2fsck", "-f", "-n"] };
const XFS: FileSystem =
    FileSystem { make: &["mkfs.xfs", "-q", "-f"], check: &["xfs_repair", "-n"] };
const BTRFS: FileSystem =
    FileSystem { make: &["mkfs.btrfs", "-q", "-f"], check: &["btrfs", "check", "--readonly"] };

#[test]
fn ext4_survives() {
    survives("ext4_survives", "ext4", &EXT4);
}

#[test]
fn xfs_survives() {
    survives("xfs_survives", "xfs", &XFS);
}

#[test]
fn btrfs_survives() {
    survives("btrfs_survives", "btrfs", &BTRFS);
}

fn survives(test: &str, kernel_name: &str, system: &FileSystem) {
    let programs = [&PROGRAMS[..], &[system.make[0], system.check[0]]].concat();
    if !has(test, &programs) || !may_mount(test) || !kernel_knows(test, kernel_name) {
        return;
    }
    let _turn = exclusive();
    let place = Place::new(kernel_name, VOLUME_BYTES);
    let server = place.serve();
    let uri = server.uri();

    let mut disk = Disk::attach(&uri, place.directory.path());
    run_on(system.make, disk.device());
    let point = disk.mount();
    fill(&point);
    disk.unmount();
    run_on(system.check, disk.device());
    drop(disk);

    server.kill().unwrap();
    let _server = place.serve();
    let mut disk = Disk::attach(&uri, place.directory.path());
    run_on(system.check, disk.device());
    let point = disk.mount();
    verify(&point);
    disk.unmount();
    run_on(system.check, disk.device());
}

/// The programs may be there and the kernel's part missing.
fn kernel_knows(test: &str, name: &str) -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    let loaded = || known.split_whitespace().any(|word| word == name);
    if loaded() || output("modprobe", &[name]).status.success() {
        return true;
    }
    skip(test, &format!("{name} in the kernel"));
    false
}

fn run_on(command: &[&str], device: &str) {
    let arguments = [&command[1..], &[device]].concat();
    run(command[0], &arguments);
}

/// The files that must be there at the end: every third one was removed again.
fn content(number: u64) -> Option<Vec<u8>> {
    let mut random = Random::new(number);
    let mut bytes = vec![0u8; random.below(FILE_MAX_BYTES) as usize];
    random.fill(&mut bytes);
    (!number.is_multiple_of(3)).then_some(bytes)
}

fn name(point: &Path, number: u64) -> std::path::PathBuf {
    point.join(format!("d{}/f{number}", number % 7))
}

fn fill(point: &Path) {
    for folder in 0..7 {
        fs::create_dir(point.join(format!("d{folder}"))).unwrap();
    }
    for number in 0..FILES {
        let filler = || vec![0x5a; 100_000];
        fs::write(name(point, number), content(number).unwrap_or_else(filler)).unwrap();
    }
    for number in (0..FILES).filter(|n| content(*n).is_none()) {
        fs::remove_file(name(point, number)).unwrap();
    }
}

fn verify(point: &Path) {
    for number in 0..FILES {
        let found = fs::read(name(point, number)).ok();
        assert!(found == content(number), "file {number} changed");
    }
}
