//! A volume of the cluster as one range of bytes.
//!
//! Must never know: how proposals are made, who leads.

use super::bytes::{BLOCK, cut, is_whole, touched};
use super::handle::Right;
use super::locks::{Hold, Locks};
use super::writer::fenced;
use super::{Groups, VolumeHandle, slice_id};
use crate::control::{ClusterVolumeId, PgId, Volume};
use crate::limits::WRITE_MAX;
use crate::runtime::Mutex;
use crate::types::{Change, Outcome};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::limits::ATOMIC_WRITE_MAX_BYTES;
use ashlar_engine::local::Extent;
use ashlar_engine::reactor::Reactor;
use ashlar_engine::store::Mapping;
use ashlar_engine::units::{BlockIndex, VolumeId};
use ashlar_engine::{Error, ErrorKind, Result};
use futures_util::stream::{self, StreamExt};
use openraft_rt::Mutex as _;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// Slices that are told of a new writer at once.
const FENCES_UNDER_WAY: usize = 64;
/// How long a new writer waits until all slices know of it.
const FENCE_ALL_MAX: Duration = Duration::from_secs(5);

/// What a volume is, as the map has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Its identity.
    pub id: ClusterVolumeId,
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    slice_bytes: u64,
    first_slice: u32,
    slices: Vec<PgId>,
}

impl VolumeSpec {
    /// From the map.
    #[must_use]
    pub fn new(id: ClusterVolumeId, volume: &Volume) -> VolumeSpec {
        VolumeSpec {
            id,
            name: volume.name.clone(),
            size_bytes: volume.size_bytes,
            slice_bytes: volume.slice_bytes,
            first_slice: volume.first_slice,
            slices: volume.slices.clone(),
        }
    }

    /// Size of a slice's volume: whole blocks.
    fn size_of_slice(&self, slice: usize) -> u64 {
        let start = slice as u64 * self.slice_bytes;
        (self.size_bytes - start).min(self.slice_bytes).next_multiple_of(BLOCK)
    }
}

/// Who may write, as far as this process knows.
#[derive(Debug, Default)]
struct Attachment {
    /// The epoch with which it may.
    epoch: Option<u64>,
    /// Slices that refuse older epochs,
    fenced: BTreeSet<usize>,
    /// and exist.
    ready: BTreeSet<usize>,
}

/// A volume that is open in this process. All its handles share it.
pub struct ClusterVolume {
    pub(super) reactor: Reactor,
    groups: Rc<dyn Groups>,
    pub(super) spec: VolumeSpec,
    locks: Rc<Locks>,
    attachment: RefCell<Attachment>,
    /// One attaches, or readies a slice, at a time.
    attaching: Mutex<()>,
    /// How often this process lost the right to write.
    fencings: Cell<u64>,
    handles: Cell<usize>,
}

/// A part of a byte range inside one slice.
pub(super) struct Part {
    pub(super) slice: usize,
    /// Bytes of the slice.
    pub(super) bytes: Range<u64>,
}

