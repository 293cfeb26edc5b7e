//! A disk that outlives processes, and the laboratory's handle of it.
//!
//! Must never know: tasks, who has it open.

use super::faults::{Chance, Dice, DiskFaults, FaultKind};
use super::inject::DiskState;
use super::ledger::{Corruption, Ledger};
use super::medium::{Content, Medium, SECTOR_BYTES, Survival, content, copy_out, mix};
use super::trace::Step;
use super::world::Core;
use crate::reactor::RandomStream;
use crate::units::BLOCK_SIZE_BYTES;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A disk of a world.
pub(super) struct DiskCore {
    path: PathBuf,
    size_bytes: u64,
    pub(super) state: RefCell<DiskState>,
    pub(super) preallocated: Cell<bool>,
    /// Who keeps others away.
    lock: Cell<Lock>,
}

/// Openings of a disk that keep others away, all in one life of the world.
#[derive(Clone, Copy, Default)]
struct Lock {
    life: u64,
    readers: u64,
    writer: bool,
}

impl DiskCore {
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Locks it for a writer or a reader. False if another one keeps it.
    pub(super) fn lock(&self, life: u64, writer: bool) -> bool {
        let held = match self.lock.get() {
            held if held.life == life => held,
            _ => Lock { life, ..Lock::default() },
        };
        if held.writer || (writer && held.readers > 0) {
            return false;
        }
        let readers = held.readers + u64::from(!writer);
        self.lock.set(Lock { life, readers, writer });
        true
    }

    pub(super) fn unlock(&self, life: u64, writer: bool) {
        let mut held = self.lock.get();
        if held.life == life {
            held.writer &= !writer;
            held.readers -= u64::from(!writer);
            self.lock.set(held);
        }
    }

    pub(super) fn power_loss(&self, core: &Core) {
        let state = &mut *self.state.borrow_mut();
        let survival = Survival::draw(&mut state.random);
        let (lost, repaired) = state.medium.power_loss(survival, &mut state.random);
        for block in repaired {
            state.ledger.close(block, core.now());
        }
        if lost > 0 {
            core.inject(FaultKind::Torn);
        }
        core.note(Step::Crash, &[survival.eighths, lost]);
    }
}

/// A disk of a [`super::World`], seen from outside: its faults, what is on it, damage at will.
#[derive(Clone)]
pub struct SimDisk {
    core: Rc<Core>,
    disk: Rc<DiskCore>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk({})", self.disk.path.display())
    }
}

/// What [`SimDisk::damage`] does to each sector.
#[derive(Clone, Copy, Debug)]
pub enum Damage<'a> {
    /// One bit flips.
    FlipBit,
    /// Random bytes.
    Garbage,
    /// Zeroes.
    Zeroes,
    /// What it was in this image.
    Old(&'a Image),
    /// What another sector holds: this many bytes on, or before.
    Elsewhere(i64),
    /// The block around it cannot be read until it is written.
    Bad,
}

/// Everything durable on a disk at one time. Cheap to clone.
#[derive(Clone)]
pub struct Image {
    blocks: Rc<Vec<Content>>,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({} blocks)", self.blocks.len())
    }
}

impl SimDisk {
    pub(super) fn create(core: &Rc<Core>, path: &Path, size_bytes: u64) -> SimDisk {
        assert!(size_bytes.is_multiple_of(BLOCK_SIZE_BYTES as u64), "a disk is made of blocks");
        let name = path.display();
        let state = DiskState {
            medium: Medium::new(size_bytes / BLOCK_SIZE_BYTES as u64),
            faults: DiskFaults::default(),
            dice: Dice::new(core.seed, &format!("disk faults {name}")),
            random: RandomStream::named(core.seed, &format!("disk {name}")),
            ledger: Ledger::default(),
        };
        let disk = DiskCore {
            path: path.to_owned(),
            size_bytes,
            state: RefCell::new(state),
            preallocated: Cell::new(false),
            lock: Cell::default(),
        };
        let disk = Rc::new(disk);
        let before = core.disks.borrow_mut().insert(path.to_owned(), Rc::clone(&disk));
        assert!(before.is_none(), "there is a disk at {} already", path.display());
        SimDisk { core: Rc::clone(core), disk }
    }

    pub(super) fn find(core: &Rc<Core>, path: &Path) -> Option<SimDisk> {
        let disk = Rc::clone(core.disks.borrow().get(path)?);
        Some(SimDisk { core: Rc::clone(core), disk })
    }

    pub(super) fn disk(&self) -> &Rc<DiskCore> {
        &self.disk
    }

    /// Its host has no power any more.
    pub(super) fn lose_power(&self, core: &Core) {
        self.disk.power_loss(core);
    }

