//! Goal: openraft's runtime on the reactor keeps openraft's promises, on the ring and simulated;
//! several runtimes in one thread do not mix; waiters are woken in order.
//! Method: openraft's own suite on both; small programs whose result only one order gives.

use ashlar_engine::reactor::sim::{World, WorldOptions};
use ashlar_engine::reactor::{Reactor, ReactorOptions};
use ashlar_raft::runtime::{Instant, JoinError, ReactorRuntime, Watch, WatchReceiver};
use openraft_rt::testing::Suite;
use openraft_rt::watch::WatchReceiver as _;
use openraft_rt::{AsyncRuntime, Instant as _, Watch as _, WatchSender as _};
use rand_core::Rng;
use std::cell::RefCell;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

/// A runtime in a world of its own.
fn simulated(seed: u64) -> (World, ReactorRuntime) {
    let world = World::new(seed, WorldOptions::default());
    let runtime = ReactorRuntime::on(&world.reactor(), "node 1");
    (world, runtime)
}

#[test]
fn conforms_on_the_ring() {
    Suite::<ReactorRuntime>::test_all();
}

/// The whole suite, for it makes its runtimes on the current reactor.
#[test]
fn conforms_simulated() {
    for seed in 0..20 {
        let (_world, runtime) = simulated(seed);
        let entered = runtime.enter_now();
        Suite::<ReactorRuntime>::test_all();
        drop(entered);
        runtime.reactor().shutdown();
    }
}

#[test]
fn a_runtime_of_its_own_ends_with_its_last_clone() {
    let mut runtime = ReactorRuntime::new(1);
    let alive = Rc::new(());
    let held = Rc::clone(&alive);
    let clone = runtime.clone();
    runtime.block_on(async move {
        ReactorRuntime::spawn(async move {
            let _held = held;
            pending::<()>().await;
        });
        ReactorRuntime::sleep(Duration::from_millis(1)).await;
    });
    drop(runtime);
    assert_eq!(Rc::strong_count(&alive), 2);
    drop(clone);
    assert_eq!(Rc::strong_count(&alive), 1);
}

#[test]
fn a_task_runs_on_without_its_handle_and_ends_with_its_reactor() {
    let (_world, runtime) = simulated(1);
    let (sender, receiver) = tokio::sync::oneshot::channel();
    drop(runtime.start_task(async { sender.send(3) }));
    assert_eq!(runtime.reactor().block_on(receiver), Ok(3));

    let unending = runtime.start_task(pending::<()>());
    runtime.reactor().shutdown();
    let (_world, other) = simulated(2);
    assert_eq!(other.reactor().block_on(unending), Err(JoinError));
}

/// Each of two nodes, polled inside of the other's task, sees its own clock and its own numbers.
#[test]
fn runtimes_of_one_thread_do_not_mix() {
    let (_early, first) = simulated(1);
    let (_late, second) = simulated(1);
    second.reactor().block_on(second.reactor().sleep(Duration::from_secs(9)));

    let draw =
        |mut from: ReactorRuntime| from.block_on(async { ReactorRuntime::thread_rng().next_u64() });
    let (of_first, of_second) = (draw(first.clone()), draw(second.clone()));
    assert_eq!(of_first, of_second, "the same seed and name");

    let inner = second.clone();
    let (outside, inside, after) = first.clone().block_on(async {
        let task = first.start_task(async move {
            let outside = Instant::now();
            let inside = inner.enter(async { Instant::now() }).await;
            (outside, inside, Instant::now())
        });
        task.await.expect("the reactor lives")
    });
    assert!(inside - outside >= Duration::from_secs(8));
    assert!(after - outside < Duration::from_secs(1));
}

#[test]
#[should_panic(expected = "openraft runs only inside of a runtime")]
fn outside_of_a_runtime_there_is_no_time() {
    let (_world, runtime) = simulated(1);
    runtime.reactor().block_on(async { Instant::now() });
}

#[test]
fn a_panic_leaves_the_thread_as_it_was() {
    let (_world, runtime) = simulated(1);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        runtime.clone().block_on(async { panic!("on purpose") });
    }));
    assert!(panicked.is_err());
    let outside = std::panic::catch_unwind(Instant::now);
    assert!(outside.is_err());
}

