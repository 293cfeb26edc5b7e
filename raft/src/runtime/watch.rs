//! A value that is watched: the last one sent counts, and whoever waits for a change is told.
//!
//! Own, because tokio's wakes its waiters in a random order and would make runs of a simulated
//! world differ. Invariants: every sent value has a version; waiters are woken in the order in
//! which they began to wait, after the value is in place and outside of every borrow.
//! Must never know: what the value is.

use openraft_rt::watch::{RecvError, SendError};
use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Watched values.
#[derive(Debug)]
pub struct Watch;

/// What both ends share.
struct Shared<T> {
    value: RefCell<T>,
    version: Cell<u64>,
    senders: Cell<usize>,
    receivers: Cell<usize>,
    waiters: RefCell<Waiters>,
}

/// Those that wait for a change, by when they began to.
#[derive(Default)]
struct Waiters {
    wakers: BTreeMap<u64, Waker>,
    /// Numbers given so far.
    begun: u64,
}

impl<T> Shared<T> {
    fn wake_all(&self) {
        let woken = std::mem::take(&mut self.waiters.borrow_mut().wakers);
        woken.into_values().for_each(Waker::wake);
    }

    fn notify(&self) {
        self.version.set(self.version.get() + 1);
        self.wake_all();
    }
}

impl openraft_rt::Watch for Watch {
    type Sender<T> = WatchSender<T>;
    type Receiver<T> = WatchReceiver<T>;
    type Ref<'a, T: 'a> = Ref<'a, T>;

    fn channel<T>(init: T) -> (WatchSender<T>, WatchReceiver<T>) {
        let shared = Rc::new(Shared {
            value: RefCell::new(init),
            version: Cell::new(0),
            senders: Cell::new(1),
            receivers: Cell::new(1),
            waiters: RefCell::default(),
        });
        let receiver = WatchReceiver { shared: Rc::clone(&shared), seen: 0 };
        (WatchSender { shared }, receiver)
    }
}

/// Sends values to be watched.
pub struct WatchSender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> openraft_rt::WatchSender<Watch, T> for WatchSender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.shared.receivers.get() == 0 {
            return Err(SendError(value));
        }
        let before = self.shared.value.replace(value);
        self.shared.notify();
        drop(before); // Last: its end may do anything.
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let modified = modify(&mut self.shared.value.borrow_mut());
        if modified {
            self.shared.notify();
        }
        modified
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.shared.value.borrow()
    }

    fn subscribe(&self) -> WatchReceiver<T> {
        WatchReceiver::new(&self.shared, self.shared.version.get())
    }
}

impl<T> Clone for WatchSender<T> {
    fn clone(&self) -> WatchSender<T> {
        self.shared.senders.set(self.shared.senders.get() + 1);
        WatchSender { shared: Rc::clone(&self.shared) }
    }
}

impl<T> Drop for WatchSender<T> {
    fn drop(&mut self) {
        self.shared.senders.set(self.shared.senders.get() - 1);
        if self.shared.senders.get() == 0 {
            self.shared.wake_all();
        }
    }
}

/// Watches a value.
pub struct WatchReceiver<T> {
    shared: Rc<Shared<T>>,
    /// The newest version this receiver knows of.
    seen: u64,
}

impl<T> WatchReceiver<T> {
    fn new(shared: &Rc<Shared<T>>, seen: u64) -> WatchReceiver<T> {
        shared.receivers.set(shared.receivers.get() + 1);
        WatchReceiver { shared: Rc::clone(shared), seen }
    }
}

impl<T> openraft_rt::WatchReceiver<Watch, T> for WatchReceiver<T> {
    fn changed(&mut self) -> impl Future<Output = Result<(), RecvError>> {
        Changed { receiver: self, number: None }
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.shared.value.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.seen = self.shared.version.get();
        self.shared.value.borrow()
    }
}

impl<T> Clone for WatchReceiver<T> {
    fn clone(&self) -> WatchReceiver<T> {
        WatchReceiver::new(&self.shared, self.seen)
    }
}

impl<T> Drop for WatchReceiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.set(self.shared.receivers.get() - 1);
    }
}

/// Waits for a version that its receiver has not seen, or for the last sender's end.
#[must_use = "futures do nothing unless awaited"]
pub struct Changed<'a, T> {
    receiver: &'a mut WatchReceiver<T>,
    /// Its number among the waiters. Kept over polls, so that it keeps its place.
    number: Option<u64>,
}

impl<T> Future for Changed<'_, T> {
    type Output = Result<(), RecvError>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let shared = &this.receiver.shared;
        if shared.version.get() != this.receiver.seen {
            this.receiver.seen = shared.version.get();
            return Poll::Ready(Ok(()));
        }
        if shared.senders.get() == 0 {
            return Poll::Ready(Err(RecvError(())));
        }
        let mut waiters = shared.waiters.borrow_mut();
        let number = *this.number.get_or_insert(waiters.begun);
        waiters.begun = waiters.begun.max(number + 1);
        let before = waiters.wakers.insert(number, context.waker().clone());
        drop(waiters);
        drop(before); // Outside the borrow: a waker's end may do anything.
        Poll::Pending
    }
}

impl<T> Drop for Changed<'_, T> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let waker = self.receiver.shared.waiters.borrow_mut().wakers.remove(&number);
            drop(waker); // Outside the borrow.
        }
    }
}

/// The ends of a watched value, which need not be printable.
macro_rules! print_as {
    ($($name:ident $(<$life:lifetime>)?),*) => {$(
        impl<T> fmt::Debug for $name<$($life,)? T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

print_as!(WatchSender, WatchReceiver, Changed<'_>);
