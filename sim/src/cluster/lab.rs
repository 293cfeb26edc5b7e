//! What the parts of one cluster's seed share.
//!
//! Invariant: nothing here is borrowed while anybody waits.
//! Must never know: requests, protocols.

use super::plan::ClusterPlan;
use super::site::Site;
use super::writers::Writers;
use crate::notes::Notes;
use crate::plan::Class;
use crate::volume::Volume;
use ashlar_engine::reactor::Reactor;
use ashlar_engine::reactor::sim::{Host, Machine, World};
use ashlar_engine::units::Nanos;
use ashlar_raft::control::{ClusterId, PgId};
use ashlar_raft::placement::{NodeId, StoreId};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

/// Pause between two looks at something.
const LOOK: Duration = Duration::from_millis(2);
/// A cluster that was left alone for so long has no excuse to fail requests: elections, retries
/// and calls to those who were gone have ended.
const CALM: Duration = Duration::from_secs(40);

/// A volume of the cluster, and what is known of it.
pub struct Kept {
    /// Its name, size and history.
    pub volume: Volume,
    /// Who wrote to it.
    pub writers: RefCell<Writers>,
}

/// See the module.
pub struct ClusterLab {
    /// Runs clients, trouble and judges, and all machines in its turns.
    pub reactor: Reactor,
    /// What happens.
    pub plan: ClusterPlan,
    /// The hosts.
    pub sites: Vec<Rc<Site>>,
    /// The volumes.
    pub kept: RefCell<Vec<Rc<Kept>>>,
    /// The cluster, once there is one.
    pub cluster: Cell<Option<ClusterId>>,
    /// Who was seen to lead, by group and term.
    pub leaders: RefCell<BTreeMap<(PgId, u64), StoreId>>,
    /// Trouble is still to come.
    pub troubled: Cell<bool>,
    /// Since when nothing is done to the cluster.
    pub calm: Cell<Option<Nanos>>,
    cuts: RefCell<BTreeSet<(Host, Host)>>,
    notes: Notes,
}

impl ClusterLab {
    /// A laboratory of hosts that have not been started.
    #[must_use]
    pub fn new(
        world: World,
        reactor: Reactor,
        plan: ClusterPlan,
        is_verbose: bool,
    ) -> Rc<ClusterLab> {
        let site = |number| Rc::new(Site::new(&world, &plan, number));
        let sites = (1..=plan.nodes).map(site).collect();
        Rc::new(ClusterLab {
            reactor,
            sites,
            kept: RefCell::default(),
            cluster: Cell::new(None),
            leaders: RefCell::default(),
            troubled: Cell::new(true),
            calm: Cell::new(Some(Nanos(0))),
            cuts: RefCell::default(),
            notes: Notes::new(world, is_verbose),
            plan,
        })
    }

    /// Runs something on a machine and waits for it. `None`: the machine has ended, or it took
    /// longer than `limit`.
    pub async fn on<T: 'static>(
        &self,
        machine: &Machine,
        limit: Duration,
        future: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let slot = Rc::new(RefCell::new(None));
        let into = Rc::clone(&slot);
        let task = async move {
            let done = future.await;
            *into.borrow_mut() = Some(done);
        };
        machine.reactor().spawn(task).detach();
        let deadline = self.reactor.now() + limit;
        loop {
            if let Some(done) = slot.borrow_mut().take() {
                return Some(done);
            }
            if Rc::strong_count(&slot) == 1 || self.reactor.now() >= deadline {
                return None;
            }
            self.reactor.sleep(LOOK).await;
        }
    }

    /// Cuts ways between hosts, from and to, beside those that are.
    pub fn cut(&self, ways: &[(Host, Host)]) {
        self.cuts.borrow_mut().extend(ways);
        self.world.set_cuts(self.cuts.borrow().iter().copied());
    }

    /// Lifts cuts.
    pub fn mend(&self, ways: &[(Host, Host)]) {
        self.cuts.borrow_mut().retain(|way| !ways.contains(way));
        self.world.set_cuts(self.cuts.borrow().iter().copied());
    }

    /// Whether clients go on: until all trouble is over, and all requests are used up.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        !self.is_broken() && (self.troubled.get() || self.budget.get() > 0)
    }

    /// Something is done to the cluster, or it ends.
    pub fn set_calm(&self, calm: bool) {
        self.calm.set(calm.then(|| self.reactor.now()));
    }

    /// Whether a request that was asked at `asked` may fail.
    #[must_use]
    pub fn may_fail(&self, asked: Nanos) -> bool {
        let rough = [Class::Cut, Class::Stall, Class::Garble, Class::Latency];
        let calm = self.calm.get().is_some_and(|since| asked >= since + CALM);
        !calm || rough.into_iter().any(|class| self.plan.has(class))
    }

    /// The other nodes that have been admitted, for the settings of a node.
    #[must_use]
    pub fn peers_of(&self, number: u32) -> Vec<(NodeId, String)> {
        let others = self.sites.iter().filter(|site| site.number != number);
        others.filter_map(|site| Some((site.id()?, site.address()))).collect()
    }

    /// Sites whose nodes run.
    #[must_use]
    pub fn running(&self) -> Vec<Rc<Site>> {
        self.sites.iter().filter(|site| site.node().is_some()).map(Rc::clone).collect()
    }

    /// One of a few things.
    pub fn one_of<T: Clone>(&self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.below(of.len() as u64) as usize].clone())
    }
}

impl Deref for ClusterLab {
    type Target = Notes;
    fn deref(&self) -> &Notes {
        &self.notes
    }
}
