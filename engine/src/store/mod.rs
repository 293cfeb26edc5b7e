//! The store: a log-structured block store without I/O of its own.
//!
//! A driver feeds it requests and completions and carries out the operations it asks for:
//! `handle_*` take events in, `poll_*` give work and results out, time is an argument.
//! Invariants: an acknowledged write is durable; what is read is what was last acknowledged or
//! something written concurrently, proved by its checksum; after a failed write nothing is
//! acknowledged any more.
//! Must never know: files, threads, clocks, randomness.

mod apply;
mod cache;
mod checkpoint;
mod cleaner;
mod geometry;
mod group;
mod index;
mod leaf;
mod log;
mod mend;
mod prepare;
mod read;
mod recovery;
mod segments;
mod single;
mod status;
mod volumes;
mod write;

pub use geometry::{Geometry, format_store};
pub use group::{Change, Faulty, GroupEntry, GroupRequest, GroupSpan, GroupState};
pub use mend::Place;
pub use recovery::{ReadRange, ReadResult, Recovery};
pub use status::{Mapping, SegmentCounts, StoreStatus, VolumeStatus};

use crate::buffer::{Buffer, BufferPool};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{DeviceId, Seal, Superblock};
use crate::reactor::{DeviceCompletion, DeviceOp};
use crate::units::{BlockIndex, GroupId, Lsn, Nanos, SegmentId, VolumeId};
use cache::ChecksumCache;
use checkpoint::Checkpointer;
use cleaner::Cleaner;
use group::{EntryRead, EntryRestore, Groups};
use index::Index;
use log::{GroupRecords, Log};
use read::ReadState;
use segments::Segments;
use single::{BlockRead, Wanted};
use slab::Slab;
use std::collections::VecDeque;
use std::rc::Rc;
use volumes::Volumes;

/// Bytes the checksum cache may take.
pub const CHECKSUM_CACHE_MAX_BYTES: usize = 16 << 20;

/// What a caller wants, in whole blocks. The token in front of it comes back with the reply.
#[derive(Debug)]
pub enum Request {
    /// Reads `count` blocks.
    Read {
        /// From which volume.
        volume: VolumeId,
        /// First block.
        first: BlockIndex,
        /// Blocks; at most [`crate::limits::REQUEST_BLOCKS_MAX`].
        count: u32,
    },
    /// Writes whole blocks, atomically.
    Write {
        /// To which volume.
        volume: VolumeId,
        /// First block.
        first: BlockIndex,
        /// The blocks; at most [`crate::limits::REQUEST_BLOCKS_MAX`].
        data: Buffer,
    },
    /// Makes blocks read as zeroes.
    Zero {
        /// Of which volume.
        volume: VolumeId,
        /// First block.
        first: BlockIndex,
        /// Blocks.
        count: u64,
        /// Keep their space, so that writing them later cannot fail for lack of it.
        reserve: bool,
    },
    /// Creates a volume.
    CreateVolume {
        /// Its name.
        name: String,
        /// Its size: a positive multiple of 512.
        size_bytes: u64,
    },
    /// Deletes a volume and everything in it.
    DeleteVolume {
        /// Which.
        volume: VolumeId,
    },
    /// Writes one block of any volume anew, if it still is where it was found damaged.
    Mend {
        /// Of which volume.
        volume: VolumeId,
        /// Which block.
        block: BlockIndex,
        /// Where it was found damaged.
        place: Place,
        /// What it held, as another copy has it.
        data: Buffer,
    },
    /// Answered when everything taken before it is durable.
    Barrier,
    /// Writes a checkpoint, so that the next start replays nothing.
    Checkpoint,
    /// Something for the log of a group; entries are appended by [`Store::append_entries`].
    Group {
        /// Which group.
        group: GroupId,
        /// What it wants.
        request: GroupRequest,
    },
}

/// What a request came to.
#[derive(Debug)]
pub enum Outcome {
    /// Durable.
    Done,
    /// The bytes, in order.
    Read(Vec<Buffer>),
    /// The new volume.
    Created(VolumeId),
    /// The entry of a group.
    Entry(Rc<GroupEntry>),
    /// What is left of an entry, and which of its blocks proved themselves: first those that its
    /// head takes, if it takes whole ones, then those of its changes. Others are zeroes.
    Salvaged(Rc<GroupEntry>, Vec<bool>),
}

impl Outcome {
    /// The bytes that were read, if any were.
    pub(crate) fn into_buffers(self) -> Vec<Buffer> {
        match self {
            Outcome::Read(buffers) => buffers,
            _ => Vec::new(),
        }
    }
}

