//! How a node comes into its cluster: as what its store says, newly admitted, or as the first.
//!
//! Must never know: what groups do.

use super::identity::Stored;
use super::message::{Message, Range};
use super::replica::unknown;
use super::{Inner, Node, NodeOptions, make_peers, news, parse_address, planner};
use crate::control::{
    ClusterId, ControlState, NodeState, Operation, Outcome, PgId, Policy, Refusal,
};
use crate::frame;
use crate::limits::CONTROL_STATE_MAX_BYTES;
use crate::placement::{NodeId, StoreId};
use crate::types::{Member, Membership, StoredMembership};
use ashlar_engine::local::LocalStore;
use ashlar_engine::units::{BlockIndex, VolumeId};
use ashlar_engine::{Error, ErrorKind, Result};
use openraft_rt::watch::WatchReceiver as _;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// How often other nodes are asked for a newer map, by those that are no members of the control
/// group, and how often a node looks after its members.
const MAP_INTERVAL: Duration = Duration::from_millis(300);
/// Members of the control group ask so much less often.
const MEMBERS_ASK_EVERY: usize = 8;
/// How often logs are looked at for what can be given up.
const PURGE_INTERVAL: Duration = Duration::from_secs(1);
/// The same while a store is short of room.
const PURGE_INTERVAL_SHORT: Duration = Duration::from_millis(25);
/// Pause before a node that could not make itself known tries again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Time that members have to elect who was asked to lead, when a node ends.
pub(super) const HAND_OVER_PAUSE: Duration = Duration::from_millis(300);

/// Whether options and store fit together.
///
/// # Errors
/// `Invalid` if they do not.
pub(super) fn check(options: &NodeOptions, stored: Option<Stored>) -> Result<()> {
    let refused = |why: String| Err(Error::new(ErrorKind::Invalid, why));
    if options.id == NodeId(0) {
        return refused("a node's id is 1 or more; use the one that add-node has printed".into());
    }
    parse_address(&options.address)?;
    for (_, address) in &options.peers {
        parse_address(address)?;
    }
    let Some(stored) = stored else { return Ok(()) };
    if stored.node != options.id {
        let (own, id) = (stored.node, options.id);
        return refused(format!(
            "the store belongs to node {own}, not to node {id}: set id = {own}, or use another \
             store"
        ));
    }
    // What a data node has, a witness would not keep; what a witness lacks, a data node would take
    // for holes.
    if stored.store != StoreId(0) && stored.witness != options.witness {
        let kept = if stored.witness { "only votes" } else { "blocks" };
        return refused(format!(
            "the store belongs to a node that keeps {kept}: set witness = {}, or use another store",
            stored.witness
        ));
    }
    match options.cluster {
        Some(cluster) if cluster != stored.cluster => {
            refused("the store belongs to another cluster: use another store".into())
        }
        _ => Ok(()),
    }
}

impl Node {
    /// Waits until this node knows the cluster as it is now, so that it finds every volume that
    /// there is. False: not in time, as where no majority of the control group is there. Nothing is
    /// waited for by a node that is in no cluster yet.
    pub async fn settled(&self, limit: Duration) -> bool {
        let inner = &self.inner;
        if inner.peers().is_none() {
            return true;
        }
        let settling = inner.runtime.enter(inner.settle());
        inner.reactor.within(limit, settling).await.is_some()
    }
}

impl Inner {
    /// See [`Node::settled`].
    async fn settle(&self) {
        loop {
            // Whoever leads answers a read of anything once it has applied all there is.
            let nothing = Range { volume: VolumeId::GROUPS, first: BlockIndex(0), count: 1 };
            if self.read(PgId::CONTROL, nothing).await.is_ok() {
                let leader = self.leaders.borrow().get(&PgId::CONTROL).copied();
                match leader.map(|leader| self.node_of(leader)) {
                    Some(Ok(leader)) if leader != self.options.id => {
                        self.fetch_map(leader).await;
                        return;
                    }
                    Some(Ok(_)) => return,
                    // A map that does not know the leader yet.
                    _ => {
                        for node in self.map_sources() {
                            self.fetch_map(node).await;
                        }
                    }
                }
            }
            self.reactor.sleep(RETRY_PAUSE).await;
        }
    }

