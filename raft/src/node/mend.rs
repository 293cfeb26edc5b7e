//! Mending: a damaged block of a member is written anew with what another member has of it.
//!
//! The other member answers as of an entry that it has applied, not before the one that the asker
//! had applied when it found the damage; the asker applies up to that entry, too. If the block is
//! still where it was damaged then, nothing wrote it in between, and both hold the same.
//! Invariants: only bytes that proved themselves at another member are written; what was written
//! meanwhile stays; one block is mended at a time.
//! Must never know: what the blocks mean.

use super::Inner;
use super::answer::{Answer, Fault};
use super::message::{Message, Range};
use super::replica::{Replica, refused, unknown};
use crate::control::PgId;
use crate::limits::{MEND_APPLY_MAX, MEND_COPY_ATTEMPTS};
use crate::log_store::Mender;
use crate::placement::StoreId;
use ashlar_engine::ErrorKind;
use ashlar_engine::buffer::Buffer;
use ashlar_engine::local::LocalVolume;
use ashlar_engine::reactor::LocalBox;
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex, VolumeId};
use openraft_rt::Mutex as _;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// Pause between two looks at how far a member has applied.
const LOOK: Duration = Duration::from_millis(5);

/// Gets what is damaged in a member's log and blocks.
pub(super) struct NodeMender {
    pub(super) node: Weak<Inner>,
    pub(super) id: PgId,
}

impl Mender for NodeMender {
    fn entries(&self) -> LocalBox<bool> {
        let (node, id) = (self.node.upgrade(), self.id);
        Box::pin(async move {
            let Some(node) = node else { return false };
            node.runtime.enter(node.repair_log(id)).await.is_ok()
        })
    }

    fn blocks(&self, volume: VolumeId, first: BlockIndex, count: u64) -> LocalBox<bool> {
        let (node, id) = (self.node.upgrade(), self.id);
        Box::pin(async move {
            let Some(node) = node else { return false };
            let Some(replica) = node.replica(id) else { return false };
            let range = Range { volume, first, count };
            node.runtime.enter(node.mend(&replica, range)).await.is_ok()
        })
    }
}

impl Replica {
    /// Raft's index of the last entry that is applied to the store: the engine's differs from
    /// member to member, where one was brought up by a snapshot.
    fn applied_here(&self) -> u64 {
        self.log.applied().map_or(0, |applied| applied.index())
    }

    /// Waits until entries up to this one are applied. False: not in time.
    async fn reaches(&self, index: u64) -> bool {
        let reactor = self.log.group().store().reactor().clone();
        let deadline = reactor.now() + MEND_APPLY_MAX;
        while self.applied_here() < index {
            if reactor.now() >= deadline {
                return false;
            }
            reactor.sleep(LOOK).await;
        }
        true
    }

    /// Blocks as this member has them, and the entry as of which: not before `applied`.
    pub(super) async fn copy(&self, range: Range, applied: u64) -> Answer<(u64, Vec<Buffer>)> {
        self.check_blocks()?;
        if !self.reaches(applied).await {
            return Err(unknown(&"this member is behind"));
        }
        for _ in 0..MEND_COPY_ATTEMPTS {
            let as_of = self.applied_here();
            let volume = self.log.group().volume(range.volume).map_err(Fault::Refused)?;
            let offset = range.first.0.saturating_mul(BLOCK_SIZE_BYTES as u64);
            let length = range.count as usize * BLOCK_SIZE_BYTES;
            let parts = volume.read(offset, length).await.map_err(Fault::Refused)?;
            if self.applied_here() == as_of {
                return Ok((as_of, parts));
            }
        }
        Err(unknown(&"entries are applied faster than blocks are read"))
    }
}

impl Inner {
    /// Reads here, where this member leads. What is damaged is mended first.
    pub(super) async fn read_here(
        &self,
        replica: &Rc<Replica>,
        range: Range,
    ) -> Answer<Vec<Buffer>> {
        match replica.read(range).await {
            Err(Fault::Refused(error)) if error.kind() == ErrorKind::Corrupt => {
                self.mend(replica, range).await?;
                replica.read(range).await
            }
            answer => answer,
        }
    }

    /// Mends what is damaged among blocks; how many were.
    pub(super) async fn mend(&self, replica: &Replica, range: Range) -> Answer<u64> {
        let _one_at_a_time = self.mending.lock().await;
        let volume = replica.log.group().volume(range.volume).map_err(Fault::Refused)?;
        let mut mended = 0;
        for block in range.first.0..range.first.0.saturating_add(range.count) {
            mended += u64::from(self.mend_block(replica, &volume, BlockIndex(block)).await?);
        }
        Ok(mended)
    }

    async fn mend_block(
        &self,
        replica: &Replica,
        volume: &LocalVolume,
        block: BlockIndex,
    ) -> Answer<bool> {
        let Some(place) = volume.place(block) else { return Ok(false) };
        match volume.read(block.0 * BLOCK_SIZE_BYTES as u64, BLOCK_SIZE_BYTES).await {
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Corrupt => {}
            Err(error) => return Err(Fault::Refused(error)),
        }
        let applied = replica.applied_here();
        let range = Range { volume: volume.id(), first: block, count: 1 };
        let mut fault = refused(ErrorKind::Corrupt, &"no other member has a sound copy");
        for store in replica.others() {
            match self.copy_of(replica, store, range, applied).await {
                Ok((as_of, data)) if replica.reaches(as_of).await => {
                    volume.mend(block, place, data).await.map_err(Fault::Refused)?;
                    return Ok(true);
                }
                Ok(_) => {}
                Err(other) => fault = other,
            }
        }
        Err(fault)
    }

    /// One block as another member has it.
    async fn copy_of(
        &self,
        replica: &Replica,
        store: StoreId,
        range: Range,
        applied: u64,
    ) -> Answer<(u64, Buffer)> {
        let node = self.node_of(store)?;
        let message = Message::Copy { range, applied };
        let (head, parts) = self.ask(node, replica.id, message, BLOCK_SIZE_BYTES).await?;
        let as_of = head.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let Some(as_of) = as_of.filter(|_| length == BLOCK_SIZE_BYTES) else {
            return Err(unknown(&"a node sent another copy than asked for"));
        };
        let mut data = self.reactor.pool().allocate(BLOCK_SIZE_BYTES);
        let mut at = 0;
        for part in parts {
            data[at..at + part.len()].copy_from_slice(&part);
            at += part.len();
        }
        Ok((as_of, data))
    }
}
