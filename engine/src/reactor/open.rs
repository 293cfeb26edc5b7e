//! Opening a file or block device: access, lock, size, and a plain sentence when it cannot be.
//!
//! Must never know: how it is read and written.

use crate::error::{Error, ErrorKind, Result};
use crate::units::BLOCK_SIZE_BYTES;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;

/// How a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Makes a file of this size (a multiple of the block size) if there is none or it is empty;
    /// an error if there is one and it is smaller.
    pub create_size_bytes: Option<u64>,
    /// No writes. Others may read at the same time.
    pub read_only: bool,
    /// Keeps other processes, and other openings in this one, away.
    pub lock: bool,
    /// Past the page cache where the file system can.
    pub direct: bool,
}

impl Default for DeviceOptions {
    fn default() -> DeviceOptions {
        DeviceOptions { create_size_bytes: None, read_only: false, lock: true, direct: true }
    }
}

/// An open device. The lock goes with the file.
#[derive(Debug)]
pub(super) struct OpenedFile {
    pub(super) file: OwnedFd,
    /// Whole blocks of it.
    pub(super) size_bytes: u64,
    pub(super) read_only: bool,
    /// A block device, not a file.
    pub(super) is_block_device: bool,
    /// An operation handed to the kernel may hold up whoever hands it over.
    pub(super) may_block: bool,
}

/// Opens, locks and measures.
pub(super) fn open(path: &Path, options: &DeviceOptions) -> Result<OpenedFile> {
    open_inner(path, options).map_err(|error| error.context(path.display()))
}

fn open_inner(path: &Path, options: &DeviceOptions) -> Result<OpenedFile> {
    let create = options.create_size_bytes.filter(|_| !is_block_device(path));
    if create.is_some() && options.read_only {
        return Err(Error::new(ErrorKind::Invalid, "cannot be created read-only"));
    }
    if create.is_some_and(|size| !size.is_multiple_of(BLOCK_SIZE_BYTES as u64)) {
        return Err(Error::new(ErrorKind::Invalid, "the size must be a multiple of 4096"));
    }
    let file = open_file(path, options, create.is_some())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file).map_err(refusal)?.st_mode);
    match kind {
        FileType::RegularFile | FileType::BlockDevice => {}
        FileType::Directory => {
            return Err(Error::new(ErrorKind::Device, "is a directory"));
        }
        _ => return Err(Error::new(ErrorKind::Device, "is not a file or block device")),
    }
    if options.lock {
        lock(&file, options.read_only)?;
    }
    if let Some(wanted) = create
        && end_of(&file)? == 0
    {
        rustix::fs::ftruncate(&file, wanted).map_err(refusal)?;
        sync_parent(path)?;
    }
    let block = BLOCK_SIZE_BYTES as u64;
    let size_bytes = end_of(&file)? / block * block;
    let wanted = options.create_size_bytes.unwrap_or(block);
    if size_bytes < wanted {
        let message = format!("is too small: {size_bytes} bytes, needs {wanted}");
        return Err(Error::new(ErrorKind::Device, message));
    }
    let is_block_device = kind == FileType::BlockDevice;
    let may_block = !is_block_device && !starts_without_waiting(&file)?;
    Ok(OpenedFile { file, size_bytes, read_only: options.read_only, is_block_device, may_block })
}

/// Whether the file system is known to refuse, rather than to wait for a lock or for memory, when
/// it is asked not to wait (`IOCB_NOWAIT`). FUSE, for one, takes the inode's lock regardless, and
/// holds it while a sync is under way.
fn starts_without_waiting(file: &OwnedFd) -> Result<bool> {
    const EXT: i64 = 0xef53;
    const XFS: i64 = 0x5846_5342;
    const BTRFS: i64 = 0x9123_683e;
    const TMPFS: i64 = 0x0102_1994;
    let kind = rustix::fs::fstatfs(file).map_err(refusal)?.f_type;
    Ok([EXT, XFS, BTRFS, TMPFS].contains(&kind))
}

fn is_block_device(path: &Path) -> bool {
    rustix::fs::stat(path)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice)
}

fn open_file(path: &Path, options: &DeviceOptions, create: bool) -> Result<OwnedFd> {
    let mut flags = OFlags::CLOEXEC;
    flags |= if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    if create {
        flags |= OFlags::CREATE;
    }
    if options.lock && !options.read_only && is_block_device(path) {
        flags |= OFlags::EXCL; // The kernel's own lock: also against file systems mounted from it.
    }
    let mode = Mode::RUSR | Mode::WUSR;
    if options.direct {
        match rustix::fs::open(path, flags | OFlags::DIRECT, mode) {
            Err(Errno::INVAL) => {} // This file system has only the page cache.
            other => return other.map_err(refusal),
        }
    }
    rustix::fs::open(path, flags, mode).map_err(refusal)
}

fn lock(file: &OwnedFd, shared: bool) -> Result<()> {
    let operation = if shared {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    rustix::fs::flock(file, operation).map_err(refusal)
}

/// Size of a file or a block device: both end where a seek to the end arrives.
fn end_of(file: &OwnedFd) -> Result<u64> {
    rustix::fs::seek(file, rustix::fs::SeekFrom::End(0)).map_err(refusal)
}

/// A new name is durable only with its directory.
fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty()).map_err(refusal)?;
    rustix::fs::fsync(&directory).map_err(refusal)
}

fn refusal(error: Errno) -> Error {
    let (kind, message) = match error {
        Errno::NOENT => (ErrorKind::Device, "does not exist".into()),
        Errno::ACCESS | Errno::PERM => (ErrorKind::Device, "permission denied".into()),
        Errno::ISDIR => (ErrorKind::Device, "is a directory".into()),
        Errno::ROFS => (ErrorKind::Device, "is on a read-only file system".into()),
        Errno::AGAIN | Errno::BUSY | Errno::TXTBSY => (ErrorKind::Busy, "is in use".into()),
        Errno::NOSPC | Errno::DQUOT => (ErrorKind::NoSpace, "no space left for it".into()),
        Errno::FBIG => (ErrorKind::Invalid, "is larger than the file system allows".into()),
        other => (ErrorKind::Device, format!("cannot be used: {other}")),
    };
    Error::new(kind, message)
}
