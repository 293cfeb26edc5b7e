//! A volume in this process as a disk to measure.
//!
//! Must never know: loads.

use super::load::Disk;
use crate::program::failure::Result;
use ashlar_engine::buffer::BufferPool;
use ashlar_engine::local::LocalVolume;
use ashlar_engine::reactor::Reactor;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct EngineDisk {
    volume: LocalVolume,
    pool: BufferPool,
}

impl EngineDisk {
    pub(super) fn new(volume: LocalVolume, reactor: &Reactor) -> EngineDisk {
        EngineDisk { volume, pool: reactor.pool().clone() }
    }
}

impl Disk for EngineDisk {
    async fn read(&self, offset: u64, length: u32) -> Result<()> {
        Ok(self.volume.read(offset, length as usize).await.map(drop)?)
    }

    async fn write(&self, offset: u64, length: u32) -> Result<()> {
        // What a buffer holds is whatever it held before: nothing here looks at the bytes.
        let buffer = self.pool.allocate(length as usize);
        Ok(self.volume.write(offset, buffer).await?)
    }
}
