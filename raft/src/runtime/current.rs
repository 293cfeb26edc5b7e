//! Which reactor openraft's static functions mean, on this thread, now.
//!
//! Invariant: a guard restores what was there before it, so entering nests and unwinds.
//! Must never know: what is polled.

use super::Shared;
use pin_project_lite::pin_project;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

thread_local! {
    static CURRENT: RefCell<Option<Rc<Shared>>> = const { RefCell::new(None) };
}

/// The current runtime, if there is one.
pub(super) fn find() -> Option<Rc<Shared>> {
    CURRENT.with_borrow(Clone::clone)
}

/// The current runtime.
///
/// # Panics
/// If there is none: the caller runs neither in a task of a runtime nor in an entered future.
pub(super) fn get() -> Rc<Shared> {
    find().expect("openraft runs only inside of a runtime: enter it first")
}

/// A runtime is the current one until this is dropped.
#[must_use = "the runtime is the current one only while this lives"]
pub struct Entered {
    before: Option<Rc<Shared>>,
}

impl Entered {
    pub(super) fn new(shared: &Rc<Shared>) -> Entered {
        let own = Some(Rc::clone(shared));
        Entered { before: CURRENT.with_borrow_mut(|current| std::mem::replace(current, own)) }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.before.take();
        let own = CURRENT.with_borrow_mut(|current| std::mem::replace(current, before));
        drop(own); // Outside the borrow: it may be the last of its reactor.
    }
}

impl fmt::Debug for Entered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entered")
    }
}

pin_project! {
    /// A future that is polled with its runtime as the current one.
    #[must_use = "futures do nothing unless awaited"]
    pub struct EnteredFuture<F> {
        shared: Rc<Shared>,
        #[pin]
        future: F,
    }
}

impl<F> EnteredFuture<F> {
    pub(super) fn new(shared: Rc<Shared>, future: F) -> EnteredFuture<F> {
        EnteredFuture { shared, future }
    }
}

impl<F: Future> Future for EnteredFuture<F> {
    type Output = F::Output;
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = Entered::new(this.shared);
        this.future.poll(context)
    }
}

impl<F> fmt::Debug for EnteredFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnteredFuture")
    }
}
