//! What operations do to a disk when they end, faults included.
//!
//! Invariants: without faults a read gives what is there, a write lands whole, a sync makes durable
//! what it is for; a fault is counted when, and only when, it does something.
//! Must never know: processes, time, who waits.

use super::faults::{Chance, Dice, DiskFaults, FaultKind};
use super::ledger::Ledger;
use super::medium::{Content, Medium, SECTOR_BYTES, SECTORS, WHOLE, content, copy_out, mix};
use super::trace::Step;
use super::world::Core;
use crate::buffer::Buffer;
use crate::reactor::RandomStream;
use crate::units::BLOCK_SIZE_BYTES;
use std::io;
use std::ops::Range;

/// Byte that a failed read leaves behind.
const SCRIBBLE: u8 = 0xdb;
/// Tries to find a place for a fault, before it does not happen.
const TRIES_MAX: u32 = 16;
/// A misdirected operation goes at most so many blocks away, or anywhere.
const NEAR_BLOCKS: u64 = 64;

/// Everything about a disk that operations change.
pub(super) struct DiskState {
    pub(super) medium: Medium,
    pub(super) faults: DiskFaults,
    pub(super) dice: Dice,
    /// Latencies, and what survives a crash.
    pub(super) random: RandomStream,
    pub(super) ledger: Ledger,
}

/// What of a short write took effect before the rest.
#[derive(Clone, Copy)]
pub(super) struct FirstStep {
    /// Its first blocks.
    pub(super) blocks: u64,
    /// As this write.
    pub(super) number: u64,
}

/// Blocks of a list of buffers.
pub(super) fn blocks(buffers: &[Buffer]) -> impl Iterator<Item = &[u8]> {
    buffers.iter().flat_map(|buffer| buffer.chunks_exact(BLOCK_SIZE_BYTES))
}

/// Bytes of a sector of a block.
fn sector_bytes(block: u64, sector: usize) -> Range<u64> {
    let start = block * BLOCK_SIZE_BYTES as u64 + (sector * SECTOR_BYTES) as u64;
    start..start + SECTOR_BYTES as u64
}

fn block_bytes(block: u64) -> Range<u64> {
    block * BLOCK_SIZE_BYTES as u64..(block + 1) * BLOCK_SIZE_BYTES as u64
}

impl DiskState {
    /// Whether a fault of `kind` is drawn. It is counted by [`Core::inject`].
    pub(super) fn drawn(&mut self, kind: FaultKind, chance: Chance) -> bool {
        chance.hits(self.dice.of(kind))
    }

    fn hit(&mut self, core: &Core, kind: FaultKind, chance: Chance) -> bool {
        self.drawn(kind, chance) && core.inject(kind)
    }

    fn is_spared(&self, blocks: Range<u64>) -> bool {
        let bytes = block_bytes(blocks.start).start..block_bytes(blocks.end).start;
        let touches = |spared: &Range<u64>| spared.start < bytes.end && bytes.start < spared.end;
        self.faults.spared.iter().any(touches)
    }

