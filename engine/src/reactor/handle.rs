//! The handle: what everything else uses the reactor through, and the turn that drives it.
//!
//! A turn: run ready tasks in order, fire timers, then one entry to the kernel that submits what
//! the tasks asked for and waits if nothing is ready. Nothing else enters the kernel, but a ring
//! that is told so polls before it waits.
//! Must never know: which backend runs.

use super::backend::{Backend, Wait};
use super::executor::{Executor, Task};
use super::options::{ReactorOptions, Stats};
use super::remote::{Doorbell, Remote, Shared};
use super::ring::RingBackend;
use super::timers::{TimerKey, Timers};
use super::{Address, BlockDevice, DeviceOptions, Listener, RandomStream, Stream};
use crate::buffer::BufferPool;
use crate::error::Result;
use crate::units::Nanos;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Tasks and calls run between two looks at the kernel, so that a busy task cannot starve I/O.
const TASKS_PER_TURN_MAX: u64 = 512;

struct Inner {
    executor: Executor,
    timers: Timers,
    backend: Box<dyn Backend>,
    shared: Arc<Shared>,
    pool: BufferPool,
    /// The clock, read at most once a turn.
    now: Cell<Option<Nanos>>,
    turns: Cell<u64>,
    tasks_run: Cell<u64>,
    /// Streams that were drawn once.
    drawn: Cell<u64>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Handle of this thread's reactor. Cheap to clone.
///
/// Tasks that hold a clone keep the reactor alive: end with [`Reactor::shutdown`], or run inside
/// [`Reactor::run`].
#[derive(Clone)]
pub struct Reactor {
    inner: Rc<Inner>,
}

impl Reactor {
    /// A reactor for this thread, on `io_uring`.
    ///
    /// # Errors
    /// If the kernel has no `io_uring` or this process may not use it.
    pub fn new(options: ReactorOptions) -> Result<Reactor> {
        let pool = BufferPool::new(options.pool);
        let backend = RingBackend::new(&pool, options.busy_poll_max)?;
        Ok(Reactor::with_backend(Box::new(backend), pool))
    }

    /// Runs `main` on a new reactor and shuts it down.
    ///
    /// # Errors
    /// As [`Reactor::new`].
    pub fn run<F: Future>(
        options: ReactorOptions,
        main: impl FnOnce(Reactor) -> F,
    ) -> Result<F::Output> {
        let running = ShutDown(Reactor::new(options)?);
        Ok(running.0.block_on(main(running.0.clone())))
    }

    /// The shared part, on any backend.
    pub(super) fn with_backend(backend: Box<dyn Backend>, pool: BufferPool) -> Reactor {
        let doorbell = backend.doorbell();
        Reactor::with_doorbell(backend, doorbell, pool)
    }

    fn with_doorbell(
        backend: Box<dyn Backend>,
        doorbell: Arc<dyn Doorbell>,
        pool: BufferPool,
    ) -> Reactor {
        let shared = Arc::new(Shared::new(doorbell));
        let inner = Inner {
            executor: Executor::new(Arc::clone(&shared)),
            timers: Timers::default(),
            backend,
            shared,
            pool,
            now: Cell::new(None),
            turns: Cell::new(0),
            tasks_run: Cell::new(0),
            drawn: Cell::new(0),
        };
        Reactor { inner: Rc::new(inner) }
    }

    /// Runs `future` and all tasks until `future` is done. Tasks that are not done stay.
    ///
    /// A panic in a task unwinds out of here: a bug in one task is a bug in the program.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let inner = &*self.inner;
        let _entered = inner.executor.enter();
        let mut future = pin!(future);
        let main =
            Arc::new(Main { woken: AtomicBool::new(true), shared: Arc::clone(&inner.shared) });
        let waker = Waker::from(Arc::clone(&main));
        loop {
            let output =
                inner.turn(&main.woken, || future.as_mut().poll(&mut Context::from_waker(&waker)));
            if let Some(output) = output {
                return output;
            }
        }
    }

    /// Cancels all tasks, then in-flight operations, and waits until the kernel has let go of all
    /// memory. Device operations already submitted are carried out. Nothing can be done after.
    pub fn shutdown(&self) {
        self.inner.shutdown();
    }

