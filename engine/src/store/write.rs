//! Requests that change something: checked, then gathered into the hot batch.

use super::group::waiting_bytes;
use super::leaf::RESERVED;
use super::log::{Heat, Log};
use super::volumes::volume_blocks;
use super::{Store, Waiting};
use crate::buffer::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Record, RecordKind, RootVolume};
use crate::limits::REQUEST_BLOCKS_MAX;
use crate::units::{BLOCK_SIZE_BYTES, BlockIndex, Location, VolumeId};

/// Blocks that one zero record covers at most.
pub(super) const ZERO_RECORD_BLOCKS_MAX: u64 = 1 << 28;
/// What a waiting record counts for against the bound on waiting bytes.
pub(super) const WAITING_RECORD_BYTES: usize = 512;

/// A group's volume changes through its log only.
fn check_plain(volume: VolumeId) -> Result<()> {
    if volume.is_of_group() {
        let why = "a volume of a group changes only by entries of its log";
        return Err(Error::new(ErrorKind::Invalid, why));
    }
    Ok(())
}

impl Store {
    pub(super) fn check_range(
        &self,
        volume: VolumeId,
        first: BlockIndex,
        count: u64,
    ) -> Result<()> {
        let blocks = volume_blocks(self.volumes.usable(volume)?.size_bytes);
        match first.0.checked_add(count) {
            Some(end) if end <= blocks => Ok(()),
            _ => Err(Error::new(ErrorKind::Invalid, "the request reaches past the volume's end")),
        }
    }

