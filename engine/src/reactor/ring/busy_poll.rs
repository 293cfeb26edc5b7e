//! Polling for completions before sleep, as hypervisors do for halted guests (Linux,
//! `Documentation/virt/kvm/halt-polling.rst`).
//!
//! To wake a thread takes longer than most steps of a request: its processor must leave its idle
//! state, which in a virtual machine is an exit to the hypervisor, and a replicated write has five
//! such wake-ups in a row. So a ring whose waits are short looks for a while before it sleeps. It
//! learns for how long: a wait that polling would have ended makes the time longer; one that it
//! could not have ended stops polling until waits are short again, so that who waits for rare
//! events never polls.
//!
//! Between looks it yields: whoever else wants the processor gets it. Who then keeps it makes
//! completions wait, where a wake-up might have taken it back; so after that there is a pause, and
//! a longer one if it happens again.
//!
//! A ring that moves much between waits does not poll. It has a queue: what it would gain in
//! latency it would pay in work per request.
//!
//! Must never know: what it is that is waited for.

use crate::units::Nanos;
use std::cell::Cell;
use std::time::Duration;

/// Polled at first, when waits become short.
const START: Duration = Duration::from_micros(50);
/// By how much a wait that polling would have ended makes the time longer.
const GROWTH: u32 = 4;
/// Bytes moved between two waits, on average, above which a ring does not poll. Nodes of a cluster
/// that take 4 KiB writes poll while 1 or 4 are under way, hardly at 8, and not at 32.
const MOVED_MAX_BYTES: u64 = 16 << 10;
/// Waits over which bytes are averaged.
const MEAN_OF: u64 = 16;
/// One look. What takes longer was the work of somebody who kept the processor.
const LOOK_MAX: Duration = Duration::from_millis(1);
/// Without polling after that: the first time, and at most, if it happens again and again.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(16);

/// When and for how long a ring polls.
pub(super) struct BusyPoll {
    max: Duration,
    /// For how long the next wait is polled.
    time: Cell<Duration>,
    /// Not before, since others want the processor.
    paused_until: Cell<Nanos>,
    /// The last pause.
    pause: Cell<Duration>,
    moved_bytes: Cell<u64>,
    /// Mean of bytes moved between waits, times [`MEAN_OF`].
    mean_bytes: Cell<u64>,
}

/// A wait that is being polled.
pub(super) struct Look {
    until: Nanos,
    last: Nanos,
}

impl BusyPoll {
    /// Polls for at most `max` at a time; never if that is zero.
    pub(super) fn new(max: Duration) -> BusyPoll {
        BusyPoll {
            max,
            time: Cell::default(),
            paused_until: Cell::new(Nanos(0)),
            pause: Cell::default(),
            moved_bytes: Cell::new(0),
            mean_bytes: Cell::new(0),
        }
    }

    /// Whether it may ever poll.
    pub(super) fn is_on(&self) -> bool {
        !self.max.is_zero()
    }

    /// An operation moved `bytes`.
    pub(super) fn moved(&self, bytes: u64) {
        self.moved_bytes.set(self.moved_bytes.get().saturating_add(bytes));
    }

    /// A wait begins that ends at `deadline`, if there is one. `None` if it is not polled.
    pub(super) fn begin(&self, now: Nanos, deadline: Option<Nanos>) -> Option<Look> {
        let mean = self.mean_bytes.get();
        let mean = (mean - mean / MEAN_OF).saturating_add(self.moved_bytes.replace(0));
        self.mean_bytes.set(mean);
        let polls = mean / MEAN_OF <= MOVED_MAX_BYTES && now >= self.paused_until.get();
        let limit = now + self.time.get();
        let until = deadline.map_or(limit, |deadline| deadline.min(limit));
        (polls && until > now).then_some(Look { until, last: now })
    }

    /// Whether to look once more.
    pub(super) fn goes_on(&self, look: &mut Look, now: Nanos) -> bool {
        let contended = now.since(look.last) > LOOK_MAX;
        if contended {
            self.make_way(now);
        }
        look.last = now;
        !contended && now < look.until
    }

    /// Pauses, twice as long as before if that was not longer ago than it lasted.
    fn make_way(&self, now: Nanos) {
        let again = now.since(self.paused_until.get()) < self.pause.get();
        self.pause.set(match again {
            true => (self.pause.get() * 2).min(PAUSE_MAX),
            false => PAUSE_MIN,
        });
        self.paused_until.set(now + self.pause.get());
    }