/// Answer to the request with this token.
#[derive(Debug)]
pub struct Reply {
    /// The request's token.
    pub token: u64,
    /// What it came to.
    pub result: Result<Outcome>,
}

/// What an operation on the device was for.
#[derive(Debug)]
enum Io {
    Batch(Lsn),
    Block(BlockRead),
    Read { read: usize, part: usize },
    Header { read: usize, table: usize, place: read::SumsAt },
    Superblock(u32),
    Prepare(SegmentId),
    PrepareSync(SegmentId),
    Clean,
    Entry(Box<EntryRead>),
    Restore(EntryRestore),
}

/// A request that was taken but waits for room in a batch.
#[derive(Debug)]
enum Waiting {
    Write { token: u64, volume: VolumeId, first: BlockIndex, data: Buffer },
    Record { token: Option<u64>, record: crate::format::Record, payload: Option<Buffer> },
    Barrier { token: u64 },
    Group { token: Option<u64>, records: GroupRecords },
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    seal: Seal,
    superblock: Superblock,
    pool: BufferPool,
    segments: Segments,
    index: Index,
    volumes: Volumes,
    log: Log,
    cache: ChecksumCache,
    /// Reads taken but not looked up.
    wanted: Vec<Wanted>,
    reads: Slab<ReadState>,
    ios: Slab<Io>,
    ready: VecDeque<(u64, DeviceOp)>,
    replies: VecDeque<Reply>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Blocks of writes taken but not installed.
    pending_blocks: u64,
    /// Blocks with data that the index points to.
    data_blocks: u64,
    /// Blocks that are reserved zeroes.
    reserved_blocks: u64,
    /// Creations on their way: what to answer.
    creating: Vec<(u64, VolumeId)>,
    groups: Groups,
    checkpointer: Checkpointer,
    cleaner: Cleaner,
    preparing: Option<prepare::Preparing>,
    /// The reserve was complete once. Until then a new store takes no data.
    has_reserve: bool,
    /// The file system under the store refused to give it more room.
    device_full: bool,
    /// No segment is left for data, and nothing the store can do makes one.
    spent: bool,
    /// Since when not even the reserve has one.
    used_up_since: Option<Nanos>,
    counters: Counters,
    failed: Option<Error>,
    read_only: bool,
    now: Nanos,
}

/// Running totals since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Blocks that clients wrote.
    pub user_blocks_written: u64,
    /// Blocks that clients read.
    pub user_blocks_read: u64,
    /// Blocks written to the device: data, headers, relocated data, checkpoints.
    pub device_blocks_written: u64,
    /// Blocks the cleaner moved.
    pub relocated_blocks: u64,
    /// Segments the cleaner emptied.
    pub cleaned_segments: u64,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Batches written.
    pub batches: u64,
    /// Blocks that did not prove themselves, each time they were met.
    pub corrupt_blocks: u64,
    /// Blocks that were written anew with what another copy of them held.
    pub mended_blocks: u64,
    /// Reads that the device refused.
    pub read_errors: u64,
}

impl Store {
    /// Takes a request. A [`Reply`] with this token follows, at once or later.
    pub fn handle_request(&mut self, now: Nanos, token: u64, request: Request) {
        self.now = now;
        let taken = match request {
            Request::Read { volume, first, count } => self.read(token, volume, first, count),
            Request::Group { group, request } => self.group_request(token, group, request),
            _ if self.failed.is_some() => Err(self.failure()),
            _ if self.read_only => {
                Err(Error::new(ErrorKind::Invalid, "the store is open for reading only"))
            }
            Request::Write { volume, first, data } => self.write(token, volume, first, data),
            Request::Zero { volume, first, count, reserve } => {
                self.zero(token, volume, first, count, reserve)
            }
            Request::CreateVolume { name, size_bytes } => {
                self.create_volume(token, &name, size_bytes)
            }
            Request::DeleteVolume { volume } => self.delete_volume(token, volume),
            Request::Mend { volume, block, place, data } => {
                self.mend(token, volume, block, place, data)
            }
            Request::Barrier => {
                self.barrier(token);
                Ok(())
            }
            Request::Checkpoint => {
                self.checkpointer.request(Some(token));
                Ok(())
            }
        };
        if let Err(error) = taken {
            self.replies.push_back(Reply { token, result: Err(error) });
        }
    }

