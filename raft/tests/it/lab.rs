//! Nodes of real openraft on real stores in a simulated world, and a network in memory between them
//! whose messages take a random time and are lost where it is cut.

use ashlar_engine::limits::STORE_MIN_BYTES;
use ashlar_engine::local::LocalStore;
use ashlar_engine::reactor::{DeviceOptions, Reactor};
use ashlar_engine::units::{BLOCK_SIZE_BYTES, BlockIndex, GroupId, VolumeId};
use ashlar_raft::log_store::LogStore;
use ashlar_raft::node::Timing;
use ashlar_raft::runtime::{JoinError, ReactorRuntime};
use ashlar_raft::state_machine::{Manifest, StateMachine};
use ashlar_raft::types::{
    Change, CommittedLeaderId, Config, LogId, Member, NodeId, Outcome, Proposal, Vote, Write,
};
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{AsyncRuntime, RaftMetrics};
use openraft_rt::watch::WatchReceiver;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

pub(crate) type Raft = openraft::Raft<Config, StateMachine>;

/// The volume of all these tests, and its size.
pub(crate) const V: VolumeId = VolumeId(VolumeId::GROUPS.0 + 1);
pub(crate) const BLOCKS: u64 = 64;

/// All nodes, as the network finds them.
#[derive(Clone, Default)]
pub(crate) struct Net {
    nodes: Rc<RefCell<BTreeMap<NodeId, (ReactorRuntime, Raft)>>>,
    /// From whom to whom nothing comes through.
    cuts: Rc<RefCell<BTreeSet<(NodeId, NodeId)>>>,
}

/// The network, as one node has it.
struct Ways {
    net: Net,
    own: NodeId,
}

/// The way to one node.
struct Link {
    net: Net,
    own: NodeId,
    target: NodeId,
}

fn unreachable(why: impl Display) -> Unreachable<Config> {
    Unreachable::from_string(why)
}

impl Net {
    /// Nothing comes through between these any more, both ways.
    pub(crate) fn cut(&self, pairs: impl IntoIterator<Item = (NodeId, NodeId)>) {
        self.cuts.borrow_mut().extend(pairs.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]));
    }

    /// One node is cut off from all others.
    pub(crate) fn isolate(&self, id: NodeId) {
        let others: Vec<NodeId> = self.nodes.borrow().keys().copied().collect();
        self.cut(others.into_iter().filter(|other| *other != id).map(|other| (id, other)));
    }

    /// All comes through again.
    pub(crate) fn heal(&self) {
        self.cuts.borrow_mut().clear();
    }

    fn check(&self, from: NodeId, to: NodeId) -> Result<(), Unreachable<Config>> {
        match self.cuts.borrow().contains(&(from, to)) {
            true => Err(unreachable("is cut")),
            false => Ok(()),
        }
    }
}

impl Link {
    /// A call: there and back in random times, the callee's half on the callee.
    async fn call<T, E, F>(&self, call: impl FnOnce(Raft) -> F) -> Result<T, Unreachable<Config>>
    where
        T: 'static,
        E: Display + 'static,
        F: Future<Output = Result<T, E>> + 'static,
    {
        let found = self.net.nodes.borrow().get(&self.target).cloned();
        let (runtime, raft) = found.ok_or_else(|| unreachable("no such node"))?;
        travel().await;
        self.net.check(self.own, self.target)?;
        let answer = runtime.start_task(call(raft)).await;
        travel().await;
        self.net.check(self.target, self.own)?;
        let answer = answer.map_err(|error: JoinError| unreachable(error))?;
        answer.map_err(unreachable)
    }
}

async fn travel() {
    let micros = rand_core::Rng::next_u64(&mut ReactorRuntime::thread_rng()) % 2000;
    ReactorRuntime::sleep(Duration::from_micros(micros)).await;
}

impl RaftNetworkFactory<Config> for Ways {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, _: &Member) -> Link {
        Link { net: self.net.clone(), own: self.own, target }
    }
}

impl RaftNetworkV2<Config> for Link {
    type SnapshotData = Manifest;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Config>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Config>, RPCError<Config>> {
        let call = self.call(|raft| async move { raft.append_entries(rpc).await });
        call.await.map_err(RPCError::Unreachable)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Config>,
        _: RPCOption,
    ) -> Result<VoteResponse<Config>, RPCError<Config>> {
        let call = self.call(|raft| async move { raft.vote(rpc).await });
        call.await.map_err(RPCError::Unreachable)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Config>,
        _: RPCOption,
    ) -> Result<VoteResponse<Config>, RPCError<Config>> {
        let call = self.call(|raft| async move { raft.pre_vote(rpc).await });
        call.await.map_err(RPCError::Unreachable)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<CommittedLeaderId, NodeId, Member, Manifest>,
        _: impl Future<Output = ReplicationClosed> + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Config>, StreamingError<Config>> {
        let call =
            self.call(|raft| async move { raft.install_full_snapshot(vote, snapshot).await });
        call.await.map_err(StreamingError::Unreachable)
    }
}

/// One node: its store and its openraft.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) store: LocalStore,
    pub(crate) raft: Raft,
    pub(crate) runtime: ReactorRuntime,
}

pub(crate) fn disk(id: NodeId) -> String {
    format!("disk {id}")
}

pub(crate) fn member(id: NodeId) -> Member {
    Member::new(id, format!("node {id}"), "").expect("is short")
}