#[test]
fn nodes_with_different_streams_draw_different_numbers() {
    let (world, first) = simulated(7);
    let second = ReactorRuntime::on(first.reactor(), "node 2");
    let draw = |from: &ReactorRuntime| {
        let _entered = from.enter_now();
        let mut random = ReactorRuntime::thread_rng();
        let mut bytes = [0; 13];
        random.fill_bytes(&mut bytes);
        (random.next_u32(), random.next_u64(), bytes)
    };
    assert_ne!(draw(&first), draw(&second));
    // A clone goes on where the other is, and does not begin again.
    assert_ne!(draw(&first), draw(&first.clone()));
    let again = World::new(world.seed(), WorldOptions::default());
    let again = ReactorRuntime::on(&again.reactor(), "node 2");
    let begun = ReactorRuntime::on(first.reactor(), "node 2");
    assert_eq!(draw(&begun), draw(&again));
}

/// Tasks run in order in this world, so the order of wakes shows.
#[test]
fn watchers_are_woken_in_the_order_in_which_they_began_to_wait() {
    let world = World::new(1, WorldOptions { shuffle_tasks: false, ..WorldOptions::default() });
    let mut runtime = ReactorRuntime::on(&world.reactor(), "node 1");
    runtime.block_on(async {
        let (sender, receiver) = Watch::channel(0);
        let woken = Rc::new(RefCell::new(Vec::new()));
        let waits = |number: u32, mut receiver: WatchReceiver<u32>| {
            let woken = Rc::clone(&woken);
            ReactorRuntime::spawn(async move {
                while receiver.changed().await.is_ok() {
                    let seen = *receiver.borrow_watched();
                    woken.borrow_mut().push((number, seen));
                }
            })
        };
        let mut tasks = Vec::new();
        for number in [4, 2, 9, 1] {
            tasks.push(waits(number, receiver.clone()));
            ReactorRuntime::sleep(Duration::from_millis(1)).await;
        }
        sender.send(1).expect("is watched");
        ReactorRuntime::sleep(Duration::from_millis(1)).await;
        sender.send(2).expect("is watched");
        drop(sender);
        for task in tasks {
            task.await.expect("ends when nobody sends any more");
        }
        let order = [4, 2, 9, 1];
        let expected: Vec<_> =
            [1, 2].into_iter().flat_map(|value| order.map(|number| (number, value))).collect();
        assert_eq!(*woken.borrow(), expected);
    });
}

/// A waiter that is polled again, or gives up, neither loses its place nor leaves a waker.
#[test]
fn a_waiter_that_gives_up_is_forgotten() {
    let (_world, mut runtime) = simulated(3);
    runtime.block_on(async {
        let (sender, mut receiver) = Watch::channel(Rc::new(0));
        for _ in 0..3 {
            let waits = receiver.changed();
            assert!(ReactorRuntime::timeout(Duration::from_millis(1), waits).await.is_err());
        }
        // A value that is watched may be replaced while it is the last holder of something.
        let value = Rc::new(5);
        sender.send(Rc::clone(&value)).expect("is watched");
        assert!(receiver.changed().await.is_ok());
        sender.send(Rc::new(6)).expect("is watched");
        assert_eq!(Rc::strong_count(&value), 1);
    });
}

/// What waits for what: a program whose times and draws are all there is to see.
#[test]
fn a_seed_decides_times_and_numbers() {
    let run = |seed| {
        let (world, mut runtime) = simulated(seed);
        let drawn = runtime.block_on(async {
            let tasks: Vec<_> = (0..10)
                .map(|_| {
                    ReactorRuntime::spawn(async {
                        let number = ReactorRuntime::thread_rng().next_u64();
                        ReactorRuntime::sleep(Duration::from_micros(number % 1000)).await;
                        (number, Instant::now())
                    })
                })
                .collect();
            let mut drawn = Vec::new();
            for task in tasks {
                drawn.push(task.await.expect("the reactor lives"));
            }
            drawn
        });
        (world.trace_hash(), drawn)
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn blocking_calls_run_inline() {
    let reactor = Reactor::new(ReactorOptions::default()).expect("has a ring");
    let mut runtime = ReactorRuntime::on(&reactor, "node");
    let thread = std::thread::current().id();
    let there = runtime.block_on(ReactorRuntime::spawn_blocking(|| std::thread::current().id()));
    assert_eq!(there.expect("runs"), thread);
    reactor.shutdown();
}
