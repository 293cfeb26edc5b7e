//! What is on a disk: what is durable, what is volatile over it, and the damage under both.
//!
//! Invariants: a block of zeroes takes no memory; without damage, reading gives the newest version,
//! else what is durable; `durable` is what the disk should hold, damage lies beside it.
//! Must never know: time, operations in flight, how faults are drawn.

use crate::reactor::RandomStream;
use crate::units::BLOCK_SIZE_BYTES;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What a device writes as one, power loss or not.
pub(super) const SECTOR_BYTES: usize = 512;
/// Sectors of a block.
pub(super) const SECTORS: usize = BLOCK_SIZE_BYTES / SECTOR_BYTES;
/// All sectors of a block.
pub(super) const WHOLE: u8 = 0xff;

const _: () = assert!(SECTORS == u8::BITS as usize);

/// A block's bytes; none for zeroes.
pub(super) type Content = Option<Rc<[u8]>>;

/// Makes content of a block's bytes.
pub(super) fn content(bytes: &[u8]) -> Content {
    assert!(bytes.len() == BLOCK_SIZE_BYTES);
    let zero = bytes.chunks_exact(64).all(|line| line == [0; 64]);
    (!zero).then(|| Rc::from(bytes))
}

/// `base` with the sectors of `mask` from `over`.
pub(super) fn mix(base: &Content, over: &Content, mask: u8) -> Content {
    match mask {
        0 => base.clone(),
        WHOLE => over.clone(),
        _ => {
            let mut bytes = [0; BLOCK_SIZE_BYTES];
            copy_out(base, &mut bytes);
            for sector in (0..SECTORS).filter(|sector| mask & (1 << sector) != 0) {
                let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                match over {
                    Some(over) => bytes[range.clone()].copy_from_slice(&over[range]),
                    None => bytes[range].fill(0),
                }
            }
            content(&bytes)
        }
    }
}

/// Copies content into a block of memory.
pub(super) fn copy_out(content: &Content, into: &mut [u8]) {
    match content {
        Some(bytes) => into.copy_from_slice(bytes),
        None => into.fill(0),
    }
}

/// A write of one block that is not durable.
struct Version {
    content: Content,
    /// A failed sync forgot it: it can be read until the block is written again, and nothing makes
    /// it durable.
    lost: bool,
}

/// How much of what is volatile survives a power loss.
#[derive(Clone, Copy)]
pub(super) struct Survival {
    /// Eighths that survive.
    pub(super) eighths: u64,
    /// Decided for each sector, not for whole blocks.
    pub(super) torn: bool,
}

/// The contents of one disk.
pub(super) struct Medium {
    durable: Vec<Content>,
    /// By block and number of the write.
    versions: BTreeMap<(u64, u64), Version>,
    /// What a damaged block holds instead of its durable content.
    damage: BTreeMap<u64, Content>,
    /// What blocks were before, where that is kept.
    previous: Option<BTreeMap<u64, Content>>,
    /// Blocks that cannot be read.
    bad: BTreeSet<u64>,
    /// A bit per block that was ever written, and how many those are.
    written: Vec<u64>,
    written_blocks: u64,
    /// Number of the newest write.
    newest: u64,
}

impl Medium {
    pub(super) fn new(blocks: u64) -> Medium {
        Medium {
            durable: vec![None; blocks as usize],
            versions: BTreeMap::new(),
            damage: BTreeMap::new(),
            previous: None,
            bad: BTreeSet::new(),
            written: vec![0; blocks.div_ceil(64) as usize],
            written_blocks: 0,
            newest: 0,
        }
    }

    pub(super) fn blocks(&self) -> u64 {
        self.durable.len() as u64
    }

    /// Number of the newest write that ended: a sync that begins now is for all up to it.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// From now on what blocks were before their last write is known.
    pub(super) fn keep_previous(&mut self) {
        self.previous.get_or_insert_default();
    }

    /// What a block was before it last became durable, if that was kept.
    pub(super) fn previous(&self, block: u64) -> Option<&Content> {
        self.previous.as_ref()?.get(&block)
    }

