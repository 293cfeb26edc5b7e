//! Entries that no node has whole: put together of the blocks that prove themselves, here and
//! there.
//!
//! What is put together is written only if it is, block by block, what the entry's checksums here
//! say: the engine sees to that.
//! Must never know: what entries mean.

use super::Inner;
use super::answer::{Answer, Fault};
use super::message::{EntryName, Message};
use super::repair::Entry;
use super::replica::{refused, unknown};
use crate::control::PgId;
use crate::limits::{HEAD_MAX_BYTES, PROPOSAL_BLOCKS_MAX};
use crate::placement::NodeId;
use crate::types::Changes;
use crate::types::encoding::{Bytes, bounded};
use ashlar_engine::ErrorKind;
use ashlar_engine::buffer::Buffer;
use ashlar_engine::local::LocalGroup;
use ashlar_engine::store::Change;
use ashlar_engine::units::BLOCK_SIZE_BYTES;

/// Blocks of an entry: those of its head and those of its changes.
const BLOCKS_MAX: usize = PROPOSAL_BLOCKS_MAX + HEAD_MAX_BYTES.div_ceil(BLOCK_SIZE_BYTES);

/// An entry, and which of its blocks are sound: those of its head first.
struct Left {
    entry: Entry,
    sound: Vec<bool>,
}

impl Left {
    fn is_whole(&self) -> bool {
        self.sound.iter().all(|sound| *sound)
    }

    /// Its blocks, as the flags count them. Those of a head that takes none are left out.
    fn blocks(&mut self) -> Vec<&mut [u8]> {
        let (head, changes) = &mut self.entry;
        let data = changes.iter_mut().filter_map(|change| match change {
            Change::Write { data, .. } => Some(data.chunks_mut(BLOCK_SIZE_BYTES)),
            _ => None,
        });
        let data: Vec<&mut [u8]> = data.flatten().collect();
        let of_head = self.sound.len().saturating_sub(data.len());
        head.chunks_mut(BLOCK_SIZE_BYTES).take(of_head).chain(data).collect()
    }

    /// Takes what is sound there and not here.
    fn add(&mut self, mut other: Left) {
        let wanted: Vec<bool> =
            self.sound.iter().zip(&other.sound).map(|(own, theirs)| !own && *theirs).collect();
        if self.sound.len() != other.sound.len() {
            return;
        }
        let mut taken = Vec::new();
        let pairs = self.blocks().into_iter().zip(other.blocks()).enumerate();
        for (at, (own, theirs)) in pairs.filter(|(at, _)| wanted.get(*at) == Some(&true)) {
            if own.len() == theirs.len() {
                own.copy_from_slice(theirs);
                taken.push(at);
            }
        }
        taken.into_iter().for_each(|at| self.sound[at] = true);
    }
}

impl Inner {
    /// An entry of what is left of it here and at these nodes; `None` if a block is missing.
    pub(super) async fn put_together(
        &self,
        group: &LocalGroup,
        index: u64,
        name: EntryName,
        nodes: &[NodeId],
    ) -> Option<Entry> {
        if nodes.is_empty() {
            return None;
        }
        let (entry, sound) = group.salvage(index).await.ok()?;
        let (head, changes) = (entry.head.clone(), Changes::from(entry));
        let entry = (head, changes.into_vec());
        let mut left = Left { entry, sound };
        for node in nodes {
            if left.is_whole() {
                break;
            }
            let asked = self.ask_for_entry(*node, PgId(group.id().0), Message::Left(name)).await;
            if let Ok(theirs) = asked.and_then(|(bytes, parts)| self.decode_left(&bytes, parts)) {
                left.add(theirs);
            }
        }
        left.is_whole().then_some(left.entry)
    }

    /// What is left of an entry here, for another node: the flags of its blocks, then as a whole
    /// entry.
    pub(super) async fn left_for(
        &self,
        id: PgId,
        name: EntryName,
        payload: &mut Vec<Buffer>,
    ) -> Answer<Vec<u8>> {
        let (group, index) = self.find_entry(id, name)?;
        let (entry, sound) = group.salvage(index).await.map_err(Fault::Refused)?;
        let count = bounded("blocks", BLOCKS_MAX, sound.len());
        let count = count.map_err(|e| refused(ErrorKind::Invalid, &e))?;
        let mut into = (count as u16).to_le_bytes().to_vec();
        into.extend(sound.into_iter().map(u8::from));
        into.extend(self.encode_entry(&entry, payload)?);
        Ok(into)
    }

    /// What [`Inner::left_for`] made these of.
    fn decode_left(&self, bytes: &[u8], parts: Vec<Buffer>) -> Answer<Left> {
        let mut bytes = Bytes::new(bytes);
        let mut flags = || {
            let count = bounded("blocks", BLOCKS_MAX, bytes.u16()?.into())?;
            let sound = bytes.take(count)?.iter().map(|flag| *flag == 1).collect();
            Ok::<_, crate::types::encoding::EncodingError>(sound)
        };
        let sound = flags().map_err(|e| unknown(&format!("no entry was sent: {e}")))?;
        let entry = self.decode_entry(bytes.rest(), parts)?;
        Ok(Left { entry, sound })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_engine::buffer::{BufferPool, PoolOptions};
    use ashlar_engine::units::{BlockIndex, VolumeId};

    /// An entry of a head of 5000 bytes and three blocks, with these blocks sound.
    fn left(pool: &BufferPool, fill: u8, sound: [bool; 5]) -> Left {
        let volume = VolumeId(VolumeId::GROUPS.0 + 1);
        let write = |first, blocks: usize| {
            let mut data = pool.allocate(blocks * BLOCK_SIZE_BYTES);
            data.fill(fill);
            Change::Write { volume, first: BlockIndex(first), data }
        };
        let zero = Change::Zero { volume, first: BlockIndex(9), count: 2, reserve: false };
        let entry = (vec![fill; 5000], vec![write(0, 1), zero, write(4, 2)]);
        Left { entry, sound: sound.to_vec() }
    }

    #[test]
    fn what_is_missing_here_is_taken_from_there() {
        let pool = BufferPool::new(PoolOptions::default());
        let mut own = left(&pool, 1, [true, false, true, false, false]);
        own.add(left(&pool, 2, [true, true, false, true, false]));
        assert_eq!(own.sound, [true, true, true, true, false]);
        assert!(!own.is_whole());
        own.add(left(&pool, 3, [true; 5]));
        assert!(own.is_whole());
        let fills: Vec<u8> = own.blocks().iter().map(|block| block[0]).collect();
        assert_eq!(fills, [1, 2, 1, 2, 3]);
        assert_eq!(own.blocks()[1].len(), 5000 - 4096);
    }

    #[test]
    fn what_does_not_fit_is_left_alone() {
        let pool = BufferPool::new(PoolOptions::default());
        let mut own = left(&pool, 1, [false; 5]);
        let mut other = left(&pool, 2, [true; 5]);
        other.sound.push(true);
        own.add(other);
        assert_eq!(own.sound, [false; 5]);
        let mut other = left(&pool, 2, [true; 5]);
        other.entry.1.pop();
        own.add(other);
        assert!(!own.is_whole());
    }
}
