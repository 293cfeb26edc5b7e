//! Results: of one seed as a line between processes, of many as a table for people.

use crate::notes::Tally;
use ashlar_engine::marks;
use ashlar_engine::reactor::sim::FaultKind;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Numbers in front of the faults in a line.
const NUMBERS: usize = 11;

/// Marks that need more than a common run brings together: reaching them is luck.
const LUCK: [&str; 0] = [];

/// One seed's result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) seed: u64,
    pub(super) trace: u64,
    pub(super) lives: u64,
    /// Acknowledged, refused, lost, crashes, recoveries, damaged, unknown, virtual nanoseconds.
    pub(super) counts: [u64; 8],
    pub(super) faults: BTreeMap<String, u64>,
    pub(super) marks: Vec<u64>,
    pub(super) violation: Option<String>,
}

impl Line {
    pub(super) fn of(seed: u64, trace: u64, lives: u32, tally: &Tally) -> Line {
        let kinds = tally.faults.iter().filter(|(_, count)| *count > 0);
        Line {
            seed,
            trace,
            lives: lives.into(),
            counts: [
                tally.acknowledged,
                tally.refused,
                tally.lost,
                tally.crashes,
                tally.recoveries,
                tally.damaged,
                tally.unknown,
                tally.virtual_nanos,
            ],
            faults: kinds.map(|(kind, count)| (format!("{kind:?}"), count)).collect(),
            marks: Vec::new(),
            violation: None,
        }
    }

    pub(super) fn broken(seed: u64, what: impl Into<String>) -> Line {
        Line { seed, violation: Some(what.into()), ..Line::default() }
    }

    pub(super) fn encode(&self) -> String {
        let mut line = format!("{} {} {}", self.seed, self.trace, self.lives);
        let mut add = |text: String| {
            line.push(' ');
            line.push_str(&text);
        };
        self.counts.iter().for_each(|count| add(count.to_string()));
        let faults = self.faults.iter().map(|(kind, count)| format!("{kind}={count}"));
        add(format!("faults:{}", faults.collect::<Vec<_>>().join(",")));
        let marks = self.marks.iter().map(u64::to_string);
        add(format!("marks:{}", marks.collect::<Vec<_>>().join(",")));
        if let Some(violation) = &self.violation {
            add(format!("! {}", violation.replace('\n', " ")));
        }
        line
    }

    pub(super) fn decode(line: &str) -> Option<Line> {
        let (front, violation) = match line.split_once(" ! ") {
            Some((front, violation)) => (front, Some(violation.trim_end().to_owned())),
            None => (line, None),
        };
        let words: Vec<&str> = front.split_whitespace().collect();
        let numbers: Vec<u64> =
            words.get(..NUMBERS)?.iter().map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let faults = words.get(NUMBERS)?.strip_prefix("faults:")?;
        let fault = |text: &str| {
            let (kind, count) = text.split_once('=')?;
            Some((kind.to_owned(), count.parse().ok()?))
        };
        let marks = words.get(NUMBERS + 1)?.strip_prefix("marks:")?;
        Some(Line {
            seed: numbers[0],
            trace: numbers[1],
            lives: numbers[2],
            counts: numbers[3..].try_into().ok()?,
            faults: faults.split(',').filter_map(fault).collect(),
            marks: marks.split(',').filter_map(|mark| mark.parse().ok()).collect(),
            violation,
        })
    }

    pub(super) fn describe(&self) -> String {
        let what = self.violation.as_deref().unwrap_or("nothing found");
        format!(
            "seed {}: {what}\n{} lives, trace {:016x}, {} acknowledged, {} crashes, faults {:?}",
            self.seed, self.lives, self.trace, self.counts[0], self.counts[3], self.faults
        )
    }
}

/// The sum of many seeds.
#[derive(Debug, Default)]
pub(super) struct Total {
    pub(super) seeds: u64,
    sum: Line,
    pub(super) broken: Vec<Line>,
}

impl Total {
    pub(super) fn add(&mut self, line: Line) {
        self.seeds += 1;
        self.sum.lives += line.lives;
        self.sum.counts.iter_mut().zip(line.counts).for_each(|(sum, count)| *sum += count);
        for (kind, count) in &line.faults {
            *self.sum.faults.entry(kind.clone()).or_default() += count;
        }
        self.sum.marks.resize(marks::NAMES.len(), 0);
        self.sum.marks.iter_mut().zip(&line.marks).for_each(|(sum, count)| *sum += count);
        if line.violation.is_some() {
            self.broken.push(line);
        }
    }

    /// Places that were never reached and should have been.
    pub(super) fn missed(&self) -> Vec<&'static str> {
        let reached = |i: usize| self.sum.marks.get(i).is_some_and(|count| *count > 0);
        let names = marks::NAMES.iter().enumerate();
        names
            .filter(|(i, name)| !reached(*i) && !LUCK.contains(name))
            .map(|(_, name)| *name)
            .collect()
    }

    /// Everything that was counted.
    pub(super) fn table(&self, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<52} {value:>16}");
        };
        line("seeds", self.seeds.to_string());
        line("seeds per second", format!("{:.1}", self.seeds as f64 / seconds));
        line("lives", self.sum.lives.to_string());
        let names = [
            "requests acknowledged",
            "requests refused",
            "requests without an answer",
            "crashes of a store in use",
            "openings that succeeded",
            "times a store said it was damaged",
            "sectors with too many orders to judge",
        ];
        for (name, count) in names.iter().zip(self.sum.counts) {
            line(name, count.to_string());
        }
        line("virtual time, hours", format!("{:.1}", self.sum.counts[7] as f64 / 3.6e12));
        let disk = |kind: &String| !kind.starts_with("Net");
        let faults = self.sum.faults.iter();
        let total: u64 = faults.filter(|(kind, _)| disk(kind)).map(|(_, count)| count).sum();
        line("disk faults", total.to_string());
        for kind in FaultKind::ALL {
            let name = format!("{kind:?}");
            let count = self.sum.faults.get(&name).copied().unwrap_or(0);
            line(&format!("  {name}"), count.to_string());
        }
        line("marks", String::new());
        for (name, count) in marks::NAMES.iter().zip(&self.sum.marks) {
            line(&format!("  {name}"), count.to_string());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back() {
        let line = Line {
            seed: 1,
            trace: u64::MAX,
            lives: 3,
            counts: [1, 2, 3, 4, 5, 6, 7, 8],
            faults: [("Torn".to_owned(), 3), ("NetCut".to_owned(), 1)].into(),
            marks: vec![0, 5, 1],
            violation: Some("atomic: this ! and that".to_owned()),
        };
        assert_eq!(Line::decode(&line.encode()), Some(line.clone()));
        let line = Line { violation: None, faults: BTreeMap::new(), ..line };
        assert_eq!(Line::decode(&line.encode()), Some(line));
        assert_eq!(Line::decode("1 2 3"), None);
    }
}
