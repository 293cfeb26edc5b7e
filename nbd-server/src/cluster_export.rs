//! Volumes of a cluster as exports: any node serves any of them.
//!
//! Invariant: every connection has a handle of its own, so that one whose writes were fenced stays
//! so, and a client that connects again may take the volume over.
//! Must never know: the protocol, where blocks are.

use crate::export::{Export, ExportInfo, Exports, Extent, ReadData};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::store::Mapping;
use ashlar_engine::units::{BLOCK_SIZE_BYTES, Nanos};
use ashlar_engine::{Error, ErrorKind, Result};
use ashlar_raft::node::Node;
use ashlar_raft::volume::VolumeHandle;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Shortest time between two reports of failed requests.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// One volume, as one client has it open.
#[derive(Debug)]
pub struct ClusterExport {
    node: Node,
    handle: VolumeHandle,
    /// When a failed request was last reported.
    reported: Cell<Option<Nanos>>,
}

impl ClusterExport {
    /// Reports that a request failed: what the client is told is a number. Not for every request:
    /// if one fails, many do.
    fn reported<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            let now = self.node.store().reactor().now();
            if self.reported.get().is_none_or(|last| now > last + REPORT_INTERVAL) {
                self.reported.set(Some(now));
                let volume = &self.handle.volume().spec().name;
                tracing::warn!(%volume, "a request failed: {error}");
            }
        }
        result
    }

    /// What is read of a deleted volume would be holes.
    fn check_exists(&self) -> Result<()> {
        let spec = self.handle.volume().spec();
        match self.node.map().volumes().get(&spec.id) {
            Some(volume) if !volume.deleting => Ok(()),
            _ => Err(Error::new(ErrorKind::NotFound, "the volume does not exist any more")),
        }
    }
}

impl Export for ClusterExport {
    fn info(&self) -> ExportInfo {
        let spec = self.handle.volume().spec();
        ExportInfo {
            name: spec.name.clone(),
            description: String::new(),
            size_bytes: spec.size_bytes,
            read_only: false,
            preferred_block_bytes: BLOCK_SIZE_BYTES as u32,
        }
    }

    async fn read(&self, offset: u64, length: u32) -> Result<ReadData> {
        self.check_exists()?;
        self.reported(self.handle.read(offset, length).await).map(ReadData::from)
    }

    async fn write(&self, offset: u64, data: Buffer) -> Result<()> {
        self.check_exists()?;
        self.reported(self.handle.write(offset, data).await)
    }

    async fn write_zeroes(&self, offset: u64, length: u64, allocate: bool) -> Result<()> {
        self.check_exists()?;
        self.reported(self.handle.write_zeroes(offset, length, allocate).await)
    }

    async fn trim(&self, offset: u64, length: u64) -> Result<()> {
        self.check_exists()?;
        self.reported(self.handle.trim(offset, length).await)
    }

    /// An acknowledged write is durable on a quorum already.
    async fn flush(&self) -> Result<()> {
        Ok(())
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
        let extents = self.reported(self.handle.extents(offset, length, extents_max).await)?;
        let extents = extents.into_iter().map(|extent| Extent {
            length_bytes: extent.length_bytes,
            hole: extent.mapping == Mapping::Hole,
            zero: extent.mapping != Mapping::Data,
        });
        Ok(extents.collect())
    }
}

/// All volumes of a cluster, by their names.
#[derive(Debug)]
pub struct ClusterExports {
    node: Node,
}

impl ClusterExports {
    /// The volumes that `node` knows of, also those that are created later.
    #[must_use]
    pub fn new(node: Node) -> ClusterExports {
        ClusterExports { node }
    }
}

impl Exports for ClusterExports {
    type Export = ClusterExport;

    fn list(&self, after: &str, names_max: usize) -> Vec<String> {
        let names = self.node.volume_names().into_iter();
        names.filter(|name| name.as_str() > after).take(names_max).collect()
    }

    fn open(&self, name: &str) -> Result<Rc<ClusterExport>> {
        let name = match name {
            "" => match self.node.volume_names().as_slice() {
                [only] => only.clone(),
                _ => return Err(Error::new(ErrorKind::NotFound, "name an export")),
            },
            name => name.to_owned(),
        };
        let handle = self.node.open_volume(&name)?;
        let reported = Cell::new(None);
        Ok(Rc::new(ClusterExport { node: self.node.clone(), handle, reported }))
    }
}
