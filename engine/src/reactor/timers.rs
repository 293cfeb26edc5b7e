//! Timers: which wakers are due when.
//!
//! Invariant: timers fire in order of deadline, equal ones in the order they were set.
//! Must never know: where the time comes from.

use crate::units::Nanos;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::task::Waker;

/// Names one timer: its deadline, and a number against equal ones.
pub(super) type TimerKey = (Nanos, u64);

#[derive(Default)]
pub(super) struct Timers {
    waiting: RefCell<BTreeMap<TimerKey, Waker>>,
    set: Cell<u64>,
}

impl Timers {
    pub(super) fn set(&self, deadline: Nanos, waker: Waker) -> TimerKey {
        let number = self.set.get();
        self.set.set(number + 1);
        self.waiting.borrow_mut().insert((deadline, number), waker);
        (deadline, number)
    }

    /// Replaces the waker, if the timer has not fired.
    pub(super) fn renew(&self, key: TimerKey, waker: &Waker) {
        if let Some(known) = self.waiting.borrow_mut().get_mut(&key)
            && !known.will_wake(waker)
        {
            known.clone_from(waker);
        }
    }

    pub(super) fn cancel(&self, key: TimerKey) {
        let cancelled = self.waiting.borrow_mut().remove(&key);
        drop(cancelled); // Outside the borrow: a waker's drop may run anything.
    }

    pub(super) fn next_deadline(&self) -> Option<Nanos> {
        self.waiting.borrow().first_key_value().map(|(key, _)| key.0)
    }

    /// Wakes everything due at `now`.
    pub(super) fn fire(&self, now: Nanos) {
        loop {
            let mut waiting = self.waiting.borrow_mut();
            let Some(first) = waiting.first_entry().filter(|first| first.key().0 <= now) else {
                return;
            };
            let waker = first.remove();
            drop(waiting);
            waker.wake();
        }
    }
}
