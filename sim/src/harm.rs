//! Damage on purpose, while nobody looks: one block, so that what it may cost is known, or, on a
//! disk that decays anyway, a whole stretch.
//!
//! Invariant: it is done only where the store had closed its log behind it, so that no damage can
//! pass for a torn end of the log.
//! Must never know: what the damaged block was.

use crate::lab::Lab;
use ashlar_engine::limits::SEGMENTS_START_BLOCK;
use ashlar_engine::reactor::sim::Damage;
use ashlar_engine::store::Geometry;
use ashlar_engine::units::BLOCK_SIZE_BYTES;

/// Tries to find a block that holds something.
const TRIES: u32 = 24;
const BLOCK: u64 = BLOCK_SIZE_BYTES as u64;
/// Blocks at the start of which a store keeps copies that must not both be damaged.
const SUPERBLOCKS: u64 = SEGMENTS_START_BLOCK as u64;

/// Damages one block of the disk.
pub fn damage_one(lab: &Lab) {
    lab.disk.heal();
    let mut bytes = vec![0; BLOCK_SIZE_BYTES];
    let blocks = lab.disk.size_bytes() / BLOCK;
    let found = (0..TRIES).find_map(|_| {
        let block = match lab.below(10) {
            0 => lab.below(SUPERBLOCKS),
            // The first segments hold most.
            1..6 => SUPERBLOCKS + lab.below((blocks - SUPERBLOCKS) / 4),
            _ => SUPERBLOCKS + lab.below(blocks - SUPERBLOCKS),
        };
        lab.disk.read(block * BLOCK, &mut bytes);
        bytes.iter().any(|byte| *byte != 0).then_some(block)
    });
    let Some(block) = found else { return };
    let start = block * BLOCK;
    let sector = start + 512 * lab.below(8);
    match lab.below(5) {
        0 => lab.disk.damage(sector..sector + 512, &Damage::FlipBit),
        1 => lab.disk.damage(sector..sector + 512, &Damage::Garbage),
        2 => lab.disk.damage(sector..sector + 512, &Damage::Zeroes),
        3 => lab.disk.damage(start..start + BLOCK, &Damage::Garbage),
        _ => lab.disk.damage(start..start + BLOCK, &Damage::Bad),
    }
    lab.log(|| format!("block {block} is damaged"));
    lab.damage.set(lab.damage.get() + 1);
    lab.damaged_block.set(Some(block));
}

/// Garbage over the beginning of a segment that is in use: its header, and what else would tell
/// its life.
pub fn damage_stretch(lab: &Lab) {
    let Ok(geometry) = Geometry::for_size(lab.disk.size_bytes()) else { return };
    let segment_blocks = u64::from(geometry.segment_blocks);
    let mut bytes = vec![0; BLOCK_SIZE_BYTES];
    let found = (0..TRIES).find_map(|_| {
        // The first segments hold most.
        let segment = lab.below(u64::from(geometry.segments).div_ceil(2));
        let start = SUPERBLOCKS + segment * segment_blocks;
        lab.disk.read(start * BLOCK, &mut bytes);
        bytes.iter().any(|byte| *byte != 0).then_some(start)
    });
    let Some(start) = found else { return };
    let end = start + 1 + lab.below(segment_blocks);
    lab.disk.damage(start * BLOCK..end * BLOCK, &Damage::Garbage);
    lab.log(|| format!("blocks {start} to {end} are damaged"));
    lab.damage.set(lab.damage.get() + 1);
}

/// After a store with damage has been looked through: one block may have cost one block.
pub fn judge_cost(lab: &Lab, unreadable: u64) {
    let Some(block) = lab.damaged_block.get() else { return };
    lab.check(unreadable <= 1, "damage", || {
        format!("block {block} was damaged, and {unreadable} blocks cannot be read")
    });
    // Damage to one of two copies, and a crash while the other is written, would be two faults.
    if block < SUPERBLOCKS || lab.percent(50) {
        lab.disk.heal();
        lab.damaged_block.set(None);
    }
}
