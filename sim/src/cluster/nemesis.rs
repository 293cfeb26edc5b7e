//! What is done to a cluster.
//!
//! Invariant: no data is lost on purpose that an acknowledgement stands for: a disk is taken away
//! only when all replicas are whole, and the next one only when they are again.
//! Must never know: what clients do.

use super::lab::ClusterLab;
use super::rot;
use super::site::Site;
use super::verdict;
use crate::plan::Class;
use ashlar_engine::reactor::sim::{Chance, Crash, DiskFaults, Host, Latency};
use ashlar_raft::control::Operation;
use std::rc::Rc;
use std::time::Duration;

/// How long a command may take.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// What there is, besides what is there all the time.
const KINDS: [Class; 15] = [
    Class::NodeKill,
    Class::NodePower,
    Class::NodeStop,
    Class::Blackout,
    Class::Isolate,
    Class::OneWay,
    Class::Bridge,
    Class::Pause,
    Class::SlowDisk,
    Class::DiskFails,
    Class::Wipe,
    Class::RotOne,
    Class::RotAll,
    Class::DiskFull,
    Class::Members,
];

/// Troubles after which a node starts again, and the rot that is not for all.
const RESTARTS: [Class; 7] = [
    Class::NodeKill,
    Class::NodePower,
    Class::NodeStop,
    Class::Blackout,
    Class::DiskFails,
    Class::Wipe,
    Class::RotOne,
];

/// How a trouble ends.
enum Lift {
    /// These are started.
    Start(Vec<Rc<Site>>),
    /// These ways are open again.
    Mend(Vec<(Host, Host)>),
    /// It goes on.
    Resume(Rc<Site>),
    /// It is taken back into service.
    TakeBack(Rc<Site>),
    /// Its disk works as planned again.
    Disk(Rc<Site>),
    /// The same, for a disk that has failed: its node starts again.
    Restart(Rc<Site>),
}

/// Makes all the trouble of a seed.
pub async fn run(lab: &Rc<ClusterLab>) {
    let mut kinds: Vec<Class> = KINDS.into_iter().filter(|kind| lab.plan.has(*kind)).collect();
    if lab.plan.has(Class::RotAll) {
        // An entry has blocks of several addresses, so all copies of it may be damaged: with a
        // restart that would be two faults.
        kinds.retain(|kind| !RESTARTS.contains(kind));
    }
    for _ in 0..lab.plan.troubles {
        lab.reactor.sleep(Duration::from_millis(lab.below(5_000))).await;
        if lab.is_broken() {
            return;
        }
        lab.set_calm(false);
        let mut lifts = Vec::new();
        let count = if lab.plan.has(Class::Double) && lab.percent(60) { 2 } else { 1 };
        for _ in 0..count {
            // A disk is taken away, and what was on it made anew, with nothing else under way.
            let alone = |kind: &Class| *kind != Class::Wipe || lifts.is_empty();
            if let Some(kind) = lab.one_of(&kinds).filter(alone) {
                lab.log(|| format!("trouble: {kind:?}"));
                lifts.extend(begin(lab, kind).await);
            }
            lab.reactor.sleep(Duration::from_millis(lab.below(2_000))).await;
        }
        let longest = if lab.percent(70) { 3_000 } else { 20_000 };
        lab.reactor.sleep(Duration::from_millis(lab.below(longest))).await;
        for lift in lifts {
            end(lab, lift).await;
        }
        if lab.percent(30) {
            lab.reactor.sleep(Duration::from_millis(lab.below(15_000))).await;
        }
    }
}

/// A site, half of the time one that leads something.
fn victim(lab: &ClusterLab) -> Rc<Site> {
    let running = lab.running();
    let leads = |site: &&Rc<Site>| site.node().is_some_and(|node| !node.leads().is_empty());
    let leading: Vec<Rc<Site>> = running.iter().filter(leads).map(Rc::clone).collect();
    let among = if lab.percent(50) { leading } else { running };
    lab.one_of(&among).or_else(|| lab.one_of(&lab.sites)).expect("invariant: there are sites")
}

async fn begin(lab: &Rc<ClusterLab>, kind: Class) -> Option<Lift> {
    let site = victim(lab);
    match kind {
        Class::NodeKill => {
            site.crash(lab, Crash::Kill);
            Some(Lift::Start(vec![site]))
        }
        Class::NodePower => {
            site.crash(lab, Crash::PowerLoss);
            Some(Lift::Start(vec![site]))
        }
        Class::NodeStop => {
            site.stop(lab).await;
            Some(Lift::Start(vec![site]))
        }
        Class::Blackout => {
            lab.sites.iter().for_each(|site| site.crash(lab, Crash::PowerLoss));
            Some(Lift::Start(lab.sites.clone()))
        }
        Class::Isolate | Class::OneWay | Class::Bridge => {
            let ways = ways(lab, kind, site.number);
            lab.sites.iter().for_each(|site| site.disturb());
            lab.log(|| format!("cut: {ways:?}"));
            lab.cut(&ways);
            Some(Lift::Mend(ways))
        }
        Class::Pause => {
            site.machine()?.pause(true);
            site.disturb();
            lab.log(|| format!("node {} stands still", site.number));
            Some(Lift::Resume(site))
        }
        Class::SlowDisk | Class::DiskFails | Class::DiskFull => Some(trouble_disk(lab, kind, site)),
        Class::RotOne => {
            // Always the same one: of everything, the others have sound copies.
            let site = Rc::clone(&lab.sites[lab.world.seed() as usize % lab.sites.len()]);
            site.disturb();
            rot::of_one(lab, &site);
            None
        }
        Class::RotAll => {
            rot::of_all(lab);
            None
        }
        Class::Members => {
            drain(lab, &site, true).await;
            Some(Lift::TakeBack(site))
        }
        _ => wipe(lab, site).await,
    }
}

