//! openraft's asynchronous runtime on the engine's reactor, on the ring and simulated alike.
//!
//! openraft calls its runtime through static functions, so the reactor they mean is a variable of
//! the thread: it is set around every poll of a task that was spawned through here and of a future
//! that was entered ([`ReactorRuntime::enter`]), and only there. So the reactors of several nodes
//! live in one thread without knowing each other.
//!
//! Invariants: time is the reactor's clock; every random number comes from one named stream of the
//! reactor; waiters are woken in the order in which they began to wait. The same world, seed and
//! program give the same run.
//! Must never know: groups, disks, sockets.

mod channel;
mod current;
mod random;
mod task;
mod time;
mod watch;

pub use channel::{Mpsc, MpscReceiver, MpscSender, MpscWeakSender, Mutex, Oneshot, OneshotSender};
pub use current::{Entered, EnteredFuture};
pub use random::RandomNumbers;
pub use task::{JoinError, JoinHandle};
pub use time::{Instant, TimedOut, Timeout};
pub use watch::{Changed, Watch, WatchReceiver, WatchSender};

use ashlar_engine::reactor::{RandomStream, Reactor, ReactorOptions, Sleep};
use ashlar_engine::units::Nanos;
use openraft_rt::AsyncRuntime;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// The stream a runtime draws from that was given no other name.
const RANDOM_STREAM: &str = "openraft";

/// Sleeps of openraft that are twice as long, or longer, end together with others', so much later
/// at most: each group ticks ten times a second, and without this each would wake the process.
const GATHER: Duration = Duration::from_millis(25);

/// What the tasks of one node share.
struct Shared {
    reactor: Reactor,
    random: RefCell<RandomStream>,
    /// When sleeps that are gathered end, after each multiple of [`GATHER`].
    phase: Duration,
}

impl Shared {
    /// Waits until `deadline`, or somewhat longer if that is far.
    fn sleep_until(&self, deadline: Nanos) -> Sleep {
        let far = self.reactor.now() + 2 * GATHER;
        let deadline = if deadline < far { deadline } else { gathered(deadline, self.phase) };
        self.reactor.sleep_until(deadline)
    }
}

/// The first moment from `deadline` on at which gathered sleeps end.
fn gathered(deadline: Nanos, phase: Duration) -> Nanos {
    let (gather, phase) = (GATHER.as_nanos() as u64, phase.as_nanos() as u64);
    let whole = deadline.0.saturating_sub(phase).checked_next_multiple_of(gather);
    Nanos(whole.and_then(|whole| whole.checked_add(phase)).unwrap_or(deadline.0))
}

/// A reactor as openraft's runtime. Cheap to clone: all clones draw from the same random stream.
#[derive(Clone)]
pub struct ReactorRuntime {
    shared: Rc<Shared>,
    /// Made by [`AsyncRuntime::new`], and ended with the last clone.
    _owned: Option<Rc<OwnReactor>>,
}

impl ReactorRuntime {
    /// openraft on `reactor`. `random_stream` names the stream of its random numbers: every node in
    /// a process needs another, or their elections begin at the same time.
    #[must_use]
    pub fn on(reactor: &Reactor, random_stream: &str) -> ReactorRuntime {
        let random = RefCell::new(reactor.random(random_stream));
        let mut phases = reactor.random(&format!("{random_stream} phase"));
        // Nodes that tick together would be candidates together.
        let phase = Duration::from_nanos(phases.next_u64() % GATHER.as_nanos() as u64);
        let shared = Rc::new(Shared { reactor: reactor.clone(), random, phase });
        ReactorRuntime { shared, _owned: None }
    }

    /// The reactor below.
    #[must_use]
    pub fn reactor(&self) -> &Reactor {
        &self.shared.reactor
    }

    /// Waits for `duration` and for other sleeps that end soon after it: for what is done now and
    /// then, so that it does not wake the process by itself.
    pub fn doze(&self, duration: Duration) -> Sleep {
        let deadline = self.shared.reactor.now() + duration;
        self.shared.reactor.sleep_until(gathered(deadline, self.shared.phase))
    }

    /// `future`, with this runtime as the current one while it is polled.
    pub fn enter<F: Future>(&self, future: F) -> EnteredFuture<F> {
        EnteredFuture::new(Rc::clone(&self.shared), future)
    }

