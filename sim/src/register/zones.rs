//! Zones: for values that were written once each.
//!
//! A value's zone runs between the earliest end and the latest begin of all that touched it. If
//! the end comes first the value must have stood throughout (a forward zone): no other such zone
//! may overlap it, and no value whose whole life lies inside it can have stood anywhere.

use super::{Read, Verdict, Write};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug)]
struct Zone {
    value: u64,
    /// Earliest end.
    first_end: u64,
    /// Latest begin.
    last_begin: u64,
    write_begin: u64,
}

impl Zone {
    fn is_forward(&self) -> bool {
        self.first_end < self.last_begin
    }
}

pub(super) fn check(initial: u64, writes: &[Write], reads: &[Read]) -> Verdict {
    let mut zones = BTreeMap::new();
    let before = Write { value: initial, begin: 0, end: 0, optional: false };
    for write in writes.iter().chain([&before]) {
        let zone = Zone {
            value: write.value,
            first_end: write.end,
            last_begin: write.begin,
            write_begin: write.begin,
        };
        zones.insert(write.value, zone);
    }
    for read in reads {
        let Some(zone) = zones.get_mut(&read.value) else {
            return invalid(format!("{read:?} saw what nobody wrote"));
        };
        if read.end < zone.write_begin {
            return invalid(format!("{read:?} saw what was only written later"));
        }
        zone.first_end = zone.first_end.min(read.end);
        zone.last_begin = zone.last_begin.max(read.begin);
    }
    let mut forward: Vec<Zone> = zones.values().filter(|zone| zone.is_forward()).copied().collect();
    forward.sort_unstable_by_key(|zone| zone.first_end);
    for pair in forward.windows(2) {
        if pair[1].first_end < pair[0].last_begin {
            let (old, new) = (pair[0].value, pair[1].value);
            return invalid(format!("{old} and {new} both stood at {}", pair[1].first_end));
        }
    }
    for zone in zones.values().filter(|zone| !zone.is_forward()) {
        let after = forward.partition_point(|other| other.first_end <= zone.last_begin);
        let around = after.checked_sub(1).map(|i| forward[i]);
        if let Some(around) = around.filter(|around| zone.first_end < around.last_begin) {
            let (inner, outer) = (zone.value, around.value);
            return invalid(format!("{inner} came and went while {outer} stood: {around:?}"));
        }
    }
    Verdict::Valid
}

fn invalid(why: String) -> Verdict {
    Verdict::Invalid(why)
}
