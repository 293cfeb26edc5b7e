//! Every sector is a register: some order of all requests on it, each between its begin and its
//! end, explains every read.
//!
//! Sectors with the same history as their neighbour are judged once.

use super::Violation;
use crate::history::{Effect, Event, Fate, History, UNKNOWN};
use crate::register::{Read, Verdict, Write, check};

/// Judges every sector. Also says how many could not be judged within bounds.
#[must_use]
pub fn judge(history: &History) -> (Vec<Violation>, u64) {
    let (mut found, mut unknown) = (Vec::new(), 0);
    let mut judged: Option<(usize, Verdict)> = None;
    for (sector, events) in history.sectors.iter().enumerate() {
        if history.base[sector] == UNKNOWN
            || !events.iter().any(|event| matches!(event, Event::Seen { .. }))
        {
            continue;
        }
        let same = |other: usize| {
            history.sectors[other] == *events && history.base[other] == history.base[sector]
        };
        let known = judged.take().filter(|(other, _)| same(*other));
        let is_new = known.is_none();
        let verdict = known.map_or_else(|| judge_sector(history, sector), |(_, verdict)| verdict);
        match &verdict {
            Verdict::Invalid(why) if is_new => {
                let volume = history.volume;
                let what = format!("volume {volume} sector {sector}: {why}");
                found.push(Violation::new("linearizable", what));
            }
            Verdict::Unknown => unknown += 1,
            _ => {}
        }
        judged = Some((sector, verdict));
    }
    (found, unknown)
}

fn judge_sector(history: &History, sector: usize) -> Verdict {
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for event in &history.sectors[sector] {
        match event {
            Event::Change(id) => {
                let op = &history.ops[id.0 as usize];
                let value = if op.effect == Effect::Zero { 0 } else { id.sequence() };
                let optional = op.fate != Fate::Done;
                if op.fate != Fate::Refused {
                    writes.push(Write { value, begin: op.begin, end: op.end, optional });
                }
            }
            Event::Seen { read, value } => {
                let (begin, end) = history.reads[*read as usize];
                reads.push(Read { value: *value, begin, end });
            }
        }
    }
    check(history.base[sector], &writes, &reads)
}
