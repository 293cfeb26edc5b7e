//! A volume of the cluster as one range of bytes, and the handles that write to it.
//!
//! Must never know: how proposals are made, who leads.

use super::bytes::{BLOCK, cut, is_whole, touched};
use super::locks::Locks;
use super::writer::fenced;
use super::{Groups, slice_id};
use crate::control::{ClusterVolumeId, PgId, Volume};
use crate::runtime::Mutex;
use crate::types::{Change, Outcome};
use ashlar_engine::buffer::Buffer;
use ashlar_engine::limits::ATOMIC_WRITE_MAX_BYTES;
use ashlar_engine::local::Extent;
use ashlar_engine::reactor::Reactor;
use ashlar_engine::store::Mapping;
use ashlar_engine::units::{BlockIndex, VolumeId};
use ashlar_engine::{Error, ErrorKind, Result};
use openraft_rt::Mutex as _;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

/// Blocks that one change zeroes.
const ZERO_BLOCKS_MAX: u64 = 1 << 28;

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
    /// Slices that refuse older epochs, and exist.
    ready: BTreeSet<usize>,
}

/// A volume that is open in this process. All its handles share it.
pub struct ClusterVolume {
    reactor: Reactor,
    groups: Rc<dyn Groups>,
    spec: VolumeSpec,
    locks: Rc<Locks>,
    attachment: RefCell<Attachment>,
    /// One attaches, or readies a slice, at a time.
    attaching: Mutex<()>,
    /// How often this process lost the right to write.
    fencings: Cell<u64>,
    handles: Cell<usize>,
}

/// Somebody who has the volume open. What one is refused because another node has attached the
/// volume, it is refused for ever; who opens the volume after that may attach it again.
pub struct VolumeHandle {
    volume: Rc<ClusterVolume>,
    fencings: u64,
}

