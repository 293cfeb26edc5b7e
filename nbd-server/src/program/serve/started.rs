//! When this process was started, by the wall clock: of two processes that claim to be one node the
//! later one is believed.
//!
//! Must never know: what it is used for.

use rustix::time::{ClockId, clock_gettime};

/// Seconds since 1970, as far as the clock is set.
pub(super) fn seconds() -> u64 {
    clock_gettime(ClockId::Realtime).tv_sec.max(0) as u64
}