    /// Goes on as a node of a cluster.
    pub(super) async fn enter_cluster(
        self: &Rc<Inner>,
        cluster: ClusterId,
        stored: Option<Stored>,
    ) -> Result<()> {
        let before = stored.map_or(0, |stored| stored.incarnation);
        let incarnation = self.options.started.max(before + 1);
        let store = stored.map_or(StoreId(0), |stored| stored.store);
        let node = self.options.id;
        let witness = self.options.witness;
        let stored = Stored { cluster, node, store, incarnation, witness };
        self.with_room(stored.save(&self.store)).await?;
        self.incarnation.set(incarnation);
        self.store_id.set(store);
        let peers = make_peers(self, cluster);
        peers.listen(&self.options.listen).map_err(|error| {
            let why = format!("cannot listen for other nodes: {error}");
            Error::new(ErrorKind::Device, why)
        })?;
        for (peer, address) in self.options.peers.iter().filter(|(peer, _)| *peer != node) {
            let set = peers.set_peer(frame::NodeId(peer.0), parse_address(address)?);
            set.map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
        }
        self.peers.replace(Some(peers));
        self.spawn(purge(Rc::clone(self)));
        self.restart_members().await;
        self.spawn(follow(Rc::clone(self)));
        self.spawn(news::run(Rc::clone(self)));
        self.spawn(planner::run(Rc::clone(self)));
        self.spawn(super::scrub::run(Rc::clone(self)));
        self.spawn(make_known(Rc::clone(self), cluster));
        Ok(())
    }

