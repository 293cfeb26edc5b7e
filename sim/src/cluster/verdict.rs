//! What must hold of a cluster, while it runs and when all trouble has ended.
//!
//! Must never know: what the trouble was.

use super::lab::{ClusterLab, Kept};
use super::plan::ClusterPlan;
use super::site::Site;
use crate::client::{Answer, Client, Request, Style, command};
use crate::invariants::{Violation, atomic, linearizable, survives};
use crate::sector::SECTOR_BYTES;
use ashlar_engine::reactor::sim::NetFaults;
use ashlar_engine::units::GroupId;
use ashlar_raft::control::{PgId, Role};
use ashlar_raft::node::{ClusterStatus, Node};
use ashlar_raft::placement::StoreId;
use ashlar_raft::volume::slice_volume;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How long a cluster may take to be whole when nothing is done to it any more.
const WHOLE_MAX: Duration = Duration::from_secs(240);
/// Pause between two looks at it.
const LOOK: Duration = Duration::from_millis(500);
/// How long a node may take to say what it sees.
const STATUS_MAX: Duration = Duration::from_secs(20);
/// Pause between two looks at who leads.
const WATCH: Duration = Duration::from_millis(40);
/// How long replicas are left alone before they are compared.
const QUIET: Duration = Duration::from_secs(5);
/// How long a read may take then.
const READ_MAX: Duration = Duration::from_secs(100);
/// Bytes of one read.
const READ_BYTES: u64 = 256 << 10;

/// Sockets at their planned speed, without faults.
#[must_use]
pub fn peaceful(plan: &ClusterPlan) -> NetFaults {
    NetFaults { latency: plan.net.latency, ..NetFaults::default() }
}

/// Watches who leads: one in each term (I5).
pub async fn watch_leaders(lab: Rc<ClusterLab>) {
    while !lab.is_broken() {
        for site in lab.running() {
            let Some(node) = site.node() else { continue };
            for (group, store, term) in node.leads() {
                let known = *lab.leaders.borrow_mut().entry((group, term)).or_insert(store);
                lab.check(known == store, "one leader", || {
                    format!("group {group}: {known} and {store} lead in term {term}")
                });
            }
        }
        lab.reactor.sleep(WATCH).await;
    }
}

/// What the cluster looks like from a site.
async fn status_at(lab: &ClusterLab, site: &Site) -> Option<ClusterStatus> {
    let (node, machine) = (site.node()?, site.machine()?);
    let asked = async move { node.status().await };
    lab.on(&machine, STATUS_MAX, asked).await?.ok()
}

/// What is not as it should be: every group led, with three voters that have everything; by one
/// that has blocks, if there are any.
fn lacks(lab: &ClusterLab, status: &ClusterStatus) -> Option<String> {
    if let Some(note) = status.notes.first() {
        return Some(note.clone());
    }
    if status.nodes.len() != lab.sites.len() || status.nodes.iter().any(|node| !node.up) {
        return Some(format!("{:?}", status.nodes));
    }
    let wrong = status.groups.iter().find(|group| {
        let sound = |member: &ashlar_raft::node::MemberStatus| {
            member.role != Role::Learner && member.lag_entries == Some(0) && member.up
        };
        let count = |role| group.members.iter().filter(|member| member.role == role).count();
        let leads_well = |store: StoreId| {
            let leads = |m: &&ashlar_raft::node::MemberStatus| m.store == store;
            let role = group.members.iter().find(leads).map(|member| member.role);
            group.id == PgId::CONTROL || role == Some(Role::Voter)
        };
        !group.leader.is_some_and(leads_well)
            || group.members.len() != 3
            || count(Role::Voter) != lab.plan.replicas()
            || !group.members.iter().all(sound)
    });
    wrong.map(|group| format!("{group:?}"))
}

/// Whether nothing is missing anywhere, at this moment, as every node sees it. Clients may write:
/// then members lag a little now and then.
pub async fn is_whole_now(lab: &ClusterLab) -> bool {
    for _ in 0..20 {
        if lab.running().len() == lab.sites.len() && what_lacks(lab).await.is_none() {
            return true;
        }
        lab.reactor.sleep(LOOK).await;
    }
    false
}

