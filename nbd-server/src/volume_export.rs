//! Volumes of a store as exports.
//!
//! Invariant: all clients of a volume share one [`VolumeExport`], so that its users can be counted.
//! Must never know: the protocol, how a volume stores its blocks.

use crate::export::{Export, ExportInfo, Exports, Extent, ReadData};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::limits::ATOMIC_WRITE_MAX_BYTES;
use ashlar_engine::local::{Answers, LocalStore, LocalVolume};
use ashlar_engine::store::Mapping;
use ashlar_engine::units::{BLOCK_SIZE_BYTES, VolumeId};
use ashlar_engine::{Error, ErrorKind, Result};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

/// One volume.
#[derive(Debug)]
pub struct VolumeExport {
    store: LocalStore,
    volume: LocalVolume,
    name: String,
    read_only: bool,
}

impl VolumeExport {
    /// A deleted volume has no mapping, which must not be taken for a hole.
    fn check_exists(&self) -> Result<()> {
        match self.store.volume(&self.name) {
            Ok(volume) if volume.id() == self.volume.id() => Ok(()),
            _ => Err(Error::new(ErrorKind::NotFound, "the volume does not exist any more")),
        }
    }
}

impl Export for VolumeExport {
    fn info(&self) -> ExportInfo {
        ExportInfo {
            name: self.name.clone(),
            description: String::new(),
            size_bytes: self.volume.size_bytes(),
            read_only: self.read_only,
            preferred_block_bytes: BLOCK_SIZE_BYTES as u32,
        }
    }

    async fn read(&self, offset: u64, length: u32) -> Result<ReadData> {
        self.volume.read(offset, length as usize).await.map(ReadData::from)
    }

    async fn write(&self, offset: u64, data: Buffer) -> Result<()> {
        self.volume.write(offset, data).await
    }

    fn start_read(&self, offset: u64, length: u32, answers: Rc<dyn Answers>, tag: u64) -> bool {
        self.volume.start_read(offset, length as usize, answers, tag)
    }

    fn start_write(
        &self,
        offset: u64,
        data: Buffer,
        answers: Rc<dyn Answers>,
        tag: u64,
    ) -> std::result::Result<(), Buffer> {
        self.volume.start_write(offset, data, answers, tag)
    }

    async fn write_zeroes(&self, offset: u64, length: u64, allocate: bool) -> Result<()> {
        // The volume changes partial blocks at the ends on their own. As data it is one request,
        // and atomic like every other, at the price of space for its whole blocks.
        let end = offset + length;
        let is_whole = |at: u64| at.is_multiple_of(BLOCK_SIZE_BYTES as u64);
        let is_aligned = is_whole(offset) && (is_whole(end) || end == self.volume.size_bytes());
        if is_aligned || length > ATOMIC_WRITE_MAX_BYTES as u64 {
            return self.volume.write_zeroes(offset, length, allocate).await;
        }
        let mut zeroes = self.store.reactor().pool().allocate(length as usize);
        zeroes.fill(0);
        self.volume.write(offset, zeroes).await
    }

    async fn trim(&self, offset: u64, length: u64) -> Result<()> {
        self.volume.trim(offset, length).await
    }

    async fn flush(&self) -> Result<()> {
        self.volume.flush().await
    }

    async fn cache(&self, _offset: u64, _length: u64) -> Result<()> {
        Ok(())
    }

    async fn block_status(
        &self,
        offset: u64,
        length: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>> {
        self.check_exists()?;
        let extents = self.volume.block_status(offset, length, extents_max)?;
        let extents = extents.into_iter().map(|extent| Extent {
            length_bytes: extent.length_bytes,
            hole: extent.mapping == Mapping::Hole,
            zero: extent.mapping != Mapping::Data,
        });
        Ok(extents.collect())
    }
}

/// All volumes of a store, by their names.
#[derive(Debug)]
pub struct VolumeExports {
    store: LocalStore,
    read_only: bool,
    in_use: RefCell<BTreeMap<VolumeId, Weak<VolumeExport>>>,
}

impl VolumeExports {
    /// The volumes of `store`, also those that are created later.
    #[must_use]
    pub fn new(store: LocalStore, read_only: bool) -> VolumeExports {
        VolumeExports { store, read_only, in_use: RefCell::default() }
    }

    /// How many clients have this volume open.
    #[must_use]
    pub fn users(&self, volume: VolumeId) -> usize {
        self.in_use.borrow().get(&volume).map_or(0, Weak::strong_count)
    }
}

impl Exports for VolumeExports {
    type Export = VolumeExport;

    fn list(&self, after: &str, names_max: usize) -> Vec<String> {
        let names = self.store.volumes().into_iter().map(|volume| volume.name);
        names.filter(|name| name.as_str() > after).take(names_max).collect()
    }

    fn open(&self, name: &str) -> Result<Rc<VolumeExport>> {
        let name = match name {
            "" => match self.store.volumes().as_slice() {
                [only] => only.name.clone(),
                _ => return Err(Error::new(ErrorKind::NotFound, "name an export")),
            },
            name => name.to_owned(),
        };
        let volume = self.store.volume(&name)?;
        let mut in_use = self.in_use.borrow_mut();
        if let Some(export) = in_use.get(&volume.id()).and_then(Weak::upgrade) {
            return Ok(export);
        }
        in_use.retain(|_, export| export.strong_count() > 0);
        let (store, id) = (self.store.clone(), volume.id());
        let export = Rc::new(VolumeExport { store, volume, name, read_only: self.read_only });
        in_use.insert(id, Rc::downgrade(&export));
        Ok(export)
    }
}