    fn newest_version(&self, block: u64) -> Option<&Version> {
        let versions = self.versions.range((block, 0)..=(block, u64::MAX));
        versions.map(|(_, version)| version).next_back()
    }

    /// What a read finds.
    pub(super) fn current(&self, block: u64) -> &Content {
        if !self.versions.is_empty()
            && let Some(version) = self.newest_version(block)
        {
            return &version.content;
        }
        self.at_rest(block)
    }

    /// What is on the medium itself, damage included.
    pub(super) fn at_rest(&self, block: u64) -> &Content {
        match self.damage.is_empty() {
            true => &self.durable[block as usize],
            false => self.damage.get(&block).unwrap_or(&self.durable[block as usize]),
        }
    }

    /// Whether a read finds damage.
    pub(super) fn shows_damage(&self, block: u64) -> bool {
        !self.damage.is_empty()
            && self.damage.contains_key(&block)
            && self.newest_version(block).is_none()
    }

    /// What a read would find without damage.
    pub(super) fn pristine(&self, block: u64) -> &Content {
        let version = self.newest_version(block).map(|version| &version.content);
        version.unwrap_or(&self.durable[block as usize])
    }

    pub(super) fn is_written(&self, block: u64) -> bool {
        self.written[block as usize / 64] & (1 << (block % 64)) != 0
    }

    /// Blocks that were ever written.
    pub(super) fn written_blocks(&self) -> u64 {
        self.written_blocks
    }

    fn mark_written(&mut self, block: u64) {
        let (word, bit) = (block as usize / 64, 1 << (block % 64));
        self.written_blocks += u64::from(self.written[word] & bit == 0);
        self.written[word] |= bit;
        if !self.bad.is_empty() {
            self.bad.remove(&block);
        }
    }

    /// The next write's number.
    pub(super) fn begin_write(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }

    /// A block of write `number` is in the cache.
    pub(super) fn put_volatile(&mut self, number: u64, block: u64, content: Content) {
        self.mark_written(block);
        self.versions.insert((block, number), Version { content, lost: false });
    }

    /// A block is on the medium; what was volatile of it is overwritten. True if damage was.
    pub(super) fn put_durable(&mut self, block: u64, bytes: &[u8]) -> bool {
        self.mark_written(block);
        self.drop_versions(block, u64::MAX);
        let place = &mut self.durable[block as usize];
        if self.previous.is_none()
            && let Some(unique) = place.as_mut().and_then(Rc::get_mut)
        {
            unique.copy_from_slice(bytes);
            return !self.damage.is_empty() && self.damage.remove(&block).is_some();
        }
        self.settle(block, content(bytes))
    }

    /// What was volatile of a block is overwritten, forgotten or not.
    fn drop_versions(&mut self, block: u64, up_to: u64) {
        if self.versions.is_empty() {
            return;
        }
        self.versions.extract_if((block, 0)..=(block, up_to), |_, _| true).for_each(drop);
    }

    /// What a block durably is from now on. True if that overwrote damage.
    fn settle(&mut self, block: u64, content: Content) -> bool {
        let before = std::mem::replace(&mut self.durable[block as usize], content);
        if let Some(previous) = &mut self.previous {
            previous.insert(block, before);
        }
        !self.damage.is_empty() && self.damage.remove(&block).is_some()
    }

    /// A version becomes what a block durably is. True if that overwrote damage.
    fn settle_version(&mut self, block: u64, number: u64, version: Version) -> bool {
        self.drop_versions(block, number);
        self.settle(block, version.content)
    }

    /// Makes durable what was written up to `number`. Returns the blocks whose damage went.
    pub(super) fn sync(&mut self, number: u64) -> Vec<u64> {
        if self.versions.is_empty() {
            return Vec::new();
        }
        let due = |key: &(u64, u64), version: &mut Version| key.1 <= number && !version.lost;
        let due: Vec<_> = self.versions.extract_if(.., due).collect();
        let mut repaired = Vec::new();
        for ((block, number), version) in due {
            if self.settle_version(block, number, version) {
                repaired.push(block);
            }
        }
        repaired
    }

