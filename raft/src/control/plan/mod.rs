//! What to do next: placement against membership, in safe steps.
//!
//! Rules, in the order of their weight:
//! - one change of members per group at a time, written down (`Begin`) before it is carried out;
//! - who comes learns first; it votes once it has caught up, in one joint change with the one that
//!   goes; only then that one is removed. So no plan makes the caught-up voters fewer;
//! - while a voter is not intact, no change that costs one that is;
//! - a node that is silent for the grace time or draining is replaced; its replicas stay until
//!   others have caught up, and for good if there is nowhere to go;
//! - repairs come before moves that only spread load, and both are bounded;
//! - the leader is where most of a group's slices are attached, and never on its way out.
//!
//! Must never know: time but `now`, and how actions are carried out.

mod lead;
mod step;

use super::ControlState;
use super::command::Operation;
use super::health::Health;
use super::limits;
use super::model::{ClusterVolumeId, Group, NodeState, PgId, Role, Step};
use crate::placement::{Placement, Shortfall, StoreId, Topology};
use ashlar_engine::units::Nanos;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// Something to do. Doing one twice is harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Propose this to the control group.
    Propose(Operation),
    /// Start a new group with these voters, at any one of them, then propose `GroupStarted`.
    Start {
        /// Which.
        group: PgId,
        /// Its epoch.
        epoch: u64,
        /// Its first voters and witness.
        voters: Vec<StoreId>,
    },
    /// The group's leader carries out the pending step and proposes `Finish` when it is committed.
    /// It looks once more, at what it knows itself, whether a store to be promoted has caught up
    /// and whether the voters to be have a quorum: who died just now still seems up here.
    Perform {
        /// Which.
        group: PgId,
        /// Its epoch.
        epoch: u64,
        /// Its leader.
        leader: StoreId,
        /// The step.
        step: Step,
    },
    /// The pending step is no longer wanted now. When no change of members is under way in it, the
    /// group's leader proposes `Finish` with what its committed membership says.
    Settle {
        /// Which.
        group: PgId,
        /// Its epoch.
        epoch: u64,
        /// Its leader.
        leader: StoreId,
        /// The step.
        step: Step,
    },
    /// Move the leadership of a group.
    Lead {
        /// Which.
        group: PgId,
        /// Its leader.
        from: StoreId,
        /// Who should lead.
        to: StoreId,
    },
    /// Drop a deleted volume's slices in these groups, then propose `VolumeDropped`.
    Drop {
        /// Which.
        volume: ClusterVolumeId,
        /// Groups with slices of it.
        groups: BTreeSet<PgId>,
    },
}

/// Something about a group that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Placement cannot give what the policy asks for.
    Short(PgId, Shortfall),
    /// Nobody leads it, or its leader is not heard.
    NoLeader(PgId),
    /// A voter's node is not heard of.
    Down(PgId, StoreId),
    /// Its members are on their way to the target.
    Moving(PgId),
}

/// Everything that a plan looks at.
struct View<'a> {
    state: &'a ControlState,
    health: &'a Health,
    now: Nanos,
    topology: Topology,
    /// Stores that must hold nothing: of nodes that are dead, draining or joining, and those of
    /// weight 0, which everything moves away from or which are lost.
    excluded: BTreeSet<StoreId>,
}

/// The next steps. Deterministic; called again when anything has changed, and now and then.
#[must_use]
pub fn plan(state: &ControlState, health: &Health, now: Nanos) -> Vec<Action> {
    let view = View::new(state, health, now);
    // One action per group: the next one is made for what this one leaves behind.
    let busy = |actions: &[Action]| actions.iter().filter_map(Action::group).collect();
    let mut actions = view.starts();
    actions.extend(view.aims());
    actions.extend(view.steps(&busy(&actions)));
    actions.extend(view.leads(&busy(&actions)));
    actions.extend(view.drops());
    actions
}

/// What is not as it should be, for `cluster status`.
#[must_use]
pub fn notes(state: &ControlState, health: &Health, now: Nanos) -> Vec<Note> {
    let view = View::new(state, health, now);
    let mut notes = Vec::new();
    for (id, group) in state.groups() {
        let shortfalls = view.placement(*id, group).shortfalls;
        notes.extend(shortfalls.into_iter().map(|shortfall| Note::Short(*id, shortfall)));
        if group.started && view.leader(*id).is_none() {
            notes.push(Note::NoLeader(*id));
        }
        let down = group.voters().filter(|store| !view.store_up(*store));
        notes.extend(down.map(|store| Note::Down(*id, store)));
        if view.moving(group) {
            notes.push(Note::Moving(*id));
        }
    }
    notes
}

