//! What the leader of the control group sees to: the plan, carried out.
//!
//! Invariant: about a group or volume at most one action is under way here; doing one twice is
//! harmless, so nothing is lost when the leader changes.
//! Must never know: why an action is in the plan.

use super::Inner;
use super::answer::{Answer, Fault};
use super::message::Message;
use super::replica::{Replica, refused, unknown};
use crate::control::{Action, ClusterVolumeId, Operation, Outcome, PgId, Step, plan};
use crate::limits::PROPOSAL_CHANGES_MAX;
use crate::placement::{NodeId, StoreId};
use crate::types::{Change, Membership, Outcome as Applied, Proposal, StoredMembership, Write};
use crate::volume::slice_volume;
use ashlar_engine::ErrorKind;
use ashlar_engine::units::VolumeId;
use futures_util::future::select;
use openraft_rt::watch::WatchReceiver as _;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// How often the plan is made, at least.
const PLAN_INTERVAL: Duration = Duration::from_millis(500);
/// Pause before what has changed is planned for: other things change with it.
const PLAN_PAUSE: Duration = Duration::from_millis(25);

/// What an action is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum About {
    Group(PgId),
    Volume(ClusterVolumeId),
    Cluster,
}

fn about(action: &Action) -> About {
    match (action, action.group()) {
        (_, Some(group)) => About::Group(group),
        (Action::Drop { volume, .. }, None) => About::Volume(*volume),
        (_, None) => About::Cluster,
    }
}

/// Plans as long as the node runs.
pub(super) async fn run(node: Rc<Inner>) {
    let (mut map, mut news) = (node.map.watch(), node.news.watch());
    loop {
        let changed = select(Box::pin(map.changed()), Box::pin(news.changed()));
        node.reactor.within(PLAN_INTERVAL, changed).await;
        node.reactor.sleep(PLAN_PAUSE).await;
        let leads = node.replica(PgId::CONTROL).is_some_and(|replica| replica.leads());
        let map = node.map.newest();
        if !leads || map.cluster().is_none() {
            continue;
        }
        let now = node.reactor.now();
        let own = node.report();
        let nodes = map.nodes().keys().copied();
        let health = {
            let mut reports = node.reports.borrow_mut();
            reports.take(now, own);
            reports.health(now, nodes)
        };
        for action in plan(&map, &health, now) {
            let key = about(&action);
            if !node.acting.borrow_mut().insert(key) {
                continue;
            }
            let own = Rc::clone(&node);
            node.runtime.start_task(async move {
                // What failed is in the next plan again.
                own.act(action).await.ok();
                own.acting.borrow_mut().remove(&key);
            });
        }
    }
}

impl Inner {
    async fn act(self: &Rc<Inner>, action: Action) -> Answer<()> {
        match action {
            Action::Propose(operation) => self.planned(operation).await,
            Action::Start { group, epoch, voters } => self.start_at(group, epoch, &voters).await,
            Action::Perform { group, epoch, leader, step } => {
                self.tell(group, leader, Message::Perform { epoch, step }).await
            }
            Action::Settle { group, epoch, leader, step } => {
                self.tell(group, leader, Message::Settle { epoch, step }).await
            }
            Action::Lead { group, from, to } => self.tell(group, from, Message::Lead { to }).await,
            Action::Drop { volume, groups } => self.drop_slices(volume, &groups).await,
        }
    }

    /// Proposes what the plan says. That the state has moved on meanwhile is no failure.
    async fn planned(self: &Rc<Inner>, operation: Operation) -> Answer<()> {
        match self.command(operation).await {
            Ok(Outcome::Refused(refusal)) => Err(refused(ErrorKind::Busy, &refusal)),
            Ok(_) => Ok(()),
            Err(error) => Err(Fault::Unknown(error)),
        }
    }

    pub(super) fn node_of(&self, store: StoreId) -> Answer<NodeId> {
        let map = self.map.newest();
        let found = map.stores().get(&store).map(|store| store.node);
        found.ok_or_else(|| refused(ErrorKind::NotFound, &format!("store {store} is not known")))
    }

