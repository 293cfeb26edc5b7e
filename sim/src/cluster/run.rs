//! One seed of a cluster from its beginning to its end.
//!
//! Must never know: how seeds are spread over processes.

use super::lab::{ClusterLab, Kept};
use super::plan::ClusterPlan;
use super::{clients, nemesis, verdict};
use crate::invariants::Violation;
use crate::plan::{Class, Limits};
use crate::seed::Outcome;
use crate::volume::Volume;
use ashlar_engine::reactor::sim::{Crash, Stop, World, WorldOptions};
use ashlar_raft::control::{NodeSpec, Operation, Outcome as Controlled, PgId, Policy, Role};
use ashlar_raft::placement::{Labels, NodeId};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// Virtual time that a seed may last.
const TIME_MAX: Duration = Duration::from_secs(6 * 3600);
/// Turns that a seed may take.
const TURNS_MAX: u64 = 60_000_000;
/// How long a command may take while nothing is done to the cluster.
const COMMAND_MAX: Duration = Duration::from_secs(120);
/// Looks at a cluster that forms, and the pause between two.
const FORM_LOOKS: u32 = 240;
const FORM_PAUSE: Duration = Duration::from_millis(500);

/// Runs a seed.
#[must_use]
pub fn run(seed: u64, limits: &Limits, is_verbose: bool) -> Outcome {
    let plan = ClusterPlan::draw(seed, limits);
    let options = WorldOptions {
        shuffle_tasks: plan.has(Class::Shuffle),
        net: verdict::peaceful(&plan),
        skip: limits.skip.clone(),
        time_max: TIME_MAX,
        turns_max: TURNS_MAX,
        ..WorldOptions::default()
    };
    let world = World::new(seed, options);
    let reactor = world.reactor();
    let lab = ClusterLab::new(world.clone(), reactor.clone(), plan, is_verbose);
    lab.log(|| format!("seed {seed}: {:?}", lab.plan));
    world.run(&reactor, Stop::Never, live(Rc::clone(&lab)));
    lab.sites.iter().for_each(|site| site.crash(&lab, Crash::Kill));
    world.crash(Crash::Kill);
    reactor.shutdown();
    let mut tally = lab.tally.borrow().clone();
    tally.faults = world.faults();
    tally.virtual_nanos = world.now().0;
    let lives = lab.plan.troubles;
    Outcome { violation: lab.first_violation(), tally, trace: world.trace_hash(), lives }
}

async fn live(lab: Rc<ClusterLab>) {
    lab.reactor.spawn(verdict::watch_leaders(Rc::clone(&lab))).detach();
    if let Err(why) = form(&lab).await {
        return lab.violation(Violation::new("forms", why));
    }
    lab.log(|| "the cluster is there".to_owned());
    lab.world.set_net_faults(lab.plan.net.clone());
    lab.budget.set(lab.plan.requests);
    let mut tasks = Vec::new();
    let all = lab.kept.borrow().clone();
    for (kept, number) in all.iter().zip(0..) {
        for owner in 0..u64::from(lab.plan.owners) {
            let client =
                clients::client(Rc::clone(&lab), Rc::clone(kept), 10 * number + owner, true);
            tasks.push(lab.reactor.spawn(client));
        }
        let visitor = clients::client(Rc::clone(&lab), Rc::clone(kept), 10 * number + 9, false);
        tasks.push(lab.reactor.spawn(visitor));
    }
    nemesis::run(&lab).await;
    nemesis::heal(&lab).await;
    lab.troubled.set(false);
    for task in tasks {
        task.await;
    }
    if !lab.is_broken() {
        verdict::judge(&lab).await;
    }
}

fn policy(lab: &ClusterLab) -> Result<Policy, String> {
    let text = if lab.plan.has(Class::Witness) { "replicas=2,witness" } else { "replicas=3" };
    text.parse().map_err(|error| format!("{error:?}"))
}