impl<'a> View<'a> {
    fn new(state: &'a ControlState, health: &'a Health, now: Nanos) -> View<'a> {
        let grace = Duration::from_secs(u64::from(state.settings().grace_seconds));
        let usable = |id: StoreId| {
            let store = &state.stores()[&id];
            state.in_service(id) && store.weight > 0 && !health.dead(store.node, grace, now)
        };
        let excluded = state.stores().keys().copied().filter(|store| !usable(*store)).collect();
        View { state, health, now, topology: state.topology(), excluded }
    }

    /// Where a group should be.
    fn placement(&self, id: PgId, group: &Group) -> Placement {
        let rule = self.state.policy_of(group).rule();
        self.topology.choose(u64::from(id.0), &rule, &self.excluded)
    }

    fn store_up(&self, store: StoreId) -> bool {
        let store = self.state.stores().get(&store);
        store.is_some_and(|store| self.health.up(store.node, self.now))
    }

    /// The group's leader, if its news are to be believed.
    fn leader(&self, id: PgId) -> Option<StoreId> {
        let leader = self.health.groups.get(&id)?.leader?;
        self.store_up(leader).then_some(leader)
    }

    /// Whether a member is alive, whole and caught up.
    fn intact(&self, id: PgId, store: StoreId) -> bool {
        let group = self.health.groups.get(&id);
        let member = group.and_then(|group| group.members.get(&store));
        self.store_up(store) && member.is_some_and(|member| member.intact())
    }

    /// Whether steps are left to the target. A voter that has nowhere to go is none.
    fn moving(&self, group: &Group) -> bool {
        let voters: Vec<_> = group.voters().collect();
        let policy = self.state.policy_of(group);
        group.pending.is_some()
            || group.learners().next().is_some()
            || group.target.iter().any(|store| !voters.contains(store))
            || [Role::Voter, Role::Witness].iter().any(|r| group.count(*r) > policy.wanted(*r))
    }

    fn starts(&self) -> Vec<Action> {
        let groups = self.state.groups().iter().filter(|(_, group)| !group.started);
        let start = |(id, group): (&PgId, &Group)| Action::Start {
            group: *id,
            epoch: group.epoch,
            voters: group.voters().collect(),
        };
        groups.map(start).collect()
    }

    /// New targets: for groups already moving, for those that need repair, then to spread load.
    fn aims(&self) -> Vec<Action> {
        let groups = self.state.groups();
        let mut moving = groups.values().filter(|group| self.moving(group)).count();
        let (mut urgent, mut leisure) = (Vec::new(), Vec::new());
        let mut aims = Vec::new();
        for (id, group) in groups.iter().filter(|(_, g)| g.started && g.pending.is_none()) {
            let target = self.placement(*id, group).stores();
            if target == group.target || !self.data_among(&target) {
                continue;
            }
            let (group_id, epoch) = (*id, group.epoch);
            let aim = Action::Propose(Operation::Aim { group: group_id, epoch, target });
            if self.moving(group) {
                aims.push(aim);
            } else if self.needs_repair(group) {
                urgent.push(aim);
            } else {
                leisure.push(aim);
            }
        }
        let moves = usize::from(self.state.settings().moves_max);
        for (waiting, bound) in [(urgent, limits::REPAIRS_MAX), (leisure, moves)] {
            let room = bound.saturating_sub(moving);
            moving += room.min(waiting.len());
            aims.extend(waiting.into_iter().take(room));
        }
        aims
    }

    /// Whether a target has a store for data at all; without one a group stays where it is.
    fn data_among(&self, target: &[StoreId]) -> bool {
        target.iter().any(|store| self.state.voting_role(*store) == Role::Voter)
    }

    /// Whether a voter is missing, or is where nothing should be.
    fn needs_repair(&self, group: &Group) -> bool {
        let policy = self.state.policy_of(group);
        group.voters().any(|store| self.excluded.contains(&store))
            || [Role::Voter, Role::Witness].iter().any(|r| group.count(*r) < policy.wanted(*r))
    }

    fn drops(&self) -> Vec<Action> {
        let volumes = self.state.volumes().iter().filter(|(_, volume)| volume.deleting);
        let drop = |(id, volume): (&ClusterVolumeId, &super::Volume)| Action::Drop {
            volume: *id,
            groups: volume.slices.iter().copied().collect(),
        };
        volumes.map(drop).take(limits::DROPS_PER_PLAN_MAX).collect()
    }

    /// Whether a node may lead anything.
    fn may_lead(&self, store: StoreId) -> bool {
        let store = self.state.stores().get(&store);
        let node = store.and_then(|store| self.state.nodes().get(&store.node));
        node.is_some_and(|node| node.state == NodeState::Up)
    }
}

impl Action {
    /// The group it is about.
    #[must_use]
    pub fn group(&self) -> Option<PgId> {
        match self {
            Action::Start { group, .. }
            | Action::Perform { group, .. }
            | Action::Settle { group, .. }
            | Action::Lead { group, .. }
            | Action::Propose(
                Operation::Aim { group, .. }
                | Operation::Begin { group, .. }
                | Operation::Finish { group, .. }
                | Operation::GroupStarted { group, .. },
            ) => Some(*group),
            Action::Propose(_) | Action::Drop { .. } => None,
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Short(group, shortfall) => write!(f, "placement group {group}: {shortfall}"),
            Note::NoLeader(group) => write!(
                f,
                "placement group {group} has no leader: start the nodes of its other members"
            ),
            Note::Down(group, store) => write!(
                f,
                "placement group {group}: store {store} does not answer; start its node, or wait \
                 until its replica is made elsewhere"
            ),
            Note::Moving(group) => {
                write!(f, "placement group {group} changes members; nothing needs to be done")
            }
        }
    }
}