async fn what_lacks(lab: &ClusterLab) -> Option<String> {
    for site in &lab.sites {
        let Some(status) = status_at(lab, site).await else {
            return Some(format!("node {} says nothing", site.number));
        };
        if let Some(lacks) = lacks(lab, &status) {
            return Some(format!("node {} sees: {lacks}", site.number));
        }
    }
    None
}

/// Tells a person who replays the seed what every node sees.
pub async fn describe(lab: &ClusterLab) {
    for site in &lab.sites {
        let Some(status) = status_at(lab, site).await else { continue };
        lab.log(|| format!("node {} sees {:?}", site.number, status.groups));
        if let Some(node) = site.node() {
            lab.log(|| format!("troubles {:?}, map {:?}", node.troubles(), node.map().groups()));
        }
    }
}

/// Waits until the cluster is whole; a promise is broken if that takes too long.
pub async fn until_whole(lab: &ClusterLab, invariant: &'static str) {
    let deadline = lab.reactor.now() + WHOLE_MAX;
    let mut last = None;
    while !lab.is_broken() {
        let lacks = what_lacks(lab).await;
        if lacks.is_none() {
            return;
        }
        if lacks != last {
            lab.log(|| format!("not whole: {lacks:?}"));
        }
        if lab.reactor.now() >= deadline {
            let what = lacks.unwrap_or_default();
            describe(lab).await;
            return lab.violation(Violation::new(invariant, format!("not whole: {what}")));
        }
        last = lacks;
        lab.reactor.sleep(LOOK).await;
    }
}

/// Everything that must hold when all trouble has ended and no client is left.
pub async fn judge(lab: &Rc<ClusterLab>) {
    until_whole(lab, "heals").await;
    if lab.is_broken() {
        return;
    }
    lab.reactor.sleep(QUIET).await;
    let all = lab.kept.borrow().clone();
    for kept in &all {
        kept.volume.history.borrow_mut().stop();
        // From every node: all see the same.
        for site in &lab.sites {
            if let Some(contents) = read_all(lab, kept, site).await {
                judge_contents(lab, kept, &contents);
            }
            if lab.is_broken() {
                return;
            }
        }
    }
    scrub(lab).await;
    replicas(lab).await;
    for site in &lab.sites {
        if let Some(node) = site.node() {
            let audit = node.store().audit();
            lab.check(audit.is_empty(), "books", || format!("node {}: {audit:?}", site.number));
        }
    }
}

/// What was damaged is mended: of every block, some replica had a sound copy.
async fn scrub(lab: &ClusterLab) {
    for site in &lab.sites {
        let (Some(node), Some(machine)) = (site.node(), site.machine()) else { continue };
        let scrubbing = async move { node.scrub().await };
        let done = lab.on(&machine, READ_MAX, scrubbing).await;
        lab.log(|| format!("node {} was scrubbed: {done:?}", site.number));
        let whole = matches!(&done, Some(Ok(report)) if report.damaged_blocks == 0);
        lab.check(whole, "mends", || format!("node {}: {done:?}", site.number));
        let again = site.node().map(|node| node.store().status().counters.mended_blocks);
        lab.count(|tally| tally.damaged += again.unwrap_or(0));
    }
}

fn judge_contents(lab: &ClusterLab, kept: &Kept, contents: &[Option<u64>]) {
    let history = kept.volume.history.borrow();
    let (mut found, unknown) = linearizable::judge(&history);
    found.extend(survives::judge(&history, contents));
    found.extend(atomic::judge(&history, contents));
    drop(history);
    lab.count(|tally| tally.unknown += unknown);
    if let Some(violation) = found.into_iter().next() {
        lab.violation(violation);
    }
}