    pub(super) fn write(
        &mut self,
        token: u64,
        volume: VolumeId,
        first: BlockIndex,
        data: Buffer,
    ) -> Result<()> {
        let count = (data.len() / BLOCK_SIZE_BYTES) as u32;
        if !data.len().is_multiple_of(BLOCK_SIZE_BYTES) || count == 0 || count > REQUEST_BLOCKS_MAX
        {
            let why = format!("a write is 1 to {REQUEST_BLOCKS_MAX} whole blocks");
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        check_plain(volume)?;
        self.check_range(volume, first, count.into())?;
        self.check_space(volume, first, count.into())?;
        self.pending_blocks += u64::from(count);
        if self.has_reserve && self.waiting.is_empty() && self.log.has_room(Heat::Hot, count) {
            self.push_write(token, volume, first, data);
        } else {
            sometimes!("write: waited for room in a batch");
            self.waiting_bytes += data.len();
            self.waiting.push_back(Waiting::Write { token, volume, first, data });
        }
        Ok(())
    }

    fn push_write(&mut self, token: u64, volume: VolumeId, first: BlockIndex, data: Buffer) {
        let count = (data.len() / BLOCK_SIZE_BYTES) as u32;
        let record = Record::plain(RecordKind::Data, volume, first, count, Location(0));
        self.log.push(Heat::Hot, record, Some(data), Some(token));
    }

    /// Whether new blocks may be mapped. Overwriting what is mapped is allowed, as it frees as much
    /// as it takes, unless what it frees cannot be had.
    pub(super) fn check_space(
        &self,
        volume: VolumeId,
        first: BlockIndex,
        count: u64,
    ) -> Result<()> {
        self.check_space_beside(0, volume, first, count)
    }

    /// As [`Store::check_space`], if so many blocks more were mapped.
    pub(super) fn check_space_beside(
        &self,
        margin: u64,
        volume: VolumeId,
        first: BlockIndex,
        count: u64,
    ) -> Result<()> {
        if self.spent {
            return Err(self.no_segment());
        }
        let used = margin + self.data_blocks + self.reserved_blocks + self.pending_blocks;
        let capacity = self.capacity_blocks();
        if used + count <= capacity {
            return Ok(());
        }
        let (mut block, end, mut new) = (first.0, first.0 + count, 0);
        while block < end {
            let stretch = self.index.lookup(volume, BlockIndex(block));
            let blocks = u64::from(stretch.count).min(end - block);
            new += if stretch.place.is_none() { blocks } else { 0 };
            block += blocks;
        }
        if new == 0 || used + new <= capacity {
            return Ok(());
        }
        sometimes!("write: refused, the store is full");
        let why = "the store is full: delete or trim something, or use a larger store";
        Err(Error::new(ErrorKind::NoSpace, why))
    }

    pub(super) fn zero(
        &mut self,
        token: u64,
        volume: VolumeId,
        first: BlockIndex,
        count: u64,
        reserve: bool,
    ) -> Result<()> {
        check_plain(volume)?;
        self.check_range(volume, first, count)?;
        if count == 0 {
            self.reply(token, Ok(super::Outcome::Done));
            return Ok(());
        }
        let kind = if reserve { RecordKind::ZeroReserved } else { RecordKind::Zero };
        if reserve {
            self.check_space(volume, first, count)?;
            self.pending_blocks += count;
        }
        let mut done = 0;
        while done < count {
            let part = (count - done).min(ZERO_RECORD_BLOCKS_MAX);
            let first = first.offset(done);
            let source = if reserve { RESERVED } else { Location(0) };
            let record = Record::plain(kind, volume, first, part as u32, source);
            done += part;
            // Batches are installed in order: the last part's answer covers all parts.
            self.push_record((done == count).then_some(token), record, None);
        }
        Ok(())
    }

    pub(super) fn push_record(
        &mut self,
        token: Option<u64>,
        record: Record,
        payload: Option<Buffer>,
    ) {
        if self.waiting.is_empty() && self.log.has_room(Heat::Hot, record.payload_blocks()) {
            self.log.push(Heat::Hot, record, payload, token);
        } else {
            self.waiting_bytes += WAITING_RECORD_BYTES;
            self.waiting.push_back(Waiting::Record { token, record, payload });
        }
    }

    pub(super) fn create_volume(&mut self, token: u64, name: &str, size_bytes: u64) -> Result<()> {
        let id = self.volumes.start_create(name, size_bytes)?;
        let volume =
            RootVolume { id, name: name.to_owned(), size_bytes, created: self.log.durable() };
        let mut bytes = Vec::with_capacity(RootVolume::BYTES);
        volume.encode(&mut bytes);
        // Twice: one damaged block must not lose a volume.
        let mut payload = self.pool.allocate(2 * BLOCK_SIZE_BYTES);
        payload.fill(0);
        for copy in payload.chunks_exact_mut(BLOCK_SIZE_BYTES) {
            copy[..bytes.len()].copy_from_slice(&bytes);
        }
        let record = Record::plain(RecordKind::VolumeCreate, id, BlockIndex(0), 2, Location(0));
        self.creating.push((token, id));
        self.push_record(Some(token), record, Some(payload));
        Ok(())
    }

    pub(super) fn delete_volume(&mut self, token: u64, volume: VolumeId) -> Result<()> {
        check_plain(volume)?;
        self.volumes.start_delete(volume)?;
        let record = Record::plain(RecordKind::VolumeDelete, volume, BlockIndex(0), 0, Location(0));
        self.push_record(Some(token), record, None);
        Ok(())
    }

    /// Answers once everything before it is durable: at once if nothing is on its way.
    pub(super) fn barrier(&mut self, token: u64) {
        if !self.waiting.is_empty() {
            self.waiting.push_back(Waiting::Barrier { token });
        } else if !self.log.push_waiter(token) {
            self.reply(token, Ok(super::Outcome::Done));
        }
    }

    /// Moves waiting requests into the batch while they fit.
    pub(super) fn take_waiting(&mut self) {
        let has_room = |log: &Log, blocks| log.has_room(Heat::Hot, blocks);
        while let Some(next) = self.waiting.front() {
            let fits = match next {
                Waiting::Write { data, .. } => {
                    has_room(&self.log, (data.len() / BLOCK_SIZE_BYTES) as u32)
                }
                Waiting::Record { record, .. } => has_room(&self.log, record.payload_blocks()),
                Waiting::Barrier { .. } => has_room(&self.log, 0),
                Waiting::Group { records, .. } => self.log.has_room_for(Heat::Hot, records),
            };
            let is_data = match next {
                Waiting::Write { .. } => true,
                Waiting::Group { records, .. } => records.blocks > 0,
                _ => false,
            };
            if (is_data && !self.has_reserve) || !fits {
                return;
            }
            match self.waiting.pop_front().expect("invariant: there is a front") {
                Waiting::Write { token, volume, first, data } => {
                    self.waiting_bytes -= data.len();
                    self.push_write(token, volume, first, data);
                }
                Waiting::Record { token, record, payload } => {
                    self.waiting_bytes -= WAITING_RECORD_BYTES;
                    self.log.push(Heat::Hot, record, payload, token);
                }
                Waiting::Barrier { token } => {
                    if !self.log.push_waiter(token) {
                        self.reply(token, Ok(super::Outcome::Done));
                    }
                }
                Waiting::Group { token, records } => {
                    self.waiting_bytes -= waiting_bytes(&records);
                    self.log.push_group(Heat::Hot, records, token);
                }
            }
        }
    }
}
