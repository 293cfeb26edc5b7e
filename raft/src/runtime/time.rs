//! Points in time on the current reactor's clock, and waiting no longer than a time.
//!
//! Must never know: where the time comes from.

use super::current;
use ashlar_engine::reactor::Sleep;
use ashlar_engine::units::Nanos;
use pin_project_lite::pin_project;
use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// A point on a reactor's clock. Meaningful on that reactor only.
///
/// Signed, because openraft also reckons backwards from now, and a simulated clock starts at 0: a
/// lease that was granted "before" the start must not look younger than it is. Ends of the scale
/// are sticky.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant {
    nanos: i64,
}

impl Instant {
    /// As the reactor counts; its start if before it.
    pub(super) fn to_nanos(self) -> Nanos {
        Nanos(u64::try_from(self.nanos).unwrap_or(0))
    }
}

impl From<Nanos> for Instant {
    fn from(nanos: Nanos) -> Instant {
        Instant { nanos: i64::try_from(nanos.0).unwrap_or(i64::MAX) }
    }
}

fn signed(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, duration: Duration) -> Instant {
        Instant { nanos: self.nanos.saturating_add(signed(duration)) }
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, duration: Duration) -> Instant {
        Instant { nanos: self.nanos.saturating_sub(signed(duration)) }
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl Sub for Instant {
    type Output = Duration;
    /// Zero if `earlier` is later.
    fn sub(self, earlier: Instant) -> Duration {
        match self.nanos > earlier.nanos {
            true => Duration::from_nanos(self.nanos.abs_diff(earlier.nanos)),
            false => Duration::ZERO,
        }
    }
}

impl openraft_rt::Instant for Instant {
    fn now() -> Instant {
        current::get().reactor.now().into()
    }
}

pin_project! {
    /// A future that is given up at a deadline. If both are ready, the future wins.
    #[must_use = "futures do nothing unless awaited"]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        #[pin]
        sleep: Sleep,
    }
}

impl<F> Timeout<F> {
    pub(super) fn new(sleep: Sleep, future: F) -> Timeout<F> {
        Timeout { future, sleep }
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, TimedOut>;
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(context) {
            return Poll::Ready(Ok(output));
        }
        this.sleep.poll(context).map(|()| Err(TimedOut))
    }
}

impl<F> fmt::Debug for Timeout<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timeout({:?})", self.sleep)
    }
}

/// The deadline passed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time is up")
    }
}

impl std::error::Error for TimedOut {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_before_the_start_keeps_its_distance() {
        let start = Instant::from(Nanos(0));
        let before = start - Duration::from_secs(3);
        assert!(before < start);
        assert_eq!(start - before, Duration::from_secs(3));
        assert_eq!(before - start, Duration::ZERO);
        assert_eq!(before + Duration::from_secs(4), start + Duration::from_secs(1));
        assert_eq!(before.to_nanos(), Nanos(0));
    }

    #[test]
    fn ends_of_the_scale_are_sticky() {
        let end = Instant::from(Nanos(u64::MAX));
        assert_eq!(end + Duration::MAX, end);
        let start = end - Duration::MAX - Duration::MAX - Duration::MAX;
        assert_eq!(start - Duration::from_secs(1), start);
        assert_eq!(end - start, Duration::from_nanos(u64::MAX));
    }
}
