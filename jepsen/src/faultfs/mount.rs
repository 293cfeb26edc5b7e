//! The disk as a file of this machine: a FUSE file system with one file, `disk`.
//!
//! Opened past the page cache, so every read and write of the program reaches the disk as it is,
//! cut by the kernel into at most 1 MiB. A write under `O_DSYNC` or `RWF_DSYNC` comes with that
//! flag and without a sync behind it. Locks are the kernel's.
//! Invariant: whatever happens, the mount goes with its guard; if this whole process dies,
//! fusermount3 takes it away.
//! Must never know: what survives, what fails.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    SessionACL, TimeOrNow, WriteFlags,
};
use rustix::mount::UnmountFlags;

use super::disk::{Disk, Refusal};
use crate::Result;

/// Name of the file.
const FILE_NAME: &str = "disk";
const FILE: INodeNo = INodeNo(2);
/// Operations that may take their time together.
const THREADS: usize = 16;
/// The kernel's own limit without further settings.
const WRITE_MAX_BYTES: u32 = 1 << 20;
/// A mount that is busy for longer is detached.
const BUSY_MAX: Duration = Duration::from_secs(10);
/// Between two tries to unmount.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Nothing may be remembered by the kernel: sizes change.
const NO_TIME: Duration = Duration::ZERO;

/// A mounted disk; unmounted on drop.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
    disk: Disk,
    session: Option<BackgroundSession>,
}

impl Mount {
    /// Mounts `disk` at the directory `point`, which is made.
    pub fn new(disk: &Disk, point: &Path) -> Result<Mount> {
        let because = |e: std::io::Error| format!("cannot mount at {}: {e}", point.display());
        std::fs::create_dir_all(point).map_err(because)?;
        let mut config = Config::default();
        let name = MountOption::FSName("faultfs".to_owned());
        config.mount_options = vec![name, MountOption::AutoUnmount];
        config.acl = SessionACL::All;
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
        let files = Files { disk: disk.clone() };
        let session = fuser::spawn_mount(files, point, &config).map_err(because)?;
        Ok(Mount { point: point.to_owned(), disk: disk.clone(), session: Some(session) })
    }

    /// The file.
    pub fn file(&self) -> PathBuf {
        self.point.join(FILE_NAME)
    }

    /// Unmounts; false if somebody still uses the disk.
    fn unmount(&self) -> bool {
        let deadline = Instant::now() + BUSY_MAX;
        while let Err(error) = rustix::mount::unmount(&self.point, UnmountFlags::empty()) {
            if error != rustix::io::Errno::BUSY || Instant::now() > deadline {
                eprintln!("cannot unmount {}: {error}", self.point.display());
                return rustix::mount::unmount(&self.point, UnmountFlags::DETACH).is_ok();
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        true
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Whatever waits for the disk would keep it busy.
        self.disk.cut();
        let Some(session) = self.session.take() else { return };
        if self.unmount()
            && let Err(error) = session.umount_and_join()
        {
            eprintln!("the disk at {} ended with: {error}", self.point.display());
        }
    }
}

struct Files {
    disk: Disk,
}

impl Files {
    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size, allocated) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0o755, 0, 0),
            FILE => (FileType::RegularFile, 0o600, self.disk.size(), self.disk.allocated_bytes()),
            _ => return None,
        };
        Some(FileAttr {
            ino: inode,
            size,
            blocks: allocated / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl From<Refusal> for Errno {
    fn from(refusal: Refusal) -> Errno {
        match refusal {
            Refusal::InputOutput => Errno::EIO,
            Refusal::NoSpace => Errno::ENOSPC,
        }
    }
}

impl Filesystem for Files {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Without it the kernel would do one asynchronous operation after another.
        let wanted = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        wanted.map_err(|_| std::io::Error::other("the kernel's FUSE is too old"))?;
        let limited = config.set_max_write(WRITE_MAX_BYTES);
        limited.map(|_| ()).map_err(|_| std::io::Error::other("writes of 1 MiB are too long"))
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(FILE) {
            Some(attributes) if parent == INodeNo::ROOT && name == FILE_NAME => {
                reply.entry(&NO_TIME, &attributes, Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&NO_TIME, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Only makes the file longer: no store is ever cut shorter.
    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let extended = match size {
            Some(size) if size < self.disk.size() => return reply.error(Errno::EOPNOTSUPP),
            Some(size) => self.disk.extend(size),
            None => Ok(()),
        };
        match (extended, self.attributes(inode)) {
            (Ok(()), Some(attributes)) => reply.attr(&NO_TIME, &attributes),
            (Err(refusal), _) => reply.error(refusal.into()),
            (_, None) => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        match self.disk.open() {
            Ok(cycle) => reply.opened(FileHandle(cycle), flags | FopenFlags::FOPEN_NOFLUSH),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        cycle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk.read(cycle.0, offset, u64::from(size)) {
            Ok(bytes) => reply.data(&bytes),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        cycle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let durable = flags.0 & rustix::fs::OFlags::DSYNC.bits() as i32 != 0;
        match self.disk.write(cycle.0, offset, bytes, durable) {
            Ok(()) => reply.written(bytes.len() as u32),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.disk.close();
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, cycle: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.disk.sync(cycle.0) {
            Ok(()) => reply.ok(),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    /// The only name was always there.
    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if offset == 0 {
            // One name always fits.
            let _ = reply.add(FILE, 1, FileType::RegularFile, FILE_NAME);
        }
        reply.ok();
    }
}