/// A node with a new store.
pub(crate) async fn start(reactor: &Reactor, net: &Net, id: NodeId) -> Node {
    let device = reactor.open_device(disk(id), &DeviceOptions::default()).expect("opens");
    let store = LocalStore::create(reactor, device, STORE_MIN_BYTES).await.expect("is made");
    start_on(reactor, net, id, store).await
}

/// A node with the store that it had.
pub(crate) async fn start_again(reactor: &Reactor, net: &Net, id: NodeId) -> Node {
    let open = || reactor.open_device(disk(id), &DeviceOptions::default());
    // Tasks of the one before may hold its store a little longer.
    until(reactor, "the disk is free", || open().is_ok()).await;
    let device = open().expect("opens");
    let store = LocalStore::open(reactor, device, false).await.expect("opens");
    start_on(reactor, net, id, store).await
}

async fn start_on(reactor: &Reactor, net: &Net, id: NodeId, store: LocalStore) -> Node {
    let runtime = ReactorRuntime::on(reactor, &format!("node {id}"));
    let group = store.group(GroupId(1));
    for faulty in group.state().faulty {
        group.read(faulty.index).await.expect("can be read again");
    }
    let log = LogStore::open(group).expect("is not damaged");
    let machine = StateMachine::open(log.clone(), None).expect("is understood");
    let config = Timing::default().config().expect("fits together");
    let ways = Ways { net: net.clone(), own: id };
    let raft = runtime.enter(Raft::new(id, config, ways, log, machine)).await;
    let raft = raft.expect("starts");
    net.nodes.borrow_mut().insert(id, (runtime.clone(), raft.clone()));
    Node { id, store, raft, runtime }
}

/// A group of so many voters, and so many nodes more that are not in it.
pub(crate) async fn group(reactor: &Reactor, net: &Net, voters: u64, more: u64) -> Vec<Node> {
    let mut nodes = Vec::new();
    for id in 1..=voters + more {
        nodes.push(start(reactor, net, id).await);
    }
    let members: BTreeMap<NodeId, Member> = (1..=voters).map(|id| (id, member(id))).collect();
    nodes[0].runtime.enter(nodes[0].raft.initialize(members)).await.expect("is initialized");
    nodes
}

impl Node {
    pub(crate) fn metrics(&self) -> RaftMetrics<Config> {
        self.raft.metrics().borrow_watched().clone()
    }

    pub(crate) fn applied(&self) -> Option<LogId> {
        self.metrics().last_applied
    }

    /// Ends it, and its store.
    pub(crate) async fn stop(self, net: &Net) {
        // It may have ended already.
        self.runtime.enter(self.raft.shutdown()).await.ok();
        self.store.close().await.expect("closes");
        net.nodes.borrow_mut().remove(&self.id);
    }

    pub(crate) async fn propose(&self, proposal: Proposal) -> Outcome {
        self.try_propose(proposal).await.expect("is committed")
    }

    /// The error says why nobody knows.
    pub(crate) async fn try_propose(&self, proposal: Proposal) -> Result<Outcome, String> {
        let written = self.runtime.enter(self.raft.client_write(proposal)).await;
        written.map(|response| response.data).map_err(|error| error.to_string())
    }

    /// What the volume holds, as far as entries are applied here.
    pub(crate) async fn contents(&self) -> Vec<u8> {
        let volume = self.store.group(GroupId(1)).volume(V).expect("was created");
        let parts = volume.read(0, BLOCKS as usize * BLOCK_SIZE_BYTES).await.expect("reads");
        parts.iter().flat_map(|part| part.iter().copied()).collect()
    }

    /// The first byte of a block.
    pub(crate) async fn fill_of(&self, block: u64) -> u8 {
        self.contents().await[block as usize * BLOCK_SIZE_BYTES]
    }
}

/// Who leads in the newest term, as far as one knows that it does.
pub(crate) fn leader(nodes: &[Node]) -> Option<usize> {
    let leads = |(_, node): &(usize, &Node)| node.raft.is_leader();
    let found = nodes.iter().enumerate().filter(leads);
    found.max_by_key(|(_, node)| node.metrics().current_term).map(|(index, _)| index)
}

pub(crate) async fn elected(reactor: &Reactor, nodes: &[Node]) -> usize {
    until(reactor, "a leader", || leader(nodes).is_some()).await;
    leader(nodes).expect("is there")
}

/// Waits until all have applied what one of them has.
pub(crate) async fn agreed(reactor: &Reactor, nodes: &[Node]) {
    let last = nodes.iter().map(Node::applied).max().expect("is one");
    until(reactor, "all have applied", || nodes.iter().all(|node| node.applied() >= last)).await;
}

pub(crate) async fn until(reactor: &Reactor, what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        reactor.sleep(Duration::from_millis(100)).await;
    }
    panic!("a minute has passed and not: {what}");
}

/// Makes the volume.
pub(crate) fn create(serial: u64, epoch: u64) -> Proposal {
    let size_bytes = BLOCKS * BLOCK_SIZE_BYTES as u64;
    let changes = vec![Change::CreateVolume { volume: V, size_bytes }].into();
    Proposal::Write(Write { proposer: 77, serial, epoch, changes })
}

/// Fills a block with a byte.
pub(crate) fn write(reactor: &Reactor, serial: u64, epoch: u64, block: u64, fill: u8) -> Proposal {
    let mut data = reactor.pool().allocate(BLOCK_SIZE_BYTES);
    data.fill(fill);
    let change = Change::Write { volume: V, first: BlockIndex(block), data };
    Proposal::Write(Write { proposer: 77, serial, epoch, changes: vec![change].into() })
}
