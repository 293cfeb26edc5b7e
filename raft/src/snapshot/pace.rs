//! How fast a node sends snapshots: as fast as they are taken while no client asks anything of it,
//! else at a bounded rate, all of them together.
//!
//! Must never know: what is sent, to whom.

use crate::limits::{SNAPSHOT_BUSY_PAUSE, SNAPSHOT_BUSY_TIME, SNAPSHOT_SILENCE_MAX};
use ashlar_engine::reactor::Reactor;
use ashlar_engine::units::Nanos;
use std::cell::Cell;

/// See the module. One for all groups of a node.
#[derive(Debug, Default)]
pub struct Pace {
    /// When a client's request was last seen.
    used: Cell<Nanos>,
    /// When the next piece may be sent, if clients are there.
    next: Cell<Nanos>,
}

impl Pace {
    /// A client's request has come.
    pub(crate) fn touch(&self, now: Nanos) {
        self.used.set(now);
    }

    /// Waits as long as one more piece should wait for clients.
    pub(crate) async fn piece(&self, reactor: &Reactor) {
        let now = reactor.now();
        if now >= self.used.get() + SNAPSHOT_BUSY_TIME {
            return;
        }
        // Who waits for a piece for long takes the sender for dead.
        let turn = self.next.get().clamp(now + SNAPSHOT_BUSY_PAUSE, now + SNAPSHOT_SILENCE_MAX / 2);
        self.next.set(turn + SNAPSHOT_BUSY_PAUSE);
        reactor.sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_engine::reactor::sim::{World, WorldOptions};
    use futures_util::future::join_all;

    #[test]
    fn snapshots_share_one_rate_while_there_are_clients() {
        let world = World::new(1, WorldOptions::default());
        let reactor = world.reactor();
        let pace = Pace::default();
        reactor.block_on(async {
            reactor.sleep(2 * SNAPSHOT_BUSY_TIME).await;
            let start = reactor.now();
            join_all((0..8).map(|_| pace.piece(&reactor))).await;
            assert_eq!(reactor.now(), start, "nobody is there to wait for");
            pace.touch(start);
            join_all((0..4).map(|_| pace.piece(&reactor))).await;
            assert_eq!(reactor.now().since(start), 4 * SNAPSHOT_BUSY_PAUSE);
            let start = reactor.now();
            pace.touch(start);
            join_all((0..100).map(|_| pace.piece(&reactor))).await;
            assert!(reactor.now().since(start) < SNAPSHOT_SILENCE_MAX);
        });
    }
}