    /// Fills `buffer` with what is there from its block `done` on, or so it says.
    pub(super) fn read(
        &mut self,
        core: &Core,
        first: u64,
        buffer: &mut Buffer,
        done: u64,
    ) -> io::Result<()> {
        let count = (buffer.len() / BLOCK_SIZE_BYTES) as u64;
        if self.drawn(FaultKind::BadBlock, self.faults.bad_block) {
            let block = first + self.dice.of(FaultKind::BadBlock).below(count);
            if !self.is_spared(block..block + 1) && core.inject(FaultKind::BadBlock) {
                self.medium.make_bad(block);
            }
        }
        if self.medium.has_bad(first..first + count)
            || self.hit(core, FaultKind::ReadError, self.faults.read_error)
        {
            buffer[..SECTOR_BYTES].fill(SCRIBBLE);
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let mut from = first;
        if self.drawn(FaultKind::MisdirectedRead, self.faults.misdirected_read)
            && let Some(elsewhere) = self.elsewhere(FaultKind::MisdirectedRead, first, count)
            && core.inject(FaultKind::MisdirectedRead)
        {
            from = elsewhere;
        }
        let mut whole = count;
        let short = self.hit(core, FaultKind::ShortError, self.faults.short_error);
        if short {
            whole = self.dice.of(FaultKind::ShortError).below(count);
        }
        let read = done.min(whole) as usize * BLOCK_SIZE_BYTES;
        self.copy(from + done, &mut buffer[read..whole as usize * BLOCK_SIZE_BYTES]);
        if short { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Copies what is on the disk, and notes who was given damage.
    pub(super) fn copy(&mut self, first: u64, into: &mut [u8]) {
        for (block, into) in (first..).zip(into.chunks_exact_mut(BLOCK_SIZE_BYTES)) {
            if self.medium.shows_damage(block) {
                self.ledger.read(block);
            }
            copy_out(self.medium.current(block), into);
        }
    }

    /// Carries out a write; of a short one, the rest.
    pub(super) fn write(
        &mut self,
        core: &Core,
        first: u64,
        buffers: &[Buffer],
        sync: bool,
        short: Option<FirstStep>,
    ) -> io::Result<()> {
        let count = blocks(buffers).count() as u64;
        if let Some(room) = self.room(first, count)
            && core.inject(FaultKind::Full)
        {
            let landed = self.dice.of(FaultKind::Full).below(room + 1);
            self.put_volatile(first, blocks(buffers).take(landed as usize));
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.hit(core, FaultKind::WriteError, self.faults.write_error) {
            self.put_torn(first, buffers);
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if self.hit(core, FaultKind::ShortError, self.faults.short_error) {
            let landed = self.dice.of(FaultKind::ShortError).below(count);
            self.put_volatile(first, blocks(buffers).take(landed as usize));
            return Err(io::ErrorKind::WriteZero.into());
        }
        let done = short.map_or(0, |step| step.blocks);
        if !sync || self.hit(core, FaultKind::SyncLied, self.faults.sync_lied) {
            self.put_volatile(first + done, blocks(buffers).skip(done as usize));
            return Ok(());
        }
        if self.drawn(FaultKind::MisdirectedWrite, self.faults.misdirected_write)
            && let Some(elsewhere) = self.elsewhere(FaultKind::MisdirectedWrite, first, count)
            && core.inject(FaultKind::MisdirectedWrite)
        {
            self.misdirect(core, first, elsewhere, buffers);
            return Ok(());
        }
        for block in first..first + done {
            let number = short.map_or(0, |step| step.number);
            if self.medium.sync_block(block, number) {
                self.ledger.close(block, core.now());
            }
        }
        for (block, bytes) in (first..).zip(blocks(buffers)).skip(done as usize) {
            if self.medium.put_durable(block, bytes) {
                self.ledger.close(block, core.now());
            }
        }
        Ok(())
    }

    /// Blocks go into the cache as one write, whose number it returns.
    pub(super) fn put_volatile<'a>(
        &mut self,
        first: u64,
        contents: impl Iterator<Item = &'a [u8]>,
    ) -> u64 {
        let number = self.medium.begin_write();
        for (block, bytes) in (first..).zip(contents) {
            self.medium.put_volatile(number, block, content(bytes));
        }
        number
    }

    /// Any of the write's sectors go into the cache.
    fn put_torn(&mut self, first: u64, buffers: &[Buffer]) {
        let number = self.medium.begin_write();
        for (block, bytes) in (first..).zip(blocks(buffers)) {
            let dice = self.dice.of(FaultKind::WriteError);
            // Half of all blocks are torn, the others old or new as a whole.
            let mask = match dice.below(4) {
                0 => 0,
                1 => WHOLE,
                _ => dice.next_u64() as u8,
            };
            if mask != 0 {
                let torn = mix(self.medium.pristine(block), &content(bytes), mask);
                self.medium.put_volatile(number, block, torn);
            }
        }
    }

    /// Blocks of a write that find room, if not all do.
    fn room(&self, first: u64, count: u64) -> Option<u64> {
        let DiskFaults { full_from_bytes, full_after_bytes, .. } = self.faults;
        if full_from_bytes.is_none() && full_after_bytes.is_none() {
            return None;
        }
        let block_bytes = BLOCK_SIZE_BYTES as u64;
        let from = full_from_bytes.map_or(u64::MAX, |bytes| bytes / block_bytes);
        let after = full_after_bytes.map_or(u64::MAX, |bytes| bytes / block_bytes);
        let mut written = self.medium.written_blocks();
        (0..count).find(|at| {
            let new = !self.medium.is_written(first + at);
            written += u64::from(new);
            new && (first + at >= from || written > after)
        })
    }

    /// Makes durable what was written up to `newest`, or so it says.
    pub(super) fn sync(&mut self, core: &Core, newest: u64) -> io::Result<()> {
        let failed = || Err(io::Error::from_raw_os_error(libc::EIO));
        if self.hit(core, FaultKind::SyncLost, self.faults.sync_lost) {
            self.medium.lose(newest);
            return failed();
        }
        if self.hit(core, FaultKind::SyncReverted, self.faults.sync_reverted) {
            self.medium.revert(newest, self.dice.of(FaultKind::SyncReverted));
            return failed();
        }
        if self.hit(core, FaultKind::SyncLied, self.faults.sync_lied) {
            return Ok(());
        }
        for block in self.medium.sync(newest) {
            self.ledger.close(block, core.now());
        }
        Ok(())
    }

    /// Another place for `count` blocks, where nothing is spared.
    fn elsewhere(&mut self, kind: FaultKind, first: u64, count: u64) -> Option<u64> {
        let last = self.medium.blocks() - count;
        if self.is_spared(first..first + count) {
            return None;
        }
        for _ in 0..TRIES_MAX {
            let dice = self.dice.of(kind);
            let place = match dice.below(2) {
                0 => (first + dice.below(2 * NEAR_BLOCKS)).saturating_sub(NEAR_BLOCKS).min(last),
                _ => dice.below(last + 1),
            };
            if place.abs_diff(first) >= count && !self.is_spared(place..place + count) {
                return Some(place);
            }
        }
        None
    }

    /// A sync write goes elsewhere: its own place keeps what it had, another one is overwritten.
    fn misdirect(&mut self, core: &Core, first: u64, elsewhere: u64, buffers: &[Buffer]) {
        for (at, bytes) in (0..).zip(blocks(buffers)) {
            let before = self.medium.at_rest(first + at).clone();
            if self.medium.put_durable(first + at, bytes) {
                self.ledger.close(first + at, core.now());
            }
            self.damage(core, FaultKind::MisdirectedWrite, first + at, before);
            self.damage(core, FaultKind::MisdirectedWrite, elsewhere + at, content(bytes));
        }
    }

    /// A block at rest becomes something else. Nothing happens if that is what it is.
    pub(super) fn damage(&mut self, core: &Core, kind: FaultKind, block: u64, becomes: Content) {
        let (before, now) = (self.medium.at_rest(block), core.now());
        let sector = |content: &Content, sector: usize| match content {
            Some(bytes) => bytes[sector * SECTOR_BYTES..][..SECTOR_BYTES].to_vec(),
            None => vec![0; SECTOR_BYTES],
        };
        let changed = (0..SECTORS).filter(|at| sector(before, *at) != sector(&becomes, *at));
        let changed: Vec<usize> = changed.collect();
        if let (Some(first), Some(last)) = (changed.first(), changed.last()) {
            let bytes = sector_bytes(block, *first).start..sector_bytes(block, *last).end;
            self.ledger.add(kind, bytes, now);
            self.medium.damage(block, becomes);
            core.note(Step::DiskDamage, &[kind as u64, block]);
        }
    }

    /// Damage at rest, drawn once per operation.
    pub(super) fn decay(&mut self, core: &Core, own: Range<u64>) {
        let DiskFaults { bit_rot, garbage, zeroed, stale, .. } = self.faults;
        let chances = [
            (FaultKind::BitRot, bit_rot),
            (FaultKind::Garbage, garbage),
            (FaultKind::Zeroed, zeroed),
            (FaultKind::Stale, stale),
        ];
        for (kind, chance) in chances {
            if self.drawn(kind, chance)
                && let Some(block) = self.victim(kind, own.clone())
            {
                let sector = self.dice.of(kind).below(SECTORS as u64) as usize;
                if let Some(becomes) = self.decayed(kind, block, sector)
                    && becomes != *self.medium.at_rest(block)
                    && core.inject(kind)
                {
                    self.damage(core, kind, block, becomes);
                }
            }
        }
    }

    /// A block to damage: one of those just used, or any that holds something.
    fn victim(&mut self, kind: FaultKind, own: Range<u64>) -> Option<u64> {
        for _ in 0..TRIES_MAX {
            let dice = self.dice.of(kind);
            let block = match dice.below(2) {
                0 if !own.is_empty() => own.start + dice.below(own.end - own.start),
                _ => dice.below(self.medium.blocks()),
            };
            if self.medium.at_rest(block).is_some() && !self.is_spared(block..block + 1) {
                return Some(block);
            }
        }
        None
    }

    /// What a damaged block becomes.
    pub(super) fn decayed(
        &mut self,
        kind: FaultKind,
        block: u64,
        sector: usize,
    ) -> Option<Content> {
        let mut bytes = [0; BLOCK_SIZE_BYTES];
        copy_out(self.medium.at_rest(block), &mut bytes);
        let dice = self.dice.of(kind);
        let own = &mut bytes[sector * SECTOR_BYTES..][..SECTOR_BYTES];
        match kind {
            FaultKind::BitRot => {
                let bit = dice.below(SECTOR_BYTES as u64 * 8);
                own[bit as usize / 8] ^= 1 << (bit % 8);
            }
            FaultKind::Garbage => dice.fill_bytes(own),
            FaultKind::Zeroed => own.fill(0),
            _ => {
                let previous = self.medium.previous(block)?;
                return Some(mix(self.medium.at_rest(block), previous, 1 << sector));
            }
        }
        Some(content(&bytes))
    }
}