    /// Takes a finished operation.
    pub fn handle_completion(&mut self, now: Nanos, completion: DeviceCompletion) {
        self.now = now;
        let io = self.ios.remove(completion.token as usize);
        let DeviceCompletion { result, buffers, .. } = completion;
        match io {
            Io::Batch(lsn) => match result {
                Ok(()) => self.handle_batch(lsn, buffers),
                Err(error) => self.fail(&format!("a write to the log failed: {error}")),
            },
            Io::Block(read) => self.handle_block(read, result, buffers),
            Io::Read { read, part } => self.handle_read(read, part, result, buffers),
            Io::Header { read, table, place } => {
                self.handle_header((read, table), place, result, buffers);
            }
            Io::Superblock(copy) => match result {
                Ok(()) => self.handle_superblock(copy),
                Err(error) => self.fail(&format!("a write of the superblock failed: {error}")),
            },
            Io::Prepare(id) => self.handle_prepared(id, result, buffers),
            Io::PrepareSync(id) => self.handle_prepare_synced(id, result),
            Io::Clean => self.handle_clean(result, buffers),
            Io::Entry(read) => self.handle_entry(*read, result, buffers),
            Io::Restore(restore) => self.handle_restore(&restore, result, buffers),
        }
    }

    /// The next operation to carry out, with the token to complete it with.
    pub fn poll_io(&mut self, now: Nanos) -> Option<(u64, DeviceOp)> {
        self.now = now;
        self.start_reads();
        if let Some(op) = self.ready.pop_front() {
            return Some(op);
        }
        if self.failed.is_some() || self.read_only {
            return None;
        }
        self.take_waiting();
        self.push_purges();
        self.poll_cleaner();
        self.poll_checkpoint();
        self.poll_prepare();
        self.relieve();
        if let Some(write) = self.log.poll_write(&mut self.segments, now) {
            let blocks: usize = write.buffers.iter().map(|buffer| buffer.len()).sum();
            self.counters.device_blocks_written += (blocks / crate::units::BLOCK_SIZE_BYTES) as u64;
            self.counters.batches += 1;
            let offset_bytes = write.location.offset_bytes();
            let op = DeviceOp::Write { offset_bytes, buffers: write.buffers, sync: true };
            self.start(Io::Batch(write.lsn), op);
        }
        self.ready.pop_front()
    }

    /// The next answer.
    pub fn poll_reply(&mut self) -> Option<Reply> {
        self.start_reads(); // Those of holes need no operation.
        self.replies.pop_front()
    }

    /// When to call [`Store::poll_io`] even if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Nanos> {
        if self.failed.is_some() || self.read_only {
            return None;
        }
        [self.log.poll_timeout(), self.prepare_timeout()].into_iter().flatten().min()
    }

    /// Whether the store has taken all it can hold: give it completions before more requests.
    #[must_use]
    pub fn is_full_of_requests(&self) -> bool {
        self.waiting_bytes >= crate::limits::QUEUED_MAX_BYTES
    }

    /// Identity of the device.
    #[must_use]
    pub fn device_id(&self) -> DeviceId {
        self.seal.device()
    }

    /// Why the store fenced itself, if it did.
    #[must_use]
    pub fn failed(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    /// Whether it was opened to write nothing.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether every write taken so far is durable and nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.ios.is_empty()
            && self.wanted.is_empty()
            && self.waiting.is_empty()
            && self.log.is_quiet()
    }

    fn start(&mut self, io: Io, op: DeviceOp) {
        let token = self.ios.insert(io) as u64;
        self.ready.push_back((token, op));
    }

    fn reply(&mut self, token: u64, result: Result<Outcome>) {
        self.replies.push_back(Reply { token, result });
    }

    fn failure(&self) -> Error {
        let cause = self.failed.clone();
        cause.unwrap_or_else(|| Error::new(ErrorKind::Failed, "the store has failed"))
    }

    /// Fences the store: nothing written from here on could be trusted to be durable.
    fn fail(&mut self, why: &str) {
        if self.failed.is_none() {
            sometimes!("store: fenced");
            let message =
                format!("{why}; the store takes no more writes, restart the server to recover");
            self.failed = Some(Error::new(ErrorKind::Failed, message));
        }
        let ios = &mut self.ios;
        self.ready.retain(|(token, op)| {
            let is_read = matches!(op, DeviceOp::Read { .. });
            is_read || ios.try_remove(*token as usize).is_none()
        });
        let mut tokens = self.log.fail();
        for waiting in self.waiting.drain(..) {
            match waiting {
                Waiting::Write { token, .. } | Waiting::Barrier { token } => tokens.push(token),
                Waiting::Record { token, .. } | Waiting::Group { token, .. } => {
                    tokens.extend(token);
                }
            }
        }
        self.waiting_bytes = 0;
        tokens.append(&mut self.checkpointer.fail());
        tokens.extend(self.groups.fail());
        let error = self.failure();
        for token in tokens {
            self.reply(token, Err(error.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
