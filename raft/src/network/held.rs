//! Appends without entries, held for a moment: they only say how much is committed, and the next
//! append with entries says it too. Under load that is a third of the messages.
//!
//! Invariants: requests keep their order; what is left out is followed by one that says as much of
//! what is committed; nothing is held longer than [`COMMIT_HELD_MAX`], nor once there will be no
//! other request.
//! Must never know: connections.

use crate::limits::COMMIT_HELD_MAX;
use crate::types::Config;
use ashlar_engine::reactor::Reactor;
use futures_util::future::{Either, select};
use futures_util::stream::{Stream, StreamExt, unfold};
use openraft::raft::AppendEntriesRequest;
use std::pin::pin;

type Request = AppendEntriesRequest<Config>;

/// The requests of `input`, but for those that the next one makes needless.
pub(super) fn held<S>(input: S, reactor: Reactor) -> impl Stream<Item = Request>
where
    S: Stream<Item = Request> + Unpin,
{
    unfold((input.fuse(), reactor), |(mut input, reactor)| async move {
        let request = input.next().await?;
        let request = match request.entries.is_empty() {
            true => latest(request, &mut input, &reactor).await,
            false => request,
        };
        Some((request, (input, reactor)))
    })
}

/// A request that has what `request`, without entries, says, and more if more comes soon.
async fn latest<S>(mut request: Request, input: &mut S, reactor: &Reactor) -> Request
where
    S: Stream<Item = Request> + Unpin,
{
    let mut timer = pin!(reactor.sleep(COMMIT_HELD_MAX));
    while request.entries.is_empty() {
        match select(input.next(), timer.as_mut()).await {
            Either::Left((Some(next), _)) => request = next,
            Either::Left((None, _)) | Either::Right(_) => break,
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Entry, Vote, log_id};
    use ashlar_engine::reactor::sim::{World, WorldOptions};
    use futures_util::stream::iter;
    use openraft::EntryPayload;
    use openraft::entry::RaftEntry;
    use std::time::Duration;

    fn request(prev: u64, entries: u64, commit: u64) -> Request {
        let made = |index| Entry::new(log_id(1, index), EntryPayload::Blank);
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id(1, prev)),
            entries: (prev + 1..=prev + entries).map(made).collect(),
            leader_commit: Some(log_id(1, commit)),
        }
    }

    /// Entries and commit of each request that comes out, and when; `requests`: the pause before
    /// each that goes in.
    fn run(requests: Vec<(Duration, Request)>) -> Vec<(usize, u64, Duration)> {
        let world = World::new(1, WorldOptions::default());
        let reactor = world.reactor();
        let pausing = reactor.clone();
        let start = reactor.now();
        let input = iter(requests).then(move |(pause, request)| {
            let pause = pausing.sleep(pause);
            async move {
                pause.await;
                request
            }
        });
        let seen = held(Box::pin(input), reactor.clone()).map(|request| {
            let commit = request.leader_commit.map_or(0, |id| id.index());
            (request.entries.len(), commit, reactor.now().since(start))
        });
        reactor.block_on(seen.collect())
    }

    const SOON: Duration = COMMIT_HELD_MAX.checked_div(4).unwrap();
    const LATE: Duration = COMMIT_HELD_MAX.saturating_mul(3);

    fn counts(seen: &[(usize, u64, Duration)]) -> Vec<(usize, u64)> {
        seen.iter().map(|(entries, commit, _)| (*entries, *commit)).collect()
    }

    #[test]
    fn entries_that_come_soon_say_what_is_committed() {
        let requests = vec![
            (SOON, request(0, 1, 0)),
            (SOON, request(1, 0, 1)),
            (SOON, request(1, 2, 1)),
            (SOON, request(3, 0, 2)),
            (SOON, request(3, 0, 3)),
            (SOON, request(3, 1, 3)),
        ];
        assert_eq!(counts(&run(requests)), [(1, 0), (2, 1), (1, 3)]);
    }

    #[test]
    fn without_entries_the_newest_comes_in_time() {
        let requests = vec![
            (SOON, request(0, 1, 0)),
            (SOON, request(1, 0, 1)),
            (SOON, request(1, 0, 2)),
            (LATE, request(1, 1, 2)),
        ];
        let seen = run(requests);
        assert_eq!(counts(&seen), [(1, 0), (0, 2), (1, 2)]);
        assert_eq!(seen[1].2, SOON * 2 + COMMIT_HELD_MAX);
    }

    #[test]
    fn the_last_one_is_not_held() {
        let seen = run(vec![(SOON, request(0, 0, 1))]);
        assert_eq!(seen, [(0, 1, SOON)]);
    }
}
