//! The scrubber: reads everything that members here hold, and mends what is damaged.
//!
//! Invariant: it takes a bounded part of the store's time: so many bytes a second, and rests after
//! a pass.
//! Must never know: how blocks are mended.

use super::message::Range;
use super::replica::Replica;
use super::{Inner, Node};
use crate::limits::{READ_BLOCKS_MAX, SCRUB_INTERVAL, SCRUB_PAUSE};
use ashlar_engine::store::Mapping;
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex, VolumeId};
use ashlar_engine::{ErrorKind, Result};
use std::rc::Rc;
use std::time::Duration;

/// What a pass of the scrubber came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Bytes that were read and proved.
    pub read_bytes: u64,
    /// Blocks that were damaged and are whole again.
    pub mended_blocks: u64,
    /// Blocks that are damaged still: no other member has a sound copy, or none answers.
    pub damaged_blocks: u64,
}

impl Node {
    /// Reads everything that this node holds, now, and mends what is damaged from other members.
    ///
    /// # Errors
    /// As the store says, but for damage: that is in the report.
    pub async fn scrub(&self) -> Result<ScrubReport> {
        self.inner.runtime.enter(self.inner.scrub(Duration::ZERO)).await
    }
}

/// Scrubs as long as the node runs, a pass a day.
pub(super) async fn run(node: Rc<Inner>) {
    loop {
        node.reactor.sleep(SCRUB_INTERVAL).await;
        // What it found is counted by the store.
        node.scrub(SCRUB_PAUSE).await.ok();
    }
}

impl Inner {
    async fn scrub(&self, pause: Duration) -> Result<ScrubReport> {
        let mut report = ScrubReport::default();
        for replica in self.all_replicas() {
            for (volume, size_bytes) in replica.log.group().volumes() {
                self.scrub_volume(&replica, volume, size_bytes, pause, &mut report).await?;
            }
        }
        Ok(report)
    }

    async fn scrub_volume(
        &self,
        replica: &Replica,
        id: VolumeId,
        size_bytes: u64,
        pause: Duration,
        report: &mut ScrubReport,
    ) -> Result<()> {
        let (block, mut at) = (BLOCK_SIZE_BYTES as u64, 0);
        while at < size_bytes {
            // It may be deleted meanwhile.
            let Ok(volume) = replica.log.group().volume(id) else { return Ok(()) };
            let extents = volume.block_status(at, size_bytes - at, 1)?;
            let Some(extent) = extents.first() else { return Ok(()) };
            if extent.mapping != Mapping::Data {
                at += extent.length_bytes;
                continue;
            }
            let length = extent.length_bytes.min((READ_BLOCKS_MAX - 1) * block);
            match volume.read(at, length as usize).await {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    for first in at / block..(at + length).div_ceil(block) {
                        let range = Range { volume: id, first: BlockIndex(first), count: 1 };
                        match self.mend(replica, range).await {
                            Ok(mended) => report.mended_blocks += mended,
                            Err(_) => report.damaged_blocks += 1,
                        }
                    }
                }
                Err(error) => return Err(error),
            }
            report.read_bytes += length;
            at += length;
            if pause > Duration::ZERO {
                self.reactor.sleep(pause).await;
            }
        }
        Ok(())
    }
}
