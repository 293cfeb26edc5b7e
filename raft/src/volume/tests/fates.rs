//! Proposals of which nobody knows.

use super::*;
use crate::limits::{PROPOSALS_OPEN_MAX, WRITE_MAX};
use ashlar_engine::ErrorKind;
use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// These fates for the next attempts, then all is told.
fn next(cluster: &Cluster, fates: impl IntoIterator<Item = Fate>) {
    let mut fates: VecDeque<Fate> = fates.into_iter().collect();
    cluster.decide(move |_| fates.pop_front().unwrap_or(Fate::Told));
}

/// A write whose fate is unknown is tried again under its own number, and is done once.
#[test]
fn an_unknown_fate_is_tried_again_and_done_once() {
    for lost in [Fate::Lost, Fate::Silent, Fate::Late(Duration::from_millis(50)), Fate::Crowded] {
        with_cluster(1, |cluster| async move {
            let handle = process(&cluster, 1).open();
            handle.fill(0, 4096, 1).await.expect("writes");
            let before = cluster.counted();
            cluster.take_attempts();
            next(&cluster, [lost; 4]);
            handle.fill(0, 4096, 2).await.expect("writes");
            let attempts = cluster.take_attempts();
            assert_eq!(attempts.len(), 5);
            assert!(attempts.iter().all(|attempt| *attempt == attempts[0]), "{attempts:?}");
            handle.fill(0, 4096, 3).await.expect("writes");
            assert_ne!(cluster.take_attempts()[0].serial, attempts[0].serial);
            cluster.reactor.sleep(Duration::from_secs(1)).await;
            assert_eq!(cluster.counted(), before + 2, "{lost:?}");
            assert_eq!(handle.bytes(0, 4096).await, vec![3; 4096], "an old write came again");
        });
    }
}

/// After some time, who wrote is told that nobody knows. Nobody writes to those blocks until it is
/// known; then what was given up is done, and what waited comes after it.
#[test]
fn who_writes_is_told_in_time_that_nobody_knows() {
    with_cluster(1, |cluster| async move {
        let handle = process(&cluster, 1).open();
        handle.fill(0, 4096, 1).await.expect("writes");
        let (reactor, down) = (cluster.reactor.clone(), Rc::new(Cell::new(true)));
        let is_down = Rc::clone(&down);
        cluster.decide(move |_| if is_down.get() { Fate::Lost } else { Fate::Told });
        let since = reactor.now();
        let error = handle.fill(0, 4096, 2).await.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::Failed);
        assert!(error.to_string().contains("nobody knows"), "{error}");
        assert!(reactor.now() >= since + WRITE_MAX && reactor.now() < since + 2 * WRITE_MAX);
        let counted = cluster.counted();
        let later = handle.fill(0, 4096, 3);
        let mut later = std::pin::pin!(later);
        assert!(reactor.within(Duration::from_secs(5), later.as_mut()).await.is_none());
        let serials: BTreeSet<u64> =
            cluster.take_attempts().iter().map(|attempt| attempt.serial).collect();
        assert_eq!(serials.len(), 2, "the later write was proposed beside it");
        down.set(false);
        later.await.expect("writes");
        assert_eq!(cluster.counted(), counted + 2, "what was given up was never done");
        assert_eq!(handle.bytes(0, 4096).await, vec![3; 4096]);
    });
}

/// A refusal says that nothing was done, but only of the attempt that it answers.
#[test]
fn a_refusal_after_an_unknown_fate_is_not_believed() {
    for unsure in [Fate::Silent, Fate::Lost, Fate::Late(Duration::from_millis(60))] {
        with_cluster(1, |cluster| async move {
            let handle = process(&cluster, 1).open();
            handle.fill(0, 4096, 1).await.expect("writes");
            let before = cluster.counted();
            next(&cluster, [unsure, Fate::Refused, Fate::Refused]);
            handle.fill(0, 4096, 2).await.expect("is done, whatever the refusal said");
            assert_eq!(cluster.counted(), before + 1);
            cluster.take_attempts();
            next(&cluster, [Fate::Refused]);
            let error = handle.fill(0, 4096, 3).await.expect_err("is refused");
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            assert_eq!(cluster.take_attempts().len(), 1, "a refusal is told at once");
            assert_eq!(handle.bytes(0, 4096).await, vec![2; 4096]);
            handle.fill(0, 4096, 4).await.expect("the block is free again");
        });
    }
}

/// While one proposal is open, only so many newer ones are made as replicas can tell apart.
#[test]
fn an_open_proposal_keeps_newer_ones_close() {
    with_cluster(1, |cluster| async move {
        let spec = volume(1 << 20, 1 << 20);
        let handle = Rc::new(process_of(&cluster, 1, spec).open());
        handle.fill(0, 4096, 1).await.expect("writes");
        let stuck = Rc::new(Cell::new(None));
        let (first, reactor) = (Rc::clone(&stuck), cluster.reactor.clone());
        cluster.decide(move |attempt| match first.get() {
            None => {
                first.set(Some(attempt.serial));
                Fate::Lost
            }
            Some(serial) if serial == attempt.serial => Fate::Lost,
            Some(_) => Fate::Told,
        });
        let write = |block: u64| {
            let handle = Rc::clone(&handle);
            reactor.spawn(async move { handle.fill(block * 4096, 4096, 5).await })
        };
        let held = write(1);
        reactor.sleep(Duration::from_millis(20)).await;
        let mut done = 0;
        let mut last = None;
        for block in 2..200 {
            let task = write(block);
            match reactor.within(Duration::from_millis(200), task).await {
                Some(written) => written.expect("writes"),
                None => {
                    last = Some(block);
                    break;
                }
            }
            done += 1;
        }
        assert!(last.is_some(), "{done} newer proposals were made");
        assert_eq!(done, PROPOSALS_OPEN_MAX - 1);
        cluster.decide(|_| Fate::Told);
        held.await.expect("is done at last");
        write(250).await.expect("goes on");
    });
}