    /// Tells a leader something: itself, or another node.
    async fn tell(self: &Rc<Inner>, group: PgId, leader: StoreId, message: Message) -> Answer<()> {
        let node = self.node_of(leader)?;
        if node != self.options.id {
            return self.ask(node, group, message, 0).await.map(drop);
        }
        let replica = self.replica(group).ok_or(Fault::NotLeader(None))?;
        match message {
            Message::Perform { epoch, step } => self.perform_here(&replica, epoch, step).await,
            Message::Settle { epoch, step } => self.settle_here(&replica, epoch, step).await,
            Message::Lead { to } => {
                let moved = replica.raft.trigger().transfer_leader(to.0).await;
                moved.map_err(|error| unknown(&error))
            }
            _ => Err(refused(ErrorKind::Invalid, &"a leader is not told that")),
        }
    }

    /// Starts a new group at one of its voters.
    async fn start_at(self: &Rc<Inner>, id: PgId, epoch: u64, voters: &[StoreId]) -> Answer<()> {
        let mut members = BTreeMap::new();
        for store in voters {
            let member = self.member(*store).map_err(Fault::Refused)?;
            members.insert(store.0, member);
        }
        let ids: BTreeSet<u64> = members.keys().copied().collect();
        let membership = Membership::new(vec![ids], members);
        let membership = membership.map_err(|error| refused(ErrorKind::Invalid, &error))?;
        let stored = StoredMembership::new(None, membership);
        let mut started = Err(refused(ErrorKind::Invalid, &"a group has members"));
        for store in voters {
            let node = self.node_of(*store)?;
            started = if node == self.options.id {
                self.start_group(id, &stored).await
            } else {
                self.ask(node, id, Message::Start(stored.clone()), 0).await.map(drop)
            };
            if started.is_ok() {
                break;
            }
        }
        started?;
        self.planned(Operation::GroupStarted { group: id, epoch }).await
    }

    /// Carries out a step of a group that this node leads, and says so.
    pub(super) async fn perform_here(
        self: &Rc<Inner>,
        replica: &Replica,
        epoch: u64,
        step: Step,
    ) -> Answer<()> {
        self.check_step(replica.id, epoch, step)?;
        let member = self.member(step.store()).map_err(Fault::Refused)?;
        replica.perform(step, member).await?;
        self.finish(replica, epoch, step).await
    }

    /// Ends a step that is not wanted now, if no change is under way.
    pub(super) async fn settle_here(
        self: &Rc<Inner>,
        replica: &Replica,
        epoch: u64,
        step: Step,
    ) -> Answer<()> {
        self.check_step(replica.id, epoch, step)?;
        self.finish(replica, epoch, step).await
    }

    /// Whether a step is still the one that is pending, if this node's map is new enough to tell.
    fn check_step(&self, id: PgId, epoch: u64, step: Step) -> Answer<()> {
        let map = self.map.newest();
        match map.groups().get(&id) {
            Some(group) if group.epoch > epoch || group.pending.is_some_and(|p| p != step) => {
                Err(refused(ErrorKind::Busy, &"the step is not pending any more"))
            }
            _ => Ok(()),
        }
    }

    /// Says what the committed membership says about a step, if that cannot change any more under
    /// this leader.
    async fn finish(self: &Rc<Inner>, replica: &Replica, epoch: u64, step: Step) -> Answer<()> {
        let Some(done) = replica.settled(step) else {
            return Err(refused(ErrorKind::Busy, &"the members change just now"));
        };
        self.planned(Operation::Finish { group: replica.id, epoch, done }).await
    }

    /// Deletes a deleted volume's slices at their groups.
    async fn drop_slices(
        self: &Rc<Inner>,
        id: ClusterVolumeId,
        groups: &BTreeSet<PgId>,
    ) -> Answer<()> {
        let map = self.map.newest();
        let Some(volume) = map.volumes().get(&id) else { return Ok(()) };
        for group in groups {
            let slices = volume.slices.iter().enumerate().filter(|(_, held)| *held == group);
            let slices: Vec<VolumeId> = slices.map(|(i, _)| slice_volume(volume, i)).collect();
            for some in slices.chunks(PROPOSAL_CHANGES_MAX) {
                // Apart from the writers of this process.
                let (proposer, serial) = (!self.proposer, self.next_drop_serial(*group));
                let epoch = volume.epoch;
                let make = || {
                    let delete = |volume: &VolumeId| Change::DeleteVolume { volume: *volume };
                    let changes: Vec<Change> = some.iter().map(delete).collect();
                    Proposal::Write(Write { proposer, serial, epoch, changes: changes.into() })
                };
                match self.propose(*group, make).await? {
                    Applied::Done => {}
                    other => return Err(unknown(&other)),
                }
            }
        }
        self.planned(Operation::VolumeDropped { volume: id }).await
    }
}
