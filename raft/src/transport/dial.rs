//! Keeping a connection with one peer: calling it whenever there is none, with pauses that grow.
//!
//! Must never know: what is said on connections.

use super::handshake;
use super::limits::{BACK_OFF_MAX, BACK_OFF_MIN};
use super::peer::Peer;
use super::peers::Shared;
use ashlar_engine::reactor::RandomStream;
use std::rc::Rc;
use std::time::Duration;

/// Pauses between attempts.
struct BackOff {
    random: RandomStream,
    failures: u32,
}

impl BackOff {
    /// The pause after one more failure.
    fn next(&mut self) -> Duration {
        let longest = BACK_OFF_MIN * 2u32.saturating_pow(self.failures);
        self.failures = self.failures.saturating_add(1).min(16);
        let longest =
            u64::try_from(longest.min(BACK_OFF_MAX).as_nanos()).expect("invariant: a second or so");
        Duration::from_nanos(longest / 2 + self.random.below(longest / 2 + 1))
    }

    /// The row of failures has ended.
    fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Calls `peer` whenever there is no connection with it. Ends with its task.
pub(super) async fn keep(shared: Rc<Shared>, peer: Rc<Peer>) {
    let name = format!("calls from {} to {}", shared.identity.node, peer.node);
    let mut back_off = BackOff { random: shared.reactor.random(&name), failures: 0 };
    loop {
        peer.set_connecting();
        match peer.unless_up(handshake::dial(&shared, &peer)).await {
            Some(Err(ending)) => peer.failed(ending),
            Some(Ok(())) | None => {
                if peer.down().await >= BACK_OFF_MAX {
                    back_off.reset();
                    continue;
                }
            }
        }
        while peer.unless_up(shared.reactor.sleep(back_off.next())).await.is_none() {
            if peer.down().await >= BACK_OFF_MAX {
                back_off.reset();
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let mut back_off = BackOff { random: RandomStream::from_seed(1), failures: 0 };
        let pauses: Vec<_> = (0..40).map(|_| back_off.next()).collect();
        for (at, pause) in pauses.iter().enumerate() {
            let longest = BACK_OFF_MAX.min(BACK_OFF_MIN * 2u32.pow(at.min(16) as u32));
            assert!((longest / 2..=longest).contains(pause), "{at}: {pause:?}");
        }
        assert!(pauses[20..].iter().any(|pause| *pause != pauses[20]));
        back_off.reset();
        assert!(back_off.next() <= BACK_OFF_MIN);
    }
}