    /// Runs `future` on this thread, from the next turn on.
    pub fn spawn<F>(&self, future: F) -> Task<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.inner.executor.spawn(future)
    }

    /// Monotonic time, suspend included. Read at most once a turn: constant while tasks run.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.inner.now()
    }

    /// Waits for `duration` from now.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Waits until `deadline`.
    pub fn sleep_until(&self, deadline: Nanos) -> Sleep {
        Sleep { reactor: self.clone(), deadline, timer: None }
    }

    /// What `future` gives, or `None` if it takes longer than `limit`; it is dropped then.
    pub async fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        let (mut future, mut sleep) = (pin!(future), pin!(self.sleep(limit)));
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => sleep.as_mut().poll(context).map(|()| None),
        })
        .await
    }

    /// Lets every other ready task run first.
    pub fn yield_now(&self) -> impl Future<Output = ()> + use<> {
        let mut yielded = false;
        poll_fn(move |context| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// The memory for I/O.
    #[must_use]
    pub fn pool(&self) -> &BufferPool {
        &self.inner.pool
    }

    /// The random stream of `name`: the same name gives the same numbers for a reactor's life.
    #[must_use]
    pub fn random(&self, name: &str) -> RandomStream {
        RandomStream::named(self.inner.backend.seed(), name)
    }

    /// A random stream of `name` that is another one at every call: for identities.
    #[must_use]
    pub fn random_once(&self, name: &str) -> RandomStream {
        let count = self.inner.drawn.get();
        self.inner.drawn.set(count + 1);
        match count {
            0 => self.random(name),
            _ => self.random(&format!("{name} {count}")),
        }
    }

    /// Listens at `address`.
    ///
    /// # Errors
    /// As the system says.
    pub fn listen(&self, address: &Address) -> io::Result<Rc<dyn Listener>> {
        self.inner.backend.listen(address)
    }

    /// Connects to `address`.
    ///
    /// # Errors
    /// As the system says.
    pub async fn connect(&self, address: &Address) -> io::Result<Rc<dyn Stream>> {
        self.inner.backend.connect(address).await
    }

    /// Opens a file or block device.
    ///
    /// # Errors
    /// `Device` if it is missing, not allowed, not a file or block device, or too small; `Busy` if
    /// it is in use; `Invalid` if the options make no sense.
    pub fn open_device(
        &self,
        path: impl AsRef<Path>,
        options: &DeviceOptions,
    ) -> Result<Rc<dyn BlockDevice>> {
        self.inner.backend.open_device(path.as_ref(), options)
    }

    /// The way in from other threads.
    #[must_use]
    pub fn remote(&self) -> Remote {
        Remote::new(Arc::clone(&self.inner.shared))
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            turns: self.inner.turns.get(),
            tasks_run: self.inner.tasks_run.get(),
            ..Stats::default()
        };
        self.inner.backend.add_stats(&mut stats);
        stats
    }
}

/// Shuts a reactor down when dropped, also when a panic comes out of it.
struct ShutDown(Reactor);

impl Drop for ShutDown {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reactor({:?})", self.stats())
    }
}

impl Inner {
    fn now(&self) -> Nanos {
        self.now.get().unwrap_or_else(|| {
            let now = self.backend.now();
            self.now.set(Some(now));
            now
        })
    }

    /// One turn. The future of `block_on` comes after the ready tasks, like one more of them.
    fn turn<T>(
        &self,
        main_woken: &AtomicBool,
        mut poll_main: impl FnMut() -> Poll<T>,
    ) -> Option<T> {
        self.turns.set(self.turns.get() + 1);
        let mut budget = TASKS_PER_TURN_MAX;
        loop {
            self.run_ready(&mut budget);
            budget = budget.saturating_sub(1); // The main future counts, should it wake itself.
            if main_woken.swap(false, Ordering::AcqRel)
                && let Poll::Ready(output) = poll_main()
            {
                return Some(output);
            }
            if self.timers.next_deadline().is_some_and(|deadline| deadline <= self.now()) {
                self.timers.fire(self.now());
            }
            let idle = self.executor.ready_len() == 0 && !main_woken.load(Ordering::Acquire);
            if idle || budget == 0 {
                break;
            }
        }
        // Sleep is announced before the last look at what other threads set.
        let may_sleep = self.executor.ready_len() == 0
            && self.shared.prepare_sleep()
            && !main_woken.load(Ordering::Acquire);
        let wait = match may_sleep {
            true => Wait::Until(self.timers.next_deadline()),
            false => Wait::No,
        };
        self.backend.park(wait);
        self.shared.end_sleep();
        self.now.set(None);
        self.backend.deliver();
        None
    }

