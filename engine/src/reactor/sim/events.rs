//! What will happen when: the queue that virtual time jumps along.
//!
//! Invariant: events come in order of time, equal ones in the order they were queued.
//! Must never know: what the events do.

use crate::units::Nanos;
use std::collections::BTreeMap;

/// When, and a number against equal times.
pub(super) type EventKey = (Nanos, u64);

/// A queue of events in time.
pub(super) struct Events<T> {
    waiting: BTreeMap<EventKey, T>,
    queued: u64,
}

impl<T> Events<T> {
    pub(super) fn new() -> Events<T> {
        Events { waiting: BTreeMap::new(), queued: 0 }
    }

    pub(super) fn push(&mut self, at: Nanos, event: T) -> EventKey {
        let key = (at, self.queued);
        self.queued += 1;
        self.waiting.insert(key, event);
        key
    }

    pub(super) fn next_time(&self) -> Option<Nanos> {
        self.waiting.first_key_value().map(|(key, _)| key.0)
    }

    /// Takes the first event if it is due at `now`.
    pub(super) fn pop_due(&mut self, now: Nanos) -> Option<T> {
        let first = self.waiting.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }

    /// Takes out every event that `picks` picks, in order.
    pub(super) fn take_if(&mut self, picks: impl FnMut(&EventKey, &mut T) -> bool) -> Vec<T> {
        self.waiting.extract_if(.., picks).map(|(_, event)| event).collect()
    }
}
