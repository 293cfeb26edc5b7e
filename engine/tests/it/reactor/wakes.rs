//! Goal: a reactor that sleeps in the kernel is woken by other threads and by its timers, and by
//! nothing else.

use super::reactor;
use ashlar_engine::reactor::{Reactor, ReactorOptions};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

#[test]
fn posts_wake_a_sleeping_reactor() {
    const ROUNDS: u32 = 2000;
    let reactor = reactor();
    let remote = reactor.remote();
    let count = Arc::new(AtomicU32::new(0));
    let (sender, receiver) = mpsc::channel();
    let seen = Arc::clone(&count);
    let posting = std::thread::Builder::new().spawn(move || {
        for round in 1..=ROUNDS {
            let (seen, sender) = (Arc::clone(&seen), sender.clone());
            assert!(remote.post(move || {
                seen.fetch_add(1, Ordering::SeqCst);
                let _ = sender.send(round);
            }));
            if round % 2 == 0 {
                // One at a time, so that the reactor goes to sleep in between.
                while receiver.recv().expect("runs") != round {}
            }
        }
    });
    let own = reactor.clone();
    reactor.block_on(async move {
        while count.load(Ordering::SeqCst) < ROUNDS {
            own.sleep(Duration::from_millis(1)).await;
        }
    });
    posting.expect("starts").join().expect("ends well");
    reactor.shutdown();
}

#[test]
fn a_wake_from_another_thread_reaches_the_main_future() {
    let reactor = reactor();
    for _ in 0..200 {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let sending = std::thread::Builder::new().spawn(move || sender.send(7));
        assert_eq!(reactor.block_on(receiver), Ok(7));
        assert_eq!(sending.expect("starts").join().expect("ends well"), Ok(()));
    }
    reactor.shutdown();
}

#[test]
fn an_idle_reactor_does_not_run() {
    let reactor = reactor();
    reactor.block_on(reactor.sleep(Duration::from_millis(1)));
    let before = reactor.stats();
    let start = reactor.now();
    reactor.block_on(reactor.sleep(Duration::from_millis(50)));
    let after = reactor.stats();
    assert!(reactor.now().since(start) >= Duration::from_millis(50));
    // One sleep, and one more if the kernel's clock is a little ahead.
    assert!(after.enters - before.enters <= 2, "{before:?} {after:?}");
    reactor.shutdown();
}

#[test]
fn run_shuts_down_after_a_panic() {
    let dropped = Arc::new(AtomicU32::new(0));
    struct Mark(Arc<AtomicU32>);
    impl Drop for Mark {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let mark = Mark(Arc::clone(&dropped));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let ran = Reactor::run(ReactorOptions::default(), |reactor| async move {
            let own = reactor.clone();
            reactor
                .spawn(async move {
                    let _mark = mark;
                    own.sleep(Duration::from_secs(3600)).await;
                })
                .detach();
            reactor.yield_now().await;
            panic!("on purpose");
        });
        ran.expect("starts")
    }));
    assert!(caught.is_err());
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[test]
fn run_shuts_down_even_if_tasks_hold_the_reactor() {
    let dropped = Rc::new(Cell::new(false));
    struct Mark(Rc<Cell<bool>>);
    impl Drop for Mark {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let mark = Mark(Rc::clone(&dropped));
    let output = Reactor::run(ReactorOptions::default(), |reactor| async move {
        let own = reactor.clone();
        reactor
            .spawn(async move {
                let _mark = mark;
                own.sleep(Duration::from_secs(3600)).await;
            })
            .detach();
        reactor.yield_now().await;
        5
    });
    assert_eq!(output.expect("starts"), 5);
    assert!(dropped.get());
}
