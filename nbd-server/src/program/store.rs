//! Opening and making stores, with sentences that say what to do when that is not possible.
//!
//! Must never know: what they are opened for.

use super::failure::{Failure, Result};
use super::lock;
use super::size::Size;
use ashlar_engine::limits::{STORE_MAX_BYTES, STORE_MIN_BYTES};
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::{BlockDevice, DeviceOptions, Reactor};
use ashlar_engine::store::Geometry;
use ashlar_engine::units::BLOCK_SIZE_BYTES;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Smallest store that is made unasked.
const DEFAULT_MIN_BYTES: u64 = 1 << 30;
/// Stores made unasked are multiples of this.
const DEFAULT_UNIT_BYTES: u64 = 64 << 20;
/// Added to stores made unasked: open segments, checkpoints, the cleaner's reserve.
const DEFAULT_SLACK_BYTES: u64 = 256 << 20;

/// Opens the device under a store; it must exist.
async fn open_device(
    reactor: &Reactor,
    path: &Path,
    read_only: bool,
) -> Result<Rc<dyn BlockDevice>> {
    let options = DeviceOptions { read_only, ..DeviceOptions::default() };
    let device = lock::open(reactor, path, &options).await?;
    if device.size_bytes() < STORE_MIN_BYTES {
        return Err(Failure::new(format!(
            "{} has {} bytes and a store at least {STORE_MIN_BYTES}: it is not a store, or it was \
             truncated and must be restored from a copy",
            path.display(),
            device.size_bytes()
        )));
    }
    Ok(device)
}

/// Opens an existing store.
pub(crate) async fn open(reactor: &Reactor, path: &Path, read_only: bool) -> Result<LocalStore> {
    if matches!(path.try_exists(), Ok(false)) {
        return Err(Failure::new(format!("{} does not exist", path.display()))
            .hint("name the store with --store, or make one with `ashlar format`"));
    }
    let device = open_device(reactor, path, read_only).await?;
    open_on(reactor, path, device, read_only).await
}

/// Opens the store on an open device.
async fn open_on(
    reactor: &Reactor,
    path: &Path,
    device: Rc<dyn BlockDevice>,
    read_only: bool,
) -> Result<LocalStore> {
    let wrap = |error: ashlar_engine::Error| Failure::from(error.context(path.display()));
    if !LocalStore::is_store(reactor, &*device).await.map_err(wrap)? {
        return Err(Failure::new(format!("{} is not a store", path.display()))
            .hint("make one of it with `ashlar format --force`, which destroys what it holds"));
    }
    LocalStore::open(reactor, device, read_only).await.map_err(wrap)
}

/// Whether nothing was ever written at `path`: it does not exist, or is a file without any block.
pub(crate) fn is_unused(path: &Path) -> bool {
    match std::fs::metadata(path) {
        Ok(metadata) => metadata.is_file() && (metadata.len() == 0 || metadata.blocks() == 0),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Makes an empty store in an unused file; returns its device, locked.
pub(crate) async fn create(
    reactor: &Reactor,
    path: &Path,
    size: Size,
) -> Result<Rc<dyn BlockDevice>> {
    let device = create_device(reactor, path, size).await?;
    let made = LocalStore::format(reactor, &*device, size.0).await;
    made.map_err(|error| Failure::from(error.context(path.display())))?;
    Ok(device)
}

/// As [`create`], and opens the store.
pub(crate) async fn create_and_open(
    reactor: &Reactor,
    path: &Path,
    size: Size,
) -> Result<LocalStore> {
    let device = create_device(reactor, path, size).await?;
    let made = LocalStore::create(reactor, device, size.0).await;
    made.map_err(|error| Failure::from(error.context(path.display())))
}

/// Makes the file of a new store.
async fn create_device(reactor: &Reactor, path: &Path, size: Size) -> Result<Rc<dyn BlockDevice>> {
    let size_bytes = size.0 / BLOCK_SIZE_BYTES as u64 * BLOCK_SIZE_BYTES as u64;
    check_bounds(size_bytes)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| matches!(folder.try_exists(), Ok(false))) {
        return Err(Failure::new(format!("the folder {} does not exist", folder.display()))
            .hint("make it first, or choose another place"));
    }
    let options = DeviceOptions { create_size_bytes: Some(size_bytes), ..Default::default() };
    lock::open(reactor, path, &options).await
}

/// How a store of this size is divided, if there can be one.
pub(crate) fn check_bounds(size_bytes: u64) -> Result<Geometry> {
    Geometry::for_size(size_bytes).map_err(|_| {
        let (least, most) = (Size(STORE_MIN_BYTES), Size(STORE_MAX_BYTES));
        Failure::new(format!("a store has {least} to {most} bytes, not {}", Size(size_bytes)))
            .hint("choose another --size")
    })
}

/// Size of a store that can hold volumes of these sizes, all written in full.
pub(crate) fn default_size(volumes: impl IntoIterator<Item = u64>) -> Result<Size> {
    let sum = volumes.into_iter().fold(0u64, u64::saturating_add);
    let wanted = (sum / 2).saturating_add(sum).saturating_add(DEFAULT_SLACK_BYTES);
    let size = wanted.max(DEFAULT_MIN_BYTES).checked_next_multiple_of(DEFAULT_UNIT_BYTES);
    size.filter(|size| *size <= STORE_MAX_BYTES).map(Size).ok_or_else(|| {
        Failure::usage("the volumes to create are larger together than a store can be")
            .hint("name the store's size with --size: volumes take space only for what is written")
    })
}

/// Refuses an existing store of another size than asked for.
pub(crate) fn check_size(path: &Path, store: &LocalStore, asked: Size) -> Result<()> {
    let (status, geometry) = (store.status(), check_bounds(asked.0)?);
    let segment_bytes = u64::from(geometry.segment_blocks) * BLOCK_SIZE_BYTES as u64;
    if status.segment_bytes == segment_bytes
        && status.segments.total == u64::from(geometry.segments)
    {
        return Ok(());
    }
    let has = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let has = if has > 0 { has } else { status.segment_bytes * status.segments.total };
    Err(Failure::new(format!("{} has {} already, not {asked}", path.display(), Size(has)))
        .hint("leave --size out to serve it as it is"))
}

/// Where the admin socket of a store is if nobody says.
pub(crate) fn admin_socket(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".sock");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_stores_hold_their_volumes() {
        assert_eq!(default_size([]).unwrap(), Size(1 << 30));
        assert_eq!(default_size([512 << 20]).unwrap(), Size(1 << 30));
        for gib in [1u64, 4, 100, 4096] {
            let size = default_size([gib << 30]).unwrap();
            let geometry = Geometry::for_size(size.0).unwrap();
            let segments = u64::from(geometry.segments) - 6;
            let room = segments * u64::from(geometry.segment_blocks) * 4096 / 12 * 11;
            assert!(room > (gib << 30) + (gib << 27), "{gib} GiB");
        }
        assert_eq!(default_size([1 << 60]).unwrap_err().code, 2);
        assert_eq!(default_size([u64::MAX, u64::MAX]).unwrap_err().code, 2);
    }
}
