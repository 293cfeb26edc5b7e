//! The stores of a cluster with their domains, and the choice among them.
//!
//! Invariants: stores are held in order of id, so the order they are given in does not matter; of
//! two stores with one id the first is taken.

use super::labels::{Labels, Level};
use super::score::score;
use super::{NodeId, StoreId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

const LEVELS: usize = Level::ALL.len();

/// A store that may be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Which store.
    pub id: StoreId,
    /// The node it is in: the host, where no host label is given.
    pub node: NodeId,
    /// Share of the groups it should hold; 0 = none.
    pub weight: u32,
    /// Holds only witnesses, never data.
    pub witness: bool,
    /// Where its node stands.
    pub labels: &'a Labels,
}

/// What a group asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Copies of the data.
    pub replicas: u8,
    /// No two replicas in one domain of this level.
    pub apart: Level,
    /// A witness besides, on a witness store, apart from all replicas.
    pub witness: bool,
}

/// One chosen store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The store.
    pub store: StoreId,
    /// The widest level, from the rule's down, at which it is apart from all chosen before it.
    /// `None`: another store of the same host.
    pub apart: Option<Level>,
}

/// Why a placement is not what the rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// Too few stores may be used.
    Stores {
        /// Replicas asked for.
        wanted: u8,
        /// Stores that may be used.
        found: u32,
    },
    /// Too few domains of the rule's level.
    Domains {
        /// The rule's level.
        level: Level,
        /// Domains needed.
        wanted: u8,
        /// Domains with stores that may be used.
        found: u32,
        /// The level at which all replicas are apart; `None`: only by store.
        fell_to: Option<Level>,
    },
    /// No witness store may be used.
    NoWitness,
    /// The witness shares a domain of the rule's level with a replica.
    WitnessShares {
        /// The rule's level.
        level: Level,
    },
}

/// Stores for one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Stores for the replicas, in the order they were chosen.
    pub replicas: Vec<Choice>,
    /// Store for the witness.
    pub witness: Option<Choice>,
    /// What is missing, and why.
    pub shortfalls: Vec<Shortfall>,
}

/// All stores of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    stores: Vec<Store>,
}

#[derive(Clone, Debug)]
struct Store {
    id: StoreId,
    weight: u32,
    witness: bool,
    /// Number of its domain at each level.
    domains: [u32; LEVELS],
}

/// A store in the running with its score.
struct Runner<'a> {
    store: &'a Store,
    score: u64,
}

impl Topology {
    /// Takes the stores, in any order.
    #[must_use]
    pub fn new<'a>(candidates: impl IntoIterator<Item = Candidate<'a>>) -> Topology {
        let mut by_id = BTreeMap::new();
        for candidate in candidates {
            by_id.entry(candidate.id).or_insert(candidate);
        }
        // Paths are numbered as they come; numbers are compared for equality only.
        let mut numbers = BTreeMap::new();
        let stores = by_id.into_values().map(|candidate| {
            let mut domains = [0; LEVELS];
            let mut parent = 0;
            for level in Level::ALL {
                let label = candidate.labels.at(level);
                let unnamed_host = level == Level::Host && label.is_none();
                let node = unnamed_host.then_some(candidate.node);
                let next = numbers.len() as u32 + 1;
                parent = *numbers.entry((level, parent, label, node)).or_insert(next);
                domains[level as usize] = parent;
            }
            let Candidate { id, weight, witness, .. } = candidate;
            Store { id, weight, witness, domains }
        });
        Topology { stores: stores.collect() }
    }

    /// Chooses stores for a group among those that are not excluded.
    #[must_use]
    pub fn choose(&self, group: u64, rule: &Rule, excluded: &BTreeSet<StoreId>) -> Placement {
        let mut picked = Vec::new();
        let data = self.runners(group, false, excluded);
        let replicas: Vec<Choice> = (0..rule.replicas)
            .map_while(|_| {
                let store = pick(&data, &picked, rule.apart)?;
                let choice = Choice { store: store.id, apart: apart(store, &picked, rule.apart) };
                picked.push(store);
                Some(choice)
            })
            .collect();
        let mut shortfalls = Vec::new();
        if replicas.len() < usize::from(rule.replicas) {
            let found = data.len() as u32;
            shortfalls.push(Shortfall::Stores { wanted: rule.replicas, found });
        }
        let mut worst = Some(rule.apart);
        for choice in &replicas {
            // The finest of all; `None` is finer than any level.
            worst = worst.zip(choice.apart).map(|(a, b)| a.max(b));
        }
        if worst != Some(rule.apart) {
            let level = rule.apart;
            let domains = data.iter().map(|runner| runner.store.domains[level as usize]);
            let found = domains.collect::<BTreeSet<_>>().len() as u32;
            let wanted = rule.replicas;
            shortfalls.push(Shortfall::Domains { level, wanted, found, fell_to: worst });
        }
        let witness = if rule.witness {
            let witnesses = self.runners(group, true, excluded);
            let store = pick(&witnesses, &picked, rule.apart);
            let choice = store
                .map(|store| Choice { store: store.id, apart: apart(store, &picked, rule.apart) });
            match choice {
                None => shortfalls.push(Shortfall::NoWitness),
                Some(choice) if choice.apart != Some(rule.apart) => {
                    shortfalls.push(Shortfall::WitnessShares { level: rule.apart });
                }
                Some(_) => {}
            }
            choice
        } else {
            None
        };
        Placement { replicas, witness, shortfalls }
    }

    fn runners(&self, group: u64, witness: bool, excluded: &BTreeSet<StoreId>) -> Vec<Runner<'_>> {
        let fits = |store: &&Store| {
            store.witness == witness && store.weight > 0 && !excluded.contains(&store.id)
        };
        let runner = |store| Runner { store, score: score(group, store.id.0, store.weight) };
        self.stores.iter().filter(fits).map(|store: &Store| runner(store)).collect()
    }
}