    /// Makes durable what was written to a block up to `number`. True if that overwrote damage.
    pub(super) fn sync_block(&mut self, block: u64, number: u64) -> bool {
        let range = (block, 0)..=(block, number);
        let due = self.versions.extract_if(range, |_, version| !version.lost).last();
        due.is_some_and(|((_, number), version)| self.settle_version(block, number, version))
    }

    /// A sync failed: what it was for can be read until the power goes.
    pub(super) fn lose(&mut self, number: u64) {
        let due = self.versions.iter_mut().filter(|(key, _)| key.1 <= number);
        due.for_each(|(_, version)| version.lost = true);
    }

    /// A sync failed: half of the blocks it was for are as they were durable.
    pub(super) fn revert(&mut self, number: u64, random: &mut RandomStream) {
        let mut last = None;
        let due = |key: &(u64, u64), _: &mut Version| {
            if key.1 > number {
                return false;
            }
            let reverts = match last {
                Some((block, reverts)) if block == key.0 => reverts,
                _ => random.below(2) == 0,
            };
            last = Some((key.0, reverts));
            reverts
        };
        self.versions.extract_if(.., due).for_each(drop);
    }

    /// The power goes: what is volatile becomes durable or is gone. How many sectors were lost, and
    /// the blocks whose damage went.
    pub(super) fn power_loss(
        &mut self,
        survival: Survival,
        random: &mut RandomStream,
    ) -> (u64, Vec<u64>) {
        let (mut lost, mut repaired) = (0, Vec::new());
        for ((block, _), version) in std::mem::take(&mut self.versions) {
            let mask = if version.lost { 0 } else { survival.mask(random) };
            lost += u64::from((!mask).count_ones());
            if self.land(block, &version.content, mask) {
                repaired.push(block);
            }
        }
        (lost, repaired)
    }

    /// Some sectors of a block reach the medium. True if that overwrote all its damage.
    fn land(&mut self, block: u64, content: &Content, mask: u8) -> bool {
        if mask == 0 {
            return false;
        }
        let damaged = self.damage.get(&block).map(|damage| mix(damage, content, mask));
        let mixed = mix(&self.durable[block as usize], content, mask);
        let was_damaged = self.settle(block, mixed);
        match damaged.filter(|_| mask != WHOLE) {
            Some(damaged) => {
                self.damage.insert(block, damaged);
                false
            }
            None => was_damaged,
        }
    }

    /// Puts other content under a block.
    pub(super) fn damage(&mut self, block: u64, content: Content) {
        self.damage.insert(block, content);
    }

    /// Takes all damage away.
    pub(super) fn heal(&mut self) {
        self.damage.clear();
        self.bad.clear();
    }

    pub(super) fn make_bad(&mut self, block: u64) {
        self.bad.insert(block);
    }

    pub(super) fn has_bad(&self, blocks: std::ops::Range<u64>) -> bool {
        !self.bad.is_empty() && self.bad.range(blocks).next().is_some()
    }

    /// All durable contents, damage left out, shared until they change.
    pub(super) fn image(&self) -> Vec<Content> {
        self.durable.clone()
    }

    /// Puts an image in place of everything.
    pub(super) fn restore(&mut self, image: &[Content]) {
        self.durable.clone_from_slice(image);
        self.versions.clear();
        self.heal();
    }
}

impl Survival {
    /// Some lose nearly all, some nearly nothing, most a random part.
    pub(super) fn draw(random: &mut RandomStream) -> Survival {
        let eighths = [0, 1, 4, 7, 8][random.below(5) as usize];
        Survival { eighths, torn: random.below(4) > 0 }
    }

    /// Which sectors of a block survive.
    pub(super) fn mask(self, random: &mut RandomStream) -> u8 {
        let mut survives = || random.below(8) < self.eighths;
        match self.eighths {
            0 => 0,
            8 => WHOLE,
            _ if self.torn => (0..SECTORS).fold(0, |mask, _| mask << 1 | u8::from(survives())),
            _ => {
                if survives() {
                    WHOLE
                } else {
                    0
                }
            }
        }
    }
}