    /// Makes this runtime the current one until the guard is dropped. For code that does not wait:
    /// a future must not hold the guard while others run.
    pub fn enter_now(&self) -> Entered {
        Entered::new(&self.shared)
    }

    /// Runs `future` as a task of its own, with this runtime as the current one.
    pub fn start_task<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        JoinHandle::spawn(&self.shared, future)
    }
}

impl fmt::Debug for ReactorRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReactorRuntime({:?})", self.shared.reactor)
    }
}

/// Shuts its reactor down: tasks hold their reactor, so nothing else would end it.
struct OwnReactor(Reactor);

impl Drop for OwnReactor {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

impl AsyncRuntime for ReactorRuntime {
    type JoinError = JoinError;
    type JoinHandle<T: 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = Instant;
    type TimeoutError = TimedOut;
    type Timeout<R, T: Future<Output = R>> = Timeout<T>;
    type ThreadLocalRng = RandomNumbers;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + 'static,
        T::Output: 'static,
    {
        JoinHandle::spawn(&current::get(), future)
    }

    fn sleep(duration: Duration) -> Sleep {
        let shared = current::get();
        shared.sleep_until(shared.reactor.now() + duration)
    }

    fn sleep_until(deadline: Instant) -> Sleep {
        current::get().sleep_until(deadline.to_nanos())
    }

    fn timeout<R, F: Future<Output = R>>(duration: Duration, future: F) -> Timeout<F> {
        Timeout::new(current::get().reactor.sleep(duration), future)
    }

    fn timeout_at<R, F: Future<Output = R>>(deadline: Instant, future: F) -> Timeout<F> {
        Timeout::new(current::get().reactor.sleep_until(deadline.to_nanos()), future)
    }

    /// Never: a panic in a task unwinds out of the reactor, and nobody is left to ask.
    fn is_panic(_: &JoinError) -> bool {
        false
    }

    fn thread_rng() -> RandomNumbers {
        RandomNumbers::new(current::get())
    }

    type Mpsc = Mpsc;
    type Watch = Watch;
    type Oneshot = Oneshot;
    type Mutex<T: 'static> = Mutex<T>;

    /// A runtime on the current reactor if there is one, and otherwise on a ring of its own that
    /// ends with the last clone. There is always one thread.
    ///
    /// # Panics
    /// If the kernel does not let this process have a ring.
    fn new(_threads: usize) -> ReactorRuntime {
        if let Some(shared) = current::find() {
            return ReactorRuntime { shared, _owned: None };
        }
        let reactor = Reactor::new(ReactorOptions::default());
        let reactor = reactor.expect("this process may use io_uring");
        let owned = Some(Rc::new(OwnReactor(reactor.clone())));
        ReactorRuntime { _owned: owned, ..ReactorRuntime::on(&reactor, RANDOM_STREAM) }
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.shared.reactor.block_on(self.enter(future))
    }

    /// Runs `call` here and now: there is one thread, and openraft itself hands nothing over.
    fn spawn_blocking<F, T>(call: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        std::future::ready(Ok(call()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_engine::reactor::sim::{World, WorldOptions};

    #[test]
    fn long_sleeps_end_together_and_never_early() {
        let world = World::new(3, WorldOptions::default());
        let reactor = world.reactor();
        let runtime = ReactorRuntime::on(&reactor, "node 1");
        runtime.clone().block_on(async {
            let mut ends = std::collections::BTreeSet::new();
            for millis in 100..200 {
                let (asked, wanted) = (reactor.now(), Duration::from_millis(millis));
                ReactorRuntime::sleep(wanted).await;
                let took = reactor.now().since(asked);
                assert!(took >= wanted && took <= wanted + GATHER, "{took:?} for {wanted:?}");
                ends.insert(reactor.now().0 % GATHER.as_nanos() as u64);
            }
            assert_eq!(ends.len(), 1, "{ends:?}");
            let (asked, short) = (reactor.now(), Duration::from_micros(4321));
            ReactorRuntime::sleep(short).await;
            assert_eq!(reactor.now().since(asked), short);
        });
        reactor.shutdown();
    }

    #[test]
    fn the_end_of_time_is_no_trouble() {
        for deadline in [0, 1, u64::MAX - 1, u64::MAX] {
            assert!(gathered(Nanos(deadline), Duration::from_millis(7)).0 >= deadline);
        }
    }
}
