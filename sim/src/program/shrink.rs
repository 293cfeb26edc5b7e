//! Makes a broken seed small: fewer lives, fewer classes of trouble, fewer requests, fewer faults,
//! as long as the same invariant breaks.

use super::is_same;
use super::report::Line;
use super::run::run_apart;
use crate::cluster::ClusterPlan;
use crate::plan::{Limits, Plan};
use ashlar_engine::reactor::sim::{FaultId, FaultKind};

/// Runs that may be spent on it.
const RUNS_MAX: u32 = 120;
/// Faults beyond which single ones are not looked at.
const FAULTS_MAX: usize = 400;

struct Shrinker<'a> {
    wanted: &'a Line,
    best: Limits,
    line: Line,
    runs: u32,
}

impl Shrinker<'_> {
    /// Keeps `limits` if the seed is still broken under them.
    fn attempt(&mut self, limits: Limits) -> bool {
        if self.runs >= RUNS_MAX || limits == self.best {
            return false;
        }
        self.runs += 1;
        let line = run_apart(self.wanted.seed, &limits);
        let kept = is_same(&line, self.wanted);
        if kept {
            (self.best, self.line) = (limits, line);
        }
        kept
    }
}

/// The smallest limits found under which the seed is broken in the same way, and its result.
pub(super) fn shrink(wanted: &Line, limits: &Limits) -> (Limits, Line) {
    let mut shrinker = Shrinker { wanted, best: limits.clone(), line: wanted.clone(), runs: 0 };
    let lives = u32::try_from(wanted.lives).unwrap_or(u32::MAX);
    // A panic leaves no count.
    if lives > 0 {
        shrinker.attempt(Limits { lives: Some(lives), ..limits.clone() });
    }
    for class in Plan::classes(wanted.seed, limits) {
        let mut smaller = shrinker.best.clone();
        smaller.without.insert(class);
        shrinker.attempt(smaller);
    }
    let mut requests = match limits.cluster {
        true => ClusterPlan::draw(wanted.seed, &shrinker.best).requests,
        false => Plan::draw(wanted.seed, &shrinker.best).requests,
    };
    while requests > 1 {
        requests /= 2;
        let smaller = Limits { requests: Some(requests), ..shrinker.best.clone() };
        if !shrinker.attempt(smaller) {
            break;
        }
    }
    skip_faults(&mut shrinker);
    (shrinker.best, shrinker.line)
}

/// Delta debugging: halves, then quarters and so on of the faults are taken away.
fn skip_faults(shrinker: &mut Shrinker<'_>) {
    let happened = shrinker.line.faults.clone();
    let mut faults: Vec<FaultId> = FaultKind::ALL
        .into_iter()
        .filter(|kind| *kind != FaultKind::Torn && *kind != FaultKind::NetFull)
        .flat_map(|kind| {
            let count = happened.get(&format!("{kind:?}")).copied().unwrap_or(0);
            (0..count).map(move |number| FaultId { kind, number })
        })
        .collect();
    if faults.is_empty() || faults.len() > FAULTS_MAX {
        return;
    }
    let mut part = faults.len();
    while part >= 1 && shrinker.runs < RUNS_MAX {
        let mut at = 0;
        while at < faults.len() {
            let end = (at + part).min(faults.len());
            let mut smaller = shrinker.best.clone();
            smaller.skip.extend(&faults[at..end]);
            if shrinker.attempt(smaller) {
                faults.drain(at..end);
            } else {
                at = end;
            }
        }
        part /= 2;
    }
}