impl ClusterVolume {
    /// The volume that `spec` says, over `groups`.
    #[must_use]
    pub fn new(reactor: Reactor, groups: Rc<dyn Groups>, spec: VolumeSpec) -> Rc<ClusterVolume> {
        Rc::new(ClusterVolume {
            reactor,
            groups,
            spec,
            locks: Rc::default(),
            attachment: RefCell::default(),
            attaching: Mutex::new(()),
            fencings: Cell::new(0),
            handles: Cell::new(0),
        })
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> &VolumeSpec {
        &self.spec
    }

    /// Opens it once more.
    #[must_use]
    pub fn open(self: &Rc<ClusterVolume>) -> VolumeHandle {
        self.handles.set(self.handles.get() + 1);
        VolumeHandle::new(Rc::clone(self))
    }

    /// How many have it open.
    #[must_use]
    pub fn handles(&self) -> usize {
        self.handles.get()
    }

    pub(super) fn check(&self, offset: u64, length: u64) -> Result<Range<u64>> {
        match offset.checked_add(length) {
            Some(end) if end <= self.spec.size_bytes => Ok(offset..end),
            _ => Err(Error::new(ErrorKind::Invalid, "the request reaches past the volume's end")),
        }
    }

    /// Cuts a range at slices, and into pieces of at most so many bytes.
    pub(super) fn parts(&self, bytes: &Range<u64>, bytes_max: u64) -> Vec<Part> {
        let size = self.spec.slice_bytes;
        let mut parts = Vec::new();
        let mut at = bytes.start;
        while at < bytes.end {
            let slice = at / size;
            let start = slice * size;
            let end = bytes.end.min(start + size).min(at.saturating_add(bytes_max));
            parts.push(Part { slice: slice as usize, bytes: at - start..end - start });
            at = end;
        }
        parts
    }

    /// Blocks of a slice, as blocks of the volume: what locks go by.
    fn blocks_of(&self, part: &Part) -> Range<u64> {
        let before = part.slice as u64 * (self.spec.slice_bytes / BLOCK);
        let blocks = touched(&part.bytes);
        before + blocks.start..before + blocks.end
    }

    fn slice(&self, slice: usize) -> (PgId, VolumeId) {
        (self.spec.slices[slice], slice_id(self.spec.first_slice, slice))
    }

    async fn read_blocks(&self, slice: usize, blocks: Range<u64>) -> Result<Vec<Buffer>> {
        let (group, volume) = self.slice(slice);
        let count = blocks.end - blocks.start;
        self.groups.read(group, volume, BlockIndex(blocks.start), count).await
    }

    pub(super) async fn read(&self, offset: u64, length: u32) -> Result<Vec<Buffer>> {
        let bytes = self.check(offset, length.into())?;
        let mut buffers = Vec::new();
        for part in self.parts(&bytes, ATOMIC_WRITE_MAX_BYTES as u64) {
            let blocks = touched(&part.bytes);
            let skip = (part.bytes.start - blocks.start * BLOCK) as usize;
            let length = (part.bytes.end - part.bytes.start) as usize;
            let read = self.read_blocks(part.slice, blocks).await?;
            buffers.extend(cut(read, skip, length));
        }
        Ok(buffers)
    }

    /// A write's blocks: its own bytes, and what is around them in its first and last block.
    async fn filled(&self, part: &Part, data: &[u8]) -> Result<Buffer> {
        let blocks = touched(&part.bytes);
        let mut filled =
            self.reactor.pool().allocate(((blocks.end - blocks.start) * BLOCK) as usize);
        let last = blocks.end - 1;
        let mut edges = BTreeSet::new();
        if !part.bytes.start.is_multiple_of(BLOCK) {
            edges.insert(blocks.start);
        }
        if !part.bytes.end.is_multiple_of(BLOCK) {
            edges.insert(last);
        }
        for edge in edges {
            let at = ((edge - blocks.start) * BLOCK) as usize;
            let mut into = &mut filled[at..at + BLOCK as usize];
            for buffer in self.read_blocks(part.slice, edge..edge + 1).await? {
                let (own, rest) = into.split_at_mut(buffer.len().min(into.len()));
                own.copy_from_slice(&buffer[..own.len()]);
                into = rest;
            }
        }
        let at = (part.bytes.start - blocks.start * BLOCK) as usize;
        filled[at..at + data.len()].copy_from_slice(data);
        Ok(filled)
    }

    /// Waits until a part's blocks may be written, but not for ever.
    async fn hold(&self, part: &Part, alone: bool) -> Result<Hold> {
        let hold = self.locks.hold(self.blocks_of(part), alone);
        self.reactor.within(WRITE_MAX, hold).await.ok_or_else(|| {
            let why = "nobody knows yet whether these blocks were written: this was not";
            Error::new(ErrorKind::Failed, why)
        })
    }

    /// Writes inside a slice. What is around a partial block is read only when nobody else may
    /// write any more: another node's write after that read would be undone.
    pub(super) async fn write_part(&self, by: &Right, part: Part, data: Buffer) -> Result<()> {
        let (_, volume) = self.slice(part.slice);
        let first = BlockIndex(touched(&part.bytes).start);
        let whole = is_whole(&part.bytes);
        let hold = self.hold(&part, !whole).await?;
        let epoch = self.ready(by, part.slice).await?;
        let data = if whole { data } else { self.filled(&part, &data).await? };
        self.change(epoch, part.slice, Change::Write { volume, first, data }, hold).await
    }

    /// Zeroes whole blocks of a slice.
    pub(super) async fn zero_part(&self, by: &Right, part: Part, reserve: bool) -> Result<()> {
        let (_, volume) = self.slice(part.slice);
        let blocks = touched(&part.bytes);
        let (first, count) = (BlockIndex(blocks.start), (blocks.end - blocks.start) as u32);
        let hold = self.hold(&part, false).await?;
        let epoch = self.ready(by, part.slice).await?;
        let change = Change::Zero { volume, first, count, reserve };
        self.change(epoch, part.slice, change, hold).await
    }

    async fn change(&self, epoch: u64, slice: usize, change: Change, hold: Hold) -> Result<()> {
        let (group, _) = self.slice(slice);
        let writer = self.groups.writer(group);
        let written = writer.write(epoch, vec![change], Some(hold)).await;
        if written.as_ref().is_err_and(|error| error.kind() == ErrorKind::Busy) {
            self.lost(epoch);
        }
        written
    }

    /// Another node writes with a newer epoch.
    fn lost(&self, epoch: u64) {
        let mut attachment = self.attachment.borrow_mut();
        if attachment.epoch == Some(epoch) {
            *attachment = Attachment::default();
            self.fencings.set(self.fencings.get() + 1);
        }
    }

    /// Whether a handle has begun to write; an error if it has lost the right to since.
    fn begun(&self, by: &Right) -> Result<bool> {
        match by.fencings.get() {
            None => Ok(false),
            Some(fencings) if fencings == self.fencings.get() => Ok(true),
            Some(_) => Err(Error::new(
                ErrorKind::Busy,
                "another node has attached the volume since it was opened: open it again",
            )),
        }
    }

    /// The epoch to write to a slice with: attaches the volume and readies the slice, where that
    /// was not done.
    async fn ready(&self, by: &Right, slice: usize) -> Result<u64> {
        let known = || {
            let attachment = self.attachment.borrow();
            attachment.epoch.filter(|_| attachment.ready.contains(&slice))
        };
        if self.begun(by)?
            && let Some(epoch) = known()
        {
            return Ok(epoch);
        }
        let _one_at_a_time = self.attaching.lock().await;
        if self.begun(by)? {
            if let Some(epoch) = known() {
                return Ok(epoch);
            }
            let epoch = self.attached().await?;
            self.make_ready(slice, epoch).await?;
            return Ok(epoch);
        }
        let epoch = self.take_over(slice).await?;
        by.fencings.set(Some(self.fencings.get()));
        Ok(epoch)
    }

    /// The epoch to write with; asks for the right to write if nobody here has it.
    async fn attached(&self) -> Result<u64> {
        let held = self.attachment.borrow().epoch;
        if let Some(epoch) = held {
            return Ok(epoch);
        }
        let epoch = self.groups.attach(self.spec.id).await?;
        self.attachment.borrow_mut().epoch = Some(epoch);
        self.fence_all(epoch).await?;
        Ok(epoch)
    }

    /// Has every slice refuse older epochs: who had the right to write is to have it nowhere. The
    /// slices of a group that does not answer follow when they are first written, so that it does
    /// not keep the others from being written.
    async fn fence_all(&self, epoch: u64) -> Result<()> {
        let slices = stream::iter(0..self.spec.slices.len());
        let fencing = slices.map(|slice| self.fence(slice, epoch));
        let mut fencing = fencing.buffer_unordered(FENCES_UNDER_WAY);
        let all = async {
            while let Some(fenced) = fencing.next().await {
                match fenced {
                    Err(error) if error.kind() == ErrorKind::Busy => return Err(error),
                    Err(_) | Ok(()) => {}
                }
            }
            Ok(())
        };
        self.reactor.within(FENCE_ALL_MAX, all).await.unwrap_or(Ok(()))
    }

    /// Has a slice refuse older epochs.
    async fn fence(&self, slice: usize, epoch: u64) -> Result<()> {
        let (group, volume) = self.slice(slice);
        match self.groups.fence(group, volume, epoch).await? {
            Outcome::Done => {
                let mut attachment = self.attachment.borrow_mut();
                if attachment.epoch == Some(epoch) {
                    attachment.fenced.insert(slice);
                }
                Ok(())
            }
            Outcome::Fenced { epoch: newer } => {
                self.lost(epoch);
                Err(fenced(newer))
            }
            other => {
                let why = format!("the slice is not ready for writes: {other}");
                Err(Error::new(ErrorKind::Failed, why))
            }
        }
    }

    /// For a handle's first write: what others here hold may have been lost without their knowing,
    /// so it is tried; if it was lost, the right to write is asked for anew.
    async fn take_over(&self, slice: usize) -> Result<u64> {
        let held = self.attachment.borrow().epoch;
        if let Some(held) = held {
            // A slice that refuses nothing yet says nothing about the others.
            match self.groups.newest_epoch(self.spec.id).await {
                Some(newest) if newest > held => self.lost(held),
                _ => match self.make_ready(slice, held).await {
                    Err(error) if error.kind() == ErrorKind::Busy => {}
                    made => return made.map(|()| held),
                },
            }
        }
        let epoch = self.attached().await?;
        self.make_ready(slice, epoch).await?;
        Ok(epoch)
    }

    /// Has a slice refuse older epochs, and sees to it that it exists.
    async fn make_ready(&self, slice: usize, epoch: u64) -> Result<()> {
        let (group, volume) = self.slice(slice);
        let is_fenced = self.attachment.borrow().fenced.contains(&slice);
        if !is_fenced {
            self.fence(slice, epoch).await?;
        }
        let size_bytes = self.spec.size_of_slice(slice);
        let create = vec![Change::CreateVolume { volume, size_bytes }];
        let created = self.groups.writer(group).write(epoch, create, None).await;
        if created.as_ref().is_err_and(|error| error.kind() == ErrorKind::Busy) {
            self.lost(epoch);
        }
        created?;
        self.attachment.borrow_mut().ready.insert(slice);
        Ok(())
    }

    /// One handle less; with the last one goes the right to write.
    pub(super) fn release(&self) {
        self.handles.set(self.handles.get() - 1);
        if self.handles.get() == 0 {
            let attachment = self.attachment.take();
            if let Some(epoch) = attachment.epoch {
                self.groups.detach(self.spec.id, epoch);
            }
        }
    }

    pub(super) async fn extents(
        &self,
        offset: u64,
        length: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>> {
        let bytes = self.check(offset, length)?;
        let mut extents: Vec<Extent> = Vec::new();
        for part in self.parts(&bytes, u64::MAX) {
            let blocks = touched(&part.bytes);
            let (group, volume) = self.slice(part.slice);
            let count = blocks.end - blocks.start;
            let left = extents_max.saturating_sub(extents.len()).max(1);
            let found = self.groups.extents(group, volume, BlockIndex(blocks.start), count, left);
            let mut at = blocks.start * BLOCK;
            for extent in found.await? {
                let end = (at + extent.length_bytes).min(part.bytes.end);
                let start = at.max(part.bytes.start);
                at += extent.length_bytes;
                if end > start && !push(&mut extents, end - start, extent.mapping, extents_max) {
                    return Ok(extents);
                }
            }
            if at < part.bytes.end {
                break; // The group did not look further; what is known must have no gap.
            }
        }
        Ok(extents)
    }
}

/// Adds an extent, joined with one of its kind before it; false if there is no room.
fn push(extents: &mut Vec<Extent>, length: u64, mapping: Mapping, extents_max: usize) -> bool {
    if let Some(last) = extents.last_mut().filter(|last| last.mapping == mapping) {
        last.length_bytes += length;
        return true;
    }
    if extents.len() >= extents_max.max(1) {
        return false;
    }
    extents.push(Extent { length_bytes: length, mapping });
    true
}

impl fmt::Debug for ClusterVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterVolume({:?})", self.spec.name)
    }
}
