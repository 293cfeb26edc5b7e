//! What happens to the network in a round, and to whom it leaves a majority.
//!
//! Must never know: namespaces, processes.

use crate::fleet::NODES;
use crate::network::Direction;
use crate::random::Random;

/// What is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// One node from all others.
    Isolate(usize),
    /// What one node says; it hears.
    Mute(usize),
    /// What one node would hear; it speaks.
    Deaf(usize),
    /// One direction between two.
    OneWay(usize, usize),
    /// Both between two: the third node sees both.
    Pair(usize, usize),
    /// Everything.
    All,
    /// One node from all others, again and again.
    Flap(usize),
}

/// What a node's clients may expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It hears from all that anybody hears from, and these are a majority: no error.
    Majority,
    /// It hears from a majority, but not from all of it.
    Partial,
    /// It is alone.
    Minority,
}

impl Cut {
    /// Some cut; of the one who leads in half of the cases.
    pub(super) fn choose(random: &mut Random, leader: Option<usize>) -> Cut {
        let any = random.below(NODES as u64) as usize;
        let one = leader.filter(|_| random.below(2) == 0).unwrap_or(any);
        let other = (one + 1 + random.below(NODES as u64 - 1) as usize) % NODES;
        let (from, to) = if random.below(2) == 0 { (one, other) } else { (other, one) };
        match random.below(8) {
            0 | 1 => Cut::Isolate(one),
            2 => Cut::Mute(one),
            3 => Cut::Deaf(one),
            4 => Cut::OneWay(from, to),
            5 => Cut::Pair(one, other),
            6 => Cut::All,
            _ => Cut::Flap(one),
        }
    }

    /// Its name in a report.
    pub fn name(self) -> &'static str {
        match self {
            Cut::Isolate(_) => "isolate",
            Cut::Mute(_) => "mute",
            Cut::Deaf(_) => "deaf",
            Cut::OneWay(..) => "one way",
            Cut::Pair(..) => "pair",
            Cut::All => "all",
            Cut::Flap(_) => "flap",
        }
    }

    /// The directions in which nothing passes.
    pub fn directions(self) -> Vec<Direction> {
        let all = (0..NODES).flat_map(|from| (0..NODES).map(move |to| (from, to)));
        let is_cut = |(from, to): &Direction| match self {
            Cut::Isolate(one) | Cut::Flap(one) => *from == one || *to == one,
            Cut::Mute(one) => *from == one,
            Cut::Deaf(one) => *to == one,
            Cut::OneWay(a, b) => (a, b) == (*from, *to),
            Cut::Pair(a, b) => (a, b) == (*from, *to) || (b, a) == (*from, *to),
            Cut::All => true,
        };
        all.filter(|(from, to)| from != to).filter(is_cut).collect()
    }

    /// Whether it concerns this node.
    pub(super) fn touches(self, node: usize) -> bool {
        match self {
            Cut::Isolate(one) | Cut::Mute(one) | Cut::Deaf(one) | Cut::Flap(one) => one == node,
            Cut::OneWay(a, b) | Cut::Pair(a, b) => a == node || b == node,
            Cut::All => true,
        }
    }

    /// What the clients of each node may expect, with one of the nodes dead perhaps. A connection
    /// needs both directions.
    pub fn standings(self, dead: Option<usize>) -> [Standing; NODES] {
        let cut = self.directions();
        let linked = |a: usize, b: usize| {
            let lives = dead != Some(a) && dead != Some(b);
            a != b && lives && !cut.contains(&(a, b)) && !cut.contains(&(b, a))
        };
        let has_link = |node: usize| (0..NODES).any(|other| linked(node, other));
        std::array::from_fn(|node| match has_link(node) {
            false => Standing::Minority,
            true => {
                let others = (0..NODES).filter(|other| *other != node && has_link(*other));
                match others.into_iter().all(|other| linked(node, other)) {
                    true => Standing::Majority,
                    false => Standing::Partial,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Standing::{Majority, Minority, Partial};
    use super::*;

    #[test]
    fn standings_follow_from_who_hears_whom() {
        let cases = [
            (Cut::Isolate(0), None, [Minority, Majority, Majority]),
            (Cut::Flap(2), None, [Majority, Majority, Minority]),
            (Cut::Mute(1), None, [Majority, Minority, Majority]),
            (Cut::Deaf(1), Some(1), [Majority, Minority, Majority]),
            (Cut::Deaf(1), Some(0), [Minority, Minority, Minority]),
            (Cut::OneWay(2, 0), None, [Partial, Majority, Partial]),
            (Cut::Pair(0, 2), None, [Partial, Majority, Partial]),
            (Cut::Pair(0, 2), Some(0), [Minority, Majority, Majority]),
            (Cut::All, None, [Minority, Minority, Minority]),
        ];
        for (cut, dead, standings) in cases {
            assert_eq!(cut.standings(dead), standings, "{cut:?}, {dead:?} dead");
        }
    }

    #[test]
    fn every_cut_is_made_in_some_round() {
        let mut random = Random::new(1);
        let made = (0..200).map(|_| Cut::choose(&mut random, Some(0)).name());
        assert_eq!(made.collect::<std::collections::BTreeSet<_>>().len(), 7);
    }

    #[test]
    fn a_cut_that_flaps_cuts_what_isolation_does() {
        assert_eq!(Cut::Flap(1).directions(), vec![(0, 1), (1, 0), (1, 2), (2, 1)]);
        assert_eq!(Cut::Flap(1).directions(), Cut::Isolate(1).directions());
        assert_eq!(Cut::OneWay(2, 0).directions(), vec![(2, 0)]);
    }
}
