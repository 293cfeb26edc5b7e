//! Goal: the executor and the timers are fair, ordered and safe to wake from anywhere.
//! Method: a backend with no I/O and a clock that jumps to the next deadline, so that these run
//! under an interpreter too and time is exact.

use super::backend::{Backend, Wait};
use super::remote::Doorbell;
use super::*;
use crate::buffer::{BufferPool, PoolOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::units::Nanos;
use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::Waker;
use std::time::Duration;

/// A doorbell that can be waited for.
#[derive(Default)]
struct Bell {
    rang: Mutex<u32>,
    changed: Condvar,
}

impl Doorbell for Bell {
    fn ring(&self) {
        *self.rang.lock().expect("not poisoned") += 1;
        self.changed.notify_one();
    }
}

/// No I/O, and time that passes only while nothing is ready.
struct Idle {
    now: Rc<Cell<Nanos>>,
    bell: Arc<Bell>,
}

impl Backend for Idle {
    fn now(&self) -> Nanos {
        self.now.get()
    }

    fn park(&self, wait: Wait) {
        match wait {
            Wait::No => {}
            Wait::Until(Some(deadline)) => self.now.set(deadline.max(self.now.get())),
            Wait::Until(None) => {
                let mut rang = self.bell.rang.lock().expect("not poisoned");
                while *rang == 0 {
                    rang = self.bell.changed.wait(rang).expect("not poisoned");
                }
                *rang = 0;
            }
        }
    }

    fn deliver(&self) {}

    fn doorbell(&self) -> Arc<dyn Doorbell> {
        Arc::clone(&self.bell) as Arc<dyn Doorbell>
    }

    fn seed(&self) -> u64 {
        1
    }

    fn listen(&self, _: &Address) -> io::Result<Rc<dyn Listener>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn connect(&self, _: &Address) -> LocalBox<io::Result<Rc<dyn Stream>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn open_device(&self, _: &Path, _: &DeviceOptions) -> Result<Rc<dyn BlockDevice>> {
        Err(Error::new(ErrorKind::Device, "there is none"))
    }

    fn shutdown(&self) {}

    fn add_stats(&self, _: &mut Stats) {}
}

fn reactor() -> Reactor {
    let backend = Idle { now: Rc::default(), bell: Arc::default() };
    let pool = BufferPool::new(PoolOptions { arena_bytes: 0, ..PoolOptions::default() });
    Reactor::with_backend(Box::new(backend), pool)
}

/// Says when it is dropped.
struct Mark(Arc<AtomicU32>);

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn tasks_take_turns_in_the_order_they_were_woken() {
    let reactor = reactor();
    let log = Rc::new(RefCell::new(Vec::new()));
    let tasks: Vec<Task<u32>> = (0..3)
        .map(|name| {
            let (reactor, log) = (reactor.clone(), Rc::clone(&log));
            reactor.clone().spawn(async move {
                for _ in 0..3 {
                    log.borrow_mut().push(name);
                    reactor.yield_now().await;
                }
                name
            })
        })
        .collect();
    let mut sum = 0;
    reactor.block_on(async {
        for task in tasks {
            sum += task.await;
        }
    });
    assert_eq!(sum, 3);
    assert_eq!(*log.borrow(), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    reactor.shutdown();
}

#[test]
fn a_busy_task_does_not_starve_timers_and_others() {
    let reactor = reactor();
    let spinning = {
        let reactor = reactor.clone();
        reactor.clone().spawn(async move {
            loop {
                reactor.yield_now().await;
            }
        })
    };
    let remote = reactor.remote();
    let ran = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&ran);
    assert!(remote.post(move || {
        seen.fetch_add(1, Ordering::SeqCst);
    }));
    reactor.block_on(async {
        while ran.load(Ordering::SeqCst) == 0 {
            reactor.yield_now().await;
        }
        reactor.sleep(Duration::ZERO).await;
    });
    assert!(!spinning.is_finished());
    let turns = reactor.stats().turns;
    reactor.block_on(async {
        for _ in 0..5000 {
            reactor.yield_now().await;
        }
    });
    assert!(reactor.stats().turns > turns, "a turn must end");
    drop(spinning);
    reactor.shutdown();
}

#[test]
fn timers_fire_in_order_and_at_their_time() {
    let reactor = reactor();
    let log = Rc::new(RefCell::new(Vec::new()));
    let count = if cfg!(miri) { 50 } else { 20_000_u64 };
    let mut random = reactor.random("test");
    for number in 0..count {
        let deadline = Nanos(random.below(count / 2) * 1000);
        let (reactor, log) = (reactor.clone(), Rc::clone(&log));
        reactor
            .clone()
            .spawn(async move {
                reactor.sleep_until(deadline).await;
                assert_eq!(reactor.now(), deadline, "late or early");
                log.borrow_mut().push((deadline, number));
            })
            .detach();
    }
    reactor.block_on(reactor.sleep_until(Nanos(count * 1000)));
    let log = log.take();
    assert_eq!(log.len() as u64, count);
    assert!(log.is_sorted(), "equal deadlines fire in the order they were set");
    reactor.shutdown();
}

#[test]
fn a_dropped_sleep_leaves_nothing_behind() {
    let reactor = reactor();
    reactor.block_on(async {
        let mut long = Box::pin(reactor.sleep(Duration::from_secs(3600)));
        poll_fn(|context| {
            assert!(long.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(long);
        reactor.sleep(Duration::from_millis(1)).await;
    });
    assert_eq!(reactor.now(), Nanos(1_000_000));
    reactor.shutdown();
}

#[test]
fn other_threads_wake_tasks_and_post_calls() {
    let reactor = reactor();
    let rounds = if cfg!(miri) { 5 } else { 2000_u32 };
    let slot: Arc<Mutex<(u32, Option<Waker>)>> = Arc::default();
    let stop = Arc::new(AtomicU32::new(0));
    let posted = Arc::new(AtomicU32::new(0));
    let (remote, shared) = (reactor.remote(), Arc::clone(&slot));
    let (stopped, count) = (Arc::clone(&stop), Arc::clone(&posted));
    let waking = std::thread::Builder::new().spawn(move || {
        while stopped.load(Ordering::SeqCst) == 0 {
            let mut slot = shared.lock().expect("not poisoned");
            let Some(waker) = slot.1.take() else {
                drop(slot);
                std::thread::yield_now();
                continue;
            };
            slot.0 += 1;
            drop(slot);
            waker.wake();
            let count = Arc::clone(&count);
            remote.post(move || {
                count.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    let task = reactor.spawn(async move {
        for round in 0..rounds {
            poll_fn(|context| {
                let mut slot = slot.lock().expect("not poisoned");
                if slot.0 > round {
                    return Poll::Ready(());
                }
                slot.1 = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
        }
    });
    reactor.block_on(task);
    stop.store(1, Ordering::SeqCst);
    waking.expect("starts").join().expect("ends well");
    reactor.block_on(reactor.yield_now());
    assert_eq!(posted.load(Ordering::SeqCst), rounds);
    reactor.shutdown();
}

#[test]
fn a_dropped_task_is_cancelled_and_a_detached_one_is_not() {
    let reactor = reactor();
    let dropped = Arc::new(AtomicU32::new(0));
    let mark = Mark(Arc::clone(&dropped));
    let task = reactor.spawn(async move {
        let _mark = mark;
        pending::<()>().await;
    });
    let done = Rc::new(Cell::new(false));
    let flag = Rc::clone(&done);
    let sleeping = reactor.clone();
    reactor
        .spawn(async move {
            sleeping.yield_now().await;
            flag.set(true);
        })
        .detach();
    reactor.block_on(async {
        reactor.yield_now().await;
        assert_eq!(dropped.load(Ordering::SeqCst), 0);
        drop(task);
        reactor.sleep(Duration::from_nanos(1)).await;
    });
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert!(done.get());
    let cancelled = reactor.spawn(pending::<u32>());
    assert_eq!(reactor.block_on(cancelled.cancel()), None);
    let ready = reactor.spawn(async { 5 });
    reactor.block_on(reactor.yield_now());
    assert!(ready.is_finished());
    assert_eq!(reactor.block_on(ready.cancel()), Some(5));
    reactor.shutdown();
}

#[test]
fn shutdown_drops_every_future_and_refuses_later_work() {
    let reactor = reactor();
    let dropped = Arc::new(AtomicU32::new(0));
    for _ in 0..10 {
        let (mark, own) = (Mark(Arc::clone(&dropped)), reactor.clone());
        reactor
            .spawn(async move {
                own.sleep(Duration::from_secs(1)).await;
                drop(mark);
            })
            .detach();
    }
    reactor.block_on(reactor.yield_now());
    let never_polled = reactor.spawn({
        let mark = Mark(Arc::clone(&dropped));
        async move { drop(mark) }
    });
    let remote = reactor.remote();
    let mark = Mark(Arc::clone(&dropped));
    assert!(remote.post(move || drop(mark)));
    reactor.shutdown();
    assert_eq!(dropped.load(Ordering::SeqCst), 12);
    drop(never_polled);
    let mark = Mark(Arc::clone(&dropped));
    reactor.spawn(async move { drop(mark) }).detach();
    assert_eq!(dropped.load(Ordering::SeqCst), 13, "spawned too late");
    assert!(!remote.post(|| panic!("posted too late")));
    reactor.shutdown();
}

#[test]
fn a_waker_may_outlive_the_reactor_on_another_thread() {
    let reactor = reactor();
    let (sender, receiver) = std::sync::mpsc::channel::<Waker>();
    reactor
        .spawn(poll_fn(move |context| {
            let _ = sender.send(context.waker().clone());
            Poll::<()>::Pending
        }))
        .detach();
    reactor.block_on(reactor.yield_now());
    let waking = std::thread::Builder::new().spawn(move || {
        for waker in receiver {
            waker.wake_by_ref();
            waker.wake();
        }
    });
    reactor.block_on(reactor.yield_now());
    reactor.shutdown();
    drop(reactor);
    waking.expect("starts").join().expect("ends well");
}

#[test]
fn a_panic_in_a_task_comes_out_and_leaves_the_rest_intact() {
    let reactor = reactor();
    let dropped = Arc::new(AtomicU32::new(0));
    let mark = Mark(Arc::clone(&dropped));
    reactor
        .spawn(async move {
            let _mark = mark;
            panic!("on purpose");
        })
        .detach();
    let alive = reactor.spawn(async { 3 });
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        reactor.block_on(reactor.sleep(Duration::from_secs(1)));
    }));
    assert!(caught.is_err());
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert_eq!(reactor.block_on(alive), 3);
    reactor.shutdown();
}

#[test]
fn one_reactor_inside_another_keeps_their_tasks_apart() {
    let (outer, inner) = (reactor(), reactor());
    let log = Rc::new(RefCell::new(Vec::new()));
    let task = {
        let (log, inner) = (Rc::clone(&log), inner.clone());
        outer.spawn(async move {
            let nested = inner.spawn({
                let log = Rc::clone(&log);
                async move { log.borrow_mut().push("inner") }
            });
            inner.block_on(nested);
            log.borrow_mut().push("outer");
        })
    };
    outer.block_on(task);
    assert_eq!(*log.borrow(), ["inner", "outer"]);
    inner.shutdown();
    outer.shutdown();
}
