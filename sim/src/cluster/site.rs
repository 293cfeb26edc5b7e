//! One host of a cluster: its disk, and its node while it runs.
//!
//! Must never know: clients, what is judged.

use super::lab::ClusterLab;
use super::plan::ClusterPlan;
use crate::plan::Class;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::sim::{Crash, DiskFaults, Machine, MachineOptions, SimDisk, World};
use ashlar_engine::reactor::{Address, DeviceOptions, Reactor};
use ashlar_engine::{Error, ErrorKind, Result};
use ashlar_nbd_server::{ClusterExports, Server, ServerOptions};
use ashlar_raft::control::ClusterId;
use ashlar_raft::node::{Node, NodeOptions, Timing, parse_address};
use ashlar_raft::placement::NodeId;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Bytes of a disk.
const STORE_BYTES: u64 = 64 << 20;
/// How long a node may take to start.
const START_MAX: Duration = Duration::from_secs(120);
/// How long a node may take to end in order.
const STOP_MAX: Duration = Duration::from_secs(120);
/// Starts of a node in a row that may fail, where they may.
const STARTS_MAX: u32 = 20;

/// A node that runs.
struct Running {
    node: Node,
    server: Server<ClusterExports>,
}

/// See the module.
pub struct Site {
    /// Number of the host, and of the node's address.
    pub number: u32,
    /// Whether its node keeps no blocks.
    pub witness: bool,
    disk: RefCell<SimDisk>,
    /// Disks it had before.
    wiped: Cell<u32>,
    formatted: Cell<bool>,
    machine: RefCell<Option<Rc<Machine>>>,
    running: RefCell<Option<Running>>,
    /// The node's number in the cluster.
    id: Cell<Option<NodeId>>,
    lives: Cell<u64>,
    /// How often something was done to it.
    disturbed: Cell<u64>,
}

fn path(number: u32, wiped: u32) -> String {
    format!("disk {number}.{wiped}")
}

impl Site {
    /// A host with an empty disk.
    #[must_use]
    pub fn new(world: &World, plan: &ClusterPlan, number: u32) -> Site {
        let disk = world.create_disk(path(number, 0), STORE_BYTES);
        disk.set_faults(plan.disk_of(number));
        Site {
            number,
            witness: plan.is_witness(number),
            disk: RefCell::new(disk),
            wiped: Cell::new(0),
            formatted: Cell::new(false),
            machine: RefCell::default(),
            running: RefCell::default(),
            id: Cell::new(None),
            lives: Cell::new(0),
            disturbed: Cell::new(0),
        }
    }

