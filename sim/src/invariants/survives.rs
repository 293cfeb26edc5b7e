//! Acknowledged means there: what a restarted store shows is not older than what was acknowledged.
//!
//! Follows from linearisability; judged on its own, by other means, so that a mistake in one judge
//! does not hide a loss.

use super::Violation;
use crate::history::{Effect, Fate, History};

/// Judges the content of a whole volume after a restart. `None`: unreadable.
#[must_use]
pub fn judge(history: &History, contents: &[Option<u64>]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut last = None;
    for (sector, content) in contents.iter().enumerate() {
        let Some(value) = content else { continue };
        let acknowledged = history.changes(sector as u64).filter(|(_, op)| op.fate == Fate::Done);
        let Some((newest, begin)) =
            acknowledged.map(|(id, op)| (id, op.begin)).max_by_key(|(_, begin)| *begin)
        else {
            continue;
        };
        let explains = history.changes(sector as u64).any(|(id, op)| {
            let shows = match op.effect {
                Effect::Write => id.sequence() == *value,
                Effect::Zero => *value == 0,
            };
            shows && op.end >= begin && op.fate != Fate::Refused
        });
        if !explains && last != Some((newest, *value)) {
            last = Some((newest, *value));
            let volume = history.volume;
            let what = format!(
                "volume {volume} sector {sector} shows {value}, but {} was acknowledged",
                newest.sequence()
            );
            found.push(Violation::new("survives", what));
        }
    }
    found
}
