//! Locks on ranges of blocks, held while partial blocks are read, changed and written back.
//!
//! Invariant: no write to a block starts while somebody holds the block; a holder lets everything
//! that started earlier become durable before it reads.
//! Must never know: the store.

use crate::units::VolumeId;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::ops::Range;
use std::task::{Poll, Waker};

/// The ranges held now.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    held: RefCell<Vec<(u64, VolumeId, Range<u64>)>>,
    waiting: RefCell<Vec<Waker>>,
    next: Cell<u64>,
}

/// A held range; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    locks: &'a Locks,
    id: u64,
}

impl Locks {
    /// Whether nobody holds any of these blocks.
    pub(crate) fn is_free(&self, volume: VolumeId, blocks: &Range<u64>) -> bool {
        if self.held.borrow().is_empty() {
            return true;
        }
        let overlaps = |held: &Range<u64>| held.start < blocks.end && blocks.start < held.end;
        !self.held.borrow().iter().any(|(_, of, held)| *of == volume && overlaps(held))
    }

    /// Waits until nobody holds any of these blocks.
    pub(crate) async fn wait(&self, volume: VolumeId, blocks: Range<u64>) {
        poll_fn(|context| {
            if self.is_free(volume, &blocks) {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Holds these blocks until the result is dropped.
    pub(crate) async fn hold(&self, volume: VolumeId, blocks: Range<u64>) -> Held<'_> {
        self.wait(volume, blocks.clone()).await;
        // No other task runs between the end of the wait and this line.
        let id = self.next.replace(self.next.get() + 1);
        self.held.borrow_mut().push((id, volume, blocks));
        Held { locks: self, id }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.locks.held.borrow_mut().retain(|(id, _, _)| *id != self.id);
        self.locks.waiting.borrow_mut().drain(..).for_each(Waker::wake);
    }
}
