//! Who may write to which blocks now.
//!
//! Writes of whole blocks may overlap; who reads, changes and writes back a block is alone on it,
//! and so is a write whose fate is unknown.
//! Invariants: whoever waits is let in in the order in which they came, as far as they conflict; a
//! hold counts until it is dropped.
//! Must never know: what is written.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// See the module. Ranges are of a volume's blocks.
#[derive(Debug, Default)]
pub(super) struct Locks {
    /// Those who hold or wait, in the order in which they came.
    claims: RefCell<BTreeMap<u64, Claim>>,
    /// Of those, how many want to be alone.
    alone: Cell<usize>,
    next: Cell<u64>,
}

#[derive(Debug)]
struct Claim {
    blocks: Range<u64>,
    alone: bool,
    waker: Option<Waker>,
}

impl Claim {
    fn conflicts(&self, other: &Claim) -> bool {
        let overlap = self.blocks.start < other.blocks.end && other.blocks.start < self.blocks.end;
        overlap && (self.alone || other.alone)
    }
}

/// Blocks that are held until this is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    locks: Rc<Locks>,
    number: u64,
}

impl Locks {
    /// Waits until these blocks may be written; `alone`: by nobody else.
    pub(super) async fn hold(self: &Rc<Locks>, blocks: Range<u64>, alone: bool) -> Hold {
        let number = self.next.get();
        self.next.set(number + 1);
        self.alone.set(self.alone.get() + usize::from(alone));
        self.claims.borrow_mut().insert(number, Claim { blocks, alone, waker: None });
        let hold = Hold { locks: Rc::clone(self), number };
        poll_fn(|context| {
            if self.may_go(number) {
                return Poll::Ready(());
            }
            let mut claims = self.claims.borrow_mut();
            let claim = claims.get_mut(&number).expect("invariant: it is there while it is held");
            claim.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        hold
    }

    fn may_go(&self, number: u64) -> bool {
        if self.alone.get() == 0 {
            return true;
        }
        let claims = self.claims.borrow();
        let claim = &claims[&number];
        claims.range(..number).all(|(_, earlier)| !earlier.conflicts(claim))
    }

    /// Lets those look again who wait behind a claim.
    fn wake_after(&self, number: u64) {
        let mut claims = self.claims.borrow_mut();
        let waiting = claims.range_mut(number..).filter_map(|(_, claim)| claim.waker.take());
        let waiting: Vec<Waker> = waiting.collect();
        drop(claims);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Hold {
    /// Keeps everybody else away from now on, those who came later and hold already left out.
    pub(super) fn keep_alone(&self) {
        let mut claims = self.locks.claims.borrow_mut();
        let claim = claims.get_mut(&self.number).expect("invariant: it is there while it is held");
        if !std::mem::replace(&mut claim.alone, true) {
            self.locks.alone.set(self.locks.alone.get() + 1);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let claim = self.locks.claims.borrow_mut().remove(&self.number);
        if claim.is_some_and(|claim| claim.alone) {
            self.locks.alone.set(self.locks.alone.get() - 1);
            self.locks.wake_after(self.number);
        } else if self.locks.alone.get() > 0 {
            self.locks.wake_after(self.number);
        }
    }
}