    /// A turn inside another reactor's: tasks and timers only. Whether more could be done at once,
    /// and else when.
    fn guest_turn(&self) -> (bool, Option<Nanos>) {
        let _entered = self.executor.enter();
        self.shared.end_sleep();
        self.now.set(None);
        self.turns.set(self.turns.get() + 1);
        let mut budget = TASKS_PER_TURN_MAX;
        loop {
            self.run_ready(&mut budget);
            if self.timers.next_deadline().is_some_and(|deadline| deadline <= self.now()) {
                self.timers.fire(self.now());
            }
            if self.executor.ready_len() == 0 || budget == 0 {
                break;
            }
        }
        // Whoever asks from outside does not want the time of this turn.
        self.now.set(None);
        let idle = self.executor.ready_len() == 0 && self.shared.prepare_sleep();
        (!idle, self.timers.next_deadline())
    }

    fn run_ready(&self, budget: &mut u64) {
        self.executor.take_remote(budget);
        let before = *budget;
        while *budget > 0 {
            let ready = self.executor.ready_len();
            if ready == 0 {
                break;
            }
            *budget -= 1;
            self.executor.run(self.backend.choose(ready));
        }
        self.tasks_run.set(self.tasks_run.get() + before - *budget);
    }

    fn shutdown(&self) {
        self.executor.close();
        self.backend.shutdown();
    }
}

/// A reactor that runs in the turns of another one: a machine of a simulated world.
pub(super) struct Guest {
    reactor: Reactor,
    rouse: Arc<Rouse>,
    paused: Cell<bool>,
}

/// Wakes the task that runs a guest.
#[derive(Default)]
struct Rouse {
    waker: Mutex<Option<Waker>>,
}

impl Doorbell for Rouse {
    fn ring(&self) {
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Guest {
    /// A reactor on `backend`, and what runs it.
    pub(super) fn new(backend: Box<dyn Backend>, pool: BufferPool) -> (Reactor, Rc<Guest>) {
        let rouse = Arc::new(Rouse::default());
        let doorbell = Arc::clone(&rouse) as Arc<dyn Doorbell>;
        let reactor = Reactor::with_doorbell(backend, doorbell, pool);
        let guest = Guest { reactor: reactor.clone(), rouse, paused: Cell::new(false) };
        (reactor, Rc::new(guest))
    }

    /// Runs no tasks for a while, or goes on.
    pub(super) fn pause(&self, paused: bool) {
        self.paused.set(paused);
        self.rouse.ring();
    }

    /// Runs it in the turns of `host`, for ever. `reaches`: when the host's clock has come to where
    /// the guest's shows a time.
    pub(super) async fn run(self: Rc<Guest>, host: Reactor, reaches: impl Fn(Nanos) -> Nanos) {
        let sleep: RefCell<Option<Sleep>> = RefCell::default();
        poll_fn(|context| {
            let waker = Some(context.waker().clone());
            *self.rouse.waker.lock().unwrap_or_else(PoisonError::into_inner) = waker;
            while !self.paused.get() {
                let (busy, deadline) = self.reactor.inner.guest_turn();
                if busy {
                    context.waker().wake_by_ref();
                    break;
                }
                let Some(at) = deadline.map(&reaches) else { break };
                let mut sleep = sleep.borrow_mut();
                if sleep.as_ref().is_none_or(|sleep| sleep.deadline != at) {
                    *sleep = Some(host.sleep_until(at));
                }
                let waiting = sleep.as_mut().map(|sleep| Pin::new(sleep).poll(context));
                if waiting != Some(Poll::Ready(())) {
                    break;
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Wakes the future of `block_on`.
struct Main {
    woken: AtomicBool,
    shared: Arc<Shared>,
}

impl Wake for Main {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.shared.wake();
    }
}

/// Waits for a point in time.
#[must_use = "a sleep does nothing unless awaited"]
pub struct Sleep {
    reactor: Reactor,
    deadline: Nanos,
    timer: Option<TimerKey>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let inner = &self.reactor.inner;
        if inner.now() >= self.deadline {
            return Poll::Ready(());
        }
        match self.timer {
            Some(timer) => inner.timers.renew(timer, context.waker()),
            None => self.timer = Some(inner.timers.set(self.deadline, context.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            self.reactor.inner.timers.cancel(timer);
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sleep({:?})", self.deadline)
    }
}