    /// Where other nodes reach it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("10.0.0.{}:7400", self.number)
    }

    /// Where NBD clients reach it.
    #[must_use]
    pub fn nbd(&self) -> Address {
        Address::Unix(format!("nbd {}", self.number).into())
    }

    /// Its node, while it runs.
    #[must_use]
    pub fn node(&self) -> Option<Node> {
        self.running.borrow().as_ref().map(|running| running.node.clone())
    }

    /// Its machine, while it has power.
    #[must_use]
    pub fn machine(&self) -> Option<Rc<Machine>> {
        self.machine.borrow().clone()
    }

    /// The node's number in the cluster.
    #[must_use]
    pub fn id(&self) -> Option<NodeId> {
        self.id.get()
    }

    /// Says which node it is.
    pub fn set_id(&self, id: NodeId) {
        self.id.set(Some(id));
    }

    /// Which of its lives this is.
    #[must_use]
    pub fn life(&self) -> u64 {
        self.lives.get()
    }

    /// Changes with everything that is done to it.
    #[must_use]
    pub fn disturbed(&self) -> u64 {
        self.disturbed.get()
    }

    /// Notes that something is done to it.
    pub fn disturb(&self) {
        self.disturbed.set(self.disturbed.get() + 1);
    }

    /// Changes its disk's faults.
    pub fn set_disk(&self, faults: DiskFaults) {
        self.disk.borrow().set_faults(faults);
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> SimDisk {
        self.disk.borrow().clone()
    }

    /// Whether its store has failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.node().is_some_and(|node| node.store().failed().is_some())
    }

    /// Starts it, again while that fails.
    pub async fn start(self: &Rc<Site>, lab: &ClusterLab) {
        for _ in 0..STARTS_MAX {
            if self.machine.borrow().is_some() || lab.is_broken() {
                return;
            }
            self.disturb();
            self.lives.set(self.lives.get() + 1);
            let life = self.lives.get();
            let machine = Rc::new(lab.world.machine(&lab.reactor, self.options(lab)));
            *self.machine.borrow_mut() = Some(Rc::clone(&machine));
            let (cluster, peers) = (lab.cluster.get(), lab.peers_of(self.number));
            let booting = boot(Rc::clone(self), machine.reactor().clone(), cluster, peers);
            match lab.on(&machine, START_MAX, booting).await {
                Some(Ok(running)) if self.lives.get() == life => {
                    lab.log(|| format!("node {} runs, life {life}", self.number));
                    *self.running.borrow_mut() = Some(running);
                    lab.count(|tally| tally.recoveries += 1);
                    return;
                }
                Some(Err(error)) if self.lives.get() == life => {
                    lab.log(|| format!("node {} does not start: {error}", self.number));
                    let rotten = [Class::RotOne, Class::RotAll].map(|class| lab.plan.has(class));
                    let rotten = rotten.contains(&true) && error.kind() == ErrorKind::Corrupt;
                    lab.check(lab.plan.has(Class::DiskFails) || rotten, "opens", || {
                        format!("node {} does not start: {error}", self.number)
                    });
                    self.crash(lab, Crash::Kill);
                    if rotten {
                        // What an operator would do from a copy of the disk.
                        self.disk().heal();
                    }
                    lab.reactor.sleep(Duration::from_secs(1)).await;
                }
                // It was taken down while it started: whoever did that starts it again.
                _ if self.lives.get() != life || self.machine.borrow().is_none() => return,
                _ => {
                    let paused = machine.is_paused() || lab.plan.has(Class::SlowDisk);
                    let what = || format!("node {} takes too long to start", self.number);
                    lab.check(paused, "opens", what);
                    self.crash(lab, Crash::Kill);
                }
            }
        }
    }

    fn options(&self, lab: &ClusterLab) -> MachineOptions {
        let (mut clock_start, mut clock_fast_ppm) = (Duration::from_secs(1), 0);
        if lab.plan.has(Class::Clocks) {
            clock_start = Duration::from_secs(lab.below(1 << 20));
            // Far worse than any crystal.
            clock_fast_ppm = lab.below(40_000) as i32 - 20_000;
        }
        MachineOptions { host: self.number, clock_start, clock_fast_ppm }
    }

    /// Takes it down.
    pub fn crash(&self, lab: &ClusterLab, crash: Crash) {
        let Some(machine) = self.machine.take() else { return };
        self.disturb();
        self.lives.set(self.lives.get() + 1);
        lab.log(|| format!("node {}: {crash:?}", self.number));
        lab.count(|tally| tally.crashes += u64::from(self.running.borrow().is_some()));
        machine.crash(crash, &[self.disk.borrow().clone()]);
        let running = self.running.take();
        drop(running);
    }

    /// Ends it in order.
    pub async fn stop(&self, lab: &ClusterLab) {
        let Some(machine) = self.machine() else { return };
        let Some(Running { node, server }) = self.running.take() else { return };
        self.disturb();
        lab.log(|| format!("node {} is ended", self.number));
        let ending = async move {
            server.shutdown().await;
            node.shutdown().await;
            node.store().close().await
        };
        let ended = lab.on(&machine, STOP_MAX, ending).await;
        if self.machine().is_some_and(|now| Rc::ptr_eq(&now, &machine)) {
            let well = matches!(ended, Some(Ok(())));
            let excused = machine.is_paused()
                || lab.plan.has(Class::DiskFails)
                || lab.plan.has(Class::SlowDisk);
            lab.check(well || excused, "ends", || {
                format!("node {} does not end in order: {ended:?}", self.number)
            });
            self.lives.set(self.lives.get() + 1);
            self.machine.take();
            machine.stop();
        }
    }

    /// Gives it an empty disk in place of its own. It is down.
    pub fn wipe(&self, lab: &ClusterLab) {
        let wiped = self.wiped.get() + 1;
        self.wiped.set(wiped);
        self.formatted.set(false);
        let disk = lab.world.create_disk(path(self.number, wiped), STORE_BYTES);
        disk.set_faults(lab.plan.disk_of(self.number));
        self.disk.replace(disk);
        lab.log(|| format!("node {} has lost its disk", self.number));
    }

    fn node_options(
        &self,
        cluster: Option<ClusterId>,
        peers: Vec<(NodeId, String)>,
    ) -> Result<NodeOptions> {
        let invalid = |why: &str| Error::new(ErrorKind::Invalid, why.to_owned());
        let address = self.address();
        Ok(NodeOptions {
            id: self.id.get().unwrap_or(NodeId(1)),
            cluster,
            listen: parse_address(&address)?,
            address,
            nbd: vec![format!("127.0.0.1:{}", 10809 + self.number)],
            labels: format!("host=h{}", self.number).parse().map_err(|_| invalid("labels"))?,
            peers,
            witness: self.witness,
            started: self.lives.get(),
            timing: Timing::default(),
        })
    }
}

async fn boot(
    site: Rc<Site>,
    reactor: Reactor,
    cluster: Option<ClusterId>,
    peers: Vec<(NodeId, String)>,
) -> Result<Running> {
    let disk = site.disk.borrow().path().to_owned();
    let device = reactor.open_device(disk, &DeviceOptions::default())?;
    let store = match site.formatted.get() {
        true => LocalStore::open(&reactor, device, false).await?,
        false => LocalStore::create(&reactor, device, STORE_BYTES).await?,
    };
    site.formatted.set(true);
    let node = Node::start(&reactor, store, site.node_options(cluster, peers)?).await?;
    let exports = Rc::new(ClusterExports::new(node.clone()));
    let server = Server::new(reactor, exports, ServerOptions::default());
    server
        .listen(&site.nbd())
        .map_err(|error| Error::new(ErrorKind::Device, format!("cannot listen: {error}")))?;
    Ok(Running { node, server })
}
