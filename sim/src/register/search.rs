//! Search: for values that were written more than once.
//!
//! Goes through the history in time with the set of all states the register may be in. A state is
//! the value and which of the pending operations have taken effect; writes take effect only when
//! an answer forces one to, in every order; reads as soon as the value is theirs, which costs
//! nothing.

use super::{Read, Verdict, Write};
use std::collections::BTreeSet;

/// States kept at a time.
const STATES_MAX: usize = 4096;
/// Operations pending at a time: bits of a mask.
const PENDING_MAX: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Pending {
    value: u64,
    is_write: bool,
    optional: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    value: u64,
    done: u64,
}

struct Search {
    pending: [Option<Pending>; PENDING_MAX],
    states: BTreeSet<State>,
}

pub(super) fn check(initial: u64, writes: &[Write], reads: &[Read]) -> Verdict {
    let write = |w: &Write| (w.begin, w.end, w.value, true, w.optional);
    let read = |r: &Read| (r.begin, r.end, r.value, false, false);
    let all: Vec<_> = writes.iter().map(write).chain(reads.iter().map(read)).collect();
    // (moment, is it an end, operation)
    let begins = all.iter().enumerate().map(|(i, op)| (op.0, false, i));
    let ends = all.iter().enumerate().map(|(i, op)| (op.1, true, i));
    let mut events: Vec<(u64, bool, usize)> = begins.chain(ends).collect();
    events.sort_unstable();
    let mut slots = vec![0; all.len()];
    let mut search = Search {
        pending: [None; PENDING_MAX],
        states: BTreeSet::from([State { value: initial, done: 0 }]),
    };
    for (_, is_end, i) in events {
        let (_, end, value, is_write, optional) = all[i];
        if !is_end {
            let Some(slot) = search.pending.iter().position(Option::is_none) else {
                return Verdict::Unknown;
            };
            slots[i] = slot;
            search.begin(slot, Pending { value, is_write, optional });
        } else if let Err(verdict) = search.end(slots[i]) {
            let what = if is_write { "the write of" } else { "a read that saw" };
            return verdict.unwrap_or_else(|| {
                Verdict::Invalid(format!("nothing explains {what} {value} that ended at {end}"))
            });
        }
    }
    Verdict::Valid
}

impl Search {
    fn begin(&mut self, slot: usize, op: Pending) {
        self.pending[slot] = Some(op);
        if op.is_write {
            return;
        }
        let states = std::mem::take(&mut self.states);
        let see = |state: State| match state.value == op.value {
            true => State { done: state.done | 1 << slot, ..state },
            false => state,
        };
        self.states = states.into_iter().map(see).collect();
    }

    /// The operation in `slot` was answered (or is over): only states in which it took effect, or
    /// need not, are left. `Err(None)` if there are none, a verdict if there are too many.
    fn end(&mut self, slot: usize) -> Result<(), Option<Verdict>> {
        let bit = 1 << slot;
        let optional = self.pending[slot].is_some_and(|op| op.optional);
        let mut open: Vec<State> = std::mem::take(&mut self.states).into_iter().collect();
        let mut seen: BTreeSet<State> = open.iter().copied().collect();
        let mut kept = BTreeSet::new();
        while let Some(state) = open.pop() {
            if state.done & bit != 0 || optional {
                kept.insert(State { done: state.done & !bit, ..state });
            }
            if state.done & bit != 0 {
                continue;
            }
            for next in self.successors(state) {
                if seen.insert(next) {
                    open.push(next);
                }
            }
            if seen.len() > STATES_MAX {
                return Err(Some(Verdict::Unknown));
            }
        }
        self.pending[slot] = None;
        self.states = kept;
        if self.states.is_empty() { Err(None) } else { Ok(()) }
    }

    /// States in which one more pending write has taken effect.
    fn successors(&self, state: State) -> impl Iterator<Item = State> {
        let writes = self.pending.iter().enumerate().filter_map(move |(slot, op)| {
            let op = (*op)?;
            (op.is_write && state.done & 1 << slot == 0).then_some((slot, op.value))
        });
        writes.map(move |(slot, value)| {
            let mut done = state.done | 1 << slot;
            for (other, op) in self.pending.iter().enumerate() {
                let sees = op.is_some_and(|op| !op.is_write && op.value == value);
                done |= u64::from(sees) << other;
            }
            State { value, done }
        })
    }
}
