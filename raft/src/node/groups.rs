//! The groups that have a member on this node: started when the map says so.
//!
//! Must never know: what is asked of groups.

use super::Inner;
use super::answer::Answer;
use super::commands::ControlCommands;
use super::mend::NodeMender;
use super::replica::{Raft, Replica, refused, unknown};
use crate::control::{ControlState, Group, PgId, Step};
use crate::limits::{ENTRIES_KEPT, ENTRIES_KEPT_BEHIND, ENTRIES_PURGED_MIN};
use crate::log_store::{LogStore, Mender};
use crate::network::Network;
use crate::placement::StoreId;
use crate::runtime::Oneshot;
use crate::snapshot::{self, Source};
use crate::state_machine::{Commands, StateMachine};
use crate::types::{Member, StoredMembership};
use ashlar_engine::units::GroupId;
use ashlar_engine::{Error, ErrorKind, Result};
use openraft::LogIdOptionExt;
use openraft::error::{InitializeError, RaftError};
use openraft_rt::watch::WatchReceiver as _;
use openraft_rt::{Mutex as _, Oneshot as _, OneshotSender as _};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How long a member has to take the order to give up entries.
const PURGE_ORDER_MAX: Duration = Duration::from_millis(10);

impl Inner {
    /// The member of a group on this node.
    pub(super) fn replica(&self, group: PgId) -> Option<Rc<Replica>> {
        self.replicas.borrow().get(&group).cloned()
    }

    pub(super) fn all_replicas(&self) -> Vec<Rc<Replica>> {
        self.replicas.borrow().values().cloned().collect()
    }

    /// How a group's membership names a store.
    pub(super) fn member(&self, store: StoreId) -> Result<Member> {
        let map = self.map.newest();
        let missing = || Error::new(ErrorKind::NotFound, format!("store {store} is not known"));
        let node = map.stores().get(&store).ok_or_else(missing)?.node;
        let spec = &map.nodes().get(&node).ok_or_else(missing)?.spec;
        let member = Member::new(node.0, spec.address.clone(), spec.labels.to_string());
        member.map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))
    }

    /// Starts the members that the map has here and that do not run, stops those that are gone.
    pub(super) async fn follow_map(self: &Rc<Inner>) {
        let (map, own) = (self.map.newest(), self.store_id.get());
        if own == StoreId(0) {
            return;
        }
        self.end_dead_members().await;
        for (id, group) in map.groups() {
            if !concerns(group, own) {
                continue;
            }
            self.concerned.borrow_mut().insert(*id);
            if self.replica(*id).is_none()
                && !self.installs.borrow().contains_key(id)
                && let Err(error) = self.start_replica(*id).await
            {
                self.troubles.borrow_mut().insert(*id, error.to_string());
            }
        }
        self.ask_for_snapshots();
        for replica in self.all_replicas() {
            let was_member = self.concerned.borrow().contains(&replica.id);
            let certain = was_member || is_older(&replica, &map) || !holds(&replica);
            if is_gone(&map, replica.id, own) && certain {
                self.concerned.borrow_mut().remove(&replica.id);
                self.stop_replica(&replica).await;
            }
        }
    }

    /// Ends members whose openraft gave up, over what it could not read for one, so that they start
    /// again. In a store that failed nothing does.
    async fn end_dead_members(&self) {
        for replica in self.all_replicas() {
            let Some(why) = replica.died_of() else { continue };
            if self.troubles.borrow().contains_key(&replica.id) {
                continue;
            }
            if self.store.status().failed.is_some() {
                self.troubles.borrow_mut().insert(replica.id, why);
                continue;
            }
            self.stop_replica(&replica).await;
        }
    }

    /// Whether this node's member of a group has its volumes, if there is one. What the control
    /// group knows, a witness knows too.
    pub(super) fn keeps_blocks(&self, id: PgId) -> bool {
        !self.options.witness || id == PgId::CONTROL
    }

    /// Starts this node's member of a group.
    pub(super) async fn start_replica(self: &Rc<Inner>, id: PgId) -> Result<Rc<Replica>> {
        let _one_at_a_time = self.starting.lock().await;
        if let Some(replica) = self.replica(id) {
            return Ok(replica);
        }
        let closed = || Error::new(ErrorKind::Closed, "this node is in no cluster yet");
        let peers = self.peers().ok_or_else(closed)?;
        let own = self.store_id.get();
        let device = |error: std::io::Error| {
            let why = format!("placement group {id} cannot be started here: {error}");
            Error::new(ErrorKind::Corrupt, why)
        };
        let group = self.store.group(GroupId(id.0));
        snapshot::settle(&group).await?;
        let log = LogStore::open(group.clone()).map_err(device)?;
        let commands = (id == PgId::CONTROL)
            .then(|| Box::new(ControlCommands::new(Rc::clone(&self.map))) as Box<dyn Commands>);
        let mut machine = StateMachine::open(log.clone(), commands).map_err(device)?;
        let keeps_blocks = self.keeps_blocks(id);
        if !keeps_blocks {
            machine = machine.without_blocks();
        }
        let source = Source::new(group, Rc::clone(&self.pace), keeps_blocks);
        let mender = Rc::new(NodeMender { node: Rc::downgrade(self), id });
        log.set_mender(Rc::clone(&mender) as Rc<dyn Mender>);
        source.set_mender(mender);
        let network = Network::new(peers, id.0, own.0, log.clone(), source);
        let config = match keeps_blocks {
            true => std::sync::Arc::clone(&self.config),
            false => self.options.timing.of_witness().config()?,
        };
        let raft = Raft::new(own.0, config, network.clone(), log.clone(), machine);
        let raft = self.runtime.enter(raft).await.map_err(|error| {
            let why = format!("placement group {id} cannot be started here: {error}");
            Error::new(ErrorKind::Failed, why)
        })?;
        let replica = Rc::new(Replica::new(id, own, raft, log, network, self.runtime.clone()));
        self.replicas.borrow_mut().insert(id, Rc::clone(&replica));
        self.troubles.borrow_mut().remove(&id);
        Ok(replica)
    }

    pub(super) async fn stop_replica(&self, replica: &Replica) {
        self.replicas.borrow_mut().remove(&replica.id);
        let (raft, (sender, ended)) = (replica.raft.clone(), Oneshot::channel());
        // Whoever waits may be dropped, with its connection for one; the end must be waited for all
        // the same: openraft panics in others' calls where its first waiter has gone.
        self.runtime.start_task(async move {
            // An error says that it has ended already.
            raft.shutdown().await.ok();
            sender.send(()).ok();
        });
        ended.await.ok();
        // What is on its way to the log yet must not come when others write it.
        replica.log.close();
    }

    /// Starts a group with these members, if it never was.
    pub(super) async fn start_group(
        self: &Rc<Inner>,
        id: PgId,
        members: &StoredMembership,
    ) -> Answer<()> {
        let started = self.start_replica(id).await;
        let replica = started.map_err(|error| unknown(&error))?;
        let nodes = members.membership().nodes();
        let nodes: BTreeMap<u64, Member> = nodes.map(|(id, node)| (*id, node.clone())).collect();
        if !nodes.contains_key(&replica.store.0) {
            return Err(refused(ErrorKind::Invalid, &"this store is not among the members"));
        }
        let started = self.runtime.enter(replica.raft.initialize(nodes)).await;
        match started {
            // Somebody did it before.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(unknown(&error)),
        }
    }

    /// Whether the store wants entries to be given up.
    pub(super) fn is_short(&self) -> bool {
        self.store.is_short_for_groups()
    }

    /// Gives up entries that all have, or that are too many to be kept for those who do not.
    pub(super) async fn purge_logs(&self) {
        for replica in self.all_replicas() {
            let Some(upto) = purgeable(&replica) else { continue };
            // A leader gives up nothing that is on its way to others, unless it cannot go on: what
            // its followers have committed it cannot apply until it has it on its own device, and
            // while it waits for that room, openraft makes no snapshot and gives nothing up.
            let stands_still = replica.log.stands_still();
            if stands_still || !replica.leads() {
                replica.log.relieve();
            }
            // One that waits for room takes no orders, and must not keep others from making some.
            let trigger = replica.raft.trigger();
            let ordered = async {
                if trigger.snapshot().await.is_ok() {
                    // What is not in the snapshot yet goes next time.
                    trigger.purge_log(upto).await.ok();
                }
            };
            self.reactor.within(PURGE_ORDER_MAX, self.runtime.enter(ordered)).await;
        }
    }
}