    /// The wait took so long.
    pub(super) fn end(&self, waited: Duration) {
        let time = self.time.get();
        if waited > self.max {
            self.time.set(Duration::ZERO);
        } else if waited > time {
            self.time.set((time * GROWTH).max(START).min(self.max));
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: only short waits are polled, within bounds, and not at the cost of others.
    //! Method: waits of given lengths, without a ring or a clock.

    use super::*;
    use proptest::prelude::*;

    const MAX: Duration = Duration::from_micros(500);
    const NOW: Nanos = Nanos(1 << 40);

    fn micros(number: u64) -> Duration {
        Duration::from_micros(number)
    }

    /// How long a wait that begins now is polled.
    fn polls(busy_poll: &BusyPoll, now: Nanos) -> Duration {
        busy_poll.begin(now, None).map_or(Duration::ZERO, |look| look.until.since(now))
    }

    /// Polls as long as it may.
    fn eager() -> BusyPoll {
        let busy_poll = BusyPoll::new(MAX);
        for _ in 0..4 {
            busy_poll.end(MAX);
        }
        assert_eq!(polls(&busy_poll, NOW), MAX);
        busy_poll
    }

    #[test]
    fn short_waits_are_polled_until_one_is_long() {
        let busy_poll = BusyPoll::new(MAX);
        assert_eq!(polls(&busy_poll, NOW), Duration::ZERO);
        for time in [50, 200, 500, 500] {
            busy_poll.end(micros(300));
            assert_eq!(polls(&busy_poll, NOW), micros(time.min(500)));
        }
        busy_poll.end(micros(501));
        assert_eq!(polls(&busy_poll, NOW), Duration::ZERO);
    }

    #[test]
    fn waits_that_polling_ends_leave_its_time_as_it_is() {
        let busy_poll = BusyPoll::new(MAX);
        busy_poll.end(micros(60));
        for _ in 0..10 {
            busy_poll.end(micros(40));
        }
        assert_eq!(polls(&busy_poll, NOW), START);
    }

    #[test]
    fn a_queue_is_not_polled() {
        let busy_poll = eager();
        for _ in 0..100 {
            busy_poll.moved(2 * MOVED_MAX_BYTES);
            busy_poll.begin(NOW, None);
        }
        assert_eq!(polls(&busy_poll, NOW), Duration::ZERO);
        for _ in 0..100 {
            busy_poll.moved(MOVED_MAX_BYTES / 2);
            busy_poll.begin(NOW, None);
        }
        assert_eq!(polls(&busy_poll, NOW), MAX);
    }

    #[test]
    fn who_keeps_the_processor_is_left_alone_for_ever_longer() {
        let busy_poll = eager();
        let kept = LOOK_MAX + micros(1);
        let mut now = NOW;
        for quarters in [1, 2, 4, 8, 16, 32, 64, 64] {
            let mut look = busy_poll.begin(now, None).unwrap();
            assert!(busy_poll.goes_on(&mut look, now + micros(400)));
            now = now + micros(400) + kept;
            assert!(!busy_poll.goes_on(&mut look, now));
            let pause = PAUSE_MIN * quarters;
            assert_eq!(polls(&busy_poll, now + (pause - micros(1))), Duration::ZERO);
            now = now + pause;
        }
        // Once it was left in peace as long as it paused, it starts anew.
        now = now + PAUSE_MAX;
        let mut look = busy_poll.begin(now, None).unwrap();
        assert!(!busy_poll.goes_on(&mut look, now + kept));
        assert_eq!(polls(&busy_poll, now + kept + PAUSE_MIN), MAX);
    }

    /// How long a wait takes and what was moved before it; how long it is to its deadline.
    fn step() -> impl Strategy<Value = (u64, u64, Option<u64>)> {
        (0_u64..3000, 0_u64..100_000, prop::option::of(0_u64..1000))
    }

    proptest! {
        #[test]
        fn never_beyond_a_bound(
            max in 0_u64..2000,
            steps in prop::collection::vec(step(), 0..50),
        ) {
            let busy_poll = BusyPoll::new(micros(max));
            prop_assert_eq!(busy_poll.is_on(), max > 0);
            let mut now = NOW;
            for (waited, moved, left) in steps {
                busy_poll.moved(moved);
                let deadline = left.map(|left| now + micros(left));
                if let Some(mut look) = busy_poll.begin(now, deadline) {
                    prop_assert!(look.until > now && look.until <= now + micros(max));
                    prop_assert!(deadline.is_none_or(|deadline| look.until <= deadline));
                    let until = look.until;
                    prop_assert!(!busy_poll.goes_on(&mut look, until));
                }
                busy_poll.end(micros(waited));
                now = now + micros(waited);
            }
        }
    }
}