/// The best store that is not picked yet.
fn pick<'a>(runners: &[Runner<'a>], picked: &[&Store], level: Level) -> Option<&'a Store> {
    // While there are domains without a replica, the best store in one of them.
    let shares = |store: &Store| {
        picked
            .iter()
            .any(|p| p.id == store.id || p.domains[level as usize] == store.domains[level as usize])
    };
    let mut best: Option<&Runner<'a>> = None;
    for runner in runners {
        if best.is_none_or(|best| runner.score < best.score) && !shares(runner.store) {
            best = Some(runner);
        }
    }
    if best.is_some() {
        return best.map(|runner| runner.store);
    }
    // Then the best one in the least crowded domain; of its parts, in the least crowded again.
    let free = runners.iter().filter(|runner| picked.iter().all(|p| p.id != runner.store.id));
    let key = |runner: &&Runner<'_>| (crowd(runner.store, picked, level), runner.score);
    free.min_by_key(key).map(|runner| runner.store)
}

/// How many of the picked share the store's domain, from `level` down.
fn crowd(store: &Store, picked: &[&Store], level: Level) -> [u8; LEVELS] {
    let mut crowd = [0u8; LEVELS];
    for (i, count) in crowd.iter_mut().enumerate().skip(level as usize) {
        let sharing = picked.iter().filter(|p| p.domains[i] == store.domains[i]).count();
        *count = sharing.min(255) as u8;
    }
    crowd
}

fn apart(store: &Store, picked: &[&Store], level: Level) -> Option<Level> {
    let crowd = crowd(store, picked, level);
    Level::ALL.into_iter().skip(level as usize).find(|level| crowd[*level as usize] == 0)
}

impl Placement {
    /// All chosen stores, in order of id.
    #[must_use]
    pub fn stores(&self) -> Vec<StoreId> {
        let chosen = self.replicas.iter().chain(&self.witness).map(|choice| choice.store);
        let mut stores: Vec<_> = chosen.collect();
        stores.sort_unstable();
        stores
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shortfall::Stores { wanted, found } => write!(
                f,
                "{wanted} stores are needed and {found} can be used: add a store, or bring one \
                 back"
            ),
            Shortfall::Domains { level, wanted, found, fell_to } => {
                write!(f, "{wanted} replicas need {wanted} different {level}s, and there ")?;
                let (verb, many) = if *found == 1 { ("is", "") } else { ("are", "s") };
                write!(f, "{verb} {found} {level}{many} with stores that can be used: ")?;
                let fell_to = fell_to.map_or("store", Level::name);
                write!(f, "they are apart only by {fell_to}; add a store in another {level}")
            }
            Shortfall::NoWitness => {
                f.write_str("there is no witness store that can be used: add one at a third site")
            }
            Shortfall::WitnessShares { level } => write!(
                f,
                "the witness shares a {level} with a replica: add a witness store in another \
                 {level}"
            ),
        }
    }
}