/// Has node 1 carry out a command.
async fn command(lab: &ClusterLab, operation: Operation) -> Result<Controlled, String> {
    let site = &lab.sites[0];
    let gone = || "node 1 is gone".to_owned();
    let (node, machine) = (site.node().ok_or_else(gone)?, site.machine().ok_or_else(gone)?);
    let asked = async move { node.command(operation).await };
    match lab.on(&machine, COMMAND_MAX, asked).await {
        Some(Ok(Controlled::Refused(refusal))) => Err(refusal.to_string()),
        Some(Ok(outcome)) => Ok(outcome),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("a command is not answered".to_owned()),
    }
}

/// Starts all nodes, makes them a cluster, and creates the volumes.
async fn form(lab: &Rc<ClusterLab>) -> Result<(), String> {
    let first = &lab.sites[0];
    first.set_id(NodeId(1));
    first.start(lab).await;
    let gone = || "node 1 is gone".to_owned();
    let (node, machine) = (first.node().ok_or_else(gone)?, first.machine().ok_or_else(gone)?);
    let control = policy(lab)?;
    let founding = async move { node.init(control).await };
    let founded = lab.on(&machine, COMMAND_MAX, founding).await.ok_or_else(gone)?;
    let cluster = founded.map_err(|error| error.to_string())?;
    lab.cluster.set(Some(cluster));
    for site in &lab.sites[1..] {
        let node = NodeSpec {
            address: site.address(),
            nbd: Vec::new(),
            labels: Labels::default(),
            incarnation: 0,
        };
        match command(lab, Operation::AdmitNode { cluster, node }).await? {
            Controlled::Node(id) => site.set_id(id),
            other => return Err(format!("{other:?}")),
        }
        site.start(lab).await;
    }
    until(lab, "the control group has three voters", |lab| {
        let all = lab.running();
        let voters = |map: &ashlar_raft::control::ControlState| {
            map.groups()
                .get(&PgId::CONTROL)
                .map_or(0, |group| group.count(Role::Voter) + group.count(Role::Witness))
        };
        all.len() == lab.sites.len()
            && all.iter().filter_map(|site| site.node()).all(|node| voters(&node.map()) == 3)
    })
    .await?;
    for number in 0..lab.plan.volumes {
        create(lab, number).await?;
    }
    until(lab, "all groups run", |lab| {
        let running = lab.running();
        let nodes = running.iter().filter_map(|site| site.node());
        nodes.map(|node| node.map()).all(|map| {
            map.volumes().len() == lab.plan.volumes as usize
                && map.groups().values().all(|group| group.started)
        })
    })
    .await?;
    verdict::until_whole(lab, "forms").await;
    Ok(())
}

async fn create(lab: &ClusterLab, number: u32) -> Result<(), String> {
    let name = format!("vm{number}");
    let size_bytes = lab.plan.volume_bytes + 512 * lab.below(8);
    let create = Operation::CreateVolume {
        name: name.clone(),
        size_bytes,
        policy: policy(lab)?,
        slice_bytes: None,
        avoid: Vec::new(),
    };
    match command(lab, create).await? {
        Controlled::Volume(_) => {}
        other => return Err(format!("{other:?}")),
    }
    let volume = Volume::new(&name, u64::from(number) + 1, size_bytes);
    let kept = Kept { volume, writers: RefCell::default() };
    lab.kept.borrow_mut().push(Rc::new(kept));
    Ok(())
}

async fn until(
    lab: &Rc<ClusterLab>,
    what: &str,
    holds: impl Fn(&ClusterLab) -> bool,
) -> Result<(), String> {
    for _ in 0..FORM_LOOKS {
        if holds(lab) {
            return Ok(());
        }
        if lab.is_broken() {
            break;
        }
        lab.reactor.sleep(FORM_PAUSE).await;
    }
    verdict::describe(lab).await;
    Err(format!("two minutes have passed and not: {what}"))
}
