//! What a seed is cut down to, as arguments.

use crate::plan::{Canary, Class, Limits};
use ashlar_engine::reactor::sim::{FaultId, FaultKind};
use clap::Args;
use std::collections::BTreeSet;

#[derive(Args, Clone, Debug, Default)]
pub(super) struct LimitArgs {
    /// Classes of trouble to leave out, with commas between them.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// At most so many lives of the store.
    #[arg(long)]
    lives: Option<u32>,
    /// At most so many requests in a life.
    #[arg(long)]
    requests: Option<u32>,
    /// Faults that do not happen, as `Kind.first-last`, with commas between them.
    #[arg(long, value_delimiter = ',')]
    skip: Vec<String>,
    /// Break something on purpose: forgetful-disk, lying-client or swapped-sectors.
    #[arg(long)]
    canary: Option<String>,
    /// Clusters of nodes instead of single stores.
    #[arg(long)]
    cluster: bool,
}

const CANARIES: [(&str, Canary); 3] = [
    ("forgetful-disk", Canary::ForgetfulDisk),
    ("lying-client", Canary::LyingClient),
    ("swapped-sectors", Canary::SwappedSectors),
];

/// Faults as `Kind.first-last`.
fn faults(text: &str) -> Option<impl Iterator<Item = FaultId> + use<>> {
    let (kind, numbers) = text.split_once('.')?;
    let kind = FaultKind::ALL.into_iter().find(|known| format!("{known:?}") == kind)?;
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let numbers = first.parse::<u64>().ok()?..=last.parse::<u64>().ok()?;
    Some(numbers.map(move |number| FaultId { kind, number }))
}

/// Faults as ranges of numbers.
fn fault_ranges(skip: &BTreeSet<FaultId>) -> Vec<String> {
    let mut ranges: Vec<(FaultId, u64)> = Vec::new();
    for id in skip {
        match ranges.last_mut() {
            Some((first, last)) if first.kind == id.kind && *last + 1 == id.number => *last += 1,
            _ => ranges.push((*id, id.number)),
        }
    }
    let text =
        |(FaultId { kind, number }, last): &(FaultId, u64)| format!("{kind:?}.{number}-{last}");
    ranges.iter().map(text).collect()
}

impl LimitArgs {
    pub(super) fn parse(&self) -> Result<Limits, String> {
        let class = |name: &String| Class::find(name).ok_or(format!("no class {name:?}"));
        let skip = |text: &String| faults(text).ok_or(format!("no fault {text:?}"));
        let skipped: Vec<_> = self.skip.iter().map(skip).collect::<Result<_, _>>()?;
        let canary = |name: &String| {
            let found = CANARIES.iter().find(|(known, _)| known == name);
            found.map(|(_, canary)| *canary).ok_or(format!("no canary {name:?}"))
        };
        Ok(Limits {
            without: self.without.iter().map(class).collect::<Result<_, _>>()?,
            lives: self.lives,
            requests: self.requests,
            skip: skipped.into_iter().flatten().collect(),
            canary: self.canary.as_ref().map(canary).transpose()?,
            cluster: self.cluster,
        })
    }
}

/// The arguments that give these limits.
pub(super) fn arguments(limits: &Limits) -> Vec<String> {
    let mut all = Vec::new();
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            all.extend([name.to_owned(), value]);
        }
    };
    let classes: Vec<String> = limits.without.iter().map(|class| class.name()).collect();
    add("--without", classes.join(","));
    add("--lives", limits.lives.map_or_else(String::new, |lives| lives.to_string()));
    add("--requests", limits.requests.map_or_else(String::new, |count| count.to_string()));
    add("--skip", fault_ranges(&limits.skip).join(","));
    let canary = CANARIES.iter().find(|(_, canary)| Some(*canary) == limits.canary);
    add("--canary", canary.map_or_else(String::new, |(name, _)| (*name).to_owned()));
    all.extend(limits.cluster.then(|| "--cluster".to_owned()));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        limits: LimitArgs,
    }

    #[test]
    fn limits_survive_the_command_line() {
        let limits = Limits {
            without: [Class::Rot, Class::Lies].into(),
            lives: Some(3),
            requests: None,
            skip: [3, 4, 5, 9].map(|number| FaultId { kind: FaultKind::Short, number }).into(),
            canary: Some(Canary::LyingClient),
            cluster: true,
        };
        let arguments = ["x".to_owned()].into_iter().chain(arguments(&limits));
        let parsed = Only::try_parse_from(arguments).expect("parses");
        assert_eq!(parsed.limits.parse(), Ok(limits));
        let unknown = Only::try_parse_from(["x", "--without", "nothing"]).expect("parses");
        assert!(unknown.limits.parse().is_err());
    }
}
