//! When what waits waits a little longer: until those whose writes were just answered write again.
//!
//! Clients that always have so many writes under way come back at once when some are answered.
//! Without this they fall into two parts that take turns, each of which waits for the proposal of
//! the other, and a proposal costs all members much the same, however few writes it has.
//!
//! Invariants: a wait lasts at most half as long as the proposal before it took, and
//! [`GATHER_MAX`]; where they do not come back, it is tried ever less often.
//! Must never know: what is written, who writes.

use crate::limits::{GATHER_MAX, GATHER_SKIPPED_MAX};
use ashlar_engine::units::Nanos;
use std::time::Duration;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gather {
    held: Option<Held>,
    /// Waits that were given up one after the other.
    in_vain: u32,
    /// Proposals after which nobody is waited for.
    skip: u32,
}

#[derive(Debug)]
struct Held {
    until: Nanos,
    /// Writes that waited when it began,
    before: usize,
    /// and those that were answered then.
    answered: usize,
}

impl Gather {
    /// A proposal that took so long was answered, none is under way, and `waiting` writes wait.
    /// When to ask again, if they are to be held.
    pub(super) fn begin(
        &mut self,
        now: Nanos,
        took: Duration,
        answered: usize,
        waiting: usize,
    ) -> Option<Nanos> {
        self.held = None;
        // One client that waits for each of its writes has nobody to wait for.
        if answered + waiting < 2 {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let until = now + (took / 2).min(GATHER_MAX);
        self.held = Some(Held { until, before: waiting, answered });
        Some(until)
    }

    /// Whether writes are held at this time, of which `waiting` wait.
    pub(super) fn holds(&mut self, now: Nanos, waiting: usize) -> bool {
        let Some(held) = &self.held else { return false };
        let came = waiting.saturating_sub(held.before);
        if came < held.answered && now < held.until {
            return true;
        }
        if 4 * came >= held.answered {
            self.in_vain = 0;
        } else {
            self.in_vain += 1;
            self.skip = 1_u32.checked_shl(self.in_vain).unwrap_or(u32::MAX).min(GATHER_SKIPPED_MAX);
        }
        self.held = None;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_micros(400);

    fn at(micros: u64) -> Nanos {
        Nanos(micros * 1000)
    }

    #[test]
    fn it_ends_when_as_many_have_come_as_were_answered() {
        let mut gather = Gather::default();
        assert_eq!(gather.begin(at(0), TOOK, 3, 5), Some(at(200)));
        assert!(gather.holds(at(0), 5) && gather.holds(at(199), 7));
        assert!(!gather.holds(at(199), 8));
        assert!(!gather.holds(at(199), 5), "it has ended");
    }

    #[test]
    fn it_ends_in_time_and_never_lasts_long() {
        let mut gather = Gather::default();
        assert_eq!(gather.begin(at(0), TOOK, 2, 0), Some(at(200)));
        assert!(gather.holds(at(199), 1));
        assert!(!gather.holds(at(200), 1));
        let until = gather.begin(at(1000), Duration::from_secs(1), 2, 0);
        assert_eq!(until, Some(at(1000) + GATHER_MAX));
    }

    #[test]
    fn one_write_at_a_time_is_never_held() {
        let mut gather = Gather::default();
        assert_eq!(gather.begin(at(0), TOOK, 1, 0), None);
        assert!(!gather.holds(at(0), 1));
    }

    #[test]
    fn where_nobody_comes_back_it_is_tried_ever_less_often() {
        let mut gather = Gather::default();
        let mut tried = |rounds: u32, came: usize| {
            let held = (0..rounds).filter(|_| {
                let begun = gather.begin(at(0), TOOK, 4, 1).is_some();
                assert!(!gather.holds(at(200), 1 + came));
                begun
            });
            held.count()
        };
        assert_eq!(tried(1, 0), 1);
        assert_eq!(tried(2, 0), 0);
        assert_eq!(tried(1, 0), 1);
        assert_eq!(tried(4, 0), 0);
        let rounds = 10 * (GATHER_SKIPPED_MAX + 1);
        let rare = tried(rounds, 0);
        assert!((8..=16).contains(&rare), "{rare}");
        // A quarter of them is enough to go on.
        tried(GATHER_SKIPPED_MAX + 1, 1);
        assert_eq!(tried(10, 1), 10);
    }
}