/// A part of a byte range inside one slice.
struct Part {
    slice: usize,
    /// Bytes of the slice.
    bytes: Range<u64>,
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
        VolumeHandle { volume: Rc::clone(self), fencings: self.fencings.get() }
    }

    /// How many have it open.
    #[must_use]
    pub fn handles(&self) -> usize {
        self.handles.get()
    }

    fn check(&self, offset: u64, length: u64) -> Result<Range<u64>> {
        match offset.checked_add(length) {
            Some(end) if end <= self.spec.size_bytes => Ok(offset..end),
            _ => Err(Error::new(ErrorKind::Invalid, "the request reaches past the volume's end")),
        }
    }

    /// Cuts a range at slices, and into pieces of at most so many bytes.
    fn parts(&self, bytes: &Range<u64>, bytes_max: u64) -> Vec<Part> {
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

    async fn read(&self, offset: u64, length: u32) -> Result<Vec<Buffer>> {
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

    async fn write_part(&self, handle: u64, part: Part, data: Buffer) -> Result<()> {
        let (_, volume) = self.slice(part.slice);
        let first = BlockIndex(touched(&part.bytes).start);
        let whole = is_whole(&part.bytes);
        let hold = self.locks.hold(self.blocks_of(&part), !whole).await;
        let data = if whole { data } else { self.filled(&part, &data).await? };
        self.change(handle, part.slice, Change::Write { volume, first, data }, hold).await
    }

    async fn zero_part(&self, handle: u64, part: Part, reserve: bool) -> Result<()> {
        let (_, volume) = self.slice(part.slice);
        let blocks = touched(&part.bytes);
        let (first, count) = (BlockIndex(blocks.start), (blocks.end - blocks.start) as u32);
        let hold = self.locks.hold(self.blocks_of(&part), false).await;
        let change = Change::Zero { volume, first, count, reserve };
        self.change(handle, part.slice, change, hold).await
    }

    async fn change(
        &self,
        handle: u64,
        slice: usize,
        change: Change,
        hold: super::locks::Hold,
    ) -> Result<()> {
        let epoch = self.ready(handle, slice).await?;
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

    fn check_handle(&self, handle: u64) -> Result<()> {
        match handle == self.fencings.get() {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Busy,
                "another node has attached the volume since it was opened: open it again",
            )),
        }
    }

    /// The epoch to write to a slice with: attaches the volume and readies the slice, where that
    /// was not done.
    async fn ready(&self, handle: u64, slice: usize) -> Result<u64> {
        let known = || {
            let attachment = self.attachment.borrow();
            attachment.epoch.filter(|_| attachment.ready.contains(&slice))
        };
        self.check_handle(handle)?;
        if let Some(epoch) = known() {
            return Ok(epoch);
        }
        let _one_at_a_time = self.attaching.lock().await;
        self.check_handle(handle)?;
        if let Some(epoch) = known() {
            return Ok(epoch);
        }
        let held = self.attachment.borrow().epoch;
        let epoch = match held {
            Some(epoch) => epoch,
            None => self.groups.attach(self.spec.id).await?,
        };
        self.attachment.borrow_mut().epoch = Some(epoch);
        let (group, volume) = self.slice(slice);
        match self.groups.fence(group, volume, epoch).await? {
            Outcome::Fenced { epoch: newer } => {
                self.lost(epoch);
                return Err(fenced(newer));
            }
            Outcome::Done => {}
            other => {
                let why = format!("the slice is not ready for writes: {other}");
                return Err(Error::new(ErrorKind::Failed, why));
            }
        }
        let size_bytes = self.spec.size_of_slice(slice);
        let create = vec![Change::CreateVolume { volume, size_bytes }];
        let created = self.groups.writer(group).write(epoch, create, None).await;
        if created.as_ref().is_err_and(|error| error.kind() == ErrorKind::Busy) {
            self.lost(epoch);
        }
        created?;
        self.attachment.borrow_mut().ready.insert(slice);
        Ok(epoch)
    }

    async fn extents(&self, offset: u64, length: u64, extents_max: usize) -> Result<Vec<Extent>> {
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

impl VolumeHandle {
    /// The volume.
    #[must_use]
    pub fn volume(&self) -> &Rc<ClusterVolume> {
        &self.volume
    }

    /// Reads; the buffers together have exactly `length` bytes.
    ///
    /// # Errors
    /// `Invalid` past the end, `Failed` if nobody leads a group in time, `Corrupt` if what is
    /// stored does not prove itself.
    pub async fn read(&self, offset: u64, length: u32) -> Result<Vec<Buffer>> {
        self.volume.read(offset, length).await
    }

    /// Writes at most [`ATOMIC_WRITE_MAX_BYTES`]; durable on a quorum when it returns, and atomic
    /// inside one slice.
    ///
    /// # Errors
    /// `Invalid` past the end or too long; `Busy` if another node has attached the volume;
    /// `NoSpace` if a store is full; `Failed` if nobody knows what became of it.
    pub async fn write(&self, offset: u64, mut data: Buffer) -> Result<()> {
        let bytes = self.volume.check(offset, data.len() as u64)?;
        if data.len() > ATOMIC_WRITE_MAX_BYTES {
            let why = format!("a write has at most {ATOMIC_WRITE_MAX_BYTES} bytes");
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let mut parts = self.volume.parts(&bytes, u64::MAX);
        let mut result = Ok(());
        while parts.len() > 1 {
            let part = parts.remove(0);
            let (own, rest) = data.split_at((part.bytes.end - part.bytes.start) as usize);
            data = rest;
            result = result.and(self.volume.write_part(self.fencings, part, own).await);
        }
        match parts.pop() {
            Some(part) => result.and(self.volume.write_part(self.fencings, part, data).await),
            None => result,
        }
    }

    /// Makes a range read as zeroes; whole blocks give their space back, or keep it if `reserve`.
    ///
    /// # Errors
    /// As [`VolumeHandle::write`].
    pub async fn write_zeroes(&self, offset: u64, length: u64, reserve: bool) -> Result<()> {
        let bytes = self.volume.check(offset, length)?;
        let first = bytes.start.next_multiple_of(BLOCK);
        let after = self.whole_end(bytes.end);
        if first >= after {
            return self.write_zero_bytes(bytes).await;
        }
        self.write_zero_bytes(bytes.start..first).await?;
        for part in self.volume.parts(&(first..after), ZERO_BLOCKS_MAX * BLOCK) {
            self.volume.zero_part(self.fencings, part, reserve).await?;
        }
        self.write_zero_bytes(after.min(bytes.end)..bytes.end).await
    }

    /// Gives a range's whole blocks back; they read as zeroes. Partial blocks are left alone.
    ///
    /// # Errors
    /// As [`VolumeHandle::write`].
    pub async fn trim(&self, offset: u64, length: u64) -> Result<()> {
        let bytes = self.volume.check(offset, length)?;
        let (first, after) = (bytes.start.next_multiple_of(BLOCK), self.whole_end(bytes.end));
        if first < after {
            for part in self.volume.parts(&(first..after), ZERO_BLOCKS_MAX * BLOCK) {
                self.volume.zero_part(self.fencings, part, false).await?;
            }
        }
        Ok(())
    }

    /// The extents from `offset` on: at least one, at most `extents_max`, covering at most `length`
    /// bytes.
    ///
    /// # Errors
    /// As [`VolumeHandle::read`].
    pub async fn extents(
        &self,
        offset: u64,
        length: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>> {
        self.volume.extents(offset, length, extents_max).await
    }

    /// Blocks before `end` that are covered whole: the volume's last block counts, even if short.
    fn whole_end(&self, end: u64) -> u64 {
        match end == self.volume.spec.size_bytes {
            true => end,
            false => end - end % BLOCK,
        }
    }

    async fn write_zero_bytes(&self, bytes: Range<u64>) -> Result<()> {
        if bytes.start >= bytes.end {
            return Ok(());
        }
        let length = (bytes.end - bytes.start) as usize;
        let mut zeroes = self.volume.reactor.pool().allocate(length);
        zeroes.fill(0);
        self.write(bytes.start, zeroes).await
    }
}

impl Drop for VolumeHandle {
    fn drop(&mut self) {
        let volume = &self.volume;
        volume.handles.set(volume.handles.get() - 1);
        if volume.handles.get() == 0 {
            let attachment = volume.attachment.take();
            if let Some(epoch) = attachment.epoch {
                volume.groups.detach(volume.spec.id, epoch);
            }
        }
    }
}

impl fmt::Debug for ClusterVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterVolume({:?})", self.spec.name)
    }
}

impl fmt::Debug for VolumeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeHandle({:?})", self.volume.spec.name)
    }
}
