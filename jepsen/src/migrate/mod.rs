//! Live migration: a running guest moves from host to host, and its disk with it.
//!
//! A guest in QEMU writes to a volume through one node, and reads back what it wrote. Its state is
//! sent to a second QEMU whose disk is the same volume through another node; both have it open
//! meanwhile. The guest goes on there, and so on from node to node. It itself compares what it
//! reads; at the end the volume is compared with the last that it can have written.

mod guest;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::fleet::{Fleet, NODES, Plan};
use guest::Guest;
pub use guest::{QEMU, boot_sector};

const VOLUME: &str = "vm0";
const VOLUME_BYTES: u64 = 8 << 20;
const SECTOR: usize = 512;
/// Sectors that the guest writes in a circle, from the second one on.
const CIRCLE: u32 = 16;
/// Times that it goes around on each host, at least.
const LAPS: usize = 3;

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Moves from one host to the next.
    pub migrations: u64,
    /// Sectors that the guest wrote, of those that it told of.
    pub writes: u64,
    /// Longest time in which it ran nowhere, as QEMU says.
    pub downtime_max: Duration,
}

/// Moves a guest so often, in `directory`.
pub fn run(directory: &Path, migrations: u64) -> Result<Report> {
    let volumes = vec![(VOLUME.to_owned(), VOLUME_BYTES)];
    let fleet = Fleet::start(directory, None, &Plan { volumes, ..Plan::default() })?;
    fleet.connect(0, VOLUME)?.write(0, &boot_sector())?;
    let name = |number: u64| directory.join(format!("guest{number}"));
    let mut report = Report::default();
    let mut node = 0;
    let mut running = Guest::start(&name(0), &fleet.socket(node), VOLUME, None)?;
    for number in 1..=migrations {
        running.await_laps(LAPS)?;
        node = (node + 1) % NODES;
        let uri = format!("unix:{}", name(number).with_extension("state").display());
        let next = Guest::start(&name(number), &fleet.socket(node), VOLUME, Some(&uri))?;
        let downtime = running.migrate(&uri)?;
        report.writes += u64::from(CIRCLE) * running.laps()? as u64;
        report.downtime_max = report.downtime_max.max(downtime);
        report.migrations += 1;
        running = next;
    }
    running.await_laps(LAPS)?;
    report.writes += u64::from(CIRCLE) * running.laps()? as u64;
    drop(running);
    let mut written = vec![0; SECTOR * CIRCLE as usize];
    fleet.connect((node + 1) % NODES, VOLUME)?.read(SECTOR as u64, &mut written)?;
    judge(&written, report.writes)?;
    Ok(report)
}

/// Whether this is a circle of sectors as the guest leaves it, having told of so many.
fn judge(written: &[u8], told: u64) -> Result<()> {
    let mut counts = BTreeMap::new();
    for (at, sector) in written.chunks(SECTOR).enumerate() {
        let words = sector.chunks_exact(4).map(|word| word.try_into().unwrap_or([0; 4]));
        let mut words = words.map(u32::from_le_bytes);
        let count = words.next().unwrap_or(0);
        if words.any(|word| word != count) || count % CIRCLE != at as u32 {
            return Err(format!("sector {at} of the circle is not as the guest writes it"));
        }
        counts.insert(count, at);
    }
    let newest = counts.keys().next_back().copied().unwrap_or(0);
    let circle = newest.saturating_sub(CIRCLE - 1)..=newest;
    if !counts.keys().copied().eq(circle) || u64::from(newest) < told {
        return Err(format!("writes are lost: {counts:?}, and the guest told of {told}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circle(newest: u32) -> Vec<u8> {
        let mut bytes = vec![0; SECTOR * CIRCLE as usize];
        for count in newest + 1 - CIRCLE..=newest {
            let at = (count % CIRCLE) as usize * SECTOR;
            bytes[at..at + SECTOR]
                .chunks_mut(4)
                .for_each(|w| w.copy_from_slice(&count.to_le_bytes()));
        }
        bytes
    }

    #[test]
    fn only_a_whole_circle_passes() {
        assert_eq!(judge(&circle(1000), 992), Ok(()));
        assert!(judge(&circle(1000), 1008).is_err(), "the end is lost");
        for at in [7 * SECTOR, 15 * SECTOR + 508] {
            let mut torn = circle(1000);
            torn[at] ^= 1;
            assert!(judge(&torn, 992).is_err(), "{at}");
        }
        let mut old = circle(1000);
        old[2 * SECTOR..3 * SECTOR].copy_from_slice(&circle(900)[2 * SECTOR..3 * SECTOR]);
        assert!(judge(&old, 992).is_err(), "an older one came back");
    }
}