/// Reads a whole volume at a node.
async fn read_all(lab: &ClusterLab, kept: &Kept, site: &Site) -> Option<Vec<Option<u64>>> {
    let volume = &kept.volume;
    let failed = |what: String| {
        let what = format!("{} at node {}: {what}", volume.name, site.number);
        lab.violation(Violation::new("reads", what));
    };
    let address = site.nbd();
    let opening = Client::open(&lab.reactor, &address, &volume.name, Style::Structured);
    let client = match lab.reactor.within(READ_MAX, opening).await {
        Some(Ok(Some(client))) => client,
        other => {
            failed(format!("not let in: {:?}", other.map(|r| r.map(|c| c.is_some()))));
            return None;
        }
    };
    let mut contents = Vec::new();
    let mut at = 0;
    while at < volume.size_bytes {
        let length = READ_BYTES.min(volume.size_bytes - at);
        let request = Request { command: command::READ, flags: 0, offset: at, length };
        let begin = volume.history.borrow_mut().tick();
        let data = match lab.reactor.within(READ_MAX, client.call(request, &[])).await {
            Some(Answer::Data(data)) => data,
            other => {
                failed(format!("{other:?}"));
                return None;
            }
        };
        let first = at / SECTOR_BYTES as u64;
        let seen = volume.history.borrow_mut().seen(first, &data, begin);
        match seen {
            Ok(values) => contents.extend(values.into_iter().map(Some)),
            Err(found) => {
                lab.violation(found);
                return None;
            }
        }
        at += length;
    }
    client.cut();
    Some(contents)
}

/// Replicas hold the same bytes (I7).
async fn replicas(lab: &ClusterLab) {
    let nodes: Vec<(u32, Node)> =
        lab.sites.iter().filter_map(|site| Some((site.number, site.node()?))).collect();
    let Some((_, first)) = nodes.first() else { return };
    let map = first.map();
    let all = lab.kept.borrow().clone();
    for kept in &all {
        let Some((_, volume)) = map.volume_by_name(&kept.volume.name) else {
            let what = format!("{} is gone", kept.volume.name);
            return lab.violation(Violation::new("volumes", what));
        };
        let (group, slice) = (volume.slices[0], slice_volume(volume, 0));
        let keeps = |store: &StoreId| !map.stores()[store].witness;
        let members: Vec<StoreId> = map.groups()[&group].voters().filter(keeps).collect();
        let mut found: BTreeMap<u32, Option<Vec<u8>>> = BTreeMap::new();
        for site in &lab.sites {
            let Some(node) = site.node() else { continue };
            let own = map.stores().iter().filter(|(_, store)| Some(store.node) == site.id());
            if !own.map(|(id, _)| *id).any(|id| members.contains(&id)) {
                continue;
            }
            let Some(machine) = site.machine() else { continue };
            let size = kept.volume.size_bytes as usize;
            let reading = async move { read_replica(&node, group, slice, size).await };
            let read = lab.on(&machine, READ_MAX, reading).await;
            found.insert(site.number, read.flatten());
        }
        let one = found.values().next().cloned().flatten();
        let other = found.iter().find(|(_, bytes)| **bytes != one);
        lab.check(found.len() == lab.plan.replicas() && other.is_none(), "identical", || {
            let differs = other.and_then(|(number, bytes)| {
                let (one, other) = (one.as_ref()?, bytes.as_ref()?);
                let at = one.iter().zip(other).position(|(a, b)| a != b)?;
                Some(format!("node {number} from byte {at} on"))
            });
            let there: Vec<_> = found.iter().map(|(n, bytes)| (n, bytes.is_some())).collect();
            format!("{}, group {group}: {there:?}, {differs:?}", kept.volume.name)
        });
    }
}

/// What a store holds of a slice; `None` if it has nothing of it.
async fn read_replica(
    node: &Node,
    group: PgId,
    slice: ashlar_engine::units::VolumeId,
    size: usize,
) -> Option<Vec<u8>> {
    let volume = node.store().group(GroupId(group.0)).volume(slice).ok()?;
    let mut bytes = Vec::new();
    while bytes.len() < size {
        let length = (size - bytes.len()).min(READ_BYTES as usize).next_multiple_of(4096);
        let parts = volume.read(bytes.len() as u64, length).await.ok()?;
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
    }
    Some(bytes)
}
