//! Alarms: time-outs in the kernel that end a wait when the first timer is due.
//!
//! A time-out of the wait itself would be set and cancelled with every wait, which under load is
//! many times a millisecond, and each programs the processor's timer: in a virtual machine that
//! leaves the guest. An alarm stays set, however often other things end waits before it goes off;
//! if its timer was cancelled meanwhile, it goes off for nothing, once.
//!
//! Invariants: one of the alarms set, if any, goes off when the first timer is due, or before; a
//! place is taken until its completion was reaped, so that the kernel reads the time it was given.
//! Must never know: whose timers they are.

use crate::units::Nanos;
use io_uring::types::{TimeoutFlags, Timespec};
use io_uring::{opcode, squeue};
use std::cell::Cell;

/// Alarms that are set at once: each is for an earlier timer than those set before it.
const ALARMS_MAX: usize = 4;

#[derive(Default)]
struct Place {
    due: Cell<Option<Nanos>>,
    /// What the entry names: written only while the place is free.
    time: Cell<Timespec>,
}

/// The alarms of a ring.
pub(super) struct Alarms {
    /// Whether the kernel has them.
    supported: Cell<bool>,
    places: Box<[Place; ALARMS_MAX]>,
}

impl Alarms {
    pub(super) fn new(supported: bool) -> Alarms {
        Alarms { supported: Cell::new(supported), places: Box::default() }
    }

    /// Whether one goes off at `deadline` or before.
    pub(super) fn cover(&self, deadline: Nanos) -> bool {
        self.places.iter().any(|place| place.due.get().is_some_and(|due| due <= deadline))
    }

    /// Takes a place for an alarm at `deadline`: its number, and its entry, which must be handed
    /// to the kernel, and names memory of the place. `None` if all are set, or
    /// the kernel has none.
    pub(super) fn set(&self, deadline: Nanos) -> Option<(u64, squeue::Entry)> {
        let free = |place: &Place| self.supported.get() && place.due.get().is_none();
        let number = self.places.iter().position(free)?;
        let place = &self.places[number];
        place.due.set(Some(deadline));
        let (seconds, rest) = (deadline.0 / 1_000_000_000, deadline.0 % 1_000_000_000);
        place.time.set(Timespec::new().sec(seconds).nsec(rest as u32));
        let flags = TimeoutFlags::ABS | TimeoutFlags::BOOTTIME;
        let entry = opcode::Timeout::new(place.time.as_ptr()).flags(flags).build();
        Some((number as u64, entry))
    }

    /// The alarm of that number is done: it went off, if the kernel took it.
    pub(super) fn done(&self, number: u64, result: i32) {
        self.places[number as usize].due.set(None);
        if result != -libc::ETIME {
            self.supported.set(false); // Or it would be tried, and refused, again at once.
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.iter().filter(|place| place.due.get().is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_set_for_ever_earlier_timers_until_all_are() {
        let alarms = Alarms::new(true);
        assert!(!alarms.cover(Nanos(u64::MAX)));
        for number in 0..ALARMS_MAX as u64 {
            let deadline = Nanos(100 - 10 * number);
            assert!(!alarms.cover(deadline));
            assert_eq!(alarms.set(deadline).map(|(set, _)| set), Some(number));
            assert!(alarms.cover(deadline) && alarms.cover(Nanos(1000)));
        }
        assert!(alarms.set(Nanos(1)).is_none());
        alarms.done(3, -libc::ETIME);
        assert!(!alarms.cover(Nanos(75)) && alarms.cover(Nanos(80)));
        assert_eq!(alarms.set(Nanos(1)).map(|(set, _)| set), Some(3));
    }

    #[test]
    fn after_a_refusal_none_is_set() {
        let alarms = Alarms::new(true);
        assert!(alarms.set(Nanos(1)).is_some());
        alarms.done(0, -libc::EINVAL);
        assert!(!alarms.cover(Nanos(1)) && alarms.set(Nanos(1)).is_none());
        assert!(Alarms::new(false).set(Nanos(1)).is_none());
    }
}