/// A disk that is slow, fails or has no more room.
fn trouble_disk(lab: &ClusterLab, kind: Class, site: Rc<Site>) -> Lift {
    let mut faults = lab.plan.disk_of(site.number);
    match kind {
        Class::SlowDisk => {
            faults.latency = Latency::around(Duration::from_millis(5 + lab.below(60)));
        }
        Class::DiskFails => faults.write_error = Chance(200_000),
        _ => faults.full_from_bytes = Some((8 << 20) + (lab.below(40) << 20)),
    }
    site.set_disk(faults);
    site.disturb();
    lab.log(|| format!("the disk of node {} is troubled", site.number));
    match kind {
        Class::DiskFails => Lift::Restart(site),
        _ => Lift::Disk(site),
    }
}

/// Moves all replicas away from a node, or takes it back into service. Nobody may lead just now.
async fn drain(lab: &ClusterLab, site: &Site, on: bool) {
    let Some(node) = site.id() else { return };
    let Some(teller) = lab.one_of(&lab.running()) else { return };
    let (Some(at), Some(machine)) = (teller.node(), teller.machine()) else { return };
    let asked = async move { at.command(Operation::Drain { node, on }).await };
    let outcome = lab.on(&machine, COMMAND_MAX, asked).await;
    lab.log(|| format!("drain node {}, {on}: {outcome:?}", site.number));
}

/// A host loses its disk, if the others have all there is, and gets an empty one.
async fn wipe(lab: &Rc<ClusterLab>, site: Rc<Site>) -> Option<Lift> {
    if !verdict::is_whole_now(lab).await {
        return None;
    }
    site.crash(lab, Crash::PowerLoss);
    site.wipe(lab);
    lab.reactor.sleep(Duration::from_millis(lab.below(3_000))).await;
    site.start(lab).await;
    // Everything is made anew while clients go on.
    verdict::until_whole(lab, "rebuilds").await;
    None
}

fn ways(lab: &ClusterLab, kind: Class, host: Host) -> Vec<(Host, Host)> {
    let others: Vec<Host> =
        lab.sites.iter().map(|site| site.number).filter(|other| *other != host).collect();
    let both = |one: Host, other: Host| [(one, other), (other, one)];
    match kind {
        Class::Isolate => others.into_iter().flat_map(|other| both(host, other)).collect(),
        Class::OneWay => match lab.below(3) {
            0 => others.into_iter().map(|other| (host, other)).collect(),
            1 => others.into_iter().map(|other| (other, host)).collect(),
            _ => {
                let other = lab.one_of(&others).expect("invariant: there are three");
                vec![(host, other)]
            }
        },
        // The host is the bridge: the others are halves that do not see each other.
        _ => {
            let (left, right) = others.split_at(others.len() / 2);
            left.iter().flat_map(|l| right.iter().flat_map(|r| both(*l, *r))).collect()
        }
    }
}

async fn end(lab: &Rc<ClusterLab>, lift: Lift) {
    match lift {
        Lift::Start(sites) => {
            for site in sites {
                if site.machine().is_none() {
                    site.start(lab).await;
                }
            }
        }
        Lift::Mend(ways) => {
            lab.log(|| "cuts are lifted".to_owned());
            lab.mend(&ways);
            lab.sites.iter().for_each(|site| site.disturb());
        }
        Lift::Resume(site) => {
            if let Some(machine) = site.machine() {
                machine.pause(false);
            }
            site.disturb();
        }
        Lift::TakeBack(site) => drain(lab, &site, false).await,
        Lift::Disk(site) => site.set_disk(lab.plan.disk_of(site.number)),
        Lift::Restart(site) => {
            site.set_disk(lab.plan.disk_of(site.number));
            site.crash(lab, Crash::Kill);
            site.start(lab).await;
        }
    }
}

/// Ends all trouble: everything runs and reaches everything.
pub async fn heal(lab: &Rc<ClusterLab>) {
    lab.log(|| "everything is healed".to_owned());
    lab.world.set_net_faults(verdict::peaceful(&lab.plan));
    lab.mend(&ways_of_all(lab));
    for site in &lab.sites {
        if let Some(machine) = site.machine() {
            machine.pause(false);
        }
        let latency = lab.plan.disk_of(site.number).latency;
        site.set_disk(DiskFaults { latency, ..DiskFaults::default() });
        if site.has_failed() {
            site.crash(lab, Crash::Kill);
        }
        if site.machine().is_none() {
            site.start(lab).await;
        }
        site.disturb();
    }
    for site in lab.sites.iter().filter(|_| lab.plan.has(Class::Members)) {
        drain(lab, site, false).await;
    }
    lab.set_calm(true);
}

fn ways_of_all(lab: &ClusterLab) -> Vec<(Host, Host)> {
    let hosts: Vec<Host> = lab.sites.iter().map(|site| site.number).collect();
    hosts.iter().flat_map(|from| hosts.iter().map(|to| (*from, *to))).collect()
}
