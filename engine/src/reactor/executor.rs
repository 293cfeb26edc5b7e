//! The executor: local tasks, run in the order they were woken.
//!
//! Invariants: a task's future lives, runs and dies on this thread, whoever wakes it. A wake on
//! this thread while the reactor runs pushes to a plain queue; any other goes through the remote
//! queue. After `close` no future is left.
//! Must never know: time, I/O.

use super::remote::{RemoteItem, Shared};
use super::slab::Slab;
use async_task::Runnable;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

type Ready = Rc<RefCell<VecDeque<Runnable>>>;

thread_local! {
    /// The reactor that runs on this thread now: its number and its ready tasks.
    static RUNNING: RefCell<Option<(u64, Ready)>> = const { RefCell::new(None) };
}

pub(super) struct Executor {
    shared: Arc<Shared>,
    ready: Ready,
    /// A waker of every task that has not ended, to cancel them all.
    alive: Rc<RefCell<Slab<Option<Waker>>>>,
}

/// Makes wakes on this thread go to one reactor's plain queue, until dropped.
pub(super) struct Entered {
    before: Option<(u64, Ready)>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.before.take();
        RUNNING.with_borrow_mut(|running| *running = before);
    }
}

impl Executor {
    pub(super) fn new(shared: Arc<Shared>) -> Executor {
        Executor { shared, ready: Ready::default(), alive: Rc::new(RefCell::new(Slab::new())) }
    }

    pub(super) fn enter(&self) -> Entered {
        let own = Some((self.shared.id, Rc::clone(&self.ready)));
        Entered { before: RUNNING.with_borrow_mut(|running| std::mem::replace(running, own)) }
    }

    pub(super) fn spawn<F>(&self, future: F) -> Task<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let key = self.alive.borrow_mut().insert(None);
        let place = Place { alive: Rc::clone(&self.alive), key };
        let tracked = async move {
            let _place = place;
            future.await
        };
        let shared = Arc::clone(&self.shared);
        let (runnable, task) =
            async_task::spawn_local(tracked, move |runnable| schedule(&shared, runnable));
        if !self.shared.is_closed() {
            if let Some(waker) = self.alive.borrow_mut().get_mut(key) {
                *waker = Some(runnable.waker());
            }
            runnable.schedule();
        }
        Task { task }
    }

    pub(super) fn ready_len(&self) -> usize {
        self.ready.borrow().len()
    }

    /// Runs the ready task at `index` for one step.
    pub(super) fn run(&self, index: usize) {
        let runnable = match index {
            0 => self.ready.borrow_mut().pop_front(),
            _ => self.ready.borrow_mut().remove(index),
        };
        if let Some(runnable) = runnable {
            runnable.run();
        }
    }

    /// Takes in what other threads queued: wakes go to the ready tasks, calls run now.
    pub(super) fn take_remote(&self, budget: &mut u64) {
        while *budget > 0 {
            let Some(item) = self.shared.pop() else { return };
            *budget -= 1;
            match item {
                RemoteItem::Run(runnable) => self.ready.borrow_mut().push_back(runnable),
                RemoteItem::Call(call) => call(),
            }
        }
    }

    /// Drops the futures of all tasks, and calls not yet run.
    pub(super) fn close(&self) {
        self.shared.close();
        let _entered = self.enter();
        loop {
            let wakers: Vec<Waker> =
                self.alive.borrow().iter().filter_map(|(_, waker)| waker.clone()).collect();
            if wakers.is_empty() {
                break;
            }
            wakers.into_iter().for_each(Waker::wake);
            self.drop_queued();
            // A task may be missing that another thread is just about to queue.
            std::thread::yield_now();
        }
        self.shared.finish();
    }

    fn drop_queued(&self) {
        loop {
            let runnable = self.ready.borrow_mut().pop_front();
            match runnable {
                Some(runnable) => drop(runnable),
                None => break,
            }
        }
        self.shared.drop_queue();
    }
}

fn schedule(shared: &Arc<Shared>, runnable: Runnable) {
    let mut runnable = Some(runnable);
    let _ = RUNNING.try_with(|running| {
        if let Some((id, ready)) = &*running.borrow()
            && *id == shared.id
        {
            ready.borrow_mut().extend(runnable.take());
        }
    });
    if let Some(runnable) = runnable {
        shared.push(RemoteItem::Run(runnable));
    }
}

/// A task's place among the living. Given up when its future is dropped.
struct Place {
    alive: Rc<RefCell<Slab<Option<Waker>>>>,
    key: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let waker = self.alive.borrow_mut().remove(self.key);
        drop(waker); // Outside the borrow.
    }
}

/// A spawned task. Await it for its result; dropping it cancels it.
///
/// Awaiting panics if the task panicked or the reactor shut down before it ended.
#[must_use = "dropping a task cancels it: keep it, await it or detach it"]
pub struct Task<T> {
    task: async_task::Task<T>,
}

impl<T> Task<T> {
    /// Lets the task run to its end, or to the reactor's.
    pub fn detach(self) {
        self.task.detach();
    }

    /// Cancels the task and waits until its future is dropped. Its result, if it had ended.
    pub async fn cancel(self) -> Option<T> {
        self.task.cancel().await
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = T;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.task).poll(context)
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_finished() { "Task(finished)" } else { "Task(running)" })
    }
}
