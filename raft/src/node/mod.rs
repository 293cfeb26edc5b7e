//! A node of a cluster: its store, its members of groups, and what it does for the others.
//!
//! A node has one store. It starts the members that the cluster's map has in that store, answers
//! other nodes, tells the control group how it is, and, where it leads the control group, sees to
//! it that the plan is carried out. Volumes ask it for their groups ([`crate::volume`]).
//!
//! Invariants: what a node is (cluster, number, store, incarnation) is durable before it speaks;
//! the map that a node goes by never goes back.
//! Must never know: NBD, the command line.

mod answer;
mod attach;
mod commands;
mod groups;
mod handler;
mod identity;
mod installs;
mod joining;
mod left;
mod map;
mod mend;
mod message;
mod news;
mod options;
mod planner;
mod remote;
mod repair;
mod replica;
mod report;
mod scrub;
mod status;
mod steps;
#[cfg(test)]
mod tests;
mod understand;

pub use options::{NodeOptions, Timing, parse_address};
pub use scrub::ScrubReport;
pub use status::{ClusterStatus, GroupStatus, MemberStatus, NodeStatus, StoreStatus};
pub use understand::understand;

use crate::control::{
    ClusterId, Command, ControlState, DeviceUuid, NodeSpec, Operation, Outcome, PgId, Policy,
    StoreSpec,
};
use crate::frame::{self, Identity, Versions};
use crate::limits::COMMAND_MAX;
use crate::placement::{NodeId, StoreId};
use crate::runtime::{Mutex, ReactorRuntime};
use crate::snapshot::Pace;
use crate::transport::{Bounds, Peers};
use crate::types::{Outcome as Applied, Proposal};
use answer::Fault;
use ashlar_engine::limits::STORE_MIN_BYTES;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::{Reactor, Task};
use ashlar_engine::{Error, ErrorKind, Result};
use handler::Answering;
use identity::Stored;
use installs::Incoming;
use map::Map;
use news::News;
use openraft_rt::Mutex as _;
use planner::About;
use replica::Replica;
use report::{Led, Report, Reports};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Lane of what nodes ask each other besides Raft's messages.
const LANE_ASK: u32 = 16;
/// Largest answer but for its blocks: a map.
const ANSWER_MAX_BYTES: usize = 64 << 10;
/// Extents that one node tells another at once.
const EXTENTS_MAX: u32 = 4096;
/// Pause before a command without an outcome is proposed again.
const COMMAND_PAUSE: Duration = Duration::from_millis(200);

/// What everything of a node shares.
struct Inner {
    reactor: Reactor,
    runtime: ReactorRuntime,
    store: LocalStore,
    options: NodeOptions,
    config: Arc<openraft::Config>,
    /// Drawn at every start: retries of this process are told from others'.
    proposer: u64,
    /// This store's number in the cluster; 0 until it has one.
    store_id: Cell<StoreId>,
    incarnation: Cell<u64>,
    peers: RefCell<Option<Peers>>,
    map: Rc<Map>,
    replicas: RefCell<BTreeMap<PgId, Rc<Replica>>>,
    /// Why members that should run here do not.
    troubles: RefCell<BTreeMap<PgId, String>>,
    /// Groups that a map since the start had a member of here, and none has not since.
    concerned: RefCell<BTreeSet<PgId>>,
    /// Who led when it was asked last.
    leaders: RefCell<BTreeMap<PgId, StoreId>>,
    reports: RefCell<Reports>,
    /// Wakes the plan.
    news: News,
    acting: RefCell<BTreeSet<About>>,
    starting: Mutex<()>,
    /// One block is mended at a time.
    mending: Mutex<()>,
    /// One snapshot begins or ends at a time.
    installing: Mutex<()>,
    installs: RefCell<BTreeMap<PgId, Rc<Incoming>>>,
    /// Groups that a snapshot is asked for.
    asking: RefCell<BTreeSet<PgId>>,
    /// How fast snapshots are sent.
    pace: Rc<Pace>,
    /// One command at a time; the number of the last one.
    commands: Mutex<u64>,
    drops: RefCell<BTreeMap<PgId, u64>>,
    volumes: RefCell<attach::Volumes>,
    tasks: RefCell<Vec<Task<()>>>,
    closed: Cell<bool>,
}

/// A node. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Node {
    inner: Rc<Inner>,
}

