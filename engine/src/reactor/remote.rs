//! The way in from other threads: a lock-free queue and a doorbell.
//!
//! Invariant: after an item is queued, either the reactor has not gone to sleep yet and will look
//! again, or it is rung awake. The doorbell is a system call, so it rings only then.
//! Must never know: what the items do.

use async_task::Runnable;
use crossbeam::queue::SegQueue;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// Wakes a reactor that sleeps in its backend. Callable from any thread.
pub(super) trait Doorbell: Send + Sync {
    fn ring(&self);
}

/// Something another thread wants done on the reactor's.
pub(super) enum RemoteItem {
    Run(Runnable),
    Call(Box<dyn FnOnce() + Send>),
}

/// What a reactor shares with other threads.
pub(super) struct Shared {
    /// Tells reactors apart.
    pub(super) id: u64,
    queue: SegQueue<RemoteItem>,
    /// The reactor sleeps or is about to: who sets it back to false rings.
    sleeping: AtomicBool,
    /// Nothing may be started any more.
    closed: AtomicBool,
    /// Nothing is left, and nobody will look into the queue again.
    finished: AtomicBool,
    doorbell: Arc<dyn Doorbell>,
}

impl Shared {
    pub(super) fn new(doorbell: Arc<dyn Doorbell>) -> Shared {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        Shared {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            queue: SegQueue::new(),
            sleeping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            doorbell,
        }
    }

    pub(super) fn push(&self, item: RemoteItem) {
        self.queue.push(item);
        self.wake();
    }

    pub(super) fn pop(&self) -> Option<RemoteItem> {
        self.queue.pop()
    }

    /// Rings if the reactor sleeps. What it shall see must have been written before.
    pub(super) fn wake(&self) {
        // Pairs with the fence in `prepare_sleep`: one of the two sees the other's write.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.doorbell.ring();
        }
    }

    /// Announces sleep. False if there is something in the queue, so that it must not be.
    pub(super) fn prepare_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.queue.is_empty()
    }

    pub(super) fn end_sleep(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// All tasks are gone: from here on whoever finds something in the queue drops it.
    pub(super) fn finish(&self) {
        self.finished.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.drop_queue();
    }

    fn is_finished(&self) -> bool {
        self.finished.load(Ordering::SeqCst)
    }

    pub(super) fn drop_queue(&self) {
        while let Some(item) = self.queue.pop() {
            drop(item);
        }
    }
}

/// Posts closures to a reactor from any thread.
#[derive(Clone)]
pub struct Remote {
    shared: Arc<Shared>,
}

impl Remote {
    pub(super) fn new(shared: Arc<Shared>) -> Remote {
        Remote { shared }
    }

    /// Runs `call` on the reactor's thread, in the order posted, when it comes by.
    ///
    /// False if the reactor is shut down. If it shuts down later, before its turn, `call` is
    /// dropped there unrun: an answer that it was to send is then known never to come.
    pub fn post(&self, call: impl FnOnce() + Send + 'static) -> bool {
        if self.shared.is_finished() {
            return false;
        }
        self.shared.push(RemoteItem::Call(Box::new(call)));
        if self.shared.is_finished() {
            // It may have shut down in between and never look again. No task is left, so nothing
            // in the queue is bound to its thread.
            self.shared.drop_queue();
        }
        true
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({})", self.shared.id)
    }
}