/// Whether a store has, or is to have, a member of the group.
fn concerns(group: &Group, own: StoreId) -> bool {
    let comes = matches!(group.pending, Some(Step::AddLearner { store }) if store == own);
    group.member(own).is_some() || comes
}

/// Whether the map says that a store has no member of the group any more.
fn is_gone(map: &ControlState, id: PgId, own: StoreId) -> bool {
    map.groups().get(&id).is_some_and(|group| group.started && !concerns(group, own))
}

/// Whether the group's own membership, as far as it is known here, still names this member. The map
/// may be older than that, unless an older map had the member, too: then it was removed, which the
/// member itself may never learn.
fn holds(replica: &Replica) -> bool {
    let (newest, _) = replica.membership();
    newest.membership().get_node(&replica.store.0).is_some()
}

/// Whether this is a member of the control group, and knows of no membership that the map does not.
fn is_older(replica: &Replica, map: &ControlState) -> bool {
    let (newest, _) = replica.membership();
    let index = newest.log_id().as_ref().map_or(0, |id| id.index());
    replica.id == PgId::CONTROL && map.applied() > index
}

/// Up to where a member's log may be given up, if it is time to.
fn purgeable(replica: &Replica) -> Option<u64> {
    let (applied, known) = {
        let metrics = replica.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.last_applied?.index(), metrics.purged)
    };
    // What the log gave up by itself, openraft must know, or it looks for it for ever.
    let given_up = replica.log.purged().filter(|purged| Some(*purged) > known);
    if let Some(upto) = given_up.index().max(replica.log.purge_wanted()) {
        return Some(upto.min(applied));
    }
    if replica.network.source().is_sending() {
        return None;
    }
    let first = replica.log.first()?;
    // A witness has nothing else to give to who is behind.
    let kept = match replica.network.source().keeps_blocks() {
        true => ENTRIES_KEPT,
        false => ENTRIES_KEPT_BEHIND,
    };
    let mut keep_from = applied.saturating_sub(kept);
    if replica.leads() {
        // Those who are not too far behind get entries: that is less than a snapshot.
        let farthest = applied.saturating_sub(ENTRIES_KEPT_BEHIND);
        let last = replica.raft.metrics().borrow_watched().last_log_index.unwrap_or(applied);
        let behind = replica.lags().into_values().flatten().max().unwrap_or(0);
        keep_from = keep_from.min((last + 1).saturating_sub(behind)).max(farthest);
    }
    (keep_from >= first + ENTRIES_PURGED_MIN).then_some(keep_from)
}