impl Node {
    /// Starts a node on an open store: it goes on as what the store says it is, joins the cluster
    /// that it was admitted to, or waits for [`Node::init`].
    ///
    /// # Errors
    /// `Invalid` if the options do not fit together or the store belongs to another node;
    /// `Corrupt` if the store does not say whose it is; as the store or the socket says.
    pub async fn start(reactor: &Reactor, store: LocalStore, options: NodeOptions) -> Result<Node> {
        let config = options.timing.config()?;
        let stored = Stored::load(&store)?;
        joining::check(&options, stored)?;
        let stream = format!("node {}", options.id);
        let mut proposer = reactor.random(&format!("{stream} proposer"));
        let mut number = [0; 8];
        proposer.fill_bytes(&mut number);
        let inner = Rc::new(Inner {
            reactor: reactor.clone(),
            runtime: ReactorRuntime::on(reactor, &stream),
            store,
            config,
            // Apart from every other start even where random numbers repeat.
            proposer: u64::from_le_bytes(number) ^ options.started.rotate_left(32),
            store_id: Cell::new(StoreId(0)),
            incarnation: Cell::new(0),
            peers: RefCell::default(),
            map: Rc::new(Map::new()),
            replicas: RefCell::default(),
            troubles: RefCell::default(),
            concerned: RefCell::default(),
            leaders: RefCell::default(),
            reports: RefCell::default(),
            news: News::new(),
            acting: RefCell::default(),
            starting: Mutex::new(()),
            mending: Mutex::new(()),
            installing: Mutex::new(()),
            installs: RefCell::default(),
            asking: RefCell::default(),
            pace: Rc::default(),
            commands: Mutex::new(0),
            drops: RefCell::default(),
            volumes: RefCell::default(),
            tasks: RefCell::default(),
            closed: Cell::new(false),
            options,
        });
        if let Some(cluster) = stored.map(|stored| stored.cluster).or(inner.options.cluster) {
            inner.enter_cluster(cluster, stored).await?;
        }
        Ok(Node { inner })
    }

    /// Makes a cluster, with this node as its first. `policy`: how the control group is kept when
    /// there are more nodes.
    ///
    /// # Errors
    /// `Exists` if this node is in a cluster already, `Invalid` if it is not node 1, and as the
    /// store says.
    pub async fn init(&self, policy: Policy) -> Result<ClusterId> {
        self.inner.runtime.enter(self.inner.found(policy)).await
    }

    /// Has the control group carry out an operation, and waits for the outcome; a refusal is one.
    ///
    /// # Errors
    /// `Closed` if this node is in no cluster, `Failed` if there is no outcome in time: then it may
    /// have been carried out.
    pub async fn command(&self, operation: Operation) -> Result<Outcome> {
        self.inner.runtime.enter(self.inner.command(operation)).await
    }

    /// The newest map that this node knows.
    #[must_use]
    pub fn map(&self) -> Rc<ControlState> {
        self.inner.map.newest()
    }

    /// This node's number.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.inner.options.id
    }

    /// Groups that this node leads, as far as it knows: with the member's store and the term.
    #[must_use]
    pub fn leads(&self) -> Vec<(PgId, StoreId, u64)> {
        let replicas = self.inner.all_replicas();
        let led = replicas.iter().filter(|replica| replica.leads());
        led.map(|replica| (replica.id, replica.store, replica.progress().0)).collect()
    }

    /// The store it keeps its members in.
    #[must_use]
    pub fn store(&self) -> &LocalStore {
        &self.inner.store
    }

    /// Ends what the node does; its store stays open. Members that lead hand over first.
    pub async fn shutdown(&self) {
        self.inner.runtime.enter(self.inner.shutdown()).await;
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.inner.options.id)
    }
}

impl Inner {
    fn peers(&self) -> Option<Peers> {
        self.peers.borrow().clone()
    }

    /// What this node says of itself.
    fn spec(&self) -> NodeSpec {
        NodeSpec {
            address: self.options.address.clone(),
            nbd: self.options.nbd.clone(),
            labels: self.options.labels.clone(),
            incarnation: self.incarnation.get(),
        }
    }

    fn store_spec(&self) -> StoreSpec {
        let status = self.store.status();
        let size_bytes = status.segments.total * status.segment_bytes;
        StoreSpec {
            device: DeviceUuid(self.store.device_id().0),
            // The smallest store has less than its size in segments.
            size_bytes: size_bytes.max(STORE_MIN_BYTES),
            weight: None,
            witness: self.options.witness,
            // One more is who the node is.
            groups_max: self.store.groups_max() as u32 - 1,
        }
    }