    /// Does something that needs room in the store, before members run that would give up entries
    /// for it: room that the store can do with at first may run out meanwhile.
    async fn with_room(&self, work: impl Future<Output = Result<()>>) -> Result<()> {
        let mut work = std::pin::pin!(work);
        loop {
            relieve(&self.store).await?;
            if let Some(done) = self.reactor.within(PURGE_INTERVAL_SHORT, work.as_mut()).await {
                return done;
            }
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let task = self.reactor.spawn(self.runtime.enter(task));
        self.tasks.borrow_mut().push(task);
    }

    /// Starts the control group's member first, if there is one here: it has the map.
    async fn restart_members(self: &Rc<Inner>) {
        let has_control = self.store.groups().iter().any(|group| group.0 == PgId::CONTROL.0);
        if self.store_id.get() == StoreId(0) || !has_control {
            return;
        }
        if let Err(error) = self.start_replica(PgId::CONTROL).await {
            self.troubles.borrow_mut().insert(PgId::CONTROL, error.to_string());
        }
        self.set_peers();
        self.runtime.enter(self.follow_map()).await;
    }

    /// The other nodes that members of this one know by their groups' logs, and their addresses:
    /// what a node has to begin with that was killed before it wrote the map down.
    fn fellow_members(&self) -> BTreeMap<NodeId, String> {
        let mut fellows = BTreeMap::new();
        for replica in self.all_replicas() {
            let (membership, _) = replica.membership();
            for (_, member) in membership.membership().nodes() {
                let node = NodeId(member.node());
                if node != self.options.id {
                    fellows.insert(node, member.address().to_owned());
                }
            }
        }
        fellows
    }

    /// Makes the nodes of the map peers.
    fn set_peers(&self) {
        let Some(peers) = self.peers() else { return };
        let map = self.map.newest();
        for (id, address) in self.fellow_members() {
            if !map.nodes().contains_key(&id)
                && let Ok(address) = parse_address(&address)
            {
                peers.set_peer(frame::NodeId(id.0), address).ok();
            }
        }
        for (id, node) in map.nodes().iter().filter(|(id, _)| **id != self.options.id) {
            let node_id = frame::NodeId(id.0);
            if node.state == NodeState::Removed {
                peers.remove_peer(node_id);
            } else if let Ok(address) = parse_address(&node.spec.address) {
                // Too many peers: the rest is reached by those that dial this node.
                peers.set_peer(node_id, address).ok();
            }
        }
    }

    /// See [`super::Node::init`]. Begun again where it was left.
    pub(super) async fn found(self: &Rc<Inner>, policy: Policy) -> Result<ClusterId> {
        if self.map.newest().cluster().is_some() || self.options.cluster.is_some() {
            return Err(Error::new(ErrorKind::Exists, "this node is in a cluster already"));
        }
        if self.options.id != NodeId(1) {
            let why = "only node 1 makes a cluster; others are admitted with add-node";
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let stored = Stored::load(&self.store)?;
        let cluster = match stored {
            Some(stored) => stored.cluster,
            None => {
                let mut cluster = ClusterId([0; 16]);
                self.reactor.random("cluster").fill_bytes(&mut cluster.0);
                cluster
            }
        };
        if self.store_id.get() == StoreId(0) {
            let incarnation = stored.map_or(0, |stored| stored.incarnation);
            let (node, store, witness) = (NodeId(1), StoreId(1), self.options.witness);
            let first = Stored { cluster, node, store, incarnation, witness };
            if self.peers().is_none() {
                self.enter_cluster(cluster, Some(first)).await?;
            }
        }
        let own = Member::new(1, self.options.address.clone(), self.options.labels.to_string());
        let own = own.map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
        let membership = Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, own)]));
        let membership =
            membership.map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
        let stored = StoredMembership::new(None, membership);
        let started = self.start_group(PgId::CONTROL, &stored).await;
        started.map_err(|fault| Error::new(ErrorKind::Failed, format!("{fault:?}")))?;
        let (node, store) = (self.spec(), self.store_spec());
        match self.command(Operation::Init { cluster, node, store, policy }).await? {
            Outcome::Node(_) => Ok(cluster),
            other => Err(refusal(&other)),
        }
    }

    /// Asks a node for its map, if that is newer.
    async fn fetch_map(&self, node: NodeId) {
        let known = self.map.newest().epoch();
        let asked = self.ask(node, PgId(0), Message::Map { known }, CONTROL_STATE_MAX_BYTES);
        let Ok((bytes, _)) = asked.await else { return };
        let Some((leader, map)) = bytes.split_first_chunk::<8>() else { return };
        let leader = StoreId(u64::from_le_bytes(*leader));
        if leader != StoreId(0) {
            self.leaders.borrow_mut().insert(PgId::CONTROL, leader);
        }
        if let Ok(map) = ControlState::decode(map) {
            self.map.show(&map);
        }
    }

    /// Nodes that may know a newer map: those with voters of the control group, else any.
    pub(super) fn map_sources(&self) -> Vec<NodeId> {
        let map = self.map.newest();
        let own = self.options.id;
        let Some(control) = map.groups().get(&PgId::CONTROL) else {
            let told = self.options.peers.iter().map(|(node, _)| *node);
            return told.chain(self.fellow_members().into_keys()).collect();
        };
        let node_of = |store| map.stores().get(&store).map(|store| store.node);
        let mut nodes: Vec<NodeId> = control.voters().filter_map(node_of).collect();
        nodes.retain(|node| *node != own);
        // The map may be so old that none of them is left.
        nodes.extend(self.options.peers.iter().map(|(node, _)| *node));
        nodes
    }
}

/// Gives up entries where the store is short of room, before members run that would: without room
/// they could not even begin. What is applied may always be given up.
async fn relieve(store: &LocalStore) -> Result<()> {
    loop {
        let groups = store.groups().into_iter().map(|id| store.group(id));
        let wanted = groups.filter_map(|group| Some((group.purge_wanted()?, group))).next();
        match wanted {
            Some((upto, group)) => group.purge(upto).await?,
            None => return Ok(()),
        }
    }
}