    /// Where it is opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.disk.path
    }

    /// Its size.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    /// Changes its faults from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        let mut state = self.disk.state.borrow_mut();
        if faults.stale != Chance::NEVER {
            state.medium.keep_previous();
        }
        state.faults = faults;
    }

    /// Whether it says to be a block device, every block in its place already. A file otherwise.
    pub fn set_preallocated(&self, preallocated: bool) {
        self.disk.preallocated.set(preallocated);
    }

    /// Reads whole blocks as a device without faults would: volatile bytes and damage included.
    pub fn read(&self, offset_bytes: u64, into: &mut [u8]) {
        let state = self.disk.state.borrow();
        for (block, into) in blocks_of(offset_bytes, into) {
            copy_out(state.medium.current(block), into);
        }
    }

    /// As [`SimDisk::read`], with all damage lifted.
    pub fn read_pristine(&self, offset_bytes: u64, into: &mut [u8]) {
        let state = self.disk.state.borrow();
        for (block, into) in blocks_of(offset_bytes, into) {
            copy_out(state.medium.pristine(block), into);
        }
    }

    /// Everything durable, damage left out.
    #[must_use]
    pub fn image(&self) -> Image {
        Image { blocks: Rc::new(self.disk.state.borrow().medium.image()) }
    }

    /// Makes the disk what it was; volatile bytes and damage are gone.
    ///
    /// # Panics
    /// If the image is of a disk of another size.
    pub fn restore(&self, image: &Image) {
        let mut state = self.disk.state.borrow_mut();
        state.medium.restore(&image.blocks);
        state.ledger.close_all(self.core.now());
        self.core.note(Step::DiskDamage, &[u64::MAX]);
    }

    /// Lifts all damage and makes bad blocks readable.
    pub fn heal(&self) {
        let mut state = self.disk.state.borrow_mut();
        state.medium.heal();
        state.ledger.close_all(self.core.now());
    }

    /// Damages what is at rest in `bytes`, which are whole sectors. Counted and in the ledger;
    /// sectors that are so already are left alone.
    ///
    /// # Panics
    /// If `bytes` are not sectors of this disk.
    pub fn damage(&self, bytes: Range<u64>, damage: &Damage<'_>) {
        let sector = SECTOR_BYTES as u64;
        assert!(bytes.start.is_multiple_of(sector) && bytes.end.is_multiple_of(sector));
        assert!(bytes.end <= self.size_bytes(), "damage past the end of the disk");
        let state = &mut *self.disk.state.borrow_mut();
        for first in bytes.step_by(SECTOR_BYTES) {
            let block = first / BLOCK_SIZE_BYTES as u64;
            let at = (first % BLOCK_SIZE_BYTES as u64 / sector) as usize;
            let (kind, becomes) = match damage {
                Damage::FlipBit => (FaultKind::BitRot, None),
                Damage::Garbage => (FaultKind::Garbage, None),
                Damage::Zeroes => (FaultKind::Zeroed, None),
                Damage::Old(image) => {
                    let old = &image.blocks[block as usize];
                    (FaultKind::Stale, Some(mix(state.medium.at_rest(block), old, 1 << at)))
                }
                Damage::Elsewhere(distance) => {
                    let from = first.checked_add_signed(*distance).expect("a place on the disk");
                    (FaultKind::MisdirectedWrite, Some(moved(state, from, first)))
                }
                Damage::Bad => {
                    if self.core.inject(FaultKind::BadBlock) {
                        state.medium.make_bad(block);
                    }
                    continue;
                }
            };
            let becomes = becomes.or_else(|| state.decayed(kind, block, at));
            if becomes.as_ref().is_some_and(|becomes| becomes != state.medium.at_rest(block))
                && self.core.inject(kind)
            {
                state.damage(&self.core, kind, block, becomes.flatten());
            }
        }
    }

    /// All damage at rest there ever was, the oldest first.
    #[must_use]
    pub fn corruptions(&self) -> Vec<Corruption> {
        self.disk.state.borrow().ledger.entries().to_vec()
    }
}

/// The block of sector `to` with that sector from another place.
fn moved(state: &DiskState, from: u64, to: u64) -> Content {
    let mut bytes = [[0; BLOCK_SIZE_BYTES]; 2];
    let place = |at: u64| {
        let (block, inside) = (at / BLOCK_SIZE_BYTES as u64, at % BLOCK_SIZE_BYTES as u64);
        (block, inside as usize..inside as usize + SECTOR_BYTES)
    };
    let ((source, inside_source), (target, inside)) = (place(from), place(to));
    copy_out(state.medium.at_rest(source), &mut bytes[0]);
    copy_out(state.medium.at_rest(target), &mut bytes[1]);
    let [source, mut target] = bytes;
    target[inside].copy_from_slice(&source[inside_source]);
    content(&target)
}

/// Whole blocks of memory with their numbers.
fn blocks_of(offset_bytes: u64, bytes: &mut [u8]) -> impl Iterator<Item = (u64, &mut [u8])> {
    let block = BLOCK_SIZE_BYTES as u64;
    assert!(offset_bytes.is_multiple_of(block), "disks are looked at in blocks");
    (offset_bytes / block..).zip(bytes.chunks_exact_mut(BLOCK_SIZE_BYTES))
}
