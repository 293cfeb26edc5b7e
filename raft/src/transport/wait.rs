//! Waiting with an end.
//!
//! Must never know: what is waited for.

use ashlar_engine::reactor::Reactor;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// `future`, or `None` if it takes longer than `limit`.
pub(super) async fn within<T>(
    reactor: &Reactor,
    limit: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let (mut future, mut sleep) = (pin!(future), pin!(reactor.sleep(limit)));
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => sleep.as_mut().poll(context).map(|()| None),
    })
    .await
}