/// Follows the map, and asks for newer ones where they do not come by themselves.
async fn follow(node: Rc<Inner>) {
    let mut watched = node.map.watch();
    let mut turn = 0;
    loop {
        node.set_peers();
        node.follow_map().await;
        // Without any map there is nothing to wait for.
        if turn > 0 || node.map.newest().cluster().is_some() {
            node.reactor.within(MAP_INTERVAL, watched.changed()).await;
        }
        // Who was removed from the control group may never learn of it there: a learner waits for
        // its leader for ever.
        let control = node.replica(PgId::CONTROL);
        let interval = match &control {
            Some(replica) if replica.leads() => continue,
            Some(replica) if replica.leader().is_some() => MEMBERS_ASK_EVERY,
            _ => 1,
        };
        turn += 1;
        let sources = node.map_sources();
        if turn % interval == 0 && !sources.is_empty() {
            node.fetch_map(sources[turn / interval % sources.len()]).await;
        }
    }
}

async fn purge(node: Rc<Inner>) {
    let mut last = node.reactor.now();
    loop {
        node.runtime.doze(PURGE_INTERVAL_SHORT).await;
        let now = node.reactor.now();
        if now.since(last) >= PURGE_INTERVAL || node.is_short() {
            last = now;
            node.purge_logs().await;
        }
    }
}

/// Makes node and store known to the cluster, until they are.
async fn make_known(node: Rc<Inner>, cluster: ClusterId) {
    let mut map = node.map.watch();
    loop {
        // Who leads the control group is told with the map.
        if node.map.newest().cluster().is_none() {
            node.reactor.within(RETRY_PAUSE, map.changed()).await;
        }
        if node.map.newest().cluster().is_some() || node.options.id != NodeId(1) {
            match introduce(&node, cluster).await {
                Ok(()) => return,
                Err(error) => drop(node.troubles.borrow_mut().insert(PgId(0), error.to_string())),
            }
        }
        node.reactor.sleep(RETRY_PAUSE).await;
    }
}

async fn introduce(node: &Rc<Inner>, cluster: ClusterId) -> Result<()> {
    let id = node.options.id;
    let update = Operation::UpdateNode { node: id, spec: node.spec() };
    match node.command(update).await? {
        Outcome::Node(_) => {}
        other => return Err(refusal(&other)),
    }
    if node.store_id.get() == StoreId(0) {
        let add = Operation::AddStore { node: id, store: node.store_spec() };
        let store = match node.command(add).await? {
            Outcome::Store(store) => store,
            // Added before, and the answer was lost: nothing was kept in it since.
            Outcome::Refused(Refusal::DeviceKnown(store)) => store,
            other => return Err(refusal(&other)),
        };
        let incarnation = node.incarnation.get();
        let witness = node.options.witness;
        Stored { cluster, node: id, store, incarnation, witness }.save(&node.store).await?;
        node.store_id.set(store);
    }
    // Whatever else this node had held is lost: it must be made elsewhere.
    let (map, own) = (node.map.newest(), node.store_id.get());
    for (store, known) in map.stores() {
        if known.node == id && *store != own && known.weight > 0 {
            node.command(Operation::SetWeight { store: *store, weight: 0 }).await?;
        }
    }
    node.troubles.borrow_mut().remove(&PgId(0));
    Ok(())
}

/// A refusal as an error.
fn refusal(outcome: &Outcome) -> Error {
    match outcome {
        Outcome::Refused(refusal) => Error::new(ErrorKind::Invalid, refusal.to_string()),
        other => {
            let fault = unknown(&format!("the control group answered {other:?}"));
            Error::new(ErrorKind::Failed, format!("{fault:?}"))
        }
    }
}
