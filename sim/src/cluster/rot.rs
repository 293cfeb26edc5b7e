//! Damage at rest of what replicas hold: of one replica, or of all, each elsewhere, so that every
//! block keeps a sound copy.
//!
//! Must never know: how it is found and mended.

use super::lab::ClusterLab;
use super::site::Site;
use ashlar_engine::reactor::sim::Damage;
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex};

const BLOCK: u64 = BLOCK_SIZE_BYTES as u64;
/// Blocks that are damaged on one disk at once, at most.
const BLOCKS_MAX: u64 = 12;
/// Chances for each of them to be found.
const TRIES: u64 = 4;

/// Damages blocks of one site that hold what clients wrote.
pub fn of_one(lab: &ClusterLab, site: &Site) {
    damage(lab, site, |_| true);
}

/// Damages every site, each in blocks of other addresses.
pub fn of_all(lab: &ClusterLab) {
    let sites = lab.sites.len() as u64;
    for (site, own) in lab.sites.iter().zip(0..) {
        damage(lab, site, |block| block % sites == own);
    }
}

fn damage(lab: &ClusterLab, site: &Site, picks: impl Fn(u64) -> bool) {
    let Some(node) = site.node() else { return };
    let (disk, most) = (site.disk(), 1 + lab.below(BLOCKS_MAX));
    let groups = node.store().groups().into_iter().map(|id| node.store().group(id));
    let volumes = groups.flat_map(|group| {
        let volumes = group.volumes().into_iter();
        volumes.filter_map(move |(id, _)| group.volume(id).ok())
    });
    let volumes: Vec<_> = volumes.collect();
    let mut damaged = 0;
    for _ in 0..most * TRIES {
        let Some(volume) = lab.one_of(&volumes) else { break };
        let block = lab.below(volume.size_bytes().div_ceil(BLOCK));
        let Some(place) = volume.place(BlockIndex(block)).filter(|_| picks(block)) else {
            continue;
        };
        let at = place.offset_bytes();
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
