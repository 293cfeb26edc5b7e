//! Whole or not at all: after a crash, a request of up to 1 MiB shows everywhere or nowhere.
//!
//! Every sector names the request that came last there. A request that happened, wherever it does
//! not show, came before the one that does; and what was answered came before what was asked later.
//! If these cannot all be true in one order, a request is there in part.

use super::Violation;
use crate::history::{Effect, Fate, History, OpId};
use std::collections::BTreeSet;

/// Judges the content of a whole volume after a restart. `None`: unreadable.
#[must_use]
pub fn judge(history: &History, contents: &[Option<u64>]) -> Vec<Violation> {
    let shown: Vec<Shown> =
        contents.iter().enumerate().map(|(at, value)| shown(history, at, *value)).collect();
    let first = history.settled.0;
    let count = history.ops.len() - first as usize;
    let mut visible = vec![false; count];
    for shown in &shown {
        if let Shown::Change(id) = shown
            && id.0 >= first
        {
            visible[(id.0 - first) as usize] = true;
        }
    }
    // (earlier, later): what showed in no sector as it should.
    let mut orders = BTreeSet::new();
    let mut found = Vec::new();
    for (i, visible) in visible.iter().enumerate() {
        let id = OpId(first + i as u32);
        let op = &history.ops[id.0 as usize];
        let happened = op.fate == Fate::Done || *visible;
        if !(op.atomic && happened) {
            continue;
        }
        for sector in op.sectors.clone() {
            match shown[sector as usize] {
                Shown::Change(other) if other != id && other.0 >= first => {
                    orders.insert((id, other));
                }
                Shown::Change(_) | Shown::Unclear => {}
                Shown::Base => {
                    found.push(torn(history, id, sector, "what was there before"));
                    break;
                }
            }
        }
    }
    found.extend(cycle(history, first, &orders));
    found
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// Only this change explains it.
    Change(OpId),
    /// Only what was there before explains it.
    Base,
    /// Unreadable, or more than one explanation.
    Unclear,
}

fn shown(history: &History, sector: usize, value: Option<u64>) -> Shown {
    let Some(value) = value else { return Shown::Unclear };
    let base = (history.base[sector] == value).then_some(Shown::Base);
    let changes = history.changes(sector as u64).filter(|(id, op)| match op.effect {
        Effect::Write => id.sequence() == value,
        Effect::Zero => value == 0 && op.fate != Fate::Refused,
    });
    let mut all = changes.map(|(id, _)| Shown::Change(id)).chain(base);
    match (all.next(), all.next()) {
        (Some(only), None) => only,
        _ => Shown::Unclear,
    }
}

fn torn(history: &History, id: OpId, sector: u64, instead: &str) -> Violation {
    let op = &history.ops[id.0 as usize];
    let what = format!(
        "volume {}: request {} ({op:?}) is there, but sector {sector} shows {instead}",
        history.volume,
        id.sequence()
    );
    Violation::new("atomic", what)
}

/// A circle in the order of what shows over what, together with the order in time.
fn cycle(history: &History, first: u32, orders: &BTreeSet<(OpId, OpId)>) -> Option<Violation> {
    let count = history.ops.len() - first as usize;
    // Kahn's algorithm: takes away what nothing left must precede.
    let mut left: BTreeSet<OpId> =
        (0..count as u32).map(|i| OpId(first + i)).filter(|id| relevant(*id, orders)).collect();
    loop {
        let op = |id: &OpId| &history.ops[id.0 as usize];
        let free = left.iter().copied().find(|id| {
            let before =
                |other: &OpId| orders.contains(&(*other, *id)) || op(other).end < op(id).begin;
            !left.iter().any(|other| other != id && before(other))
        });
        match free {
            Some(id) => left.remove(&id),
            None if left.is_empty() => return None,
            None => break,
        };
    }
    let circle: Vec<_> =
        left.iter().map(|id| (id.sequence(), &history.ops[id.0 as usize])).collect();
    let shows = orders.iter().filter(|(a, b)| left.contains(a) && left.contains(b));
    let shows: Vec<_> = shows.map(|(a, b)| (a.sequence(), b.sequence())).collect();
    let what =
        format!("volume {}: no order explains what shows: {shows:?} of {circle:?}", history.volume);
    Some(Violation::new("atomic", what))
}

fn relevant(id: OpId, orders: &BTreeSet<(OpId, OpId)>) -> bool {
    orders.iter().any(|(a, b)| *a == id || *b == id)
}
