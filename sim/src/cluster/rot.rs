//! Damage at rest of what replicas hold: of one replica, or of all, each elsewhere, so that every
//! block keeps a sound copy.
//!
//! Must never know: how it is found and mended.

use super::lab::ClusterLab;
use super::site::Site;
use crate::sector::{BLOCK_SECTORS, Content, SECTOR_BYTES};
use ashlar_engine::reactor::sim::Damage;
use ashlar_engine::units::BLOCK_SIZE_BYTES;

const BLOCK: u64 = BLOCK_SIZE_BYTES as u64;
/// Blocks that are damaged on one disk at once, at most.
const BLOCKS_MAX: u64 = 12;
/// Blocks of a disk that are looked at.
const LOOKS: u64 = 6000;

/// Damages blocks of one site that hold what clients wrote.
pub fn of_one(lab: &ClusterLab, site: &Site) {
    damage(lab, site, |_| true);
}

/// Damages every site, each in blocks of other addresses.
pub fn of_all(lab: &ClusterLab) {
    let sites = lab.sites.len() as u64;
    for (site, own) in lab.sites.iter().zip(0..) {
        damage(lab, site, |address| address / BLOCK_SECTORS % sites == own);
    }
}

fn damage(lab: &ClusterLab, site: &Site, picks: impl Fn(u64) -> bool) {
    let disk = site.disk();
    let blocks = disk.size_bytes() / BLOCK;
    let (first, most) = (lab.below(blocks), 1 + lab.below(BLOCKS_MAX));
    let mut bytes = vec![0; BLOCK_SIZE_BYTES];
    let mut damaged = 0;
    for i in 0..LOOKS.min(blocks) {
        // The log begins at the front.
        let at = (if i < LOOKS / 2 { i } else { first + i }) % blocks * BLOCK;
        disk.read(at, &mut bytes);
        let stamps = bytes.chunks_exact(SECTOR_BYTES).map(Content::decode);
        let written = stamps.filter_map(|content| match content {
            Content::Written(stamp) => Some(stamp.address),
            _ => None,
        });
        let Some(address) = written.min() else { continue };
        if !picks(address) || !lab.percent(20) {
            continue;
        }
        match lab.below(3) {
            0 => disk.damage(at..at + 512, &Damage::FlipBit),
            1 => disk.damage(at..at + BLOCK, &Damage::Garbage),
            _ => disk.damage(at..at + BLOCK, &Damage::Bad),
        }
        damaged += 1;
        if damaged == most {
            break;
        }
    }
    lab.log(|| format!("{damaged} blocks of node {} are damaged", site.number));
}