    /// See [`Node::command`]. The same command is proposed until its outcome is known.
    async fn command(&self, operation: Operation) -> Result<Outcome> {
        if self.peers().is_none() {
            return Err(Error::new(ErrorKind::Closed, "this node is in no cluster yet"));
        }
        let mut last = self.commands.lock().await;
        *last += 1;
        let command = Command { proposer: self.proposer, serial: *last, operation };
        let bytes = command.encode().map_err(|_| {
            Error::new(ErrorKind::Invalid, "a name or list in this command is too long")
        })?;
        let deadline = self.reactor.now() + COMMAND_MAX;
        loop {
            let fault = match self.propose(PgId::CONTROL, || Proposal::Control(bytes.clone())).await
            {
                Ok(Applied::Control(answer)) => {
                    return Outcome::decode(&answer).map_err(|error| {
                        let why = format!("the control group's answer is not understood: {error}");
                        Error::new(ErrorKind::Failed, why)
                    });
                }
                Ok(other) => {
                    let why = format!("the control group answered another question: {other}");
                    return Err(Error::new(ErrorKind::Failed, why));
                }
                Err(Fault::Refused(error)) => return Err(error),
                Err(Fault::Unknown(error)) => error,
                Err(Fault::NotLeader(_)) => Error::new(ErrorKind::Failed, "nobody leads"),
            };
            if self.closed.get() || self.reactor.now() >= deadline {
                let why = format!("the control group does not answer, its state is open: {fault}");
                return Err(Error::new(ErrorKind::Failed, why));
            }
            self.reactor.sleep(COMMAND_PAUSE).await;
        }
    }

    /// Number of the next deletion of slices in a group, apart from those of writers.
    fn next_drop_serial(&self, group: PgId) -> u64 {
        let mut drops = self.drops.borrow_mut();
        let last = drops.entry(group).or_insert(0);
        *last += 1;
        *last
    }

    /// What this node tells the control group.
    fn report(&self) -> Report {
        let replicas = self.all_replicas();
        let led = replicas.iter().filter(|replica| replica.leads()).map(|replica| {
            let (term, applied) = replica.progress();
            Led { group: replica.id, store: replica.store, term, applied, lags: replica.lags() }
        });
        let own = self.store_id.get();
        let gated = self.troubles.borrow().keys().map(|group| (*group, own)).collect();
        let map_epoch = self.map.newest().epoch();
        Report { node: self.options.id, map_epoch, led: led.collect(), gated }
    }

    async fn shutdown(&self) {
        self.closed.set(true);
        for task in self.tasks.take() {
            task.cancel().await;
        }
        self.hand_over().await;
        for replica in self.all_replicas() {
            self.stop_replica(&replica).await;
        }
        if let Some(peers) = self.peers() {
            peers.shutdown().await;
        }
    }

    /// Has another voter lead what this node leads, as far as one has caught up.
    async fn hand_over(&self) {
        let mut handed = false;
        let map = self.map.newest();
        let is_witness = |store: &StoreId| map.stores().get(store).is_some_and(|s| s.witness);
        for replica in self.all_replicas().iter().filter(|replica| replica.leads()) {
            let (membership, _) = replica.membership();
            let voters: BTreeSet<u64> = membership.voter_ids().collect();
            let able = |(store, lag): &(&StoreId, &Option<u64>)| {
                **store != replica.store && voters.contains(&store.0) && **lag == Some(0)
            };
            let lags = replica.lags();
            // A witness would have to hand over again.
            let best = lags.iter().filter(able).min_by_key(|(store, _)| is_witness(store));
            if let Some((to, _)) = best {
                handed |= replica.raft.trigger().transfer_leader(to.0).await.is_ok();
            }
        }
        if handed {
            // Time for the others to elect; they would do without.
            self.reactor.sleep(joining::HAND_OVER_PAUSE).await;
        }
    }
}

/// The transport's identity of a node.
fn identity(cluster: ClusterId, node: NodeId, incarnation: u64) -> Identity {
    let cluster = frame::ClusterId(cluster.0);
    Identity { cluster, node: frame::NodeId(node.0), incarnation, versions: Versions::OURS }
}

/// Lets a node's peers in and calls theirs.
fn make_peers(node: &Rc<Inner>, cluster: ClusterId) -> Peers {
    let identity = identity(cluster, node.options.id, node.incarnation.get());
    let answering = Answering(Rc::downgrade(node));
    Peers::new(node.reactor.clone(), identity, Bounds::default(), Rc::new(answering))
}
