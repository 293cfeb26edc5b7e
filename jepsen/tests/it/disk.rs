//! A volume as a disk of this machine: nbdfuse makes it a file, a loop device makes that a disk.
//!
//! Every step is undone on drop, in reverse order, whatever state the server is in. Tests that
//! attach disks run one at a time: loop devices are a machine-wide resource.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ashlar_jepsen::server::tied_command;

use crate::tools::{output, run};

/// Programs a disk needs.
pub(crate) const PROGRAMS: [&str; 4] = ["nbdfuse", "losetup", "mount", "umount"];
/// Attaching and detaching end within this time.
const SETTLE_MAX: Duration = Duration::from_secs(20);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Holds the machine's loop devices for one test.
pub(crate) fn exclusive() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A volume attached as a loop device.
pub(crate) struct Disk {
    folder: PathBuf,
    fuse: Child,
    device: Option<String>,
    mounted: Option<PathBuf>,
}

impl Disk {
    /// Attaches `uri`; mount points are made below `directory`.
    pub(crate) fn attach(uri: &str, directory: &Path) -> Disk {
        let folder = directory.join("fuse");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("nbd");
        let mut command = tied_command(Path::new("nbdfuse"));
        command.arg(&file).arg(uri).stdin(Stdio::null());
        let fuse = command.spawn().unwrap();
        let mut disk = Disk { folder, fuse, device: None, mounted: None };
        let appeared = settles(|| file.exists() || !matches!(disk.fuse.try_wait(), Ok(None)));
        assert!(appeared && file.exists(), "nbdfuse did not show {uri}");
        let device = run("losetup", &["--find", "--show", file.to_str().unwrap()]);
        disk.device = Some(device.trim().to_owned());
        disk
    }

    /// The loop device.
    pub(crate) fn device(&self) -> &str {
        self.device.as_deref().expect("attached")
    }

    /// Mounts the disk; gives the mount point.
    pub(crate) fn mount(&mut self) -> PathBuf {
        let point = self.folder.with_file_name("mount");
        std::fs::create_dir_all(&point).unwrap();
        run("mount", &[self.device(), point.to_str().unwrap()]);
        self.mounted = Some(point.clone());
        point
    }

    /// Unmounts; everything is on the volume afterwards.
    pub(crate) fn unmount(&mut self) {
        if let Some(point) = self.mounted.take() {
            run("umount", &[point]);
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(point) = self.mounted.take() {
            undo("umount", &["--".as_ref(), point.as_os_str()]);
        }
        if let Some(device) = self.device.take() {
            undo("losetup", &["--detach".as_ref(), device.as_ref()]);
        }
        undo("umount", &["--".as_ref(), self.folder.as_os_str()]);
        // nbdfuse ends with its mount; if that failed it must not stay.
        if !settles(|| matches!(self.fuse.try_wait(), Ok(Some(_)))) {
            let _ = self.fuse.kill();
            let _ = self.fuse.wait();
        }
    }
}

/// Runs a tear-down step until it works: the kernel lets go of devices a little late.
fn undo(program: &str, arguments: &[&std::ffi::OsStr]) {
    if !settles(|| output(program, arguments).status.success()) {
        eprintln!("cannot undo: {program} {arguments:?}");
    }
}

/// Polls `condition`, for which nothing gives an event.
pub(crate) fn settles(mut condition: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !condition() {
        if started.elapsed() > SETTLE_MAX {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}
