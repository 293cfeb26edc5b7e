//! What the mutants came to: a line each, the score, and whether it is good enough.

use super::patch::Mutant;
use super::stage::Verdict;
use std::fmt::Write;
use std::time::Duration;

/// Mutants of 100 that must be killed.
const SCORE_MIN: usize = 95;

/// One mutant's result.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) mutant: Mutant,
    pub(super) verdict: Verdict,
    pub(super) took: Duration,
}

impl Row {
    fn is_killed(&self) -> bool {
        matches!(self.verdict, Verdict::Killed(_) | Verdict::Hung(_))
    }

    /// The row as a line.
    pub(super) fn line(&self) -> String {
        let verdict = match &self.verdict {
            Verdict::Killed(by) => by.clone(),
            Verdict::Hung(stage) => format!("{stage}: hang"),
            Verdict::Passed => match &self.mutant.survives {
                Some(why) => format!("SURVIVES: {why}"),
                None => "SURVIVES".to_owned(),
            },
            Verdict::NotBuilt(why) => format!("NOT BUILT: {why}"),
        };
        let data = if self.mutant.loses_data { "data" } else { "" };
        format!("{:<44} {data:<5} {:>5}  {verdict}", self.mutant.name, self.took.as_secs())
    }
}

/// The table, and whether all is as it should be.
pub(super) fn table(rows: &[Row]) -> (String, bool) {
    let mut text = format!("{:<44} {:<5} {:>5}  killed by\n", "mutant", "", "s");
    rows.iter().for_each(|row| text.push_str(&format!("{}\n", row.line())));
    let count = |wanted: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| wanted(row)).count();
    let (all, killed) = (rows.len(), count(&Row::is_killed));
    let data = count(&|row| row.mutant.loses_data);
    let data_killed = count(&|row| row.mutant.loses_data && row.is_killed());
    let percent =
        |part: usize, of: usize| if of == 0 { 100.0 } else { part as f64 * 100.0 / of as f64 };
    let mut say = |what: &str, part, of| {
        writeln!(text, "{what}: {part} of {of} killed, {:.1} %", percent(part, of)).ok();
    };
    say("all", killed, all);
    say("losing or corrupting data", data_killed, data);
    let unexplained =
        |row: &Row| row.mutant.loses_data && !row.is_killed() && row.mutant.survives.is_none();
    let not_built = |row: &Row| matches!(row.verdict, Verdict::NotBuilt(_));
    for row in rows.iter().filter(|row| row.is_killed() && row.mutant.survives.is_some()) {
        writeln!(text, "{}: killed, although its head says that it survives", row.mutant.name).ok();
    }
    let good =
        killed * 100 >= all * SCORE_MIN && count(&unexplained) == 0 && count(&not_built) == 0;
    (text, good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(loses_data: bool, survives: Option<&str>, verdict: Verdict) -> Row {
        let mutant = Mutant {
            name: "01-x".to_owned(),
            bug: String::new(),
            loses_data,
            promise: String::new(),
            survives: survives.map(str::to_owned),
            changes: Vec::new(),
        };
        Row { mutant, verdict, took: Duration::ZERO }
    }

    #[test]
    fn the_score_is_judged() {
        let killed = row(true, None, Verdict::Killed("seeds".to_owned()));
        let many = |last: Row| {
            let mut rows = vec![killed.clone(); 19];
            rows.push(last);
            table(&rows).1
        };
        assert!(many(killed.clone()));
        assert!(many(row(false, None, Verdict::Passed)), "95 of 100 will do");
        assert!(!many(row(true, None, Verdict::Passed)), "but not where data is lost");
        assert!(many(row(true, Some("no matter"), Verdict::Passed)), "unless it is explained");
        assert!(!many(row(false, None, Verdict::NotBuilt(String::new()))));
        assert!(!table(&[killed.clone(), row(false, None, Verdict::Passed)]).1);
        assert!(table(&[killed, row(true, None, Verdict::Hung("seeds"))]).1);
    }
}
