//! What nodes tell the control group's members of themselves, and what its leader makes of it.
//!
//! A report says which groups the node leads, how far the members of each are, and which of its own
//! members must not vote. version u8, kind u8, node, epoch of its map u64; u32 groups: group u32,
//! store, term, applied u64, u16 members: store, lag u64 (all ones: not heard of); u32 gated: group
//! u32, store u64.
//! Must never know: sockets.

use super::message::{REPORT, VERSION};
use crate::control::{GroupHealth, Health, MemberHealth, PgId, caught_up};
use crate::placement::{NodeId, StoreId};
use crate::types::encoding::{Bytes, EncodingError, bounded};
use ashlar_engine::units::Nanos;
use std::collections::{BTreeMap, BTreeSet};

/// Groups in a report: all that a store has.
const GROUPS_MAX: usize = 4096;
const MEMBERS_MAX: usize = crate::limits::MEMBERS_MAX;
const UNHEARD: u64 = u64::MAX;
/// Before each report in what one node tells another of all: its age and its length.
const HEARD_HEAD_BYTES: usize = 12;

/// A group that a node leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Led {
    pub(super) group: PgId,
    pub(super) store: StoreId,
    pub(super) term: u64,
    pub(super) applied: u64,
    pub(super) lags: BTreeMap<StoreId, Option<u64>>,
}

/// What a node says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) node: NodeId,
    pub(super) map_epoch: u64,
    pub(super) led: Vec<Led>,
    pub(super) gated: Vec<(PgId, StoreId)>,
}

impl Report {
    /// Whether a plan is the same after either: who leads, which members are caught up, which must
    /// not vote.
    pub(super) fn is_like(&self, other: &Report) -> bool {
        let shape = |led: &Led| (led.group, led.store, led.term);
        let members = |led: &Led| {
            let members: Vec<_> = led.lags.iter().map(|(id, lag)| (*id, caught_up(*lag))).collect();
            members
        };
        self.gated == other.gated
            && self.led.iter().map(shape).eq(other.led.iter().map(shape))
            && self.led.iter().map(members).eq(other.led.iter().map(members))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut into = vec![VERSION, REPORT];
        let mut put = |bytes: &[u8]| into.extend(bytes);
        put(&self.node.0.to_le_bytes());
        put(&self.map_epoch.to_le_bytes());
        let led = self.led.iter().take(GROUPS_MAX);
        put(&(led.len() as u32).to_le_bytes());
        for led in led {
            put(&led.group.0.to_le_bytes());
            for number in [led.store.0, led.term, led.applied] {
                put(&number.to_le_bytes());
            }
            let lags = led.lags.iter().take(MEMBERS_MAX);
            put(&(lags.len() as u16).to_le_bytes());
            for (store, lag) in lags {
                put(&store.0.to_le_bytes());
                put(&lag.unwrap_or(UNHEARD).to_le_bytes());
            }
        }
        let gated = self.gated.iter().take(GROUPS_MAX);
        put(&(gated.len() as u32).to_le_bytes());
        for (group, store) in gated {
            put(&group.0.to_le_bytes());
            put(&store.0.to_le_bytes());
        }
        into
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Report, EncodingError> {
        let mut bytes = Bytes::of_version(VERSION, bytes)?;
        match bytes.u8()? {
            REPORT => {}
            found => return Err(EncodingError::Kind { of: "report", found }),
        }
        let (node, map_epoch) = (NodeId(bytes.u64()?), bytes.u64()?);
        let mut led = Vec::new();
        for _ in 0..bounded("groups", GROUPS_MAX, bytes.u32()? as usize)? {
            led.push(take_led(&mut bytes)?);
        }
        let mut gated = Vec::new();
        for _ in 0..bounded("groups", GROUPS_MAX, bytes.u32()? as usize)? {
            gated.push((PgId(bytes.u32()?), StoreId(bytes.u64()?)));
        }
        bytes.end()?;
        Ok(Report { node, map_epoch, led, gated })
    }
}

fn take_led(bytes: &mut Bytes<'_>) -> Result<Led, EncodingError> {
    let (group, store) = (PgId(bytes.u32()?), StoreId(bytes.u64()?));
    let (term, applied) = (bytes.u64()?, bytes.u64()?);
    let mut lags = BTreeMap::new();
    for _ in 0..bounded("members", MEMBERS_MAX, bytes.u16()?.into())? {
        let (store, lag) = (StoreId(bytes.u64()?), bytes.u64()?);
        lags.insert(store, (lag != UNHEARD).then_some(lag));
    }
    Ok(Led { group, store, term, applied, lags })
}

/// What was heard of all nodes.
#[derive(Debug, Default)]
pub(super) struct Reports {
    newest: BTreeMap<NodeId, (Nanos, Report)>,
    /// Since when each node of the map is listened to.
    since: BTreeMap<NodeId, Nanos>,
}

impl Reports {
    /// Takes what a node says; whether that may change the plan.
    pub(super) fn take(&mut self, now: Nanos, report: Report) -> bool {
        let node = report.node;
        let is_new = self.newest.get(&node).is_none_or(|(_, before)| !before.is_like(&report));
        self.newest.insert(node, (now, report));
        is_new
    }

