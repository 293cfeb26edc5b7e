//! What the cluster looks like from a node.
//!
//! Must never know: how it is shown.

use super::message::Message;
use super::replica::Replica;
use super::report::Led;
use super::{Inner, Node};
use crate::control::{ClusterId, ControlState, NodeState, PgId, Role, notes};
use crate::placement::{NodeId, StoreId};
use ashlar_engine::Result;
use openraft_rt::watch::WatchReceiver as _;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one node is asked what it heard.
const HEARD_MAX: Duration = Duration::from_secs(1);

/// The cluster, as a node knows it: its own view of who is alive, the control group's of all else.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// Its identity; `None` if this node is in none yet.
    pub cluster: Option<ClusterId>,
    /// Epoch of the map.
    pub epoch: u64,
    /// The node that leads the control group, if one is known.
    pub control_leader: Option<NodeId>,
    /// All nodes but those that were removed.
    pub nodes: Vec<NodeStatus>,
    /// All placement groups.
    pub groups: Vec<GroupStatus>,
    /// What is not as it should be, a sentence each.
    pub notes: Vec<String>,
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Its number.
    pub id: NodeId,
    /// Where other nodes reach it.
    pub address: String,
    /// Where NBD clients reach it.
    pub nbd: Vec<String>,
    /// Where it stands.
    pub labels: String,
    /// Where it is in its life.
    pub state: NodeState,
    /// Whether it was heard of just now.
    pub up: bool,
    /// Its stores.
    pub stores: Vec<StoreStatus>,
}

/// A store.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// Its number.
    pub id: StoreId,
    /// Its size.
    pub size_bytes: u64,
    /// Share of the groups it should hold.
    pub weight: u32,
    /// Holds only witnesses.
    pub witness: bool,
    /// Groups with a member in it.
    pub groups: u32,
}

/// A placement group.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// Its number.
    pub id: PgId,
    /// Its leader, as it was heard of last.
    pub leader: Option<StoreId>,
    /// The leader's term.
    pub term: u64,
    /// Index of the last entry that the leader has applied.
    pub applied: u64,
    /// Its members.
    pub members: Vec<MemberStatus>,
}

/// A member of a group.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Its store.
    pub store: StoreId,
    /// The node that is in.
    pub node: NodeId,
    /// What it is in the group.
    pub role: Role,
    /// Entries it lacks; `None` if its leader has not heard of it.
    pub lag_entries: Option<u64>,
    /// Whether its node was heard of just now.
    pub up: bool,
}

impl Node {
    /// What the cluster looks like from here. A node outside of the control group, to which nobody
    /// reports, asks one inside; where none answers, it says what it knows itself.
    ///
    /// # Errors
    /// None now.
    pub async fn status(&self) -> Result<ClusterStatus> {
        self.inner.runtime.enter(self.inner.hear_of_all()).await;
        Ok(self.inner.status())
    }

    /// Why this node, or a member that should run on it, does not take part; by group, 0 is the
    /// node itself.
    #[must_use]
    pub fn troubles(&self) -> Vec<(PgId, String)> {
        let troubles = self.inner.troubles.borrow();
        troubles.iter().map(|(group, why)| (*group, why.clone())).collect()
    }
}

impl Inner {
    async fn hear_of_all(&self) {
        if self.replica(PgId::CONTROL).is_some_and(|replica| replica.leader().is_some()) {
            return;
        }
        for node in self.map_sources() {
            let asked = self.ask(node, PgId::CONTROL, Message::Heard, 0);
            if let Some(Ok((bytes, _))) = self.reactor.within(HEARD_MAX, asked).await {
                let mut reports = self.reports.borrow_mut();
                if reports.hear(self.reactor.now(), &bytes).is_ok() {
                    return;
                }
            }
        }
    }

    fn status(&self) -> ClusterStatus {
        let (map, now) = (self.map.newest(), self.reactor.now());
        let own = self.report();
        let mut reports = self.reports.borrow_mut();
        reports.take(now, own);
        let health = reports.health(now, map.nodes().keys().copied());
        let led: BTreeMap<PgId, &Led> = reports.led().map(|led| (led.group, led)).collect();
        let up = |node: NodeId| health.up(node, now);
        let node = |(id, node): (&NodeId, &crate::control::Node)| NodeStatus {
            id: *id,
            address: node.spec.address.clone(),
            nbd: node.spec.nbd.clone(),
            labels: node.spec.labels.to_string(),
            state: node.state,
            up: up(*id),
            stores: stores_of(&map, *id),
        };
        let present = map.nodes().iter().filter(|(_, node)| node.state != NodeState::Removed);
        let groups = map.groups().iter().map(|(id, group)| {
            let led = led.get(id);
            let members = group.members.iter().map(|member| {
                let node = map.stores().get(&member.store).map_or(NodeId(0), |store| store.node);
                let lag = led.and_then(|led| led.lags.get(&member.store).copied().flatten());
                let (store, role) = (member.store, member.role);
                MemberStatus { store, node, role, lag_entries: lag, up: up(node) }
            });
            GroupStatus {
                id: *id,
                leader: led.map(|led| led.store),
                term: led.map_or(0, |led| led.term),
                applied: led.map_or(0, |led| led.applied),
                members: members.collect(),
            }
        });
        let control = self.replica(PgId::CONTROL).and_then(|replica| replica.leader());
        let control = control.or_else(|| self.leaders.borrow().get(&PgId::CONTROL).copied());
        let mut notes: Vec<String> =
            notes(&map, &health, now).iter().map(ToString::to_string).collect();
        notes.extend(self.troubles.borrow().values().cloned());
        ClusterStatus {
            cluster: map.cluster(),
            epoch: map.epoch(),
            control_leader: control.and_then(|store| Some(map.stores().get(&store)?.node)),
            nodes: present.map(node).collect(),
            groups: groups.collect(),
            notes,
        }
    }
}

fn stores_of(map: &ControlState, node: NodeId) -> Vec<StoreStatus> {
    let own = map.stores().iter().filter(|(_, store)| store.node == node);
    let status = own.map(|(id, store)| StoreStatus {
        id: *id,
        size_bytes: store.size_bytes,
        weight: store.weight,
        witness: store.witness,
        groups: map.groups().values().filter(|group| group.member(*id).is_some()).count() as u32,
    });
    status.collect()
}

impl Replica {
    /// Its term, and the index of the last entry it has applied.
    pub(super) fn progress(&self) -> (u64, u64) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.current_term, metrics.last_applied.map_or(0, |applied| applied.index()))
    }
}
