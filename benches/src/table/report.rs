//! Turns rows and figures into the text of `docs/benchmarks.md`.
//!
//! Must never know: how anything was measured.

use std::fmt::Write;

use super::side::FOREIGN_SHARE_MAX;

/// What a value must reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// Stated, not judged.
    Stated,
}

impl Goal {
    fn text(self, unit: &str) -> String {
        match self {
            Goal::AtLeast(bound) => format!(">= {bound}{unit}"),
            Goal::AtMost(bound) => format!("<= {bound}{unit}"),
            Goal::Stated => "stated".to_owned(),
        }
    }

    fn verdict(self, value: f64) -> &'static str {
        let met = match self {
            Goal::AtLeast(bound) => value >= bound,
            Goal::AtMost(bound) => value <= bound,
            Goal::Stated => return "",
        };
        if met { "pass" } else { "**miss**" }
    }
}

/// One line of the table of goals.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was done.
    pub work: String,
    /// What must be reached.
    pub goal: Goal,
    /// Unit of goal and value, with a leading space if it needs one.
    pub unit: &'static str,
    /// What was reached; an error says why there is nothing.
    pub value: Result<f64, String>,
    /// How it came about.
    pub detail: String,
    /// Other processes took CPU meanwhile.
    pub disturbed: bool,
}

/// One line of the table of figures: the medians of one side.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The comparison it belongs to.
    pub work: String,
    /// The side.
    pub side: String,
    /// Requests per second.
    pub iops: f64,
    /// Bytes per request.
    pub request_bytes: usize,
    /// Median of the medians.
    pub p50_micros: f64,
    /// Median of the 99th percentiles.
    pub p99_micros: f64,
    /// Server CPU per request.
    pub server_micros: Option<f64>,
    /// Client CPU per request.
    pub client_micros: f64,
    /// Largest share of a core that other processes took in one of its runs.
    pub foreign_share: f64,
}

/// The table of goals.
pub fn goals(rows: &[Row]) -> String {
    let mut text = String::from("| work | goal | measured | | how |\n|---|---|---|---|---|\n");
    for row in rows {
        let (measured, verdict) = match &row.value {
            Ok(value) => (format!("{}{}", short(*value), row.unit), row.goal.verdict(*value)),
            Err(why) => (format!("not measured: {}", one_line(why)), ""),
        };
        let mark = if row.disturbed { " (!)" } else { "" };
        let goal = row.goal.text(row.unit);
        let Row { work, detail, .. } = row;
        line(&mut text, &format!("| {work} | {goal} | {measured}{mark} | {verdict} | {detail} |"));
    }
    text
}

/// The table of figures.
pub fn figures(figures: &[Figure]) -> String {
    let mut text = String::from(
        "| work | side | IOPS | MiB/s | p50 us | p99 us | server us/op | client us/op | S/C | others |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for figure in figures {
        let Figure { work, side, iops, client_micros, .. } = figure;
        let mib = iops * figure.request_bytes as f64 / (1 << 20) as f64;
        let server = figure.server_micros.map_or("-".to_owned(), short);
        let quotient = figure.server_micros.map_or("-".to_owned(), |s| short(s / client_micros));
        let mark = if figure.foreign_share > FOREIGN_SHARE_MAX { " (!)" } else { "" };
        let others = format!("{:.0} %{mark}", figure.foreign_share * 100.0);
        let (p50, p99) = (short(figure.p50_micros), short(figure.p99_micros));
        let client = short(*client_micros);
        line(
            &mut text,
            &format!(
                "| {work} | {side} | {iops:.0} | {mib:.0} | {p50} | {p99} | {server} | {client} | \
                 {quotient} | {others} |"
            ),
        );
    }
    text
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("invariant: writing to a string cannot fail");
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/")
}

/// Three significant digits, no exponent.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.095 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_judged() {
        let row = |goal, value| Row {
            work: "w".into(),
            goal,
            unit: "",
            value,
            detail: String::new(),
            disturbed: false,
        };
        assert!(goals(&[row(Goal::AtLeast(1.0), Ok(1.0))]).contains("| pass |"));
        assert!(goals(&[row(Goal::AtMost(1.0), Ok(1.1))]).contains("| **miss** |"));
        assert!(goals(&[row(Goal::Stated, Ok(3.0))]).contains("| stated | 3.00 |  |"));
        let failed = goals(&[row(Goal::Stated, Err("no\nluck".into()))]);
        assert!(failed.contains("not measured: no luck"));
    }
}