    /// What was heard, for another node: version u8, u16 reports, each its age in ns u64, length
    /// u32 and bytes. As many as `bytes_max` has room for.
    pub(super) fn tell(&self, now: Nanos, bytes_max: usize) -> Vec<u8> {
        let mut into = vec![VERSION, 0, 0];
        let mut count = 0u16;
        for (seen, report) in self.newest.values() {
            let bytes = report.encode();
            if count == u16::MAX || into.len() + HEARD_HEAD_BYTES + bytes.len() > bytes_max {
                break;
            }
            into.extend((now.since(*seen).as_nanos() as u64).to_le_bytes());
            into.extend((bytes.len() as u32).to_le_bytes());
            into.extend(bytes);
            count += 1;
        }
        into[1..3].copy_from_slice(&count.to_le_bytes());
        into
    }

    /// Takes what [`Reports::tell`] gave at another node, where it is newer than what is known.
    pub(super) fn hear(&mut self, now: Nanos, bytes: &[u8]) -> Result<(), EncodingError> {
        let mut bytes = Bytes::of_version(VERSION, bytes)?;
        let mut heard = Vec::new();
        for _ in 0..bytes.u16()? {
            let age = bytes.u64()?;
            let len = bytes.u32()? as usize;
            heard.push((Nanos(now.0.saturating_sub(age)), Report::decode(bytes.take(len)?)?));
        }
        bytes.end()?;
        for (seen, report) in heard {
            if self.newest.get(&report.node).is_none_or(|(known, _)| *known < seen) {
                self.newest.insert(report.node, (seen, report));
            }
        }
        Ok(())
    }

    /// Health as these reports show it. `nodes`: those of the map.
    pub(super) fn health(&mut self, now: Nanos, nodes: impl Iterator<Item = NodeId>) -> Health {
        let nodes: BTreeSet<NodeId> = nodes.collect();
        self.newest.retain(|node, _| nodes.contains(node));
        self.since.retain(|node, _| nodes.contains(node));
        let mut health = Health::default();
        for node in nodes {
            let since = *self.since.entry(node).or_insert(now);
            let seen = self.newest.get(&node).map_or(since, |(seen, _)| *seen);
            health.nodes.insert(node, seen);
        }
        let gated: BTreeSet<(PgId, StoreId)> =
            self.newest.values().flat_map(|(_, report)| report.gated.iter().copied()).collect();
        for led in self.led() {
            let member = |(store, lag): (&StoreId, &Option<u64>)| {
                let lag_entries = lag.unwrap_or(u64::MAX);
                let gated = gated.contains(&(led.group, *store));
                (*store, MemberHealth { lag_entries, gated })
            };
            let members = led.lags.iter().map(member).collect();
            health.groups.insert(led.group, GroupHealth { leader: Some(led.store), members });
        }
        health
    }

    /// The newest leader of each group, as heard.
    pub(super) fn led(&self) -> impl Iterator<Item = &Led> {
        let mut led: BTreeMap<PgId, &Led> = BTreeMap::new();
        for found in self.newest.values().flat_map(|(_, report)| &report.led) {
            let known = led.entry(found.group).or_insert(found);
            if known.term < found.term {
                *known = found;
            }
        }
        led.into_values()
    }
}
